"""Attention, fused attention, keys of one's own, rotary codes and kept keys, against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.nets import (
    attend,
    attend_fused,
    attend_with_own,
    keep,
    rotary_angles,
    rotate,
    with_room,
)
from jaxtrain.nets.attention import attend_in_part, join


def attend_in_numpy(q, k, v, mask):
    """One query at a time, float64; a query without readable keys gets the mean of all values."""
    out = np.zeros(q.shape)
    group = q.shape[0] // k.shape[0]
    for h, i in np.ndindex(q.shape[:2]):
        scores = k[h // group].astype(np.float64) @ q[h, i] / np.sqrt(q.shape[-1])
        readable = mask[0, i] if mask[0, i].any() else np.ones_like(mask[0, i])
        scores = scores if mask[0, i].any() else 0 * scores
        weights = np.exp(scores - scores.max()) * readable
        out[h, i] = weights / weights.sum() @ v[h // group]
    return out


def attend_by_xla(q, k, v, mask):
    return attend_fused(q, k, v, mask, "xla")


@pytest.mark.parametrize("kv_heads", [6, 3, 2, 1])
@pytest.mark.parametrize("function", [attend, attend_by_xla])
def test_attention_reads_only_what_the_mask_allows(function, kv_heads):
    rng = np.random.default_rng(5)
    q = rng.normal(size=(2, 6, 3, 4)).astype(np.float32)
    k, v = (rng.normal(size=(2, kv_heads, 5, 4)).astype(np.float32) for _ in range(2))
    mask = rng.random((2, 1, 3, 5)) < 0.5
    mask[0, 0, 1] = False  # a query that may read nothing
    function = jax.jit(function)
    got = function(q, k, v, mask)
    assert got.shape == q.shape
    for b in range(2):
        np.testing.assert_allclose(got[b], attend_in_numpy(q[b], k[b], v[b], mask[b]), atol=1e-6)
    everything = np.ones_like(mask)
    np.testing.assert_allclose(
        function(q, k, v, None), function(q, k, v, everything), rtol=1e-6, atol=1e-6
    )
    # One sequence by itself.
    np.testing.assert_allclose(function(q[0], k[0], v[0], mask[0]), got[0], atol=1e-6)


@pytest.mark.parametrize("function", [attend, attend_by_xla])
def test_a_shift_of_all_logits_changes_nothing(function):
    """Far beyond the range of exp."""
    rng = np.random.default_rng(6)
    q, k = 1e4 * np.ones((2, 3, 4), np.float32), np.ones((2, 5, 4), np.float32)
    v = rng.normal(size=k.shape).astype(np.float32)
    mask = np.tri(3, 5, dtype=bool)[None]
    expected = np.einsum("qk,hkd->hqd", mask[0] / mask[0].sum(-1, keepdims=True), v)
    np.testing.assert_allclose(function(q, k, v, mask), expected, atol=1e-5)


def test_gradients_of_fused_attention_are_those_of_plain_attention():
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(key, (2, n, 5, 4)) for key, n in zip(keys, (4, 2, 2), strict=True))
    mask = jnp.tri(5, k=-1, dtype=bool)[None]  # the first query may read nothing
    total = lambda function: lambda *x: jnp.sin(3 * function(*x, mask)).sum()
    gradient = lambda function: jax.jit(jax.grad(total(function), argnums=(0, 1, 2)))
    plain, fused = (gradient(f)(q, k, v) for f in (attend, attend_by_xla))
    assert all(abs(x).max() > 0.1 for x in plain)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain, fused)


def test_the_softmax_of_bfloat16_is_float32_and_that_of_float64_float64():
    rng = np.random.default_rng(7)
    q, k, v = (rng.normal(size=(2, 64, 4)) for _ in range(3))
    mask = np.tri(64, dtype=bool)[None]
    expected = attend_in_numpy(q, k, v, mask)
    narrow = attend(*(jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)), mask)
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(narrow.astype(np.float32), expected, atol=0.03)
    with jax.enable_x64(True):
        wide = attend(*(jnp.asarray(x) for x in (q, k, v)), jnp.asarray(mask))
    np.testing.assert_allclose(wide, expected, atol=1e-14)


@pytest.mark.parametrize("function", [attend, attend_by_xla])
def test_logits_of_bfloat16_are_not_rounded(function):
    """They are 200 and 200.5, of which bfloat16 makes one number."""
    q = jnp.array([[[16.0, 2.0, 0.0, 0.0]]], jnp.bfloat16)
    k = jnp.array([[[25.0, 0.0, 0.0, 0.0], [25.0, 0.5, 0.0, 0.0]]], jnp.bfloat16)
    v = jnp.array([[4 * [0.0], 4 * [1.0]]], jnp.bfloat16)
    got = function(q, k, v, None).astype(np.float32)
    np.testing.assert_allclose(got, np.full((1, 1, 4), 1 / (1 + np.exp(-0.5))), rtol=2**-8)


# --- cuDNN's attention, without a GPU -------------------------------------------------------------


def attend_by_cudnn(q, k, v, mask):
    return attend_fused(q, k, v, mask, "cudnn")


def some_attention():
    """Odd numbers of queries and keys; two tasks of three sequences, which share a mask."""
    rng = np.random.default_rng(9)
    q, k, v = (jnp.asarray(rng.normal(size=(2, 3, 2, n, 16)), jnp.bfloat16) for n in (5, 7, 7))
    mask = rng.random((3, 1, 1, 7)) < 0.7
    return q, k, v, mask | (np.arange(7) == 0)


def gradients(function):
    """Of a loss per task, under `vmap` as in training."""
    total = lambda q, k, v, mask: jnp.sin(3 * function(q, k, v, mask).astype(jnp.float32)).sum()
    return jax.vmap(jax.value_and_grad(total, argnums=(0, 1, 2)), (0, 0, 0, None))


def test_what_surrounds_the_call_of_cudnn_is_plain_attention(monkeypatch):
    """Padding, masks, gradients and `vmap`; XLA's attention stands in for the call."""
    original, asked = jax.nn.dot_product_attention, []

    def stand_in(*args, implementation, **options):
        asked.append((implementation, args[0].shape, options["mask"].shape))
        return original(*args, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    plain, fused = (jax.jit(gradients(f))(*some_attention()) for f in (attend, attend_by_cudnn))
    # Even lengths, one mask for all heads, and never under vmap: tasks and sequences are one axis.
    assert ("cudnn", (6, 6, 2, 16), (6, 1, 6, 8)) in asked
    np.testing.assert_allclose(fused[0], plain[0], atol=0.3)
    for a, b in zip(fused[1], plain[1], strict=True):
        assert a.dtype == jnp.bfloat16 and abs(b).max() > 0.5
        a, b = a.astype(np.float32), b.astype(np.float32)
        assert np.linalg.norm(a - b) < 0.02 * np.linalg.norm(b)


def test_the_program_for_a_gpu_calls_cudnn_and_stores_no_weights(monkeypatch):
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91_000)
    program = lambda function: (
        jax.jit(gradients(function))
        .trace(*some_attention())
        .lower(lowering_platforms=("cuda",))
        .as_text()
    )
    fused, plain = program(attend_by_cudnn), program(attend)
    assert "__cudnn$fmhaScaleBiasSoftmaxBackward" in fused
    assert "x2x5x7xf32>" in plain and "x7xf32>" not in fused and "x8xf32>" not in fused


