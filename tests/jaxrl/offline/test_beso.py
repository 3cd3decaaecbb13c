"""BESO's loss against NumPy, what its tokens may read, its windows, goals and guidance."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl.offline import windows
from jaxrl.offline.beso import (
    DenoisingTransformer,
    Memory,
    act,
    beso,
    draw,
    no_memory,
    remembered,
)
from jaxtrain import diffusion

NET = DenoisingTransformer(2, width=8, num_layers=1, num_heads=2)
WINDOW, GOALS = 3, 2


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=(4, *shape)).astype(np.float32)
    inputs = {
        "observation": normal(WINDOW, 3),
        "action": normal(WINDOW, 2),
        "noise": normal(WINDOW, 2),
        "goal": normal(GOALS, 3),
        "sigma": np.array([0.05, 0.2, 0.5, 1.0], np.float32),
    }
    return {"inputs": inputs}


@pytest.fixture(scope="module")
def params(batch):
    """Larger than at first, so that everything is seen."""
    made = jax.jit(beso(NET, optax.sgd(0.1)).init)(jax.random.key(0), batch).params
    return jax.tree.map(lambda x: 6 * x, made)


@functools.partial(jax.jit)
def network(params, action, level, observation, goal):
    return NET.apply({"params": params}, action, level, observation, goal)


def test_the_loss_is_that_of_the_equation(batch, params):
    core = beso(NET, optax.sgd(0.0), sigma_data=0.4)
    state = core.init(jax.random.key(0), batch)._replace(params=params)
    _, out = jax.jit(core.update)(state, batch, jax.random.key(0))
    x = batch["inputs"]
    s, d = x["sigma"][:, None, None], 0.4
    noisy = x["action"] + s * x["noise"]
    total = s**2 + d**2
    wanted = (x["action"] - d**2 / total * noisy) / (s * d / np.sqrt(total))
    said = network(
        params, noisy / np.sqrt(total), np.log(x["sigma"]) / 4, x["observation"], x["goal"]
    )
    np.testing.assert_allclose(out.metrics["loss"], ((said - wanted) ** 2).mean(), rtol=1e-4)


def test_an_action_reads_what_came_before_it_and_nothing_later(batch, params):
    x = batch["inputs"]
    given = [x["action"], np.log(x["sigma"]) / 4, x["observation"], x["goal"]]
    before = np.asarray(network(params, *given))

    def moved(which, place):
        changed = [np.array(part) for part in given]
        changed[which][:, place] += 1 if changed[which].ndim > 1 else 0
        return np.abs(np.asarray(network(params, *changed)) - before).max((0, 2)) > 1e-6

    for place in range(WINDOW):
        expected = np.arange(WINDOW) >= place
        np.testing.assert_array_equal(moved(0, place), expected)
        np.testing.assert_array_equal(moved(2, place), expected)
    for place in range(GOALS):
        assert moved(3, place).all()
    other = network(params, given[0], given[1] + 0.5, *given[2:])
    assert (np.abs(np.asarray(other) - before).max((0, 2)) > 1e-6).all()


@pytest.fixture(scope="module")
def drawn():
    """Draws from trajectories whose observation is (number, step + 1)."""
    place = np.stack(np.meshgrid(np.arange(1, 4), np.arange(1, 9), indexing="ij"), -1)
    place = place.astype(np.float32)
    data = windows.stacked(place, place)
    sample = jax.jit(windows.by_place(functools.partial(draw, window=3, num_goals=2)))
    batch = sample(jax.random.key(0), jnp.arange(3_000), data, windows.starts(data, 3))
    return jax.tree.map(np.asarray, batch["inputs"])


def test_windows_are_rows_in_a_row(drawn):
    assert (np.diff(drawn["observation"], axis=1) == [0, 1]).all()
    np.testing.assert_array_equal(drawn["observation"], drawn["action"])
    assert set(drawn["observation"][:, 0, 1]) == {1, 2, 3, 4, 5, 6}


def test_goals_lie_behind_the_window_or_are_left_out(drawn):
    end, goal = drawn["observation"][:, -1], drawn["goal"]
    kept = (goal != 0).any((1, 2))
    room = 8 - end[:, 1] - 1  # places where two rows can begin behind the window
    assert not kept[room < 1].any()
    assert abs(kept[room >= 1].mean() - 0.9) < 0.02
    goal, end = goal[kept], end[kept]
    assert (np.diff(goal, axis=1) == [0, 1]).all() and (goal[:, 0, 0] == end[:, 0]).all()
    ahead = goal[end[:, 1] == 3][:, 0, 1]
    np.testing.assert_allclose(
        np.bincount(ahead.astype(int), minlength=8)[4:] / len(ahead), [0.25] * 4, atol=0.06
    )


def test_noise_has_deviation_one_and_levels_keep_their_bounds(drawn):
    assert abs(drawn["noise"].std() - 1) < 0.03
    assert drawn["sigma"].min() >= 0.005 and drawn["sigma"].max() <= 1
    assert len(np.unique(drawn["sigma"])) > 2_000


def test_the_window_fills_and_then_moves():
    memory, seen = no_memory(3, 1, 1), []
    for i in range(1, 6):
        memory, place = remembered(memory, jnp.array([float(i)]))
        memory = memory._replace(action=memory.action.at[place].set(10.0 * i))
        seen.append((int(place), memory.observation[:, 0].tolist(), memory.action[:, 0].tolist()))
    assert seen[1] == (1, [1, 2, 0], [10, 20, 0])
    assert seen[2] == (2, [1, 2, 3], [10, 20, 30])
    assert seen[4] == (2, [3, 4, 5], [30, 40, 50])


def chosen(params, goal, now=(0.9, 0.2, 0.3), **options):
    """The third action of a window, by one step, so that it can be written out."""
    state = jnp.array([[0.3, -0.2, 0.1], [0.5, 0.1, -0.4], [0.0, 0.0, 0.0]])
    taken = jnp.array([[0.2, -0.6], [0.7, 0.1], [0.0, 0.0]])
    memory = Memory(state, taken, jnp.int32(2))
    run = jax.jit(
        functools.partial(act, NET, bounds=(-9.0, 9.0), **options), static_argnames=("method",)
    )
    return run(params, memory, jax.random.key(4), jnp.array(now), goal)


def test_without_guidance_the_goal_does_not_matter(params):
    levels = diffusion.exponential_levels(3, 0.05, 1.0)
    goals = jnp.ones((GOALS, 3)), -jnp.ones((GOALS, 3))
    for guidance, same in ((0.0, True), (1.0, False)):
        one, other = (chosen(params, g, levels=levels, guidance=guidance)[1] for g in goals)
        assert bool((one == other).all()) == same


def test_the_action_is_that_of_the_state_now(params):
    """Which those of the past do not read."""
    levels, goal = diffusion.exponential_levels(1, 0.05, 1.0), jnp.ones((GOALS, 3))
    one, other = (
        chosen(params, goal, now, levels=levels)[1] for now in ((0.9, 0.2, 0.3), (0, 1, 2))
    )
    assert np.abs(one - other).max() > 1e-4


def test_guidance_is_linear_in_one_step(params):
    levels = diffusion.exponential_levels(1, 0.05, 1.0)
    goal = jnp.ones((GOALS, 3))
    none, plain, double = (
        chosen(params, goal, levels=levels, guidance=g)[1] for g in (0.0, 1.0, 2.0)
    )
    np.testing.assert_allclose(double, 2 * plain - none, rtol=1e-4, atol=1e-5)


def test_held_actions_stay_and_others_are_changed(params):
    """With `hold` the network sees the same past at every step, without it what is left of it."""
    levels = diffusion.exponential_levels(3, 0.05, 1.0)
    goal = jnp.ones((GOALS, 3))
    (memory, held), (_, free) = (chosen(params, goal, levels=levels, hold=h) for h in (True, False))
    assert np.abs(held - free).max() > 1e-4
    np.testing.assert_array_equal(memory.action[2], held)
    np.testing.assert_allclose(memory.action[:2], [[0.2, -0.6], [0.7, 0.1]], rtol=1e-6)


def test_actions_keep_their_bounds(params):
    memory = no_memory(WINDOW, 3, 2)
    big = jax.tree.map(lambda x: 30 * x, params)
    levels = diffusion.exponential_levels(2, 0.05, 1.0)
    goal = jnp.ones((GOALS, 3))
    _, action = act(
        NET, big, memory, jax.random.key(0), jnp.ones(3), goal, levels=levels, bounds=(-0.5, 0.25)
    )
    assert (action >= -0.5).all() and (action <= 0.25).all() and (jnp.abs(action) >= 0.25).any()
