"""Recurrent cells against their equations, a transformer's context against whole episodes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxrl.envs.environment import Box, Discrete
from jaxrl.memory_networks import CELLS, Blocks, agent, context, recurrent

WIDTH, T, LENGTH, INPUTS = 8, 11, 3, 5
FIRST = np.isin(np.arange(T), [3, 4, 8])
MAKE = {
    "gru": lambda: recurrent(CELLS["gru"](WIDTH)),
    "lstm": lambda: recurrent(CELLS["lstm"](WIDTH)),
    "transformer": lambda: context(WIDTH, length=LENGTH, num_layers=2, num_heads=2),
}


@functools.cache
def made(name):
    """A memory, parameters and inputs; the tokens of a step are its own."""
    memory = MAKE[name]()
    params = jax.jit(memory.init)(jax.random.key(0), jnp.zeros(WIDTH))
    x = np.random.default_rng(1).normal(size=(T, WIDTH)).astype(np.float32)
    return memory, params, x, jax.jit(memory.unroll)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_a_gru_follows_its_equations_and_starts_again():
    memory, p, x, unroll = made("gru")
    p = jax.tree.map(np.asarray, p)
    hidden, expected = np.zeros(WIDTH), []
    for t in range(T):
        hidden = 0 * hidden if FIRST[t] else hidden
        into = lambda name, t=t: x[t] @ p[f"i{name}"]["kernel"] + p[f"i{name}"]["bias"]
        r, z = (sigmoid(into(name) + hidden @ p[f"h{name}"]["kernel"]) for name in "rz")
        n = np.tanh(into("n") + r * (hidden @ p["hn"]["kernel"] + p["hn"]["bias"]))
        hidden = (1 - z) * n + z * hidden
        expected.append(hidden)
    after, y = unroll(p, memory.start, x, FIRST)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after, hidden, rtol=1e-4, atol=1e-5)


def test_a_transformer_reads_the_last_steps_of_the_episode():
    """Each episode by itself, all its tokens at once, with a band of `LENGTH` steps."""
    memory, params, x, unroll = made("transformer")
    read, expected = jax.jit(Blocks(2, WIDTH, 2).apply), []
    nothing = jax.tree.map(lambda a: a[:, :0], memory.start.kept)
    for part in np.split(x, np.flatnonzero(FIRST)):
        n = np.arange(len(part))
        mask = (n[:, None] >= n[None]) & (n[:, None] - n[None] < LENGTH)
        y, _ = read({"params": params}, part, jnp.asarray(n), nothing, mask[None])
        expected.append(y)
    _, y = unroll(params, memory.start, x, FIRST)
    np.testing.assert_allclose(y, np.concatenate(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MAKE)
def test_windows_and_single_steps_are_the_whole(name):
    """A window goes on from the memory of the one before, and one step is a window."""
    memory, params, x, unroll = made(name)
    whole_after, whole = unroll(params, memory.start, x, FIRST)
    for size in (1, 5):
        kept, found = memory.start, []
        for t in range(0, T, size):
            kept, y = unroll(params, kept, x[t : t + size], FIRST[t : t + size])
            found.append(y)
        np.testing.assert_allclose(np.concatenate(found), whole, rtol=1e-4, atol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), kept, whole_after
        )


@pytest.mark.parametrize("name", MAKE)
def test_a_reset_in_the_middle_of_a_window_lets_nothing_through(name):
    memory, params, x, unroll = made(name)
    other = jax.tree.map(lambda a: a + 1, memory.start)
    changed = np.where(np.arange(T)[:, None] < 8, 3 - x, x)
    _, before = unroll(params, memory.start, x, FIRST)
    _, after = unroll(params, other, changed, FIRST)
    np.testing.assert_array_equal(before[8:], after[8:])
    assert np.abs(before[:8] - after[:8]).max(1).min() > 1e-3
    last = lambda x: memory.unroll(params, memory.start, x, FIRST)[1][-1].sum()
    reached = np.abs(jax.jit(jax.grad(last))(x)).max(1)
    assert (reached[:8] == 0).all() and (reached[8:] > 0).all()


@pytest.mark.parametrize("name", MAKE)
def test_an_agent_has_policy_and_value_of_every_step(name):
    observation = np.random.default_rng(0).normal(size=(T, INPUTS)).astype(np.float32)
    for action, shape in ((Discrete(3), (T, 3)), (Box((2,), -1.0, 1.0), (T, 2))):
        network = agent(action, MAKE[name](), (6, WIDTH))
        params = jax.eval_shape(network.init, jax.random.key(0), observation[0])
        unroll = network.unroll
        _, policy, value = jax.eval_shape(unroll, params, network.start, observation, FIRST)
        assert value.shape == (T,) and policy[0].shape == shape
        assert len(params["embed"]) == len(params["actor"]) - 1 == len(params["critic"]) - 1 == 2
        assert ("log_std" in params) == isinstance(action, Box)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="multiple of 8, twice num_heads"):
        context(36, length=4, num_heads=4)


def test_cells_of_flax_are_carried_from_zeros():
    memory = recurrent(nn.SimpleCell(4))
    assert memory.start.shape == (4,) and not memory.start.any()
