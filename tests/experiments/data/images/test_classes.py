"""Which folders are classes, and which classes of a network those of a set are."""

import numpy as np
import pytest
from PIL import Image

from experiments.data.images import classes, loader
from experiments.data.images.labelled import Images
from jaxtrain.host.config import UsageError

BIRDS = Images(
    np.zeros((4, 8, 8, 3), np.uint8),
    np.array([0, 1, 2, 1]),
    "birds",
    classes={0: "crow", 1: "gull", 2: "owl"},
)
NUMBERS = BIRDS._replace(classes=None)


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch):
    monkeypatch.delenv("JAXTTA_DATA", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", "/nowhere")


def write(top, *names):
    for name in names:
        (top / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (len(name), 0, 0)).save(top / name / "a.png")


def test_folders_that_a_system_leaves_behind_are_no_classes(tmp_path):
    write(tmp_path / "test", ".ipynb_checkpoints", "__MACOSX", "zebra", "ant", "@eaDir")
    (tmp_path / "test" / "ant" / "._a.png").write_bytes(b"of macOS, no picture")
    found = loader.load("folder", "test", str(tmp_path), size=8)
    assert found.classes == {0: "ant", 1: "zebra"} and list(found.labels) == [0, 1]
    assert found.provenance == "folder test of 2 classes"
    np.testing.assert_array_equal(loader.load("cifar10", "test", str(tmp_path)).labels, [0, 1])


def test_numbers_are_sorted_as_numbers(tmp_path):
    write(tmp_path, *map(str, range(12)))
    assert classes.folders(tmp_path) == list(map(str, range(12)))
    write(tmp_path, "a")
    assert classes.folders(tmp_path)[:4] == ["0", "1", "10", "11"], "other names are text"
    write(tmp_path / "twice", "1", "01")
    with pytest.raises(UsageError, match="are the same number, such as 1 and 01"):
        classes.folders(tmp_path / "twice")


def test_other_classes_than_those_of_the_network_are_refused():
    classes.check(BIRDS, 3)
    with pytest.raises(UsageError, match="birds has 3 classes, which would be the outputs 0 to 2"):
        classes.check(BIRDS, 10)
    with pytest.raises(UsageError, match="birds has 3 classes, .* model.num_classes=2; say which"):
        classes.check(BIRDS, 2)
    classes.check(NUMBERS, 10)
    with pytest.raises(UsageError, match="3 of 4 images of birds have labels up to 2, but"):
        classes.check(NUMBERS, 1)
    classes.check(BIRDS, 2, is_open=True)


def test_a_file_says_which_classes_of_the_network_they_are(tmp_path):
    path = tmp_path / "map.txt"
    wanted = [4, 0, 2, 0]  # of a network that knows six classes
    names = "gull\nn2 duck\n\nowl, barn owl\nswan\ncrow\ntern\n"
    path.write_text("\ufeff" + names.replace("owl, barn owl", "owl birds"), "utf-8")
    for given, text in ((BIRDS, None), (BIRDS, "4\n0\n2\n"), (NUMBERS, "4\n0\n2\n5\n")):
        if text:
            path.write_text(text)
        found = classes.mapped(given, "map.txt", str(tmp_path))
        np.testing.assert_array_equal(found.labels, wanted)
        classes.check(found, 6, is_mapped=True)
        assert given is NUMBERS or found.classes == {4: "crow", 0: "gull", 2: "owl"}
    with pytest.raises(UsageError, match="have labels up to 4, but model.num_classes=3"):
        classes.check(found, 3, is_mapped=True)
    for given, text, said in (
        (BIRDS, names.replace("crow", "crew"), "does not say which class 'crow' of birds is, nor"),
        (BIRDS, names + "crow\n", "does not say which class 'crow'"),
        (NUMBERS, names, "the classes of birds are numbers only"),
        (NUMBERS, "4\n0\n", "has 2 lines, but the classes of birds are numbers only"),
    ):
        path.write_text(text.replace("owl, barn owl", "owl"))
        with pytest.raises(UsageError, match=said):
            classes.mapped(given, str(path))
    with pytest.raises(UsageError, match="data.classes='none.txt' was not found"):
        classes.mapped(BIRDS, "none.txt")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="map.txt is damaged or no text file of classes"):
        classes.mapped(BIRDS, str(path))


def test_the_first_classes_are_shown():
    assert classes.shown(BIRDS) == "3 (0 crow, 1 gull, 2 owl)"
    assert classes.shown(BIRDS, 2) == "3 (0 crow, 1 gull, ...)"
    assert classes.shown(NUMBERS) == "3 without names"
