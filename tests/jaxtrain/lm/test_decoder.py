"""The language model against one text at a time in NumPy, however texts lie in rows and slots."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.lm.decoder import PUBLISHED, Config, decoder, positions, score
from jaxtrain.lm.logits import Options
from tests.jaxtrain.lm import numpy_decoder as reference
from tests.jaxtrain.lm.numpy_decoder import TINY, random_params

TEXTS = [[3, 1, 4, 1, 5, 9], [2, 6, 5], [7], [1, 8, 2, 8, 1, 8, 2]]
SLOTS = 9
MODEL = decoder(TINY)
PARAMS = random_params(MODEL)


@functools.partial(jax.jit, static_argnums=0, static_argnames="every_layer")
def forward(model, params, tokens, valid, head_scale=None, every_layer=False):
    return model.forward(params, tokens, valid, head_scale=head_scale, every_layer=every_layer)[0]


@jax.jit
def append(params, tokens, valid, cache, start):
    return MODEL.forward(params, tokens, valid, cache, start)


def scattered(texts=TEXTS, slots=SLOTS, seed=0):
    """Every text in random slots of its row, in order; other slots hold random tokens."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, TINY.vocabulary, (len(texts), slots))
    valid = np.zeros((len(texts), slots), bool)
    for row, text in enumerate(texts):
        places = np.sort(rng.choice(slots, len(text), replace=False))
        tokens[row, places], valid[row, places] = text, True
    return tokens, valid


def near(found, expected, atol=1e-4):
    np.testing.assert_allclose(found, expected, atol=atol)


@pytest.mark.parametrize("options", [{}, {"qkv_bias": False, "tied": False}], ids=["qwen", "llama"])
def test_texts_in_any_slots_equal_the_equations(options):
    model = decoder(dataclasses.replace(TINY, **options))
    params = random_params(model)
    names = {f"{a}/{b}" for a, branch in params.items() for b in branch}
    assert ("head/kernel" in names) is not model.config.tied
    assert ("bias" in params["block0"]["attention"]["key"]) is model.config.qkv_bias
    tokens, valid = scattered()
    hidden = forward(model, params, tokens, valid)
    for row, text in enumerate(TEXTS):
        found = model.logits(params, hidden[row, valid[row]])
        near(found, reference.logits(model.config, params, text))


def test_blocks_kept_one_after_the_other_equal_one_call():
    """Blocks of width 4, 1 and 4 of the same texts, the last two with empty slots in some rows."""
    tokens, valid = scattered()
    whole = forward(MODEL, PARAMS, tokens, valid)
    cache, parts = MODEL.empty_cache(len(TEXTS), SLOTS), []
    for start, stop in ((0, 4), (4, 5), (5, 9)):
        known = valid & (np.arange(SLOTS) < stop)
        hidden, cache = append(PARAMS, tokens[:, start:stop], known, cache, start)
        parts.append(hidden)
    near(np.concatenate(parts, 1)[valid], whole[valid], 1e-5)


def test_a_cache_that_is_too_short_is_left_alone():
    tokens, valid = scattered()
    _, cache = append(PARAMS, tokens, valid, MODEL.empty_cache(len(TEXTS), SLOTS), 0)
    _, after = append(PARAMS, tokens[:, :4], valid, cache, jnp.int32(SLOTS - 3))
    jax.tree.map(np.testing.assert_array_equal, after, cache)
    with pytest.raises(ValueError, match="do not fit at place 6 of 9"):
        jax.eval_shape(lambda: MODEL.forward(PARAMS, tokens[:, :4], valid, cache, SLOTS - 3))


def test_packed_texts_do_not_read_each_other():
    row, numbers = [*TEXTS[0], *TEXTS[1], 0], [1] * 6 + [2] * 3 + [0]
    hidden = forward(MODEL, PARAMS, np.array([row]), np.array([numbers]))[0]
    for found, text in ((hidden[:6], TEXTS[0]), (hidden[6:9], TEXTS[1])):
        near(found, reference.states(TINY, PARAMS, text)[-1])