def test_rotary_codes_against_loops():
    rng = np.random.default_rng(8)
    x, places = rng.normal(size=(2, 3, 5, 8)), rng.integers(0, 9, (2, 5))
    got = rotate(x.astype(np.float32), rotary_angles(jnp.asarray(places), 6, base=50.0))
    for b, h, t in np.ndindex(2, 3, 5):
        for i in range(3):
            pair = (x[b, h, t, 2 * i] + 1j * x[b, h, t, 2 * i + 1]) * np.exp(
                1j * places[b, t] * 50.0 ** (-2 * i / 6)
            )
            np.testing.assert_allclose(
                got[b, h, t, 2 * i : 2 * i + 2], [pair.real, pair.imag], atol=1e-5
            )
        np.testing.assert_array_equal(got[b, h, t, 6:], x[b, h, t, 6:].astype(np.float32))


def test_rotary_scores_depend_on_distances_only():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 3, 8))

    def scores(shift):
        angles = rotary_angles(jnp.arange(3) + shift, 4)
        return jnp.einsum("bhqd,bhkd->bhqk", rotate(q, angles), rotate(k, angles))

    np.testing.assert_allclose(scores(0), scores(5), atol=1e-5)
    assert jnp.abs(scores(0) - jnp.einsum("bhqd,bhkd->bhqk", q, k)).max() > 1e-2


