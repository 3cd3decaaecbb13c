"""ITTA at test time and in training against NumPy, gradients by differences; mixing; stages."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain import nets
from jaxtrain.nets import Classified
from jaxtta.images.changes import mixstyle
from jaxtta.images.itta import Chain, _shapes, identity_chain, itta, staged, training
from tests.jaxtta.images import tiny
from tests.jaxtta.images.test_entropy import CLOSE, float64, masks, run  # noqa: F401

IMAGE, SHAPES, D = (2, 4, 3), ((2, 4, 5), (2, 4, 6)), 6
# Smooth and positive stages, so that no difference quotient meets a corner of a ReLU.


def network(params, model_state, x, *, after=None, **_):
    for k in (0, 1):
        layer = params[f"stage{k + 1}"]
        x = jnp.tanh(x @ layer["kernel"] + layer["bias"][None, None, None]) + 1.1
        x = x if after is None else after(k, x)
    z = x.mean((1, 2))
    head = params["head"]
    return Classified(z @ head["kernel"] + head["bias"][None], z), model_state


def parameters():
    rng = np.random.default_rng(0)
    layer = lambda a, b: {"kernel": rng.normal(size=(a, b)), "bias": rng.normal(size=b)}
    return {"stage1": layer(3, 5), "stage2": layer(5, 6), "head": layer(6, tiny.CLASSES)}


def chain(scale, bias, x):
    for i in range(len(scale)):
        x = scale[i] * x + bias[i]
        x = np.maximum(x, 0) if i < len(scale) - 1 else x
    return x


def mixed_style(x, partner, share):
    result = x.copy()
    for i, j in enumerate(partner):
        if i != j:
            own, other = x[i].reshape(-1, x.shape[-1]), x[j].reshape(-1, x.shape[-1])
            style = lambda v: (v.mean(0), np.sqrt(v.var(0, ddof=1) + 1e-6))
            (m, s), (m2, s2) = style(own), style(other)
            mix = lambda a, b, r=share[i]: r * a + (1 - r) * b
            result[i] = (x[i] - m) / s * mix(s, s2) + mix(m, m2)
    return result


def passes(params, x, mixing, blocks, fixed=None):
    """(logits, features) of both passes. `fixed`: styles measured on another network's features."""
    found, styles = [], []
    for mixes in (False, True):
        h = x
        for k in (0, 1):
            layer = params[f"stage{k + 1}"]
            h = np.tanh(h @ layer["kernel"] + layer["bias"]) + 1.1
            if mixes and k == mixing["stage"]:
                if fixed is None:
                    styles.append(h)
                    h = mixed_style(h, mixing["partner"], mixing["share"])
                else:  # the same affine map per row and channel, whatever the features are now
                    old = mixed_style(fixed, mixing["partner"], mixing["share"])
                    spread = fixed - fixed.mean((1, 2), keepdims=True)
                    factor = (old - old.mean((1, 2), keepdims=True)).std((1, 2), keepdims=True)
                    factor = factor / spread.std((1, 2), keepdims=True)
                    shift = old.mean((1, 2), keepdims=True)
                    h = (h - fixed.mean((1, 2), keepdims=True)) * factor + shift
            h = chain(*blocks[k], h)
        z = h.mean((1, 2))
        found.append((z @ params["head"]["kernel"] + params["head"]["bias"], z))
    return found, (styles[0] if styles else fixed)


def identity(depth, shape):
    return np.ones((depth, *shape)), np.zeros((depth, *shape))


def gradient(loss, flat, step=1e-5):
    basis = step * np.eye(len(flat))
    return np.array([(loss(flat + h) - loss(flat - h)) / (2 * step) for h in basis])


def unflatten(flat, shapes):
    cuts = np.cumsum([np.prod(s) for s in shapes])[:-1]
    return [part.reshape(s) for part, s in zip(np.split(flat, cuts), shapes, strict=True)]


def drawn(key, mask):
    mixing = jax.jit(mixstyle.draw_mixing)(key, jnp.asarray(mask))
    return {name: np.asarray(value) for name, value in mixing._asdict().items()}


def standard(gradient, by):
    return (gradient - by.mean()) / by.std(ddof=1)


def head_numbers(depth, seed=5):
    rng = np.random.default_rng(seed)
    return 1 + 0.3 * rng.normal(size=(depth, D)), 0.1 * rng.normal(size=(depth, D))