@pytest.mark.parametrize(
    ("valid", "expected"),
    [
        ([0, 0, 1, 1, 0, 1], [0, 0, 0, 1, 1, 2]),
        ([1, 1, 2, 0, 2, 2], [0, 1, 0, 0, 1, 2]),
        ([0, 1, 1, 3, 3, 0], [0, 0, 1, 0, 1, 1]),
    ],
)
def test_positions_count_the_valid_slots_of_a_text(valid, expected):
    np.testing.assert_array_equal(positions(np.array([valid])), [expected])


def test_heads_are_scaled_and_every_layer_is_shown():
    tokens, valid = scattered()
    scale = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32)
    hidden = forward(MODEL, PARAMS, tokens, valid, scale, every_layer=True)
    assert hidden.shape == (3, len(TEXTS), SLOTS, 8)
    for row, text in enumerate(TEXTS):
        near(hidden[:, row, valid[row]], reference.states(TINY, PARAMS, text, scale))


def test_vectors_stand_for_tokens():
    vectors = np.random.default_rng(2).normal(size=(1, 3, 8)).astype(np.float32)
    both = np.concatenate([vectors, MODEL.embed(PARAMS, np.array([[4, 2]]))], axis=1)
    valid = np.ones((1, 5), bool)
    hidden = forward(MODEL, PARAMS, both, valid)
    near(hidden[0], reference.states(TINY, PARAMS, [*vectors[0], 4, 2])[-1])
    tokens = np.array([[0, 0, 0, 4, 2]])
    scores = jax.jit(functools.partial(score, MODEL))(PARAMS, tokens, valid, prefix=vectors)
    expected = reference.log_softmax(reference.logits(TINY, PARAMS, [*vectors[0], 4, 2]))
    near(scores.logp[0, 3:], [expected[2, 4], expected[3, 2]])


def test_scores_of_texts_in_any_slots():
    """Rows have temperatures of their own; one row holds two texts; one slot is not asked for."""
    tokens, valid = scattered()
    tokens[2], valid = [*TEXTS[0], *TEXTS[1]], valid.astype(int)
    valid[2] = [1] * 6 + [2] * 3
    mask = np.ones_like(valid)
    mask[2, 4] = 0
    heat = np.array([1.0, 0.5, 2.0, 0.0], np.float32)
    found = jax.jit(functools.partial(score, MODEL))(PARAMS, tokens, valid, mask, Options(heat))
    expected, entropy = np.zeros((2, *tokens.shape))
    for row in range(len(TEXTS)):
        for text in (1, 2):
            (slots,) = np.nonzero(valid[row] == text)
            if not len(slots):
                continue
            logits = reference.logits(TINY, PARAMS, tokens[row, slots])
            logp = reference.log_softmax(logits / (heat[row] or 1))
            for t, slot in enumerate(slots[1:]):
                expected[row, slot] = logp[t, tokens[row, slot]]
                entropy[row, slot] = -(np.exp(logp[t]) * logp[t]).sum()
    expected[2, 4] = entropy[2, 4] = 0
    near(found.logp, expected)
    near(found.entropy, entropy)


def test_activations_are_recomputed_to_the_same_gradient():
    tokens, valid = scattered()
    loss = lambda model, params: model.forward(params, tokens, valid)[0].sum()
    grad = lambda model: jax.grad(functools.partial(loss, model))
    again = decoder(dataclasses.replace(TINY, num_layers=1, remat=True))
    once = decoder(dataclasses.replace(TINY, num_layers=1))
    params = random_params(once)
    found, expected = (jax.jit(grad(model))(params) for model in (again, once))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), found, expected)
    number = lambda model: str(jax.make_jaxpr(grad(model))(params)).count("dot_general")
    assert number(again) > number(once)


