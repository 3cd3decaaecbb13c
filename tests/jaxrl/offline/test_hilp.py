"""HILP's losses against loops over the equations, the order of its update, its draws and plans."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl.offline import windows
from jaxrl.offline.hilp import (
    LEAST_LOG_STD,
    Hilp,
    direction,
    distance,
    draw,
    hilp,
    midpoint,
    representation_loss,
    skill_loss,
)

NET = Hilp(2, 3, 4, (5,))
SIZE = 6


def batch_of(seed):
    rng = np.random.default_rng(seed)
    normal = lambda n: rng.normal(size=(SIZE, n)).astype(np.float32)
    z = normal(4)
    is_goal = np.arange(SIZE) < 2
    return {
        "observation": (s := normal(2)),
        "action": normal(3),
        "next_observation": normal(2),
        "goal": np.where(is_goal[:, None], s, normal(2)),
        "is_goal": is_goal,
        "skill": z / np.linalg.norm(z, axis=1, keepdims=True),
    }


@pytest.fixture(scope="module")
def params():
    made = [jax.jit(NET.init)(jax.random.key(seed)) for seed in (0, 1)]
    made[0]["log_std"] = jnp.array([-7.0, 0.3, -0.2])  # the first is below the least
    return made


def layers(params, x):
    """Dense, GELU, LayerNorm, Dense in float64."""
    p = jax.tree.map(lambda w: np.asarray(w, np.float64), params)
    x = x @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"]
    x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    if "LayerNorm_0" in p:
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-6)
        x = x * p["LayerNorm_0"]["scale"] + p["LayerNorm_0"]["bias"]
    return x @ p["Dense_1"]["kernel"] + p["Dense_1"]["bias"]


def one(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def test_the_representation_learns_by_the_equation(params):
    (now, target), batch, gamma, share = params, batch_of(0), 0.9, 0.8
    v = lambda p, i, s, g: (
        -np.linalg.norm(layers(one(p["phi"], i), s) - layers(one(p["phi"], i), g))
    )
    expected = 0.0
    for s, n, g, same in zip(
        *(batch[k] for k in ("observation", "next_observation", "goal", "is_goal")), strict=True
    ):
        reward, on = (0.0, 0.0) if same else (-1.0, 1.0)
        ahead = [v(target, i, n, g) for i in (0, 1)]
        here = [0.0 if same else v(target, i, s, g) for i in (0, 1)]
        advantage = reward + gamma * on * min(ahead) - np.mean(here)
        for i in (0, 1):
            q, now_v = reward + gamma * on * ahead[i], (0.0 if same else v(now, i, s, g))
            expected += abs(share - (advantage < 0)) * (q - now_v) ** 2 / SIZE
    found = representation_loss(NET, now["phi"], target["phi"], batch, gamma=gamma, share=share)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_skills_learn_by_the_equations(params):
    (now, target), batch = params, batch_of(1)
    gamma, share, temperature = 0.9, 0.7, 8.0
    found = skill_loss(
        NET, now, target["critic"], batch, gamma=gamma, share=share, temperature=temperature
    )
    rows = {name: [] for name in found}
    for s, a, n, z in zip(
        *(batch[k] for k in ("observation", "action", "next_observation", "skill")), strict=True
    ):
        phi = functools.partial(layers, one(now["phi"], 0))
        reward = (phi(n) - phi(s)) @ z
        value = lambda x, z=z: layers(now["value"], np.concatenate([x, z]))[0]
        q = lambda p, i, s=s, a=a, z=z: layers(one(p["critic"], i), np.concatenate([s, a, z]))[0]
        advantage = min(q(target, 0), q(target, 1)) - value(s)
        mean = layers(now["actor"], np.concatenate([s, z]))
        std = np.exp(np.maximum(np.asarray(now["log_std"], np.float64), LEAST_LOG_STD))
        log_prob = (-0.5 * ((a - mean) / std) ** 2 - np.log(std * np.sqrt(2 * np.pi))).sum()
        rows["value_loss"].append(abs(share - (advantage < 0)) * advantage**2)
        errors = [(reward + gamma * value(n) - q(now, i)) ** 2 for i in (0, 1)]
        rows["critic_loss"].append(np.mean(errors))
        rows["actor_loss"].append(-min(np.exp(temperature * advantage), 100) * log_prob)
        rows["skill_reward"].append(reward)
    for name, values in rows.items():
        np.testing.assert_allclose(found[name], np.mean(values), rtol=2e-4, atol=1e-6)


def test_no_gradient_of_the_skills_reaches_phi_and_none_of_the_actor_the_critics(params):
    def loss(p, name):
        parts = skill_loss(
            NET, p, params[1]["critic"], batch_of(1), gamma=0.9, share=0.7, temperature=1.0
        )
        return parts[name]

    size = lambda tree: sum(float(jnp.abs(x).sum()) for x in jax.tree.leaves(tree))
    for name, learns in (
        ("value_loss", "value"),
        ("critic_loss", "critic"),
        ("actor_loss", "actor"),
    ):
        grads = jax.grad(loss)(params[0], name)
        moved = {k for k, g in grads.items() if size(g) > 0}
        assert moved == ({"actor", "log_std"} if learns == "actor" else {learns})


def test_targets_move_towards_the_parameters_before_the_step():
    core = hilp(NET, optax.sgd(0.1), tau=0.25)
    state = core.init(jax.random.key(0))
    state = state._replace(target=jax.tree.map(lambda x: x + 1, state.target))
    after, _ = jax.jit(core.update)(state, batch_of(0), jax.random.key(0))
    expected = jax.tree.map(
        lambda t, p: 0.75 * t + 0.25 * p, state.target, {k: state.params[k] for k in state.target}
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), after.target, expected)
    assert any(
        np.abs(a - b).max() > 1e-4
        for a, b in zip(
            jax.tree.leaves(after.params["phi"]), jax.tree.leaves(state.params["phi"]), strict=True
        )
    )


@pytest.fixture(scope="module")
def drawn():
    """Two batches of 4,000 draws from trajectories whose observation is (number, step)."""
    place = np.stack(np.meshgrid(np.arange(5), np.arange(20), indexing="ij"), -1)
    data = windows.stacked(place.astype(np.float32), np.zeros((5, 20, 3), np.float32))
    sample = jax.jit(windows.by_place(functools.partial(draw, latent_size=4, gamma=0.5)))
    begins = windows.starts(data, 2)
    key, places = jax.random.key(0), jnp.arange(4_000)
    return [
        jax.tree.map(np.asarray, sample(jax.random.fold_in(key, i), places, data, begins))
        for i in (0, 1)
    ]


def test_goals_are_futures_and_others(drawn):
    batch = drawn[0]
    ahead = batch["goal"] - batch["observation"]
    np.testing.assert_array_equal(batch["next_observation"] - batch["observation"], [[0, 1]] * 4000)
    same = ahead[:, 0] == 0
    # 5/8 are futures, of the others a fifth is of the same trajectory.
    assert abs(same.mean() - (0.625 + 0.375 / 5)) < 0.03
    np.testing.assert_array_equal(batch["is_goal"], (ahead == 0).all(1))
    assert 0 < batch["is_goal"].mean() < 0.01
    # Half of the futures are the next step.
    assert abs((same & (ahead[:, 1] == 1)).mean() - 0.625 * 0.5) < 0.03


def test_every_batch_has_other_directions_of_length_one(drawn):
    first, second = (batch["skill"] for batch in drawn)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-5)
    assert np.abs(first.mean(0)).max() < 0.05
    assert (np.abs(first - second).max(1) > 1e-3).all()
    assert len(np.unique(first.round(5), axis=0)) == 4_000


def test_a_plan_is_the_mean_of_the_states_between():
    rng = np.random.default_rng(0)
    known = rng.normal(size=(30, 3))
    here, goal = rng.normal(size=3), 3 + rng.normal(size=3)
    found = midpoint(here, goal, known, rounds=2, nearest=4)
    for _ in range(2):
        far = np.maximum(np.linalg.norm(known - here, axis=1), np.linalg.norm(known - goal, axis=1))
        goal = known[np.argsort(far)[:4]].mean(0)
    np.testing.assert_allclose(found, goal, rtol=1e-4)
    with pytest.raises(ValueError, match="nearest is 31, but 30"):
        midpoint(here, goal, known, nearest=31)


def test_distances_and_directions():
    a, b = jnp.array([1.0, 2.0]), jnp.array([4.0, 6.0])
    assert distance(a, b) == 5
    np.testing.assert_allclose(direction(a, b), [0.6, 0.8], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda x: distance(x, a))(a)).all()
    assert np.isfinite(direction(a, a)).all()