def test_kept_keys_stay_and_new_ones_take_their_places():
    kept = (np.ones((2, 1, 3, 4), np.float32), 2 * np.ones((2, 1, 3, 4), np.float32))
    new = jax.tree.map(lambda x: 5 * x[:, :, :2], kept)
    wider = with_room(kept, 2)
    got = jax.jit(keep)(wider, new, jnp.int32(2))
    for x, factor in zip(got, (1, 2), strict=True):
        rows = factor * np.array([1, 1, 5, 5, 0])
        np.testing.assert_array_equal(x, np.broadcast_to(rows[:, None], (2, 1, 5, 4)))


def test_tokens_without_a_place_overwrite_nothing():
    """`dynamic_update_slice` would move them over the last places."""
    kept, new = jnp.ones((1, 3, 4)), 5 * jnp.ones((1, 2, 4))
    for place, expected in ((1, [1, 5, 5]), (2, [1, 1, 1]), (3, [1, 1, 1]), (-1, [1, 1, 1])):
        got = jax.jit(keep)(kept, new, jnp.int32(place))
        np.testing.assert_array_equal(got[0, :, 0], expected)
    for place in (2, -1):
        with pytest.raises(ValueError, match=f"2 new tokens do not fit at place {place} of 3"):
            keep(kept, new, place)
    with pytest.raises(ValueError, match="3 new tokens do not fit"):
        keep(kept[:, :2], kept, jnp.int32(0))


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_parts_join_to_the_attention_over_all_keys(size):
    """Also where one part has all the weight, far beyond the range of exp."""
    rng = np.random.default_rng(8)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    q, k, v = size * draw(2, 3, 4, 8), draw(2, 3, 5, 8), draw(2, 3, 5, 8)
    mask = jnp.asarray(rng.random((2, 1, 4, 3)) < 0.6).at[0, 0, 1].set(False)  # one reads nothing
    whole = jnp.concatenate([mask, jnp.ones((2, 1, 4, 2), bool)], axis=-1)

    def joined(k, v):
        first = attend_in_part(q, k[..., :3, :], v[..., :3, :], mask)
        return join(first, attend_in_part(q, k[..., 3:, :], v[..., 3:, :]))

    given = draw(2, 3, 4, 8)

    @jax.jit
    def both(k, v):
        functions = joined, lambda k, v: attend(q, k, v, whole)
        made = [jax.vjp(function, k, v) for function in functions]
        return [(found, *slopes(given)) for found, slopes in made]

    for found, expected, scale in zip(*both(k, v), (1.0, size, 1.0), strict=True):
        np.testing.assert_allclose(found / scale, expected / scale, atol=1e-5)


def test_own_keys_are_read_by_their_query_alone():
    rng = np.random.default_rng(0)
    q, own_k, own_v = (rng.normal(size=(2, 3, 4)).astype(np.float32) for _ in range(3))
    k, v = (rng.normal(size=(2, 5, 4)).astype(np.float32) for _ in range(2))
    mask = rng.random((1, 3, 5)) < 0.5
    mask[0, 1] = False  # a query with nothing but its own key
    got = attend_with_own(q, k, v, mask, own_k, own_v)
    for h in range(2):
        for i in range(3):
            keys = [k[h, j] for j in range(5) if mask[0, i, j]] + [own_k[h, i]]
            values = [v[h, j] for j in range(5) if mask[0, i, j]] + [own_v[h, i]]
            weights = np.exp([q[h, i] @ key / 2 for key in keys])
            expected = sum(w * x for w, x in zip(weights / weights.sum(), values, strict=True))
            np.testing.assert_allclose(got[h, i], expected, atol=1e-6)
    np.testing.assert_allclose(got[:, 1], own_v[:, 1], atol=1e-6)


def test_own_keys_equal_plain_attention_over_all_keys():
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (30 * jax.random.normal(key, (1, 4, 4)) for key in keys)
    together = attend(q, k, v, jnp.tri(4, dtype=bool)[None])
    apart = attend_with_own(q, k, v, jnp.tri(4, k=-1, dtype=bool)[None], k, v)
    np.testing.assert_allclose(apart, together, atol=1e-4)


def test_gradients_are_finite_where_no_shared_key_is_readable():
    x = jax.random.normal(jax.random.key(0), (1, 3, 4))
    mask = jnp.zeros((1, 3, 3), bool)
    grads = jax.grad(lambda x: attend_with_own(x, x, x, mask, x, x).sum())(x)
    np.testing.assert_allclose(grads, jnp.ones_like(x), atol=1e-6)