def test_half_precision_stays_near_and_logits_are_wide():
    half = decoder(dataclasses.replace(TINY, dtype="bfloat16"))
    tokens, valid = scattered()
    hidden = forward(half, PARAMS, tokens, valid)
    assert hidden.dtype == jnp.bfloat16 and half.logits(PARAMS, hidden).dtype == jnp.float32
    near(hidden[valid].astype(np.float32), forward(MODEL, PARAMS, tokens, valid)[valid], 0.2)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("smollm2_135m", 134_515_008),
        ("smollm2_360m", 361_821_120),
        ("smollm2_1.7b", 1_711_376_384),
        ("qwen2.5_0.5b", 494_032_768),
        ("qwen2.5_1.5b", 1_543_714_304),
        ("tinyllama_1.1b", 1_100_048_384),
        ("llama3_8b", 8_030_261_248),
    ],
)
def test_published_networks_have_their_published_size(name, number):
    one = dataclasses.replace(PUBLISHED[name], num_layers=1)  # all layers are alike
    size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    shapes = jax.eval_shape(decoder(one).init, jax.random.key(0))
    layer = size(shapes["block0"])
    assert size(shapes) + (PUBLISHED[name].num_layers - 1) * layer == number


def test_a_new_network_is_near_uniform_over_tokens():
    wide = decoder(dataclasses.replace(TINY, vocabulary=64, width=32))
    params = jax.jit(wide.init)(jax.random.key(0))
    logits = wide.logits(params, forward(wide, params, np.arange(64)[None], np.ones((1, 64), bool)))
    assert 0.5 < logits.std() < 3


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"num_kv_heads": 3}, "num_kv_heads is 3; it must divide num_heads, which is 4"),
        ({"head_dim": 5}, "head_dim is 5; rotary pairs need an even number"),
        ({"width": 0}, "width is 0; it must be a whole number from 1 to"),
        ({"vocabulary": 10**12}, "vocabulary is 1000000000000; it must be a whole number from 1"),
        ({"num_layers": None}, "num_layers is None; it must be a whole number"),
        ({"hidden": 2.5}, "hidden is 2.5; it must be a whole number"),
        ({"rotary_base": float("nan")}, "rotary_base is nan; it must be positive"),
        ({"norm_epsilon": -1e-5}, "norm_epsilon is -1e-05; it must be positive"),
        ({"dtype": "float16"}, "dtype is 'float16'; choose float32 or bfloat16"),
    ],
)
def test_impossible_structures_are_refused(changed, sentence):
    with pytest.raises(ValueError, match=sentence):
        Config(**{**dataclasses.asdict(TINY), **changed})


def test_shapes_that_do_not_fit_are_refused():
    tokens, valid = scattered()
    with pytest.raises(ValueError, match=r"valid has shape \(4, 8\), but 4 rows have 9 slots"):
        MODEL.forward(PARAMS, tokens, valid[:, 1:])
    for wrong in (tokens.astype(np.float32), tokens[0], np.ones((*tokens.shape, 8), int)):
        with pytest.raises(
            ValueError, match="tokens are .*; give ids, whole numbers .* or vectors"
        ):
            MODEL.forward(PARAMS, wrong, valid)
    with pytest.raises(ValueError, match=r"a factor for each of the 2 layers and 4 heads"):
        MODEL.forward(PARAMS, tokens, valid, head_scale=np.ones((4, 2)))


def test_the_table_of_tokens_is_read_as_it_lies():
    """XLA copies a transposed table for every token, which halves the speed of a small model."""
    program = jax.make_jaxpr(MODEL.logits)(PARAMS, jnp.zeros((2, TINY.width))).jaxpr
    moved = [e for e in program.eqns if e.primitive.name == "transpose"]
    size = TINY.vocabulary * TINY.width
    assert not [e for e in moved if e.invars[0].aval.size >= size] and len(program.eqns) > 1
