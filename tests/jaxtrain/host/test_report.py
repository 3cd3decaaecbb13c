"""Intervals, grouping of trials, tables and figures, on run folders written by hand."""

import json
import sys

import matplotlib
import matplotlib.image
import numpy as np
import pytest

from experiments import report as command
from jaxtrain.host import cli, report
from jaxtrain.host.config import UsageError


def write_run(folder, lines, *, seed=0, rate=0.1, trials=None, experiment="toy"):
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    about = {
        "experiment": experiment,
        "variant": "small",
        "config": {"seed": seed, "optimizer": {"rate": rate}, "mesh": {"data": seed + 1}},
        "sweep": "",
        "trials": trials or {},
    }
    (folder / "config.json").write_text(json.dumps(about))
    return folder


def lines(offset, steps=(2, 4, 6)):
    return [{"step": s, "loss": 1 / s + offset, "val/accuracy": s / 10 + offset} for s in steps]


# --- Numbers --------------------------------------------------------------------------------------


def test_interval_is_students_t():
    # Table values of t(0.975, n - 1), looked up.
    for values, t in (
        ([1.0, 2.0], 12.7062),
        ([1.0, 2.0, 4.0], 4.30265),
        ([1, 2, 3, 4, 9], 2.77645),
    ):
        count = len(values)
        mean = sum(values) / count
        spread = (sum((v - mean) ** 2 for v in values) / (count - 1)) ** 0.5
        found = report.interval(values)
        half = t * spread / count**0.5
        np.testing.assert_allclose(found, [mean, mean - half, mean + half], rtol=1e-5, atol=1e-5)


def test_interval_over_the_last_axis_and_of_a_single_trial():
    values = np.array([[1.0, 3.0], [5.0, 5.0]])
    mean, low, high = report.interval(values)
    np.testing.assert_allclose(mean, [2, 5])
    np.testing.assert_allclose(low[1], 5)
    assert low[0] < 2 < high[0]
    mean, low, high = report.interval([7.0])
    assert mean == 7 and np.isnan(low) and np.isnan(high)
    assert report.with_interval([7.0]) == "7"
    assert report.with_interval([1.0, 2.0, 4.0]) == "2.333 [-1.461, 6.128]"


def test_interval_covers_the_mean_as_often_as_it_says():
    samples = np.random.default_rng(0).normal(3.0, 2.0, (4000, 5))
    _, low, high = report.interval(samples)
    assert np.mean((low < 3) & (3 < high)) == pytest.approx(0.95, abs=0.012)


def test_a_metric_named_as_a_proportion_keeps_to_its_range_and_others_do_not():
    values = [0.0, 0.0, 0.1]
    for name in ("accuracy", "eval/mean_accuracy", "set/mean/accuracy/top_1", "tent_error"):
        _, low, high = report.interval_of(name, values)
        assert 0 <= low < high <= 1
        assert report.with_interval(values, name) != report.with_interval(values)
    for name, others in (("loss", values), ("accuracy_gap", [-0.1, 0.1]), ("accuracy", [38, 40])):
        np.testing.assert_array_equal(report.interval_of(name, others), report.interval(others))


# --- Reading and grouping -------------------------------------------------------------------------


def test_runs_that_differ_in_the_seed_are_one_group(tmp_path):
    trials = []
    for seed in (0, 1, 2):
        trials += report.read_trials(write_run(tmp_path / str(seed), lines(seed), seed=seed))
    trials += report.read_trials(write_run(tmp_path / "other", lines(9), seed=0, rate=0.2))
    first, second = report.group(trials)
    assert (first.label, second.label) == ("optimizer.rate=0.1", "optimizer.rate=0.2")
    assert [trial.seed for trial in first.trials] == [0, 1, 2]
    curve = first.curves["val/accuracy"]
    np.testing.assert_array_equal(curve.steps, [2, 4, 6])
    np.testing.assert_allclose(curve.values, [[0.2, 1.2, 2.2], [0.4, 1.4, 2.4], [0.6, 1.6, 2.6]])
    assert second.curves["loss"].values.shape == (3, 1)


