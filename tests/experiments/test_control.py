"""The control command: what the judge's rewards are made of, and a run of every method."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import control


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
