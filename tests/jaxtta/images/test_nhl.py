"""NHL step by step against NumPy, the Hebbian rule on explicit patches, and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain import nets
from jaxtta.images.batch_statistics import batch_norm
from jaxtta.images.nhl import FirstLayer, hebbian_change, nhl
from jaxtta.selection import norm_parameters
from tests.jaxtta.images import tiny
from tests.jaxtta.images.test_entropy import CLOSE, float64, masks, run  # noqa: F401

LAYER = FirstLayer(("dense1",))


def rule(patches, kernel, temperature):
    """Mean over patches of y_k (x - u_k w_k), one patch after the other."""
    total = np.zeros_like(kernel)
    for x in patches:
        u = x @ kernel
        y = tiny.softmax(u[None] / temperature)[0]
        np.testing.assert_allclose(y.sum(), 1)
        for k in range(kernel.shape[1]):
            total[:, k] += y[k] * (x - u[k] * kernel[:, k])
    return total / max(len(patches), 1)


class Nhl:
    """The loop; `theta` holds the modulator, then the norms' scales and biases if they follow."""

    def __init__(self, mixing, norms, renormalise, optimizer):
        self.start, self.optimizer = tiny.variables()[0], optimizer
        self.mixing, self.renormalise = mixing, renormalise
        self.names = tiny.NORMS if norms else []
        self.kernel = self.start["dense1"]["kernel"].copy()
        self.lengths = np.linalg.norm(self.kernel, axis=0)
        self.size = 25 if mixing else 5
        modulator = np.eye(5).ravel() if mixing else np.ones(5)
        rest = tiny.flat(self.start, self.names) if norms else np.zeros(0)
        self.theta = np.concatenate([modulator, rest])

    def params(self):
        modulator = self.theta[: self.size]
        mixed = self.kernel @ modulator.reshape(5, 5) if self.mixing else self.kernel * modulator
        params = {**self.start, "dense1": {"kernel": mixed}}
        return tiny.with_flat(params, self.theta[self.size :], self.names)

    def step(self, x, mask):
        if mask.any():
            change = rule(x[mask].reshape(-1, 3), self.kernel, 0.5)
            self.kernel = self.kernel + 0.1 * np.linalg.norm(self.kernel, axis=0) * change
            if self.renormalise:
                self.kernel *= self.lengths / np.linalg.norm(self.kernel, axis=0)
            logits, cache = tiny.forward(self.params(), x, mask)
            d = np.where(mask[:, None], tiny.entropy_gradient(logits), 0) / mask.sum()
            grads = tiny.backward(self.params(), cache, d)
            mixed = grads["dense1"]["kernel"]
            first = self.kernel.T @ mixed if self.mixing else (self.kernel * mixed).sum(0)
            rest = tiny.flat(grads, self.names) if self.names else np.zeros(0)
            self.theta = self.optimizer.step(self.theta, np.concatenate([first.ravel(), rest]))
        return tiny.forward(self.params(), x, mask)[0]


@pytest.mark.parametrize(
    "mixing, norms, renormalise",
    [(True, True, True), (False, True, False), (True, False, False)],
)
def test_nhl(mixing, norms, renormalise):
    core = nhl(
        tiny.network(),
        optax.sgd(0.05, momentum=0.9),
        layer=LAYER,
        rate=0.1,
        temperature=0.5,
        renormalise=renormalise,
        modulator="mixing" if mixing else "scale",
        select=norm_parameters if norms else None,
    )
    method = Nhl(mixing, norms, renormalise, tiny.Sgd(0.05))
    state, update = core.init(*tiny.as_jax(tiny.variables())), jax.jit(core.update)
    for i, (x, mask) in enumerate(zip(tiny.batches(), masks(), strict=True)):
        given = {"inputs": jnp.asarray(x), "mask": jnp.asarray(mask)}
        state, out = update(state, given, jax.random.key(i))
        expected = method.step(x, mask)
        np.testing.assert_allclose(out.outputs.logits[mask], expected[mask], **CLOSE)
        np.testing.assert_allclose(state.frozen["dense1"]["kernel"], method.kernel, **CLOSE)
        found = np.ravel(state.params["modulator"])
        if norms:
            found = np.concatenate([found, tiny.flat(state.params["network"])])
        np.testing.assert_allclose(found, method.theta, **CLOSE)
        assert (out.metrics["change"] > 0) == mask.any()
    moved = np.abs(method.kernel - method.start["dense1"]["kernel"]).max()
    first = np.abs(method.theta[: method.size].sum() - 5)
    assert moved > 1e-3
    if mixing:
        assert first > 1e-3
    else:
        assert first < 1e-4, "before batch norm a scale has no gradient but that of epsilon"