@pytest.mark.parametrize("naive", [False, True])
def test_itta(naive):
    depth, head = 2, None if naive else Chain(*map(jnp.asarray, head_numbers(3)))
    core = itta(network, optax.sgd(2.0, momentum=0.9), IMAGE, depth=depth, weight=0.5)
    x, valid = tiny.batches(4, 5), masks(4, 5)
    valid[1, 3:] = False
    replayed = run(core, (parameters(), {}, head), x, valid)
    optimizer = tiny.Sgd(2.0)
    blocks_shapes = [(depth, *s) for s in SHAPES for _ in (0, 1)]
    theta = np.concatenate([np.ravel(a) for s in SHAPES for a in identity(depth, s)])
    blocks_of = lambda flat: [unflatten(flat, blocks_shapes)[i : i + 2] for i in (0, 2)]
    measure = (np.ones((1, D)), np.zeros((1, D))) if naive else head_numbers(3)
    stages = set()
    for i in range(4):
        mask, key = valid[i], jax.random.fold_in(jax.random.key(0), i)
        mixing = drawn(key, mask)
        if mask.any():
            stages.add(int(mixing["stage"]))
            assert (mixing["partner"][mask] != np.flatnonzero(mask)).any()
            _, fixed = passes(parameters(), x[i], mixing, blocks_of(theta))

            def loss(flat, i=i, mask=mask, mixing=mixing, fixed=fixed):
                both, _ = passes(parameters(), x[i], mixing, blocks_of(flat), fixed)
                difference = both[1][1] - both[0][1]
                return (chain(*measure, difference) ** 2)[mask].mean()

            np.testing.assert_allclose(replayed.metrics["loss"][i], loss(theta), rtol=1e-5)
            theta = optimizer.step(theta, 0.5 * gradient(loss, theta))
        (plain, _), _ = passes(parameters(), x[i], mixing, blocks_of(theta))
        np.testing.assert_allclose(
            replayed.outputs.logits[i][mask], plain[0][mask], rtol=1e-6, atol=1e-7
        )
        found = jax.tree.map(lambda v, i=i: v[i], replayed.params)
        found = np.concatenate([np.ravel(leaf) for block in found for leaf in block])
        np.testing.assert_allclose(found, theta, rtol=1e-6, atol=1e-7)
    start = np.concatenate([np.ravel(a) for s in SHAPES for a in identity(depth, s)])
    assert np.abs(theta - start).max() > 1e-3 and stages == {0, 1}


def test_training():
    """Two steps; the second-order step of the head by differences of differences."""
    state = training(network, optax.sgd(0.1), optax.sgd(0.5), IMAGE, depth=2)
    core, x = state, tiny.batches(2, 4)
    labels = np.array([0, 1, 2, 3])
    state = core.init(jax.tree.map(jnp.asarray, parameters()), {})
    state = state._replace(head=Chain(*map(jnp.asarray, head_numbers(2))))
    update = jax.jit(core.update)
    names = [(a, b) for a in ("stage1", "stage2", "head") for b in ("kernel", "bias")]
    params, head = parameters(), np.concatenate([np.ravel(a) for a in head_numbers(2)])
    blocks = [identity(1, s) for s in SHAPES]
    every = np.ones(4, bool)

    def parts(params, head, x, mixing, fixed):
        both, fixed = passes(params, x, mixing, blocks, fixed)
        task = sum(-tiny.log_softmax(both[i][0])[np.arange(4), labels].mean() for i in (0, 1))
        difference = both[1][1] - both[0][1]
        return task, (chain(*unflatten(head, [(2, D)] * 2), difference) ** 2).mean(), fixed

    for i in range(2):
        key = jax.random.key(i)
        state, out = update(
            state, {"inputs": jnp.asarray(x[i]), "labels": jnp.asarray(labels)}, key
        )
        key_main, key_head = jax.random.split(key)
        mixing = drawn(key_main, every)
        theta = tiny.flat(params, names)
        *_, fixed = parts(params, head, x[i], mixing, None)
        given = (x[i], mixing, fixed)
        net = lambda t: tiny.with_flat(parameters(), t, names)
        main = lambda t, g=given, w=head, net=net: sum(parts(net(t), w, *g)[:2])
        np.testing.assert_allclose(out.metrics["loss"], main(theta), rtol=1e-6)
        params = tiny.with_flat(params, theta - 0.1 * gradient(main, theta), names)
        np.testing.assert_allclose(
            tiny.flat(state.params, names), tiny.flat(params, names), rtol=1e-6, atol=1e-7
        )
        mixing, below = drawn(key_head, every), names[:4]
        *_, fixed = parts(params, head, x[i], mixing, None)
        start, given = tiny.flat(params, below), (x[i], mixing, fixed)

        def inner(w, which, start=start, given=given, params=params, below=below):
            at = lambda t: parts(tiny.with_flat(params, t, below), w, *given)[which]
            return gradient(at, start, 1e-4)

        now, task = inner(head, 1), inner(head, 0)

        def penalty(w, now=now, task=task, inner=inner):
            return 0.1 * ((standard(inner(w, 1), now) - standard(task, task)) ** 2).mean()

        np.testing.assert_allclose(out.metrics["misalignment"], penalty(head), rtol=1e-4)
        moved = head - 0.5 * gradient(penalty, head, 1e-4)
        found = np.concatenate([np.ravel(state.head.scale), np.ravel(state.head.bias)])
        np.testing.assert_allclose(found, moved, rtol=1e-4, atol=1e-5)
        assert np.abs(moved - head).max() > 1e-2
        head = moved


