"""`data.tasks_dir`: what it may be, and that a run with a folder of tasks draws from it."""

import contextlib
import json

import pytest

from experiments.lpn import training_sets
from jaxtrain.host.config import UsageError, load

GRIDS = [{"input": [[i]], "output": [[i, i]]} for i in range(3)]


def config_with(tasks_dir):
    config, _ = load("configs/lpn_arc.py:debug")
    config.data.tasks_dir = tasks_dir
    return config


@pytest.fixture
def folder(tmp_path):
    for name, number in (("good", 3), ("lone", 1)):
        task = {"train": GRIDS[:number], "test": [{"input": [[9]], "output": [[9, 9]]}]}
        (tmp_path / f"{name}.json").write_text(json.dumps(task))
    return tmp_path


def test_sets_and_weights():
    assert training_sets.parse_sets("") == {}
    text = "my/tasks, arcagi:training*2,rearc * 0.5"
    assert training_sets.parse_sets(text) == {"my/tasks": 1, "arcagi:training": 2, "rearc": 0.5}


@pytest.mark.parametrize("text", ["a*0", "a*-1", "a*nan", "a*inf", "a*x", "a,a*2", "*2"])
def test_weights_that_are_none(text):
    with pytest.raises(UsageError, match="data.tasks_dir: .* must be a set that is named once"):
        training_sets.parse_sets(text)


def test_samples_of_a_folder(folder):
    sets = training_sets.mixed(config_with(str(folder)))
    assert not sets.has_generators
    assert [message.split(": task ")[1] for message in sets.messages] == [
        "lone: it has one demonstration, and leave-one-out needs two."
    ]
    with training_sets.joined(sets, None, seed=0, batch_size=4, shard=(0, 1)) as samples:
        drawn = samples.samples(0)
    assert {sample.task_id for sample in drawn} == {"good"}
    assert all(len(sample.pairs()) == 3 for sample in drawn)


def test_generators_are_the_default_and_may_be_mixed_in(folder):
    assert training_sets.mixed(config_with("")).weights == {"rearc": 1.0}
    sets = training_sets.mixed(config_with(f"{folder}, rearc*3"))
    assert sets.has_generators and sets.weights == {str(folder): 1.0, "rearc": 3.0}
    marked = contextlib.nullcontext("samples of the generators")
    alone = training_sets.Mixed({}, {"rearc": 1.0}, [])
    with training_sets.joined(alone, marked, seed=0, batch_size=4, shard=(0, 1)) as samples:
        assert samples == "samples of the generators"


def test_a_set_without_a_usable_task(folder):
    (folder / "good.json").unlink()
    with pytest.raises(UsageError, match="no task of .* can be trained on; the first one: .*lone"):
        training_sets.mixed(config_with(str(folder)))
    with pytest.raises(UsageError, match="data.tasks_dir: nowhere is neither a folder nor a file"):
        training_sets.mixed(config_with("nowhere"))


def test_own_tasks_count_as_trained_on(folder):
    assert [t.id for t in training_sets.trained_on(config_with(str(folder)))()] == ["good"]


def test_the_tasks_of_the_generators_count_as_trained_on(folder):
    config = config_with(f"{folder}, rearc")
    config.data.only_n_tasks = 0
    config.data.tasks = ("007bbfb7", "00d62c1b")
    ids = [task.id for task in training_sets.trained_on(config)()]
    assert ids == ["good", "007bbfb7", "00d62c1b"]
    config.data.tasks_dir = str(folder)
    assert [task.id for task in training_sets.trained_on(config)()] == ["good"]
