"""Flax's own batch norm under the statistics and rows that a caller chooses, against ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from jaxtrain import nets
from jaxtrain.nets.norm import BATCH, SOURCE, Norm
from tests.jaxtta.images import tiny

PARAMS, STATE = tiny.as_jax(tiny.variables(dtype=np.float32))
X = jnp.asarray(tiny.batches(1, 6, dtype=np.float32)[0])
ROWS = jnp.array([1, 0, 1, 1, 0, 1], bool)
OURS = tiny.network()
NORMS = {
    "stored": SOURCE,
    "batch": BATCH,
    "mixture": Norm(0.3),
    "unbiased mixture": Norm(0.3, unbiased=True),
    "momentum": Norm(1.0, 0.2),
    "stored, with momentum": Norm(None, 0.2, unbiased_stored=False),
}


class Linen(nn.Module):
    """`tiny.Tiny` as people write it."""

    @nn.compact
    def __call__(self, x, train: bool):
        for i, size in enumerate((tiny.HIDDEN, tiny.FEATURES), 1):
            x = nn.Dense(size, use_bias=False, name=f"dense{i}")(x)
            x = nn.BatchNorm(use_running_average=not train, name=f"norm{i}")(x)
            x = nn.relu(x)
        return nn.Dense(tiny.CLASSES, name="head")(nn.Dropout(0.5)(x, not train).mean((1, 2)))


class Doubled(nn.BatchNorm):
    """A batch norm with something around it."""

    @nn.compact
    def __call__(self, x, use_running_average=None, *, mask=None):
        return 2 * super().__call__(x, use_running_average, mask=mask)


class Nnx(nnx.Module):
    """The same in NNX, with numbered layers."""

    def __init__(self, rngs):
        sizes, layers = (tiny.CHANNELS, tiny.HIDDEN, tiny.FEATURES), []
        for before, size in zip(sizes, sizes[1:], strict=False):
            layers.append(nnx.Linear(before, size, use_bias=False, rngs=rngs))
            layers.append(nnx.BatchNorm(size, rngs=rngs))
        self.layers = nnx.List(layers)
        self.head = nnx.Linear(tiny.FEATURES, tiny.CLASSES, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x) if isinstance(layer, nnx.Linear) else nnx.relu(layer(x))
        return self.head(x.mean((1, 2)))


def nnx_network():
    """The NNX network with the weights of `tiny`."""
    module = Nnx(nnx.Rngs(0))
    for i, name in enumerate(("1", "2")):
        dense, norm = module.layers[2 * i], module.layers[2 * i + 1]
        dense.kernel[...] = PARAMS[f"dense{name}"]["kernel"]
        for key, value in {**PARAMS[f"norm{name}"], **STATE["batch_stats"][f"norm{name}"]}.items():
            getattr(norm, key)[...] = value
    module.head.kernel[...], module.head.bias[...] = (PARAMS["head"][k] for k in ("kernel", "bias"))
    return module


@pytest.mark.parametrize("kind", ["linen", "nnx"])
@pytest.mark.parametrize("mask", [None, ROWS], ids=["all", "rows"])
@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_networks_of_others_do_as_ours(norm, mask, kind):
    expected, after = OURS(PARAMS, STATE, X, norm=norm, mask=mask)
    if kind == "linen":
        found, state = nets.classifier(Linen())(PARAMS, STATE, X, norm=norm, mask=mask)
    else:
        apply, params, state = nets.from_nnx(nnx_network())
        found, state = apply(params, state, X, norm=norm, mask=mask)
        layers = state["layers"]
        state = {"batch_stats": {"norm1": layers[1], "norm2": layers[3]}}
    np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-5, atol=1e-5)
    assert found.features == ()
    for new, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        np.testing.assert_allclose(new, wanted, rtol=1e-5, atol=1e-6)


def test_an_nnx_network_stays_as_it_is_and_follows_its_parameters():
    module = nnx_network()
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(module)))
    apply, params, state = nets.from_nnx(module)
    loss = lambda params: apply(params, state, X, norm=Norm(1.0, 0.2))[0].logits[:, 0].sum()
    reference = lambda params: OURS(params, STATE, X, norm=BATCH)[0].logits[:, 0].sum()
    found, wanted = jax.jit(jax.grad(loss))(params), jax.grad(reference)(PARAMS)
    np.testing.assert_allclose(
        found["layers"][3]["scale"], wanted["norm2"]["scale"], rtol=1e-4, atol=1e-5
    )
    jax.tree.map(np.testing.assert_array_equal, before, nnx.to_pure_dict(nnx.state(module)))


def test_stored_statistics_are_what_the_layer_has_without_us():
    module = Linen()
    expected = module.apply({"params": PARAMS, **STATE}, X, train=False)
    np.testing.assert_allclose(
        nets.classifier(module)(PARAMS, STATE, X)[0].logits, expected, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("axis", [1, (1, 3), -1])
def test_features_along_any_axes(axis):
    """Against Flax's own statistics of a batch."""
    layer = nn.BatchNorm(axis=axis, use_running_average=False, use_scale=False, epsilon=1e-3)
    variables = layer.init(jax.random.key(0), X)
    state = {"batch_stats": variables["batch_stats"]}
    found, _ = nets.classifier(layer)(variables["params"], state, X, norm=BATCH)
    expected, _ = layer.apply(variables, X, mutable=["batch_stats"])
    np.testing.assert_allclose(found.logits, expected, rtol=1e-4, atol=1e-4)


def test_a_layer_around_a_batch_norm_keeps_what_it_adds():
    plain, doubled = nn.BatchNorm(use_running_average=True), Doubled(use_running_average=True)
    variables = plain.init(jax.random.key(0), X)
    run = lambda module: (
        nets.classifier(module)(
            variables["params"], {"batch_stats": variables["batch_stats"]}, X, norm=BATCH
        )[0].logits
    )
    assert abs(run(plain)).max() > 0.1
    np.testing.assert_allclose(run(doubled), 2 * run(plain), rtol=1e-6)


class Masked(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=True)(x, mask=jnp.ones_like(x, bool))


def test_what_cannot_be_chosen_is_refused():
    with pytest.raises(ValueError, match="BatchNorm norm1 has no stored statistics"):
        nets.classifier(Linen())(PARAMS, {}, X)
    for module in (Masked(), nn.BatchNorm(axis=0, use_running_average=True)):
        variables = module.init(jax.random.key(0), X)
        state = {"batch_stats": variables["batch_stats"]}
        with pytest.raises(ValueError, match="statistics of a Flax BatchNorm cannot be chosen"):
            nets.classifier(module)(variables["params"], state, X)
