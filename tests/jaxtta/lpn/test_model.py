"""Encoder and decoder against the padded networks in NumPy; remat, bfloat16, dropout, fusion."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtta.lpn import LPN, Block, Config, Grid, from_padded, task_loss
from tests.jaxtta.lpn.numpy_lpn import numpy_decoder, numpy_encoder

ROWS, COLS, LATENT = 4, 5, 3
SMALL = Block(1, 2, 4, 1.0)
TINY = Config(ROWS, COLS, LATENT, Block(2, 2, 4, 1.5), Block(2, 2, 4, 2.0))
CONFIGS = {
    "learned": TINY,
    "scaled": replace(
        TINY,
        positions="scaled",
        activation="relu",
        separate_input_positions=True,
        encoder=Block(0, 2, 4),
        decoder=SMALL,
    ),
    "rope": replace(TINY, positions="rope", use_bias=True, encoder=SMALL),
    "variants": replace(
        TINY,
        next_position=False,
        separate_input_positions=True,
        input_sees_context=False,
        variational=False,
        num_slots=2,
    ),
}
CONFIGS["bfloat16"] = replace(TINY, encoder=SMALL, decoder=SMALL, dtype="bfloat16")
STREAM_LENGTHS = {"learned": ROWS * COLS, "scaled": ROWS * COLS + 3, "rope": ROWS * COLS + 1}
SHAPES = [  # (rows, cols) of input and output
    ((1, 1), (1, 1)),
    ((1, COLS), (ROWS, 1)),
    ((ROWS, 1), (1, COLS)),
    ((ROWS, COLS), (ROWS, COLS)),
    ((2, 3), (3, 2)),
    ((3, 4), (2, 4)),
]


# This kind of key is quick to compile.
KEY, OTHER_KEY = (jax.random.key(seed, impl="unsafe_rbg") for seed in (0, 1))


def random_params(lpn, seed=0, scale=0.5):
    """Parameters far from any symmetric or zero initial value."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lpn.init, jax.random.key(0))
    return jax.tree.map(lambda s: (scale * rng.normal(size=s.shape)).astype(np.float32), shapes)


def valid_cells(grid):
    """Which tokens of raster streams `[B, L]` are cells, in NumPy."""
    num_cells = np.prod(np.array(grid.shape), axis=-1, keepdims=True)
    return np.arange(grid.cells.shape[-1])[None] < num_cells


def streams(squares, shapes, max_cells=None):
    return jax.device_get(jax.jit(from_padded, static_argnums=3)(squares, shapes, None, max_cells))


def spoil(grid):
    """Garbage instead of zeros beyond the cells of raster streams."""
    garbage = np.random.default_rng(3).integers(0, 10, grid.cells.shape, dtype=np.uint8)
    return Grid(np.where(valid_cells(grid), grid.cells, garbage), grid.shape)


def padded_batch(seed=1):
    """Padded squares with garbage in the padding, and shapes `[axis, channel]`."""
    rng = np.random.default_rng(seed)
    squares = rng.integers(0, 10, (len(SHAPES), ROWS, COLS, 2), dtype=np.uint8)
    return squares, np.array(SHAPES).swapaxes(1, 2)


def forward(lpn):
    """Encoder and teacher-forced decoder on a batch of pairs, compiled."""

    @jax.jit
    def run(params, pairs, contexts):
        posterior = lpn.encode(params, pairs)
        return posterior, lpn.logits(params, contexts, lpn.prepare(params, pairs))

    return run


def contexts_for(config):
    shape = (len(SHAPES), config.num_slots, LATENT) if config.num_slots else (len(SHAPES), LATENT)
    return np.random.default_rng(2).normal(size=shape).astype(np.float32)


@cache
def outputs(name):
    """Parameters, contexts, the compiled networks and what they return for one configuration."""
    lpn = LPN(CONFIGS[name])
    params = random_params(lpn, scale=0.3 if name == "bfloat16" else 0.5)
    contexts, run = contexts_for(lpn.config), forward(lpn)
    pairs = streams(*padded_batch(), max_cells=STREAM_LENGTHS.get(name))
    pairs = pairs._replace(inputs=spoil(pairs.inputs), outputs=spoil(pairs.outputs))
    return params, contexts, run, jax.device_get(run(params, pairs, contexts))


