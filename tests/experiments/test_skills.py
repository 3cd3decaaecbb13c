"""The skills command end to end: play in a maze, and trajectories of the user's."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import skills
from experiments.data import trajectories
from experiments.data.trajectories import Dataset
from jaxrl.normalise import Moments
from jaxrl.offline.hilp import Hilp, direction, midpoint
from jaxtrain.host import arrays
from jaxtrain.host.config import UsageError


def run(spec, workdir, *flags):
    skills.main(argv=[f"--config=configs/skills.py:{spec}", f"--workdir={workdir}", *flags])
    return json.loads((workdir / "summary.json").read_text())["final"]


def own(path, **changes):
    rng = np.random.default_rng(0)
    given = {
        "observations": rng.normal(size=(40, 3)),
        "actions": rng.normal(size=(40, 1)),
        "terminals": np.arange(40) % 10 == 9,
    }
    arrays.write(path, given | changes)
    return path


def test_play_in_a_maze(tmp_path):
    final = run("debug", tmp_path, "--sweep=seed=0:2")
    names = ("rho", "rho_untrained", "reach_direct", "reach_plan", "reach_random", "rho_steps")
    assert all(len(final[name]["trials"]) == 2 for name in names)
    assert final["rho_straight"] == pytest.approx(0.803, abs=1e-3)
    assert (tmp_path / "plots" / "distances.png").stat().st_size > 5_000


def test_trajectories_of_the_user(tmp_path):
    file = own(tmp_path / "mine.npz")
    final = run(f"debug,data.path={file}", tmp_path / "run")
    assert -1 <= final["rho_steps"] <= 1 and "reach_plan" not in final
    assert "40 rows" in final["provenance"]
    latents = arrays.read(tmp_path / "run" / "latents.npz")["latents"]
    assert latents.shape == (40, 3) and np.ptp(latents, axis=0).min() > 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"terminals": np.zeros(40)}, "terminals must be 1 in the last row"),
        ({"actions": np.zeros((39, 1))}, "a row per step"),
        ({"observations": np.full((40, 3), np.inf)}, "values of observations are not finite"),
    ],
)
def test_files_that_hold_no_trajectories_are_named(tmp_path, changes, sentence):
    file = own(tmp_path / "mine.npz", **changes)
    with pytest.raises(UsageError, match=sentence) as error:
        trajectories.read(str(file))
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        trajectories.read(str(tmp_path / "none.npz"))


def test_each_way_has_its_direction():
    """Of a point and a goal as the learner sees them: halved and moved by one."""
    net, rng = Hilp(2, 2, 3, (4,)), np.random.default_rng(0)
    params = jax.jit(net.init)(jax.random.key(0))
    moments = Moments(jnp.float32(9), jnp.ones(2), 4 * jnp.ones(2))
    found = Dataset(None, moments, None, "")
    known, random = rng.normal(size=(9, 3)), direction(np.zeros(3), rng.normal(size=3))
    plan = dict(rounds=1, nearest=2)
    here, goal = np.array([2.0, 3.0]), np.array([5.0, 1.0])
    a, b = (net.latent(params, (x - 1) / 2) for x in (here, goal))
    expected = {
        "direct": direction(a, b),
        "plan": direction(a, midpoint(a, b, known, **plan)),
        "random": random,
    }
    for way, z in expected.items():
        act = skills.acting(net, params, found, way, known, plan)
        memory, action = act(random, jax.random.key(1), here, goal)
        np.testing.assert_allclose(action, net.policy(params, (here - 1) / 2, z).mean, rtol=1e-4)
        assert memory is random


def test_correlations_are_of_ranks_and_per_trial():
    found = np.array([[1.0, 2, 300], [3, 2, 1], [1, 3, 2]])
    np.testing.assert_allclose(skills.correlation(found, np.arange(3)), [1, -1, 0.5])
    assert skills.correlation(found[2], np.arange(3)) == pytest.approx(0.5)


def test_steps_of_pairs_are_those_of_the_trajectory():
    place = np.stack(np.meshgrid(np.arange(3), np.arange(6), indexing="ij"), -1)
    data = trajectories.windows.stacked(place.astype(np.float32), place.astype(np.float32))
    net = Hilp(2, 2, 2, ())
    params = jax.tree.map(jnp.zeros_like, jax.jit(net.init)(jax.random.key(0)))
    kernel = params["phi"]["Dense_0"]["kernel"].at[0].set(jnp.array([[100.0, 0], [0, 1]]))
    params["phi"]["Dense_0"]["kernel"] = kernel
    begins = trajectories.windows.starts(data, 2)
    measure = functools.partial(skills.steps_and_distances(net, 200), params)
    steps, apart = measure((data, begins, jax.random.key(0)))
    np.testing.assert_allclose(apart, np.maximum(steps, 1e-3), rtol=1e-5)
    assert set(np.asarray(steps)) == set(range(6))
