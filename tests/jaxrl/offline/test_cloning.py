"""Behaviour cloning learns the mean of what was done."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrl.offline import windows
from jaxrl.offline.cloning import cloning, draw, network
from jaxtrain.protocol import Model


def test_where_two_ways_are_shown_their_mean_is_learned():
    bias = Model(
        lambda key, inputs: (jnp.zeros(2), ()),
        lambda params, state, inputs, *, key, train: (
            jnp.broadcast_to(params, inputs["goal"].shape),
            state,
        ),
    )
    core = cloning(bias, optax.sgd(0.25))
    batch = {
        "inputs": {"observation": np.zeros((3, 2)), "goal": np.zeros((3, 2))},
        "action": np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 3.0]], np.float32),
    }
    state, out = core.update(core.init(jax.random.key(0), batch), batch, jax.random.key(0))
    np.testing.assert_allclose(out.metrics["loss"], (1 + 1 + 9) / 3, rtol=1e-6)
    np.testing.assert_allclose(state.params, [0, 0.5], atol=1e-6)


def test_the_network_looks_at_state_and_goal():
    model = network(2, (4,))
    rng = np.random.default_rng(0)
    inputs = {k: rng.normal(size=(3, 2)).astype(np.float32) for k in ("observation", "goal")}
    params, state = model.init(jax.random.key(0), inputs)
    out = lambda inputs: np.asarray(model.apply(params, state, inputs, key=None, train=False)[0])
    assert out(inputs).shape == (3, 2)
    for name in inputs:
        assert np.abs(out(inputs | {name: inputs[name] + 1}) - out(inputs)).min() > 1e-5


def test_goals_are_later_rows_of_the_trajectory():
    place = np.stack(np.meshgrid(np.arange(3), np.arange(6), indexing="ij"), -1)
    data = windows.stacked(place.astype(np.float32), place.astype(np.float32))
    sample = windows.by_place(draw)
    batch = sample(jax.random.key(0), jnp.arange(500), data, windows.starts(data, 2))
    ahead = np.asarray(batch["inputs"]["goal"] - batch["inputs"]["observation"])
    assert (ahead[:, 0] == 0).all() and set(ahead[:, 1]) == {1, 2, 3, 4, 5}
    np.testing.assert_array_equal(batch["action"], batch["inputs"]["observation"])
