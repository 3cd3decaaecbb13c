"""ARC files as people have them: accepted where they mean one thing, else refused by name."""

import json

import numpy as np
import pytest

from experiments.data.arc import parsing
from experiments.data.arc.parsing import DataError
from experiments.data.arc.tasks import in_order, load_file, load_folder, load_kaggle, load_tasks

GRID = [[0, 1], [2, 3]]
PAIR = {"input": GRID, "output": [[1]]}
TASK = {"train": [PAIR], "test": [PAIR]}


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")
    return path


def same(found, task=TASK):
    for part in ("train", "test"):
        for got, pair in zip(getattr(found, part), task[part], strict=True):
            np.testing.assert_array_equal(got[0], pair["input"])
            np.testing.assert_array_equal(got[1], pair["output"])
            assert got[0].dtype == got[1].dtype == np.uint8


MEANT = {
    "byte order mark": "\ufeff" + json.dumps(TASK),
    "other keys": TASK | {"name": "x", "train": [PAIR | {"id": 3, "note": [1]}]},
    "3.0 for 3": json.dumps(TASK).replace("3", "3.0"),
    "a key twice": json.dumps(TASK)[:-1] + f', "test": {json.dumps([PAIR])}}}',
    "many demonstrations": TASK | {"train": [PAIR] * 25},
}


@pytest.mark.parametrize("name", MEANT)
def test_what_means_one_thing_is_accepted(name, tmp_path):
    found = load_file(write(tmp_path / "task.JSON", MEANT[name]))
    same(found, TASK if isinstance(MEANT[name], str) else MEANT[name])


OTHER = json.dumps([{"input": [[5]], "output": [[5]]}])
REFUSED = {
    "two tests": (
        json.dumps(TASK)[:-1] + f', "test": {OTHER}}}',
        "'test' is given twice, with dif",
    ),
    "two outputs": (
        json.dumps(TASK).replace('"output": [[1]]', '"output": [[1]], "output": [[2]]'),
        "train pair 1: 'output' is given twice",
    ),
    "3.5": (json.dumps(TASK).replace("3", "3.5"), "row 2 holds 3.5, not a colour"),
    "NaN": (json.dumps(TASK).replace("3", "NaN"), "row 2 holds NaN, not a colour"),
    "infinity": (json.dumps(TASK).replace("3", "1e999"), "row 2 holds Infinity, not a colour"),
    "5,000 digits": (json.dumps(TASK).replace("3", "3" * 5_000), 'row 2 holds "33333.*, not a col'),
    "deep": ("[" * 100_000, "not valid JSON"),
    "misspelt": (
        TASK | {"test": [{"input": GRID, "ouput": GRID, "id": 1}]},
        "found input, ouput, id",
    ),
    "misspelt, and null": (
        TASK | {"test": [{"input": GRID, "output": None, "answer": GRID}]},
        "found input, answer",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_means_two_things_is_refused(name, tmp_path):
    content, said = REFUSED[name]
    with pytest.raises(DataError, match=said) as error:
        load_file(write(tmp_path / "task.json", content))
    assert "\n" not in str(error.value)


def test_a_test_pair_may_have_other_keys_and_no_output(tmp_path):
    task = TASK | {"test": [{"input": GRID, "id": 3}, {"input": GRID, "output": None}]}
    found = load_file(write(tmp_path / "task.json", task))
    assert [output for _, output in found.test] == [None, None]


def test_folders_in_folders(tmp_path):
    """ConceptARC has a folder per concept."""
    for name in ("Above/Above2.json", "Above/Above1.JSON", "Center/Center1.json"):
        write(tmp_path / name, TASK)
    for name in ("__MACOSX/Above/._Above1.json", ".git/x.json", "Above/.hidden.json"):
        write(tmp_path / name, "no task")
    tasks, faults = load_folder(tmp_path)
    assert [task.id for task in tasks] == ["Above1", "Above2", "Center1"] and not faults


def test_two_tasks_of_one_name_are_both_refused(tmp_path):
    """The submission has one entry for them."""
    write(tmp_path / "a" / "x.json", TASK)
    write(tmp_path / "b" / "x.json", TASK)
    assert [task.id for task in load_folder(tmp_path)[0]] == ["x"], "they are one task"
    write(tmp_path / "b" / "x.json", TASK | {"train": [PAIR, PAIR]})
    tasks, faults = load_folder(tmp_path)
    assert not tasks and [fault.task_id for fault in faults] == ["x"]
    assert f"{tmp_path}/a/x.json and {tmp_path}/b/x.json are two tasks" in faults[0].message
    doubled = f'{{"x": {json.dumps(TASK)}, "y": {json.dumps(TASK)}, "x": {{"train": []}}}}'
    tasks, faults = load_kaggle(write(tmp_path / "challenges.json", doubled))
    assert [task.id for task in tasks] == ["y"]
    assert "'x' is given twice, with different content" in faults[0].message


def test_a_folder_of_two_sets_is_read_by_the_name_of_one(tmp_path):
    write(tmp_path / "training" / "a.json", TASK)
    write(tmp_path / "evaluation" / "b.json", TASK)
    with pytest.raises(DataError, match="holds a training and an evaluation set; name one of them"):
        load_tasks(tmp_path)
    assert [task.id for task in load_tasks(tmp_path, "evaluation")[0]] == ["b"]
    with pytest.raises(DataError, match="expected a folder with one JSON file"):
        load_tasks(tmp_path, "test")
    with pytest.raises(DataError, match="is no folder with a part 'training'"):
        load_tasks(tmp_path / "training" / "a.json", "training")


def test_a_refused_task_keeps_the_tests_that_its_file_shows(tmp_path):
    """And says whether their answers are known, whatever the other tasks are."""
    open_ = {"input": GRID}
    raw = {
        "good": TASK,
        "three": {"train": "none", "test": [PAIR] * 3},
        "unknown": {"train": [{"input": [[77]], "output": GRID}], "test": [open_, open_]},
        "misspelt": TASK | {"test": [{"input": GRID, "ouput": GRID}, PAIR]},
        "none": {"train": [PAIR], "test": []},
        "last": TASK,
    }
    file = write(tmp_path / "challenges.json", raw)
    found = {fault.task_id: fault for fault in load_kaggle(file)[1]}
    shown = {name: (fault.num_tests, fault.has_answers) for name, fault in found.items()}
    assert shown == {
        "three": (3, True),
        "unknown": (2, False),
        "misspelt": (2, True),
        "none": (1, True),
    }
    names = [getattr(one, "id", None) or one.task_id for one in in_order(load_kaggle(file))]
    assert names == list(raw)
    answers = {name: [GRID] for name in raw} | {"unknown": [GRID] * 2, "none": [GRID] * 2}
    del answers["three"]
    solutions = write(tmp_path / "solutions.json", answers)
    found = {fault.task_id: fault for fault in load_kaggle(file, solutions)[1]}
    shown = {name: (fault.num_tests, fault.has_answers) for name, fault in found.items()}
    assert shown == {
        "three": (3, False),
        "unknown": (2, True),
        "misspelt": (2, True),
        "none": (2, True),
    }


@pytest.mark.parametrize("value", [True, "1", None, [1], 10, -1, 1e300])
def test_only_whole_numbers_are_colours(value):
    with pytest.raises(DataError, match="row 1 holds .*, not a colour 0 to 9"):
        parsing.parse_grid([[0, value]], "here")
