"""What a run folder says of its own command."""

import json
import re
import shutil
from pathlib import Path

import pytest

from jaxtrain.host import files, workdir
from jaxtrain.host.config import UsageError, load, plain
from jaxtrain.host.restart import remembered
from jaxtrain.host.settings import rules_of

CONFIG = Path(__file__).parents[1] / "tiny" / "config.py"


@pytest.fixture(autouse=True)
def project(tmp_path_factory, monkeypatch):
    """Where commands are started: a folder with `configs/`."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "configs").mkdir()
    shutil.copy(CONFIG, folder / "configs" / "config.py")
    monkeypatch.chdir(folder)
    return folder


def begun(folder, **changes):
    """A folder in which a run was started."""
    given, variant = load(f"{CONFIG}:small,model.sizes=(3,4,5)")
    about = workdir.About("experiment", variant, plain(given), "seed=0:2", {}, "configs/config.py")
    files.write_json(folder / "config.json", about._asdict() | changes)
    return given


def test_a_folder_gives_back_values_types_and_rules(tmp_path):
    given = begun(tmp_path)
    found, about = remembered(str(tmp_path))
    assert found.to_dict() == given.to_dict() and isinstance(found.model.sizes, tuple)
    assert rules_of(found) and about.sweep == "seed=0:2" and about.variant == "small"
    with pytest.raises(AttributeError):
        found.new = 1  # locked


def test_keys_that_have_come_since_have_the_default_of_the_file(tmp_path):
    given = begun(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    del content["config"]["optimizer"]["learning_rate"]
    files.write_json(tmp_path / "config.json", content)
    assert remembered(str(tmp_path))[0].optimizer.learning_rate == given.optimizer.learning_rate


def test_the_config_of_the_command_stands_in_for_one_that_is_not_named(tmp_path, project):
    begun(tmp_path, config_file="configs/moved.py")
    with pytest.raises(UsageError, match=re.escape(f"configs/moved.py is not in {project}")):
        remembered(str(tmp_path))
    (project / "configs" / "config.py").rename(project / "configs" / "experiment.py")
    found, about = remembered(str(tmp_path))
    assert found.num_steps == 4 and about.config_file == "configs/experiment.py"


@pytest.mark.parametrize("key", ["config_file", "experiment"])
def test_a_folder_names_no_python_of_its_own(tmp_path, key):
    """The file would say that it was run."""
    mark = tmp_path / "was_run"
    (tmp_path / "payload.py").write_text(f"open({str(mark)!r}, 'w').close()\n{CONFIG.read_text()}")
    name = tmp_path / ("payload.py" if key == "config_file" else "payload")
    begun(tmp_path, **{"config_file": "", key: str(name)})
    with pytest.raises(UsageError, match=r"configs/payload.py is not in|configs/experiment"):
        remembered(str(tmp_path))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "holds no run yet, so --config is missing; give a config file, such as --config="),
        ("{", "config.json' cannot be read"),
        ("[1]", "config.json' does not say what the run was started with; restore it, or give"),
        ('{"experiment": "x"}', "config.json' does not say what the run was started with"),
        ({"config": 3}, "config.json' does not say what the run was started with"),
        ({"config": {"model": {"depth": 2}}}, "no longer takes (the config has no key 'model.dep"),
        ({"config": {"model": {"width": "a"}}}, "('model.width' must be a whole number, but got"),
    ],
)
def test_folders_that_do_not_say_how_to_go_on_are_refused(tmp_path, content, sentence):
    if isinstance(content, dict):
        begun(tmp_path, **content)
    elif content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UsageError, match=re.escape(sentence)) as refused:
        remembered(str(tmp_path))
    assert "\n" not in str(refused.value)
