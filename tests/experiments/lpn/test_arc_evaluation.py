"""What an evaluation counts, and the names of what it writes."""

from types import SimpleNamespace

import numpy as np
import pytest

from experiments.data.arc.parsing import Task
from experiments.data.arc.tasks import Fault
from experiments.lpn import arc_evaluation
from experiments.lpn.arc_evaluation import Subject, compare, counted, labels

A = np.ones((2, 2), np.uint8)


def task(name, *outputs):
    return Task(name, ((A, A),), tuple((A, output) for output in outputs))


def subject(folder, tasks, faults, trained=()):
    (folder / "evaluation").mkdir(exist_ok=True)
    what = SimpleNamespace(
        shuffled=False, solvers={"perfect": None}, grouping={}, trained_on=lambda: list(trained)
    )
    return Subject(what, "mine", "mine", tasks, faults, folder, None)


def test_sets_with_one_folder_name_do_not_share_their_files():
    names = ("ARC-AGI/data/evaluation", "ARC-AGI-2/data/evaluation", "arcagi:evaluation", "x/own")
    assert labels(names) == {
        "ARC-AGI/data/evaluation": "ARC-AGI-data-evaluation",
        "ARC-AGI-2/data/evaluation": "ARC-AGI-2-data-evaluation",
        "arcagi:evaluation": "arcagi-evaluation",
        "x/own": "own",
    }
    assert labels(("/a/b",)) == {"/a/b": "b"}
    assert len(set(labels(("a/b", "./a/b", "/a/b", "a:b", "a-b")).values())) == 5


@pytest.fixture
def perfect(monkeypatch):
    """Every answer is right, and nothing is drawn."""

    def solve(solver, params, key, tasks, mesh):
        answers = {t.id: [[A, A] for _ in t.test] for t in tasks}
        one = np.ones(1)
        return SimpleNamespace(
            predictions=answers, programs=1, exact=one, steps_used=one, seconds=0.0
        )

    monkeypatch.setattr(arc_evaluation.arc_solving, "solve_set", solve)
    monkeypatch.setattr(arc_evaluation, "write_solved", lambda *given: None)


FAULTS = [
    Fault("broken", "file", "message", 2),
    Fault("open", "file", "message", 1, has_answers=False),
]


def test_a_left_out_task_counts_whatever_else_is_known(tmp_path, perfect, capsys):
    solved, unknown = task("solved", A, A), task("unknown", None)
    for tasks in ([solved], [solved, unknown]):
        found = compare(subject(tmp_path, tasks, FAULTS), None, None)
        assert found["mine/perfect/per_output/accuracy/top_1"] == 1 / 2
        assert found["mine/perfect/all_outputs/accuracy/top_1"] == 1 / 2
    table = (tmp_path / "evaluation" / "mine-table.txt").read_text().splitlines()
    assert table[-3:] == [
        "no different grid for a second attempt: perfect 3 of 3",
        "counted: 2 tasks with 4 test outputs, of which 1 with 2 were left out and are unsolved",
        "not counted: 2 tasks without known answers",
    ]
    assert table[-1] in capsys.readouterr().out


def test_the_table_names_tasks_that_were_trained_on(tmp_path):
    trained = [task("t", A)]
    one = subject(tmp_path, [task("x", A), Task("y", ((A, 2 * A),), ((A, A),))], [], trained)
    assert counted(one).splitlines() == [
        "counted: 2 tasks with 2 test outputs",
        "warning: 1 of these tasks have the pairs of tasks whose generators are trained on: x = t",
    ]
    assert "warning" not in counted(one._replace(name="rearc"))
