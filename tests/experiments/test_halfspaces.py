"""The tester-learner from the command line: table, figure, a sample of one's own."""

import json

import numpy as np
import pytest

from experiments import halfspaces
from jaxtrain.host.config import UsageError, load


def run(workdir, *flags):
    config = "--config=configs/halfspaces.py:debug"
    halfspaces.main(argv=[config, f"--workdir={workdir}", *flags])
    return json.loads((workdir / "summary.json").read_text())["final"]


def test_a_run_ends_with_every_marginal_and_a_figure(tmp_path, capsys):
    final = run(tmp_path)
    assert set(final) == {"gaussian/massart", "cube/massart"}
    for numbers in final.values():
        assert len(numbers["accepted"]["trials"]) == 2 and 0 < numbers["error"]["mean"] < 0.6
        assert numbers["opt"]["mean"] < 0.3 and "passed fourth moments" in numbers
    assert final["cube/massart"]["accepted"]["mean"] == 0
    assert final["cube/massart"]["passed fourth moments"]["mean"] == 0
    assert "cube/massart" in capsys.readouterr().out
    assert (tmp_path / "plots" / "halfspaces.png").stat().st_size > 1000


def test_a_sample_of_ones_own(tmp_path, capsys):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 3))
    np.savez(tmp_path / "mine.npz", x=x, y=np.where(x[:, 0] > 0, 1, 0))
    final = run(tmp_path / "run", f"--config.data.file={tmp_path / 'mine.npz'}")
    weights = np.load(tmp_path / "run" / "halfspace.npz")["weights"]
    assert weights.shape == (2, 3) and (weights[:, 0] > 0.9).all()
    assert final["error"]["mean"] < 0.1 and "opt" not in final
    assert (tmp_path / "run" / "plots" / "halfspaces.png").stat().st_size > 1000
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "other", "--config.data.file=nothing.npz")
    assert stop.value.code == 2 and "nothing.npz does not exist" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    with pytest.raises(SystemExit) as stop:
        file = f"--config.data.file={tmp_path / 'mine.npz'}"
        run(tmp_path / "other", file, "--config.data.num_rows=500")
    assert stop.value.code == 2 and "would have no effect" in capsys.readouterr().err


def test_steps_are_a_multiple_of_what_is_kept():
    config, _ = load("configs/halfspaces.py:debug,learner.num_steps=20")
    with pytest.raises(UsageError, match="multiple of 16"):
        halfspaces.validate(config)


def test_what_failed_is_listed_by_how_often():
    found = {"passed": {"a": [True, True], "b": [False, True], "c": [False, False]}}
    assert halfspaces.failed(found) == "c 100%, b 50%"
