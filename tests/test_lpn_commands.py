"""The commands of docs/lpn.md: those on own tasks run in their smallest form, all others are read
and built like those of a user, or run in the test that is named here."""

import contextlib
import json
import re
import shlex

import pytest

from experiments import lpn_arc
from jaxtrain.host import cli, command
from jaxtrain.parallel import Execution, make_mesh
from tests.source_tree import ROOT

PAGE = (ROOT / "docs/lpn.md").read_text()
OWN = re.search(r"<!-- own-tasks -->\n```bash\n(.*?)```\n<!-- /own-tasks -->", PAGE, re.S)
# Start of a command -> where its smallest form runs.
ELSEWHERE = {
    "experiments.plan": "tests/experiments/test_plan.py",
    "experiments.build_rearc_cache": "tests/experiments/test_build_rearc_cache.py",
    "experiments.lpn_claims": "tests/experiments/test_lpn_claims.py",
    "pytest tests/behaviour": "tests/behaviour/test_lpn_patterns.py",
}
BY_HAND = "benchmarks."  # they measure, minutes each


def commands(text):
    """Module and arguments of every command, with what the shell would put for variables."""
    found = dict(re.findall(r'^(\w+)="(.*)"$', text, re.M))
    lines = re.findall(r"python -m [^`\n]*(?:\n--[^`\n]*)*", text)
    for line in lines:
        for name, value in found.items():
            line = line.replace(f"${name}", value)
        yield shlex.split(line.partition(" # ")[0].replace("\n", " "))[2:]


def test_every_command_of_the_page_runs_somewhere():
    others = [argv for argv in commands(PAGE) if argv[0] != "experiments.lpn_arc"]
    for argv in others:
        known = [path for start, path in ELSEWHERE.items() if " ".join(argv).startswith(start)]
        assert known or argv[0].startswith(BY_HAND), argv
        assert all((ROOT / path).is_file() for path in known)
    assert {start for start in ELSEWHERE if any(" ".join(a).startswith(start) for a in others)} == {
        *ELSEWHERE
    }


FOR_A_CONFIG = [
    argv
    for argv in commands(PAGE.replace(OWN[0], ""))
    if argv[0] == "experiments.lpn_arc" and "--config=configs/lpn_arc.py:..." not in argv
]


@pytest.mark.parametrize("argv", FOR_A_CONFIG, ids=" ".join)
def test_commands_for_a_config_are_accepted(argv):
    table = (*command.CONFIG_FLAGS, *lpn_arc.FLAGS, *command.RUN_FLAGS)
    given = [item.replace("process_id=N", "process_id=0") for item in argv[1:]]
    parsed = command.parse_command(given, table)
    lpn_arc.validate(parsed.config)
    setup = cli.Setup(Execution("jit", make_mesh({"data": 1})), None, parsed.flags)
    lpn_arc.build(parsed.config, setup)


@pytest.mark.ci
def test_own_tasks_are_trained_on_evaluated_and_predicted(tmp_path, monkeypatch, capsys):
    """Line by line, with the debug config and two views in place of eight."""
    pairs = [{"input": [[i, 1]], "output": [[1, i]]} for i in range(3)]
    (tmp_path / "my_tasks").mkdir()
    for name in ("mirror", "again"):
        task = {"train": pairs, "test": [{"input": [[7, 1]], "output": [[1, 7]]}]}
        (tmp_path / "my_tasks" / f"{name}.json").write_text(json.dumps(task))
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    said = []
    for _, *argv in commands(OWN[1]):
        argv = [re.sub(r"\.py:\w+", ".py:debug", item) for item in argv]
        argv = [item.replace("augmentations=8", "augmentations=2") for item in argv]
        argv += ["--config.eval_every=0"] * argv[0].startswith("--config=")
        with contextlib.chdir(tmp_path):
            lpn_arc.main(argv=argv)
        said.append(capsys.readouterr().out)
    run = tmp_path / "runs" / "mine"
    trained, evaluated, voted, predicted = said
    for out in (trained, evaluated, voted):
        assert "no different grid for a second attempt: " in out
    assert "counted: 2 tasks with 2 test outputs" in evaluated
    assert (
        json.loads((run / "config.json").read_text())["config"]["evaluation"]["augmentations"] == 0
    )
    settings = json.loads((run / "evaluation" / "summary-evaluate.json").read_text())["config"]
    assert settings["evaluation"]["augmentations"] == 2
    content = json.loads((run / "predictions" / "mirror" / "prediction.json").read_text())
    first = content["mirror"][0]["attempt_1"]
    shown = "\n".join(" ".join(map(str, row)) for row in first)
    assert f"test input 1, attempt 1:\n{shown}\n" in predicted and "\x1b" not in predicted
    assert {file.name for file in (run / "predictions" / "mirror").iterdir()} == {
        *("prediction.json", "prediction.png", "summary.json")
    }
