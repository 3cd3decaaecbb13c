"""The networks against slow NumPy versions that work on padded squares, token by token."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtta.lpn import LPN, Block, Config, Grid, from_padded
from jaxtta.lpn.transformer import Layer, attend

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


# --- The padded networks in NumPy -----------------------------------------------------------------


def layer_norm(x, params):
    centred = x - x.mean(-1, keepdims=True)
    x = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return x + params["bias"] if "bias" in params else x


def dense(x, params):
    return x @ params["kernel"] + params.get("bias", 0.0)


def turned(vectors, params, places):
    """Rotates neighbouring channels: the first half of the pairs by row, the rest by column."""
    pairs = vectors.reshape(len(vectors), -1, 2)
    angles = np.concatenate([places[:, a : a + 1] * np.exp(params[a]) for a in (0, 1)], axis=-1)
    pairs = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angles)
    return np.stack([pairs.real, pairs.imag], -1).reshape(vectors.shape)


def transformer(params, x, readable, places, config):
    """All blocks of a stack on tokens `[T, D]`; `readable[q, k]`: token q may read token k."""
    for name in sorted(name for name in params if name.startswith("TransformerLayer")):
        layer = params[name]
        attention, mlp = layer["MultiHeadAttention_0"], layer["MlpBlock_0"]
        normed = layer_norm(x, layer.get("LayerNorm_0", {}))
        heads = []
        for head in range(attention["query"]["kernel"].shape[1]):
            q, k, v = (
                normed @ attention[part]["kernel"][:, head]
                + (attention[part]["bias"][head] if config.use_bias else 0.0)
                for part in ("query", "key", "value")
            )
            if config.positions == "rope":
                frequencies = [
                    attention[f"{axis}_log_frequencies"][head] for axis in ("row", "col")
                ]
                q, k = turned(q, frequencies, places), turned(k, frequencies, places)
            weights = np.where(readable, np.exp(q @ k.T / np.sqrt(q.shape[-1])), 0.0)
            weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-300)
            heads.append(weights @ v @ attention["out"]["kernel"][head])
        x = x + sum(heads) + attention["out"].get("bias", 0.0)
        hidden = dense(layer_norm(x, layer.get("LayerNorm_1", {})), mlp["Dense_0"])
        active = {"silu": hidden / (1 + np.exp(-hidden)), "relu": np.maximum(hidden, 0)}
        x = x + dense(active[config.activation], mlp["Dense_1"])
    return x


def table(params, name):
    return params[name]["embedding"]


def position_table(params, config, prefix=""):
    """Additive codes `[R, C, D]` and rotary places `[R, C, 2]` of all cells."""
    width = table(params, "colors_embed").shape[1]
    codes, places = np.zeros((ROWS, COLS, width)), np.zeros((ROWS, COLS, 2))
    for r, c in np.ndindex(ROWS, COLS):
        places[r, c] = (r + 0.5) / ROWS * 2 - 1, (c + 0.5) / COLS * 2 - 1
        if config.positions == "rope":
            continue
        by_row, by_col = (table(params, f"{prefix}pos_{axis}_embed") for axis in ("row", "col"))
        if config.positions == "scaled":
            codes[r, c] = (r + 1) * by_row[0] + (c + 1) * by_col[0]
        else:
            codes[r, c] = by_row[r] + by_col[c]
    return codes, places


def numpy_encoder(params, square, shape, config, mask_padding=True):
    """Mean and log-variance of one padded pair `[R, C, 2]` with shapes `[axis, channel]`."""
    colours, channels = table(params, "colors_embed"), table(params, "channels_embed")
    codes, places = position_table(params, config)
    tokens = [(table(params, "cls_token")[0], True, np.zeros(2))]
    for axis, name in enumerate(("grid_shapes_row_embed", "grid_shapes_col_embed")):
        for channel in (0, 1):
            count = table(params, name)[shape[axis, channel] - 1]
            tokens.append((count + channels[channel], True, np.zeros(2)))
    for r, c in np.ndindex(ROWS, COLS):
        for channel in (0, 1):  # interleaved
            valid = r < shape[0, channel] and c < shape[1, channel]
            cell = colours[square[r, c, channel]] + codes[r, c] + channels[channel]
            tokens.append((cell, valid or not mask_padding, places[r, c]))
    x, valid, where = (np.array(part) for part in zip(*tokens, strict=True))
    x = transformer(params, x, valid[:, None] & valid[None], where, config)
    cls = layer_norm(x[0], params.get("cls_layer_norm", {}))
    return [cls @ params[f"Dense_{i}"]["kernel"] for i in range(1 + config.variational)]


def numpy_decoder(params, contexts, square, shape, config, row_start_rule=True):
    """Row, column and raster cell logits of one padded pair under contexts `[M, H]`."""
    colours, tags = table(params, "colors_embed"), table(params, "input_output_embed")
    counts = [table(params, f"grid_shapes_{axis}_embed") for axis in ("row", "col")]
    codes, places = position_table(params, config)
    separate = "input_" if config.separate_input_positions else ""
    positions = [position_table(params, config, separate), (codes, places)]
    rows, cols = shape[:, 1]
    if config.next_position:
        # Roll the table left; the last valid column continues at the start of the next row.
        positions[1] = [np.roll(x, -1, axis=1) for x in (codes, places)]
        for rolled, x in zip(positions[1], (codes, places), strict=True):
            rolled[:, cols - 1] = np.roll(x[:, 0], -1, axis=0)

    tokens = []  # (side, vector, valid, place)
    for side in (0, 1):
        if side == 1:
            for slot, context in enumerate(contexts):
                vector = dense(context, params["context_embed"])
                if config.num_slots:
                    vector = vector + table(params, "slot_embed")[slot]
                tokens.append(("context", vector, True, np.zeros(2)))
        for axis in (0, 1):
            tokens.append((side, counts[axis][shape[axis, side] - 1] + tags[side], True, (0, 0)))
        for r, c in np.ndindex(ROWS, COLS):
            valid = r < shape[0, side] and c < shape[1, side]
            code, place = (x[r, c] for x in positions[side])
            tokens.append((side, colours[square[r, c, side]] + tags[side] + code, valid, place))
    sides, x, valid, where = zip(*tokens, strict=True)

    readable = np.zeros((len(tokens), len(tokens)), bool)
    for q, k in np.ndindex(readable.shape):
        if sides[k] == 0:
            allowed = True
        elif sides[k] == "context":
            allowed = sides[q] != 0 or config.input_sees_context
        else:
            allowed = sides[q] == 1 and k <= q
        readable[q, k] = allowed and valid[q] and valid[k]
    x = transformer(params, np.array(x), readable, np.array(where), config)

    def head(name, hidden, kernel):
        normed = layer_norm(hidden, params.get(f"{name}_logits_layer_norm", {}))
        return normed @ params[kernel]["kernel"]

    first = 2 + ROWS * COLS  # the context token
    start = first + len(contexts)  # [rows_out]
    raw = head("grid", x[start + 1 : start + 1 + ROWS * COLS], "grid_logits_proj")
    cells = raw.copy()
    for r in range(1, ROWS if row_start_rule else 1):
        cells[r * COLS] = raw[(r - 1) * COLS + cols]
    return (
        head("row", x[first], "shape_row_logits_proj"),
        head("col", x[start], "shape_col_logits_proj"),
        cells.reshape(ROWS, COLS, -1)[:rows, :cols].reshape(rows * cols, -1),
    )


# --- The networks under test ----------------------------------------------------------------------


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


@pytest.mark.slow
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


def test_input_side_alone_ignores_the_context():
    """With `input_sees_context=False` what is kept of the inputs is made without any latent."""
    lpn = LPN(replace(TINY, input_sees_context=False))
    params, pairs = random_params(lpn), streams(*padded_batch())
    kept = jax.eval_shape(lambda p: lpn.prepare(p, pairs).inputs, params)
    assert len(kept.layers) == 2 and kept.context is None
    assert kept.layers[1][0].shape == (len(SHAPES), 2, ROWS * COLS + 2, 4)


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


# --- Rotary positions -----------------------------------------------------------------------------


def test_rotary_attention_depends_on_differences_only():
    lpn = LPN(CONFIGS["rope"])
    params = {"params": random_params(lpn)["decoder"]["TransformerLayer_0"]}
    layer = Layer(lpn.config.decoder, use_bias=True, rope_max_frequency=10.0)
    rng = np.random.default_rng(4)
    x, places = rng.normal(size=(6, 8)), rng.uniform(-1, 1, (6, 2))

    @jax.jit
    def scores(places):
        queries, keys, values = layer.apply(params, jnp.float32(x), places, method="project")
        return jnp.einsum("hqd,hkd->hqk", queries, keys), values

    plain, values = scores(places)
    moved, same_values = scores(places + np.array([[0.3, -0.7]]))
    np.testing.assert_allclose(moved, plain, atol=1e-4)
    np.testing.assert_array_equal(values, same_values)
    for stretch in ([[1.5, 1.0]], [[1.0, 1.5]]):
        assert abs(scores(places * np.array(stretch))[0] - plain).max() > 0.05


def test_rotary_model_has_frequencies_instead_of_tables():
    block = Block(1, 2, 12)
    lpn = LPN(Config(ROWS, COLS, LATENT, block, block, positions="rope", rope_max_frequency=10.0))
    tree = jax.eval_shape(lpn.init, KEY)
    attention = lambda tree, part: tree[part]["TransformerLayer_0"]["MultiHeadAttention_0"]
    for part in ("encoder", "decoder"):
        assert not any("pos_" in name for name in tree[part])
        init = jax.jit(
            lambda key, part=part: {  # the rest is never computed
                name: leaf
                for name, leaf in attention(lpn.init(key), part).items()
                if name.endswith("frequencies")
            }
        )
        frequencies = init(KEY)
        assert sorted(frequencies) == ["col_log_frequencies", "row_log_frequencies"]
        for leaf in frequencies.values():
            np.testing.assert_allclose(leaf, np.log(np.pi * np.array([[1.0, 3.0, 5.0]] * 2)))


def test_attention_reads_only_what_the_mask_allows():
    rng = np.random.default_rng(5)
    q, k, v = (rng.normal(size=(2, n, 4)).astype(np.float32) for n in (3, 5, 5))
    mask = rng.random((1, 3, 5)) < 0.5
    mask[..., 0] = True
    weights = np.exp(np.einsum("hqd,hkd->hqk", q, k) / 2) * mask
    expected = np.einsum("hqk,hkd->hqd", weights / weights.sum(-1, keepdims=True), v)
    np.testing.assert_allclose(attend(q, k, v, mask), expected, atol=1e-6)
    # A uniform shift of the logits far beyond the range of exp changes nothing.
    np.testing.assert_allclose(
        attend(1e4 * np.ones_like(q), np.ones_like(k), v, mask),
        np.einsum("qk,hkd->hqd", mask[0] / mask[0].sum(-1, keepdims=True), v),
        atol=1e-5,
    )


# --- Sizes and settings ---------------------------------------------------------------------------


def sized(side, latent_dim, encoder, decoder):
    return Config(side, side, latent_dim, Block(*encoder), Block(*decoder))


OVERFIT = ((0, 6, 16, 1), (3, 6, 16, 1))
PUBLISHED = {  # name: (side, H, encoder, decoder, encoder and decoder parameters)
    "pattern_2d": (4, 2, (2, 6, 12, 4), (2, 6, 12, 4), 126_792, 127_872),
    "pattern_4": (10, 32, (2, 6, 16, 1), (2, 6, 16, 1), 121_824, 121_536),
    "pattern_ood": (10, 32, (4, 8, 8, 2), (2, 8, 4, 1), 138_560, 15_936),
    "arc_train_overfit/007bbfb7": (30, 32, *OVERFIT, 18_912, 188_352),
    "arc_train_overfit/045e512c": (30, 32, (0, 6, 16, 1), (4, 8, 32, 2), 18_912, 2_157_056),
    "arc_train_scaling/1": (30, 64, (0, 8, 16, 1), (6, 8, 16, 1), 33_408, 623_872),
    "arc_train_scaling/5": (30, 64, (2, 4, 16, 1), (6, 8, 32, 1), 65_856, 2_427_392),
    "arc_train_scaling/25": (30, 64, (2, 8, 16, 1), (6, 8, 32, 1), 230_016, 2_427_392),
    "arc_train_scaling/100": (30, 64, (4, 8, 16, 1), (6, 8, 32, 1), 426_624, 2_427_392),
    "arc_train_scaling/400": (30, 64, (4, 8, 32, 4), (8, 8, 32, 4), 3_212_544, 6_359_552),
    "arc_train": (30, 128, (4, 8, 32, 4), (4, 8, 32, 4), 3_245_312, 3_230_208),
    "arc_neurips": (30, 256, (8, 8, 64, 4), (6, 8, 64, 4), 25_496_064, 19_108_864),
    "debug": (4, 32, (2, 6, 8, 4), (2, 6, 8, 4), 59_760, 59_040),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts(name):
    *sizes, encoder, decoder = PUBLISHED[name]
    counts = LPN(sized(*sizes)).num_parameters()
    assert counts == {"encoder": encoder, "decoder": decoder, "total": encoder + decoder}


def test_parameter_count_of_the_first_paper():
    counts = LPN(sized(30, 256, (4, 8, 32, 4), (8, 8, 32, 4))).num_parameters()
    assert counts["total"] == 9_719_552 == 38_878_208 // 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": "fourier"}, "'fourier'; choose one of learned, scaled, rope"),
        ({"activation": "tanh"}, "'tanh'; choose one of silu, relu"),
        ({"positions": "rope", "encoder": Block(1, 2, 6)}, "encoder.head_dim is 6"),
        ({"decoder": Block(0, 2, 4)}, "decoder.num_layers must be at least 1"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**changes)