def test_rule_on_the_patches_of_a_convolution():
    """Stride 2, padding 1, standardised pixels; and one filter, which always wins."""
    rng = np.random.default_rng(0)
    images, kernel = rng.uniform(size=(2, 6, 6, 3)), rng.normal(size=(3, 3, 3, 4))
    layer = FirstLayer(stride=2, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    x = np.pad((images - layer.mean) / layer.std, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = np.stack(
        [x[b, i : i + 3, j : j + 3].ravel() for b in (0, 1) for i in (0, 2, 4) for j in (0, 2, 4)]
    )
    change = jax.jit(lambda w, mask: hebbian_change(jnp.asarray(images), w, mask, layer, 0.7))
    both, one = jnp.ones(2, bool), jnp.array([False, True])
    expected = rule(patches, kernel.reshape(27, 4), 0.7).reshape(kernel.shape)
    np.testing.assert_allclose(change(jnp.asarray(kernel), both), expected, **CLOSE)
    expected = rule(patches[9:], kernel.reshape(27, 4), 0.7).reshape(kernel.shape)
    np.testing.assert_allclose(change(jnp.asarray(kernel), one), expected, **CLOSE)
    assert not np.asarray(change(jnp.asarray(kernel), ~both)).any()
    w = kernel[..., :1] / np.linalg.norm(kernel[..., :1])  # one filter: it always wins
    u = patches @ w.reshape(27, 1)
    found = np.ravel(change(jnp.asarray(w), both))
    np.testing.assert_allclose(found, (patches - u * w.ravel()).mean(0), **CLOSE)
    np.testing.assert_allclose(found @ w.ravel(), 0, atol=1e-12)
    assert np.abs(found).max() > 0.1


def test_first_layer_is_that_of_the_residual_networks():
    module = nets.cifar_resnet(8)
    x = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3), jnp.float32)
    with jax.enable_x64(False):
        shapes = jax.eval_shape(module.init, jax.random.key(1), x)
        variables = jax.tree.map(
            lambda s: 0.1 * jnp.arange(1.0, 1 + s.size).reshape(s.shape), shapes
        )
        layer = FirstLayer(mean=module.mean, std=module.std)
        found = layer.outputs(x, variables["params"]["conv"]["kernel"])
        _, seen = module.apply(
            variables, x, capture_intermediates=lambda m, _: m.name == "conv", mutable=True
        )
        expected = seen["intermediates"]["conv"]["__call__"][0]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_without_rates_it_is_batch_norm():
    x, valid = tiny.batches(2), masks(2)
    still = nhl(tiny.network(), optax.sgd(0.0), layer=LAYER, rate=0.0)
    found = run(still, tiny.variables(), x, valid)
    plain = run(batch_norm(tiny.network()), tiny.variables(), x, valid)
    np.testing.assert_allclose(found.outputs.logits, plain.outputs.logits, **CLOSE)


def test_errors():
    with pytest.raises(ValueError, match="modulator is 'gate'"):
        nhl(tiny.network(), optax.sgd(0.1), modulator="gate")
    core = nhl(tiny.network(), optax.sgd(0.1))
    with pytest.raises(ValueError, match="the network has no conv/kernel"):
        core.init(*tiny.as_jax(tiny.variables()))
