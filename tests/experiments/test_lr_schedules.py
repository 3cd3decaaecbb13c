"""The schedule studies end to end, and schedules selected by name in the other experiments."""

import json

import numpy as np
import pytest

from experiments import lpn_patterns, lr_schedules, report
from jaxtrain.host import cli, schedules
from jaxtrain.host.config import load
from jaxtrain.host.report import read_metrics

PATTERNS = "configs/lpn_patterns.py:debug,evaluation.ascent_steps=(1,),eval_every=0"


def study(spec, workdir, *flags):
    arguments = [f"--config=configs/lr_schedules.py:{spec}", f"--workdir={workdir}", *flags]
    lr_schedules.main(argv=arguments)
    return json.loads((workdir / "summary.json").read_text())["final"]


def patterns(workdir, *flags, config=PATTERNS):
    lpn_patterns.main(argv=[f"--config={config}", f"--workdir={workdir}", *flags])
    return read_metrics(workdir)


@pytest.mark.filterwarnings("ignore:a trace of 3 steps is too short")
@pytest.mark.parametrize(
    ("variant", "numbers", "figure"),
    [
        ("debug", ("adam/refined", "sgd/linear", "bound/linear/3"), "convex_adam"),
        pytest.param(
            "language_debug",
            ("valid_loss/refined", "refined_peak_at"),
            "language",
            marks=pytest.mark.ci,
        ),
        pytest.param(
            "continual_debug",
            ("final/repeated cosine", "forgetting/infinite, const 0.25"),
            "continual",
            marks=pytest.mark.ci,
        ),
        pytest.param(
            "search_debug",
            ("final/AutoLRS, search included", "speed_up"),
            "autolrs",
            marks=pytest.mark.ci,
        ),
    ],
)
def test_study_runs_and_repeats(variant, numbers, figure, tmp_path):
    found = study(variant, tmp_path / "run")
    for name in numbers:
        assert name in found, sorted(found)
    assert (tmp_path / "run" / "plots" / f"{figure}.png").stat().st_size > 1000
    # A second start finds everything done and reports the same numbers.
    assert study(variant, tmp_path / "run") == found


@pytest.mark.ci
def test_a_search_stopped_in_the_middle_of_a_candidate_goes_on_with_the_same_bits(tmp_path):
    schedule = "autolrs(min_lr=1e-3, max_lr=1.0, tau0=8, tau_max=8, ratio=2, k=2)"  # 4 + 4 + 8
    spec = f"search_debug,optimizer.schedule={schedule}"
    study(f"{spec},num_steps=12", tmp_path / "whole")
    study(f"{spec},num_steps=6", tmp_path / "halves")  # inside the second candidate
    study(f"{spec},num_steps=12", tmp_path / "halves", "--allow_config_change")
    whole, halves = (
        (tmp_path / name / "autolrs" / "metrics.jsonl").read_text() for name in ("whole", "halves")
    )
    assert whole == halves


def test_studies_refuse_sweeps(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        study("debug", tmp_path, "--sweep=seed=0:2")
    assert stop.value.code == 2 and "num_seeds" in capsys.readouterr().err


@pytest.mark.ci
def test_an_experiment_applies_the_named_schedule_and_the_report_draws_it(tmp_path):
    flags = ["--config.optimizer.schedule=linear", "--config.optimizer.warmup_steps=1"]
    sweep = "--sweep=optimizer.learning_rate=1e-3,4e-3"
    curves = patterns(tmp_path / "run", *flags, sweep)
    expected = np.array([[1.0], [0.5], [0.0]]) * [1e-3, 4e-3]
    np.testing.assert_allclose(curves["learning_rate"].values, expected, rtol=1e-5)
    resolved = schedules.read_schedule(tmp_path / "run")
    np.testing.assert_allclose(np.transpose(resolved["rates"]), expected, rtol=1e-5)
    command = cli.Command(None, "", {"metrics": "loss", "out": ""}, (str(tmp_path / "run"),))
    report.run(command)
    assert (tmp_path / "run" / "plots" / "schedule.png").stat().st_size > 1000


@pytest.mark.ci
def test_the_default_schedule_resumes_bit_for_bit(tmp_path):
    patterns(tmp_path / "whole")
    patterns(tmp_path / "halves", "--config.num_steps=1")
    patterns(tmp_path / "halves", "--allow_config_change")
    whole, halves = (
        (tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "halves")
    )
    assert whole == halves


@pytest.mark.ci
def test_recorded_norms_become_the_schedule_of_the_next_run(tmp_path):
    patterns(tmp_path / "first", "--config.optimizer.record_grad_norms=l1")
    norms = np.load(tmp_path / "first" / "grad_norms.npy")
    assert norms.shape == (3,) and (norms > 0).all()
    with pytest.warns(UserWarning, match="too short"):
        schedule = f"--config.optimizer.schedule=refined(norms={str(tmp_path / 'first')!r})"
        curves = patterns(tmp_path / "second", schedule)
    np.testing.assert_allclose(curves["learning_rate"].values[:, 0], [1e-3, 5e-4, 0], rtol=1e-5)


@pytest.mark.ci
def test_an_experiment_searches_its_rate(tmp_path):
    schedule = "autolrs(min_lr=1e-4, max_lr=1e-2, tau0=2, tau_max=2, ratio=2, k=2, warmup_steps=0)"
    curves = patterns(tmp_path, f"--config.optimizer.schedule={schedule}", "--sweep=seed=0:2")
    searching = curves["searching"].values
    np.testing.assert_array_equal(searching, [[1, 1], [1, 1], [0, 0]])
    rates = curves["learning_rate"].values
    assert ((rates >= 0.99e-4) & (rates <= 1.01e-2)).all() and (rates[0] != rates[1]).all()
    assert ((rates[2] == rates[0]) | (rates[2] == rates[1])).all()


@pytest.mark.parametrize(
    ("variant", "keys"),
    [
        ("debug", {"num_steps", "convex"}),
        ("language_debug", {"num_steps", "language"}),
        ("continual_debug", {"continual"}),
        ("search_debug", {"num_steps", "optimizer", "search"}),
    ],
)
def test_a_study_sees_its_own_settings_only(variant, keys):
    config, _ = load(f"configs/lr_schedules.py:{variant}")
    shared = {"seed", "num_seeds", "batch_size", "log_every", "checkpoint", "tensorboard"}
    assert set(lr_schedules.own_settings(config).keys()) == keys | shared