def test_mixing_pairs_the_rows_that_count():
    mask = np.array([1, 0, 1, 1, 0, 1, 1, 1], bool)
    seen = np.stack([drawn(jax.random.key(i), mask)["partner"] for i in range(20)])
    rows = np.flatnonzero(mask)
    np.testing.assert_array_equal(np.sort(seen[:, mask], 1), np.tile(rows, (20, 1)))
    np.testing.assert_array_equal(seen[:, ~mask], np.tile(np.flatnonzero(~mask), (20, 1)))
    assert len({tuple(s) for s in seen}) > 10
    # Alone, a row is its own partner and its features stay as they are, to the bit.
    alone = mixstyle.draw_mixing(jax.random.key(0), jnp.arange(8) == 2)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2, 2, 3)))
    np.testing.assert_array_equal(mixstyle.mixed_style(x, alone), x)
    core = itta(network, optax.adam(0.1), IMAGE)
    one = run(core, (parameters(), {}), tiny.batches(2, 1), np.ones((2, 1), bool))
    for block, shape in zip(one.params, SHAPES, strict=True):
        np.testing.assert_array_equal(block.scale[-1], np.ones((5, *shape)))
    assert not one.metrics["loss"].any()


def test_stages_of_a_residual_network():
    module = nets.cifar_resnet(8)
    apply_fn = staged(module)
    x = jnp.full((1, 8, 8, 3), 0.5)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda s: 0.1 * jnp.ones(s.shape), shapes)
    params, stats = variables.pop("params"), variables
    found, size, _ = _shapes(apply_fn, params, stats, (8, 8, 3))
    assert found == [(8, 8, 16), (4, 4, 32), (2, 2, 64)] and size == 64
    forward = lambda after: np.asarray(
        jax.jit(lambda x: apply_fn(params, stats, x, after=after)[0].logits)(x)
    )
    emptied = forward(lambda k, x: x * 0 if k == 2 else x)
    np.testing.assert_allclose(emptied, 0.1, rtol=1e-6)  # the bias of the head
    assert np.abs(forward(None) - emptied).max() > 1e-3


def test_errors():
    with pytest.raises(ValueError, match="at least two of them, but found \\[\\]"):
        itta(lambda p, s, x, **_: (Classified(x, x), s), optax.sgd(0.1), IMAGE).init(
            parameters(), {}
        )
    with pytest.raises(ValueError, match="for features of shape \\(3,\\)"):
        head = identity_chain(2, (3,))
        itta(network, optax.sgd(0.1), IMAGE).init(parameters(), {}, head)
    core = training(network, optax.sgd(0.1), optax.sgd(0.1), IMAGE)
    with pytest.raises(ValueError, match="'inputs' and 'labels'"):
        core.update(
            core.init(parameters(), {}), {"inputs": jnp.zeros((2, 2, 4, 3))}, jax.random.key(0)
        )