def test_rows_of_a_sweep_are_trials(tmp_path):
    swept = {"seed": [5, 6, 5, 6], "optimizer.rate": [0.1, 0.1, 0.3, 0.3]}
    rows = [{"step": s, "loss": [1.0, 2.0, 3.0, s], "epoch": s / 2} for s in (2, 4)]
    trials = report.read_trials(write_run(tmp_path / "w", rows, trials=swept))
    first, second = report.group(trials)
    assert (first.label, second.label) == ("optimizer.rate=0.1", "optimizer.rate=0.3")
    assert [trial.seed for trial in second.trials] == [5, 6]
    np.testing.assert_array_equal(first.curves["loss"].values, [[1, 2], [1, 2]])
    np.testing.assert_array_equal(second.curves["loss"].values, [[3, 2], [3, 4]])
    np.testing.assert_array_equal(second.curves["epoch"].values, [[1, 1], [2, 2]])


def test_runs_of_other_lengths_share_the_steps_that_both_have(tmp_path):
    steps = ((2, 4, 6), (4, 6, 8))
    trials = [
        trial
        for i, one in enumerate(steps)
        for trial in report.read_trials(write_run(tmp_path / str(i), lines(i, one), seed=i))
    ]
    (both,) = report.group(trials)
    np.testing.assert_array_equal(both.curves["loss"].steps, [4, 6])
    np.testing.assert_allclose(both.curves["loss"].values, [[1 / 4, 5 / 4], [1 / 6, 7 / 6]])


def test_a_sweep_and_single_runs_of_the_same_setting_form_one_group(tmp_path):
    rows = [{"step": s, "loss": [1.0, 2.0]} for s in (2, 4)]
    trials = report.read_trials(write_run(tmp_path / "a", rows, trials={"seed": [1, 2]}))
    trials += report.read_trials(write_run(tmp_path / "b", lines(0), seed=7))
    (one,) = report.group(trials)
    assert [trial.seed for trial in one.trials] == [1, 2, 7]
    assert list(one.curves) == ["loss"]  # accuracy is missing in the sweep
    np.testing.assert_array_equal(one.curves["loss"].steps, [2, 4])  # step 6 too


def test_metrics_logged_at_different_steps_keep_their_own(tmp_path):
    rows = [{"step": 2, "loss": 1.0}, {"step": 4, "loss": 0.5}, {"step": 4, "eval/accuracy": 0.9}]
    folder = write_run(tmp_path / "w", rows)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # a write that was cut off
    curves = report.read_metrics(folder)
    np.testing.assert_array_equal(curves["loss"].steps, [2, 4])
    np.testing.assert_array_equal(curves["eval/accuracy"].steps, [4])


def test_not_finite_values_are_read_as_nan(tmp_path):
    rows = [{"step": 2, "loss": [1.0, None]}]
    values = report.read_metrics(write_run(tmp_path / "w", rows))["loss"].values
    np.testing.assert_array_equal(values, [[1.0, np.nan]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a run folder: it has no metrics.jsonl"),
        ("", "holds no metrics yet"),
        ('nonsense\n{"step": 2, "loss": 1}\n', "line 1 is not a metrics line"),
    ],
)
def test_folders_that_cannot_be_read(tmp_path, content, message):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(UsageError, match=message):
        report.read_trials(tmp_path)


@pytest.mark.parametrize(
    "content",
    ["{", "[1]", '{"config": 3}', '{"trials": {"seed": []}}', '{"config": {"seed": "x"}}', "\xff"],
)
def test_odd_descriptions_of_runs_are_named(tmp_path, content):
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "loss": 1}\n')
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError, match="config.json is damaged or no description of a run"):
        report.read_trials(tmp_path)


# --- Tables and figures ---------------------------------------------------------------------------


def test_table_shows_every_trial_and_the_mean(tmp_path):
    trials = []
    for seed in (0, 1, 2):
        trials += report.read_trials(write_run(tmp_path / f"r{seed}", lines(seed), seed=seed))
    text = report.table(report.group(trials), ["val/accuracy", "loss"])
    mean, low, high = report.interval([1 / 6, 1 + 1 / 6, 2 + 1 / 6])
    assert text.splitlines() == [
        "toy small: 3 trials, step 6",
        "trial                         val/accuracy                   loss",
        "seed 0 (r0)                            0.6                 0.1667",
        "seed 1 (r1)                            1.6                  1.167",
        "seed 2 (r2)                            2.6                  2.167",
        f"mean [95 % interval]  1.6 [-0.8841, 4.084]  {mean:.4g} [{low:.4g}, {high:.4g}]",
    ]