def in_numpy(name, **changes):
    """The same numbers from the padded networks in float64; `changes` break them on purpose."""
    options = {k: changes.pop(k) for k in ("mask_padding", "row_start_rule") if k in changes}
    config = replace(CONFIGS[name], **changes)
    params, contexts, _, _ = outputs(name)
    params = jax.tree.map(np.float64, params)
    encoder = {k: v for k, v in options.items() if k == "mask_padding"}
    decoder = {k: v for k, v in options.items() if k == "row_start_rule"}
    for square, shape, context in zip(*padded_batch(), contexts, strict=True):
        latents = context if config.num_slots else context[None]
        yield (
            numpy_encoder(params["encoder"], square, shape, config, **encoder),
            numpy_decoder(params["decoder"], latents, square, shape, config, **decoder),
        )


def difference(name, part, **changes):
    """Largest absolute difference to NumPy; part 0 the encoder, 1 the decoder."""
    _, _, _, (posterior, logits) = outputs(name)
    worst = 0.0
    for i, expected in enumerate(in_numpy(name, **changes)):
        if part == 0:
            got = [x[i] for x in posterior if x is not None]
        else:
            rows, cols = padded_batch()[1][i, :, 1]
            got = [logits.rows[i], logits.cols[i], logits.cells[i, : rows * cols]]
        assert [x.shape for x in got] == [x.shape for x in expected[part]]
        for x, y in zip(got, expected[part], strict=True):
            worst = max(worst, abs(x - y).max())
    return worst


@pytest.mark.parametrize("name", ["learned", "scaled", "rope", "variants"])
def test_networks_equal_the_padded_networks_in_numpy(name):
    assert difference(name, 0) < 1e-4
    assert difference(name, 1) < 1e-4


@pytest.mark.parametrize(
    ("name", "part", "changes"),
    [
        ("learned", 0, {"mask_padding": False}),
        ("learned", 1, {"row_start_rule": False}),
        ("learned", 1, {"next_position": False}),
        ("learned", 1, {"input_sees_context": False}),
        ("variants", 1, {"input_sees_context": True}),
        ("variants", 1, {"next_position": True}),
    ],
)
def test_the_comparison_notices_a_broken_rule(name, part, changes):
    assert difference(name, part, **changes) > 1e-2


def test_grids_of_full_size_equal_numpy(monkeypatch):
    shapes = [((30, 30), (30, 30)), ((30, 1), (1, 30)), ((7, 30), (30, 8))]
    for name, value in {"ROWS": 30, "COLS": 30, "SHAPES": shapes}.items():
        monkeypatch.setitem(globals(), name, value)
    config = replace(TINY, max_rows=30, max_cols=30, encoder=SMALL, decoder=SMALL)
    lpn = LPN(config)
    params, contexts = random_params(lpn), contexts_for(config)
    squares, sizes = padded_batch()
    posterior, logits = jax.device_get(forward(lpn)(params, streams(squares, sizes), contexts))
    params = jax.tree.map(np.float64, params)
    for i, (square, shape) in enumerate(zip(squares, sizes, strict=True)):
        expected = numpy_encoder(params["encoder"], square, shape, config)
        np.testing.assert_allclose([x[i] for x in posterior], expected, atol=1e-4)
        expected = numpy_decoder(params["decoder"], contexts[i][None], square, shape, config)
        got = (logits.rows[i], logits.cols[i], logits.cells[i, : shape[:, 1].prod()])
        for x, y in zip(got, expected, strict=True):
            np.testing.assert_allclose(x, y, atol=1e-4)


def test_padded_cells_change_nothing():
    """The streams above hold garbage beyond the grids and differ in length; these hold zeros."""
    params, contexts, run, expected = outputs("learned")
    pairs = streams(*padded_batch())
    got = run(params, pairs, contexts)
    valid = valid_cells(pairs.outputs)
    select = lambda x: x[valid] if x.ndim == 3 else x
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(select(a), select(b), atol=1e-6), got, expected
    )
    # One wrong valid cell does change them, so the comparison can fail.
    cells = (pairs.inputs.cells + (np.arange(ROWS * COLS) == 0)[None]) % 10
    (wrong, _), (right, _) = (
        run(params, pairs._replace(inputs=Grid(cells, pairs.inputs.shape)), contexts),
        got,
    )
    assert (abs(wrong.mean - right.mean).max(-1) > 1e-4).all()


