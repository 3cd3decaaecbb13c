"""Equinox's own batch norm under the statistics and rows that a caller chooses, against ours."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import nets
from jaxtrain.nets.norm import BATCH, SOURCE
from jaxtta import check_apply
from jaxtta.selection import norm_layers
from tests.jaxtrain.nets.test_flax_norm import NORMS, OURS, PARAMS, ROWS, STATE, X
from tests.jaxtta.images import tiny

COUNT = 3  # updates that the stored statistics of the mode `batch` have seen


class Equinox(eqx.Module):
    """`tiny.Tiny` as people write it."""

    layers: list
    head: eqx.nn.Linear

    def __init__(self, mode):
        key = jax.random.key(0)
        sizes, self.layers = (tiny.CHANNELS, tiny.HIDDEN, tiny.FEATURES), []
        for before, size in zip(sizes, sizes[1:], strict=False):
            self.layers.append(eqx.nn.Conv2d(before, size, 1, use_bias=False, key=key))
            self.layers.append(eqx.nn.BatchNorm(size, "batch", momentum=0.8, mode=mode))
        self.head = eqx.nn.Linear(tiny.FEATURES, tiny.CLASSES, key=key)

    def __call__(self, x, state):
        for conv, norm in zip(self.layers[::2], self.layers[1::2], strict=True):
            x, state = norm(conv(x), state)
            x = jax.nn.relu(x)
        return self.head(x.mean((1, 2))), state


def equinox_network(mode):
    """The network with the weights of `tiny`, and its state."""
    module, state = eqx.nn.make_with_state(Equinox)(mode)
    weights = [PARAMS["head"]["kernel"].T, PARAMS["head"]["bias"]]
    for i in (1, 2):
        norm = module.layers[2 * i - 1]
        weights += [PARAMS[f"dense{i}"]["kernel"].T[..., None, None]]
        weights += [PARAMS[f"norm{i}"][name] for name in ("scale", "bias")]
        kept = [STATE["batch_stats"][f"norm{i}"][name] for name in ("mean", "var")]
        if mode == "batch":
            state = state.set(norm.batch_counter, jnp.array(COUNT))
            state = state.set(norm.batch_state_index, tuple(x * (1 - 0.8**COUNT) for x in kept))
        else:
            state = state.set(norm.ema_first_time_index, jnp.array(False))
            state = state.set(norm.ema_state_index, tuple(kept))
    every = lambda m: [
        *(m.head.weight, m.head.bias, m.layers[0].weight, m.layers[1].weight, m.layers[1].bias),
        *(m.layers[2].weight, m.layers[3].weight, m.layers[3].bias),
    ]
    return eqx.tree_at(every, module, weights), state


def stored(module, state, mode):
    """Mean and variance of both layers, as they normalise with them."""
    if mode == "ema":
        return [state.get(norm.ema_state_index) for norm in module.layers[1::2]]
    kept = [state.get(norm.batch_state_index) for norm in module.layers[1::2]]
    return [tuple(x / (1 - 0.8**COUNT) for x in pair) for pair in kept]


@pytest.mark.parametrize("mode", ["ema", "batch"])
@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_equinox_does_as_ours(norm, mode):
    mask = None if norm is BATCH else ROWS
    expected, after = OURS(PARAMS, STATE, X, norm=norm, mask=mask)
    module, state = equinox_network(mode)
    apply, params, model_state = nets.from_equinox(module, state)
    found, new = jax.jit(lambda *given: apply(*given, norm=norm, mask=mask))(params, model_state, X)
    np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-5, atol=1e-5)
    for i, pair in enumerate(stored(module, new, mode), 1):
        wanted = after["batch_stats"][f"norm{i}"]
        for value, name in zip(pair, ("mean", "var"), strict=True):
            np.testing.assert_allclose(value, wanted[name], rtol=1e-5, atol=1e-6)


def test_stored_statistics_are_what_equinox_uses_in_inference():
    module, state = equinox_network("batch")
    still = eqx.nn.inference_mode(module)
    one = lambda x: still(jnp.moveaxis(x, -1, 0), state)[0]
    apply, params, model_state = nets.from_equinox(module, state)
    np.testing.assert_allclose(
        apply(params, model_state, X)[0].logits, jax.vmap(one)(X), rtol=1e-5, atol=1e-5
    )


def test_a_sequence_with_dropout_is_called_in_inference_mode_and_found_sound():
    make = lambda key: eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(3, 4, 2, key=key),
            eqx.nn.BatchNorm(4, "batch", mode="batch"),
            eqx.nn.Dropout(0.5),
            eqx.nn.Lambda(lambda x: jax.nn.relu(x).mean((1, 2))),
            eqx.nn.Linear(4, 3, key=key),
        ]
    )
    module, state = eqx.nn.make_with_state(make)(jax.random.key(0))
    apply, params, model_state = nets.from_equinox(module, state)
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(5, 4, 4, 3)), jnp.float32)
    select = norm_layers(params)
    assert check_apply(apply, params, model_state, images, select=select) == (3, 0, True, 8)


class Doubled(eqx.nn.BatchNorm):
    """A batch norm with something around it."""


def test_what_cannot_be_chosen_is_refused():
    module, state = equinox_network("ema")
    with pytest.raises(ValueError, match="has batch norm; pass its state too"):
        nets.from_equinox(module)
    odd = eqx.tree_at(lambda m: m.layers[1], module, Doubled(tiny.HIDDEN, "batch", mode="ema"))
    with pytest.raises(ValueError, match="statistics of Doubled cannot be chosen"):
        nets.from_equinox(odd, state)


def test_networks_without_batch_norm_have_no_state():
    keys = jax.random.split(jax.random.key(0))
    flat = eqx.nn.Lambda(jnp.ravel)
    layers = [flat, eqx.nn.Linear(X[0].size, 5, key=keys[0]), eqx.nn.LayerNorm(5)]
    module = eqx.nn.Sequential([*layers, eqx.nn.Linear(5, 3, key=keys[1])])
    apply, params, model_state = nets.from_equinox(module)
    assert model_state == {}
    found, after = apply(params, {}, X, norm=BATCH, mask=ROWS)
    np.testing.assert_allclose(found.logits, apply(params, {}, X, norm=SOURCE)[0].logits)
    assert after == {} and found.logits.shape == (len(X), 3)
