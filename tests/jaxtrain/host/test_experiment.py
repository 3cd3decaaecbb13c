"""The frame of an experiment: one core, one sweep, one plan out of the same `build_core`."""

import importlib.util
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxtrain import parallel
from jaxtrain.host import checks, experiment
from jaxtrain.host.config import UsageError, load
from jaxtrain.host.data import Generated

TINY = Path(__file__).parents[1] / "tiny"
spec = importlib.util.spec_from_file_location("experiment", TINY / "experiment.py")
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)


@pytest.fixture
def call(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "experiment", tiny)

    def start(name, *flags, config="small"):
        given = [f"--config={TINY}/config.py:{config}"] if config else []
        try:
            tiny.main(argv=[*given, f"--workdir={tmp_path / name}", *flags])
        except SystemExit as stop:
            return stop.code
        return json.loads((tmp_path / name / "summary.json").read_text())["final"]

    return start


def test_training_is_gradient_descent_on_the_data(call, tmp_path):
    """Against a NumPy loop over the same draws."""
    final = call("run")
    key_init, key_run, _ = jax.random.split(jax.random.key(0), 3)
    w = np.asarray(jax.random.normal(key_init, (3,)), np.float64)
    for step in range(4):
        key = jax.random.fold_in(jax.random.fold_in(key_run, 1), step)
        batch = jax.tree.map(np.float64, tiny.sample(key, np.arange(4)))
        error = batch["inputs"] @ w - batch["labels"]
        w -= 0.1 * 2 * batch["inputs"].T @ error / 4
    np.testing.assert_allclose(final["error"], np.abs(w - [1.1, 1, 1]).sum(), rtol=1e-5)
    assert final["steps"] == 4


def test_modes_train_then_evaluate_give_the_numbers_of_one_run(call):
    whole = call("whole")
    assert call("parts", "--mode=train") == {}
    assert call("parts", "--mode=evaluate")["error"] == whole["error"]


def test_a_folder_is_trained_and_evaluated_without_its_config(call, tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    shutil.copy(TINY / "config.py", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    whole = call("whole", "--sweep=seed=0:2")
    (tmp_path / "parts").mkdir()
    about = (tmp_path / "whole" / "config.json").read_text()
    (tmp_path / "parts" / "config.json").write_text(about)
    assert call("parts", "--mode=train", config=None) == {}
    assert call("parts", "--mode=evaluate", config=None)["error"] == whole["error"]
    assert call("none", "--mode=evaluate", config=None) == 2


def test_an_evaluation_neither_trains_nor_saves(call, tmp_path, capsys):
    assert call("empty", "--mode=evaluate") == 2
    assert "there is nothing to evaluate" in capsys.readouterr().err
    call("run", "--mode=train")
    (tmp_path / "run" / "saved").unlink()
    call("run", "--mode=evaluate")
    assert not (tmp_path / "run" / "saved").exists()


def test_a_run_that_leads_nowhere_is_stopped_before_it_saves(call, capsys, tmp_path):
    assert call("run", "--fault=stuck", "--config.checkpoint.every=2") == 2
    said = capsys.readouterr().err
    assert said == "error: stopped after update 2: nothing is learned\n"
    assert (tmp_path / "run/metrics.jsonl").read_text().count("\n") == 1
    assert not list(tmp_path.glob("run/checkpoints/*"))


def test_trials_of_a_sweep_have_their_own_rate_and_data(call):
    found = call("sweep", "--sweep=seed=0:2;optimizer.learning_rate=0.1,0.2")["error"]["trials"]
    assert len(set(found)) == 4
    one = call("one", "--sweep=seed=1:2;optimizer.learning_rate=0.2,0.3")["error"]["trials"]
    np.testing.assert_allclose(one[0], found[3], rtol=1e-5)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ["--config.checkpoint.keep_best=typo"],
            "keep_best='typo' is no metric of this run;",
        ),
        (["--config.checkpoint.keep_best=-los"], "did you mean 'loss'?"),
        (["--config.checkpoint.keep_best=eval/error"], "needs an evaluation at every checkpoint"),
        (
            ["--config.checkpoint.keep_best=eval/error", "--config.eval_every=4"],
            "make checkpoint.every=2 a multiple of eval_every=4",
        ),
    ],
)
def test_a_metric_to_rank_by_is_checked_before_the_run(call, capsys, tmp_path, flags, sentence):
    assert call("run", *flags) == 2
    assert sentence in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_evaluations_without_anything_to_watch_are_refused(call, capsys, tmp_path):
    assert call("run", "--config.eval_every=2") == 2
    assert "eval_every would have no effect" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_state_that_no_device_holds_is_refused():
    checks.check_fits(4_000 * 2**20, memory=4_000 * 2**20)
    with pytest.raises(UsageError, match="takes 3.9 GB on a device that has 3.9;.* fewer trials"):
        checks.check_fits(4_000 * 2**20, memory=4_000 * 2**20 - 1)
    with pytest.raises(UsageError, match="make the network smaller"):
        checks.check_fits(2**48)


def test_a_plan_is_the_step_of_the_run():
    config, _ = load(f"{TINY}/config.py:small")
    mesh = parallel.make_mesh({"data": 1})
    training = experiment.Training(core=tiny.build_core, data=Generated(tiny.sample, 4))
    step, (state, batch, replicated) = experiment.planned(training, config, mesh)
    assert batch["inputs"].shape == (4, 3) and state.params["w"].shape == (3,)
    new, _ = step.trace(state, batch, replicated).out_info
    assert new.params["w"].shape == (3,)