def curve_pixels(path):
    """How many pixels have roughly the colour of the first line, and how many its pale band."""
    image = matplotlib.image.imread(path)[..., :3]
    red, green, blue = (np.array([0, 0x72, 0xB2]) / 255).astype(np.float32)
    line = np.abs(image - [red, green, blue]).max(-1) < 0.05
    pale = 1 - 0.18 * (1 - np.array([red, green, blue]))
    return line.sum(), (np.abs(image - pale).max(-1) < 0.02).sum()


def test_learning_curve_draws_a_line_and_a_band_only_over_several_trials(tmp_path):
    one = report.group(report.read_trials(write_run(tmp_path / "a", lines(0))))
    two = report.group(
        report.read_trials(write_run(tmp_path / "b", lines(0)))
        + report.read_trials(write_run(tmp_path / "c", lines(0.5), seed=1))
    )
    before = dict(matplotlib.rcParams)
    alone = report.learning_curves(one, "loss", tmp_path / "plots" / "alone.png")
    both = report.learning_curves(two, "loss", tmp_path / "plots" / "both.png")
    assert dict(matplotlib.rcParams) == before  # the style does not leak
    line, band = curve_pixels(alone)
    assert line > 500 and band < 500
    line, band = curve_pixels(both)
    assert line > 500 and band > 5000


def test_figures_do_not_need_or_change_a_display():
    assert "matplotlib.pyplot" not in sys.modules or matplotlib.get_backend()
    assert report.figure_name("val/accuracy top-1") == "val_accuracy_top-1.png"


# --- python -m experiments.report -----------------------------------------------------------------


def call(capsys, *argv):
    flags = (cli.define_string("metrics", "", ""), cli.define_string("out", "", ""))
    code = 0
    try:
        cli.tool(command.run, flags=flags, arguments="FOLDER...", argv=[str(arg) for arg in argv])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_command_prints_the_table_and_writes_a_figure_per_metric(tmp_path, capsys):
    a = write_run(tmp_path / "runs" / "a", lines(0))
    b = write_run(tmp_path / "runs" / "b", lines(1), seed=1)
    code, out, err = call(capsys, a)
    assert code == 0 and not err
    assert out.startswith("toy small: 1 trial, step 6\n")
    assert sorted(p.name for p in (a / "plots").iterdir()) == ["loss.png", "val_accuracy.png"]

    code, out, err = call(capsys, a, b, tmp_path / "nothing", "--metrics=loss")
    assert code == 0 and "toy small: 2 trials, step 6" in out
    assert err.startswith("left out: ") and "has no metrics.jsonl" in err
    assert [p.name for p in (tmp_path / "plots").iterdir()] == ["loss.png"]

    code, _, _ = call(capsys, a, f"--out={tmp_path / 'figures'}", "--metrics=loss")
    assert code == 0 and (tmp_path / "figures" / "loss.png").exists()


def test_command_refuses_in_one_sentence(tmp_path, capsys):
    a = write_run(tmp_path / "a", lines(0))
    for argv, message in (
        ((), "give one or more run folders, such as"),
        ((tmp_path / "no",), "is not a run folder: it has no metrics.jsonl"),
        ((tmp_path / "no", tmp_path / "neither"), "none of the 2 folders holds metrics"),
        ((a, "--metrics=acc"), "no metric 'acc'; the runs recorded loss, val/accuracy"),
        ((a, "--metric=loss"), "unknown flag --metric; did you mean 'metrics'?"),
    ):
        code, out, err = call(capsys, *argv)
        assert code == 2 and message in err and not out
        assert err.splitlines()[-1].startswith("error: ")
    code, out, _ = call(capsys, "--help")
    assert code == 0 and "FOLDER... [flags]" in out and "--config" not in out
