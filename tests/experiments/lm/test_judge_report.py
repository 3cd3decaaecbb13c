"""Numbers of judgements against loops over rows."""

import numpy as np
import pytest

from experiments.lm import judge_report
from jaxtta.self_evaluation.calibration import auroc

RNG = np.random.default_rng(0)
RIGHT = RNG.random((3, 40, 5)) < np.linspace(0.1, 0.9, 40)[None, :, None]
GOOD = np.clip(np.linspace(0.1, 0.9, 40)[None, :, None] + 0.2 * RNG.normal(size=(3, 40, 5)), 0, 1)
POOR = RNG.random((3, 40, 5)).round(1)  # with ties


def test_areas_are_those_of_all_rows_and_intervals_hold_them():
    for confidence in (GOOD, POOR):
        found = judge_report.of_confidence("x", confidence, RIGHT)["x_auroc"]
        assert found.value == pytest.approx(auroc(confidence.reshape(-1), RIGHT.reshape(-1)))
        assert found.low < found.value < found.high < found.low + 0.25
    gain = judge_report.difference(GOOD, POOR, RIGHT)
    assert gain.low > 0 and judge_report.difference(POOR, POOR, RIGHT) == (0, 0, 0)


def test_answers_of_one_kind_have_no_area():
    found = judge_report.of_confidence("x", GOOD, np.ones_like(RIGHT))
    assert np.isnan(found["x_auroc"].value) and found["x_right"].value == 1


def test_trusted_answers_are_counted():
    found = judge_report.of_confidence("x", GOOD, RIGHT)
    assert found["x_right_if_trusted"].value == pytest.approx(RIGHT[GOOD > 0.5].mean())
    assert found["x_right"].value == pytest.approx(RIGHT.mean())
    assert found["x_brier"].value == pytest.approx(((GOOD - RIGHT) ** 2).mean())


def test_errors_of_seeds_do_not_cancel():
    right = np.tile([True, False], (2, 40, 1))
    found = judge_report.of_confidence("x", np.array([0.9, 0.1])[:, None, None] + 0 * right, right)
    assert found["x_calibration_error"].value == pytest.approx(0.4)
    assert found["x_brier_reliability"].value == pytest.approx(0.16)


def test_second_attempts_are_composed_of_confidence_and_critique():
    second = np.where(RIGHT, RNG.random(RIGHT.shape) < 0.9, RNG.random(RIGHT.shape) < 0.3)
    found = {k: x.value for k, x in judge_report.of_revision("x", RIGHT, second).items()}
    acc1, acc2 = RIGHT.mean(), second.mean()
    assert found["x_confidence"] == pytest.approx(second[RIGHT].mean())
    assert found["x_critique"] == pytest.approx(second[~RIGHT].mean())
    assert found["x_right_to_wrong"] == pytest.approx((RIGHT & ~second).mean())
    assert found["x_wrong_to_right"] == pytest.approx((~RIGHT & second).mean())
    composed = acc1 * found["x_confidence"] + (1 - acc1) * found["x_critique"]
    assert composed == pytest.approx(acc2) and found["x_second"] == pytest.approx(acc2)
    assert found["x_relative"] == pytest.approx((acc2 - acc1**2) / (2 * acc1 * (1 - acc1)))


def test_a_copied_answer_has_a_relative_score_of_one_half():
    found = judge_report.of_revision("x", RIGHT, RIGHT)
    assert found["x_relative"] == pytest.approx((0.5, 0.5, 0.5))
    assert (found["x_confidence"].value, found["x_critique"].value) == (1, 0)


def test_tables_leave_out_intervals_that_are_not_known(capsys):
    numbers = {"a": {"value": 0.5, "low": 0.25, "high": 0.75}}
    judge_report.show(
        None, {"one": numbers, "two": {"b": {"value": 1.0, "low": np.nan, "high": 0}}}
    )
    said = capsys.readouterr().out
    assert "0.500 [0.250, 0.750]" in said and " 1.000\n" in said and "nan" not in said
