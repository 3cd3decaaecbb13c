"""The control command: what its systems are made of, and a run of every method."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import control
from experiments.rl import defending, pushing
from jaxrl.rollout import Transition


def run(spec, workdir, *flags):
    control.main(argv=[f"--config=configs/control.py:{spec}", f"--workdir={workdir}", *flags])
    return json.loads((workdir / "summary.json").read_text())["final"]


@pytest.mark.parametrize(
    "method",
    [
        "spo",
        pytest.param("reward_model", marks=pytest.mark.ci),
        "timed_reward_model",
    ],
)
def test_every_method_runs_with_a_judge_that_errs(tmp_path, method):
    flags = ["--sweep=seed=0:2;flips=0.0,0.2"] if method != "spo" else []
    final = run(f"debug,method={method}", tmp_path, *flags)
    for name, most in (("early", 12), ("late", 4), ("kept", 1)):
        values = np.array(final[name]["trials"] if flags else final[name])
        assert (values >= 0).all() and (values <= most).all() and values.size == (4 if flags else 1)
    assert (tmp_path / "plots" / "early.png").stat().st_size > 1_000


def test_features_see_the_action_and_the_time():
    time = jnp.arange(16) == 3
    np.testing.assert_array_equal(control.action_only(time, jnp.int32(1)), [1])
    np.testing.assert_array_equal(control.action_in_time(1.0 * time, jnp.int32(1)), time)
    assert not control.action_in_time(1.0 * time, jnp.int32(0)).any()


# --- PROTECTED ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ("defence.pool=all,defence.feedback=shuffled", 32),
        pytest.param("defence.pool=natural", 1, marks=pytest.mark.ci),
        pytest.param("defence.pool=discovered,defence.attacks=periodic", 8, marks=pytest.mark.ci),
    ],
)
def test_defenders_play(tmp_path, changes, number):
    final = run(f"debug_protected,{changes}", tmp_path, "--sweep=seed=0:2")
    of_trials = {name: np.array(found["trials"]) for name, found in final.items()}
    assert (of_trials["num_policies"] == number).all()
    assert (of_trials["mean_return"] > 0).all() and (of_trials["mean_return"] < 1).all()
    assert (of_trials["dominated"] > 0.5).all() == ("pool=all" in changes)
    assert (tmp_path / "plots" / "regret.png").stat().st_size > 1_000


def test_pools_of_one_are_the_best_without_an_attack_and_the_best_at_worst():
    payoff = np.array([[0.9, 0.1], [0.5, 0.4], [0.45, 0.41]])
    assert defending.pool_of("natural", payoff).tolist() == [True, False, False]
    assert defending.pool_of("worst_case", payoff).tolist() == [False, False, True]
    assert defending.pool_of("all", payoff).all()


# --- SLIM -----------------------------------------------------------------------------------------


@pytest.mark.ci
@pytest.mark.parametrize("critics", ["each", "one"])
def test_skills_are_learned_and_drawn(tmp_path, critics):
    final = run(f"debug_slim,skills.critics={critics}", tmp_path)
    assert 0 < final["coverage"] < 0.1 and 0 <= final["moved"] and 0 <= final["bumps"] <= 50
    assert (tmp_path / "plots" / "skills.png").stat().st_size > 1_000


def test_covered_cells_are_counted_once():
    places = jnp.array([[-0.85, -0.85], [-0.84, -0.83], [0.85, 0.85], [0.0, 0.01]])
    np.testing.assert_allclose(pushing.covered(places), 3 / 400, rtol=1e-6)


def test_being_near_is_rewarded_and_running_into_a_wall_costs():
    observation = jnp.array([[0.95, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0.0]])
    after = jnp.array([[1.0, 0, 0, 0, -0.5, 0], [0, 0, 0, 0.2, 0, 0.2]])
    action, no = jnp.array([[1.0, 0], [0, 0]]), None
    found = pushing.near_and_safe(Transition(observation, action, no, no, no, no, after, no, no))
    np.testing.assert_allclose(found, [[1 - np.tanh(1.0), -1], [1, 0]], atol=1e-6)