def test_any_leading_dimensions():
    lpn = LPN(TINY)
    pairs = streams(*(x[None].repeat(2, 0) for x in padded_batch()))
    params = jax.eval_shape(lpn.init, jax.random.key(0))
    contexts = jnp.zeros((2, len(SHAPES), LATENT))
    run = lambda p: (lpn.encode(p, pairs), lpn.logits(p, contexts, lpn.prepare(p, pairs)))
    posterior, logits = jax.eval_shape(run, params)
    assert posterior.mean.shape == contexts.shape
    assert logits.cells.shape == (2, len(SHAPES), ROWS * COLS, 10)


def test_remat_gives_the_same_gradients():
    pairs, contexts = streams(*padded_batch()), contexts_for(TINY)

    def gradient(remat):
        lpn = LPN(replace(TINY, decoder=SMALL, remat=remat))

        def total(params):
            logits = lpn.logits(params, contexts, lpn.prepare(params, pairs))
            return (jnp.sin(logits.rows) ** 2).sum()

        traced = jax.jit(jax.grad(total)).trace(random_params(lpn))
        return traced.lower().compile()(random_params(lpn)), str(traced.jaxpr)

    (plain, program), (remat, remat_program) = gradient(False), gradient(True)
    assert "remat" in remat_program and "remat" not in program
    assert max(abs(leaf).max() for leaf in jax.tree.leaves(plain)) > 0.1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain, remat)


def test_bfloat16_activations_stay_close():
    _, _, _, results = outputs("bfloat16")
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(results))
    for part in (0, 1):
        assert 1e-4 < difference("bfloat16", part) < 3e-2


def equations(jaxpr):
    """All of a program, those of the programs inside it included."""
    inner = lambda x: getattr(x, "jaxpr", x)
    for equation in jaxpr.eqns:
        yield equation
        for x in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(inner(x), "eqns")):
            if hasattr(inner(x), "eqns"):
                yield from equations(inner(x))


def gradient_program(config):
    """Two tasks of a batch, as in training."""
    lpn, pairs = LPN(config), streams(*padded_batch())
    tasks = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), pairs)
    loss = lambda params, pairs: task_loss(lpn, params, pairs, jax.random.key(0))[0]
    total = lambda params: jax.vmap(loss, (None, 0))(params, tasks).mean()
    params = jax.eval_shape(lpn.init, jax.random.key(0))
    return jax.make_jaxpr(jax.grad(total))(params)


def test_bfloat16_holds_activations_and_their_products_alone():
    """Softmax, norms, loss, readouts, the gradients of what many tokens share: all are float32."""
    config = replace(TINY, encoder=SMALL, positions="rope", dtype="bfloat16", remat=True)
    program = gradient_program(config)
    assert all(leaf.dtype == jnp.float32 for leaf in program.out_avals)
    kinds = {}
    for equation in equations(program.jaxpr):
        dtypes = {str(v.aval.dtype) for v in equation.invars if hasattr(v.aval, "dtype")}
        kinds.setdefault(equation.primitive.name, set()).update(dtypes)
    sums = ("reduce_sum", "reduce_max", "exp", "log", "rsqrt", "scatter-add", "cos")
    assert not [name for name in sums if "bfloat16" in kinds[name]]
    assert kinds["dot_general"] == {"bfloat16", "float32"}  # of blocks, and of readouts


def test_a_loss_with_the_attention_of_cudnn_can_be_differentiated(monkeypatch):
    """Under `vmap` and remat; without a GPU no more than its program can be made."""
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91_000)
    sizes = dict(encoder=Block(1, 2, 8, 1.0), decoder=Block(2, 2, 8, 1.0))
    config = replace(TINY, **sizes, dtype="bfloat16", remat=True, fused="cudnn")
    assert "dot_product_attention_bwd" in str(gradient_program(config))


