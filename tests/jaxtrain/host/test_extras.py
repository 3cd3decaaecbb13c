"""A package that is not installed is missed in one sentence, wherever the host tier uses one."""

import sys

import pytest

from jaxtrain.host import data, report
from jaxtrain.host.config import UsageError
from jaxtrain.host.extras import import_extra, import_function
from jaxtrain.host.metrics import Writer

USES = {
    "tensorboardX": ("experiments", lambda folder: Writer(folder)),
    "wandb": ("wandb", lambda folder: Writer(folder, tensorboard=False, wandb={"project": "p"})),
    "matplotlib": ("experiments", lambda folder: report.schedule_curves({}, folder / "x.png")),
    "tensorflow_datasets": ("experiments", lambda folder: data.tfds_source("mnist", "train")),
}


@pytest.mark.parametrize("package", USES)
def test_a_missing_package_is_named_with_its_extra(package, tmp_path, monkeypatch):
    extra, use = USES[package]
    for loaded in [name for name in sys.modules if name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, package, None)  # importing it fails
    with pytest.raises(UsageError) as caught:
        use(tmp_path)
    assert str(caught.value) == (
        f"the package {package} is not installed; the extra {extra!r} brings it: "
        f"pip install -e '.[{extra}]'"
    )


def test_what_a_package_lacks_is_named_and_other_faults_are_its_own(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "half_there.py").write_text("import not_there_at_all")
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(UsageError, match="the package not_there_at_all is not installed"):
        import_extra("half_there", "experiments")
    with pytest.raises(ZeroDivisionError):
        import_extra("broken", "experiments")
    assert import_extra("os.path", "experiments").join("a", "b") == "a/b"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("users", "must name a function as module:function"),
        ("users:2", "must name a function as module:function"),
        ("users:nothing", "users has no function 'nothing'"),
        ("users:number", "users has no function 'number'"),
        ("not_there:made", "no module 'not_there'; start the command in its folder or set"),
        ("half_there:made", "no module 'not_there_at_all'$"),
    ],
)
def test_what_is_no_function_of_the_user_is_named(name, sentence, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "users.py").write_text("made, number = lambda: 3, 3")
    (tmp_path / "half_there.py").write_text("import not_there_at_all")
    with pytest.raises(UsageError, match=f"env='{name}'.*{sentence}"):
        import_function(name, "env")
    assert import_function("users:made", "env")() == 3
