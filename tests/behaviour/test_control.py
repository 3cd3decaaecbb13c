"""What the control systems claim: a quota that no reward of single actions can say, defences that
beat every single policy, skills that several critics learn and one of the sum does not.

Three seeds each; about ten minutes on one CPU core.
"""

import json

import numpy as np
import pytest

from experiments import control

pytestmark = [pytest.mark.behaviour, pytest.mark.slow]


@pytest.fixture(scope="module")
def final(tmp_path_factory):
    """`final(variant, sweep) -> numbers`, `[3 seeds]` or `[3 seeds, others of the sweep]`."""
    done = {}

    def run(variant, sweep=""):
        if (variant, sweep) not in done:
            workdir = tmp_path_factory.mktemp(variant) / "run"
            config = f"--config=configs/control.py:{variant}"
            control.main(argv=[config, f"--sweep=seed=0:3{sweep}", f"--workdir={workdir}"])
            found = json.loads((workdir / "summary.json").read_text())["final"]
            done[variant, sweep] = {
                name: np.squeeze(np.reshape(x["trials"], (3, -1))) for name, x in found.items()
            }
        return done[variant, sweep]

    return run


FLIPS = ";flips=0.0,0.2"


def test_self_play_keeps_the_quota_and_the_return_even_with_a_judge_that_errs(final):
    spo = final("small", FLIPS)
    assert (spo["early"] > 11.5).all() and (spo["kept"] > 0.95).all()


def test_control_a_reward_of_actions_alone_has_to_choose(final):
    model = final("small_reward_model", FLIPS)
    assert ((model["early"] < 11.5) | (model["kept"] < 0.9)).all()


def test_the_policies_that_are_not_dominated_return_more_than_any_one_and_than_all(final):
    """The same attackers come and go, seed by seed."""
    found = final("small_protected")
    assert (found["num_policies"] == 8).all()
    for other in ("natural", "worst_case", "all"):
        assert (final(f"small_protected_{other}")["mean_return"] < found["mean_return"]).all()


def test_weights_of_dominated_policies_fall(final):
    found = final("small_protected_all")
    assert (found["num_policies"] == 32).all() and (found["dominated"] < 0.5).all()


def test_control_with_shuffled_feedback_nothing_is_learned(final):
    shuffled, own = final("small_protected_shuffled"), final("small_protected")
    assert (shuffled["regret"] > 4 * own["regret"]).all()


NEAR = ";skills.scale_near=1,10"


def test_a_critic_of_each_reward_brings_the_disc_everywhere_whatever_their_size(final):
    each = final("small_slim", NEAR)
    assert (each["coverage"] > 0.9).all() and (each["moved"] > 1).all()
    np.testing.assert_allclose(each["coverage"][:, 0], each["coverage"][:, 1], atol=0.03)


def test_control_one_critic_of_the_sum_hears_the_largest_reward(final):
    each, one = final("small_slim", NEAR), final("small_slim_summed", NEAR)
    assert (one["coverage"] < each["coverage"] - 0.15).all()
    assert (one["coverage"][:, 1] < 0.4).all() and (one["moved"][:, 1] < 0.4).all()
