"""The imitation command end to end, and what it measures."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import imitation
from jaxrl.offline import windows
from jaxtrain.host import arrays


def run(spec, workdir, *flags):
    imitation.main(argv=[f"--config=configs/imitation.py:{spec}", f"--workdir={workdir}", *flags])
    return json.loads((workdir / "summary.json").read_text())["final"]


def test_denoising_goes_to_goals_in_three_ways(tmp_path):
    final = run("debug", tmp_path, "--sweep=seed=0:2")
    names = ("reach", "reach_without_goal", "reach_more_steps", "left", "right", "error")
    assert all(len(final[name]["trials"]) == 2 for name in names)
    assert final["error"]["trials"] != final["error_other_goal"]["trials"]
    assert (tmp_path / "plots" / "paths.png").stat().st_size > 5_000


@pytest.mark.ci
def test_play_is_imitated_too(tmp_path):
    final = run("debug,data.task=play,method=cloning", tmp_path)
    assert 0 <= final["reach"] <= 1 and "left" not in final


def test_trajectories_of_the_user_are_cloned(tmp_path):
    rng = np.random.default_rng(0)
    file = tmp_path / "mine.npz"
    given = {"observations": rng.normal(size=(30, 3)), "actions": rng.normal(size=(30, 1))}
    arrays.write(file, given | {"terminals": np.arange(30) % 10 == 9})
    final = run(f"debug,method=cloning,data.path={file}", tmp_path / "run")
    assert final["error"] > 0 and "reach" not in final and "30 rows" in final["provenance"]


def test_errors_are_those_of_the_right_and_of_other_goals():
    """A policy that gives back the goal, on data whose action is the last row's number."""
    place = np.stack(np.meshgrid(np.arange(4), np.arange(5), indexing="ij"), -1)
    data = windows.stacked(place[..., :1].astype(np.float32), place[..., :1].astype(np.float32))
    pairs = imitation.step_pairs(data, jax.random.key(0), 60)
    echo = lambda params: (lambda memory, key, seen, goal: (memory, goal), ())
    assert imitation.action_error(echo, 0, (), pairs) == 0
    number = np.asarray(pairs[1]["action"])[:, 0]
    expected = ((np.roll(number, 1) - number) ** 2).mean()
    np.testing.assert_allclose(imitation.action_error(echo, 1, (), pairs), expected, rtol=1e-6)
    assert jnp.ndim(imitation.action_error(echo, 1, (), pairs)) == 0