def test_input_side_alone_ignores_the_context():
    """With `input_sees_context=False` what is kept of the inputs is made without any latent."""
    lpn = LPN(replace(TINY, input_sees_context=False))
    params, pairs = random_params(lpn), streams(*padded_batch())
    kept = jax.eval_shape(lambda p: lpn.prepare(p, pairs).inputs, params)
    assert len(kept.layers) == 2 and kept.context is None
    assert kept.layers[1][0].shape == (len(SHAPES), 2, ROWS * COLS + 2, 4)


def test_empty_context_slots_are_not_read():
    config = replace(TINY, encoder=SMALL, decoder=SMALL, variational=False, num_slots=2)
    lpn, pairs, contexts = LPN(config), streams(*padded_batch()), contexts_for(config)
    valid = np.broadcast_to([True, False], contexts.shape[:-1])

    @jax.jit
    def cells(params, contexts):
        prepared = lpn.prepare(params, pairs)
        return lpn.logits(params, contexts, prepared, context_valid=valid).cells

    params = random_params(lpn)
    found = cells(params, contexts)
    np.testing.assert_array_equal(cells(params, contexts + [[0], [1]]), found)
    assert abs(cells(params, contexts + [[1], [0]]) - found).max() > 0.1


def test_encoder_and_decoder_start_from_different_numbers():
    params = jax.jit(LPN(replace(TINY, encoder=SMALL, decoder=SMALL)).init)(KEY)
    one, other = (
        params[part]["TransformerLayer_0"]["MlpBlock_0"]["Dense_0"]["kernel"]
        for part in ("encoder", "decoder")
    )
    assert one.shape == other.shape and not (one == other).any()


def test_dropout_needs_a_key_and_differs_everywhere():
    config = replace(TINY, encoder=SMALL, decoder=SMALL)
    lpn, dropped = LPN(config), LPN(replace(config, dropout=0.5))
    params, contexts = random_params(lpn), contexts_for(config)
    pairs = streams(*padded_batch())

    def run(lpn, params, key):
        prepared = lpn.prepare(params, pairs, key=key)
        posterior = lpn.encode(params, pairs, key=key)
        return posterior.mean, lpn.logits(params, contexts, prepared, key=key).rows, prepared

    def program(lpn, key):
        return str(jax.make_jaxpr(lambda params: run(lpn, params, key))(params))

    assert program(dropped, None) == program(lpn, None)
    assert "random_bits" in program(dropped, KEY) and "random_bits" not in program(lpn, KEY)

    with_key = jax.jit(lambda params, key: run(dropped, params, key))
    one, again, two = (with_key(params, key) for key in (KEY, KEY, OTHER_KEY))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert abs(one[0] - two[0]).max() > 0.1 and abs(one[1] - two[1]).max() > 0.1
    inputs, outputs = (np.ravel(tokens.x == 0) for tokens in one[2][:2])
    shared = min(len(inputs), len(outputs))
    agreement = (inputs[:shared] == outputs[:shared]).mean()
    assert 0.4 < inputs.mean() < 0.6 and 0.4 < agreement < 0.6  # two independent draws


def test_fused_attention_equals_plain_attention(monkeypatch):
    """On the same parameters; padded cells are masked in both."""
    params, contexts, _, (posterior, logits) = outputs("rope")
    calls, original = [], jax.nn.dot_product_attention
    counted = lambda *args, **options: (calls.append(1), original(*args, **options))[1]
    monkeypatch.setattr(jax.nn, "dot_product_attention", counted)
    pairs = streams(*padded_batch(), max_cells=STREAM_LENGTHS["rope"])
    got = forward(LPN(replace(CONFIGS["rope"], fused="xla")))(params, pairs, contexts)
    # Input side 1 and output side 2; single queries (CLS, context) have few weights.
    assert len(calls) == 3
    np.testing.assert_allclose(got[0].mean, posterior.mean, atol=1e-4)
    np.testing.assert_allclose(got[1].rows, logits.rows, atol=1e-4)
    valid = valid_cells(pairs.outputs)
    np.testing.assert_allclose(got[1].cells[valid], logits.cells[valid], atol=1e-4)
