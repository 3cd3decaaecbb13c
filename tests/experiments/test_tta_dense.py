"""Segmentation from the command line: table, figures, pictures of one's own, a second start."""

import functools
import json

import jax
import numpy as np
import pytest
from PIL import Image

from configs.tta_dense import ROWS
from experiments import tta_dense
from experiments.data.images import scenes
from experiments.dense.rows import chosen
from experiments.dense.training import adapting
from jaxtrain.host.config import UsageError, load
from jaxtrain.nets import Segmenter, classifier, from_linen


def run(workdir, *flags):
    config = "--config=configs/tta_dense.py:debug"
    tta_dense.main(argv=[config, f"--workdir={workdir}", *flags])
    return json.loads((workdir / "summary.json").read_text())["final"]


def test_a_run_ends_with_a_table_and_figures_and_is_not_done_twice(tmp_path, capsys):
    rows = "--config.rows=('source','mean_teacher')"
    final = run(tmp_path / "run", rows)
    trials = final["mean_teacher_target_accuracy"]["trials"]
    assert len(trials) == 2 and all(0 < x < 1 for x in trials)
    for name in ("pictures", "pseudo_labels"):
        assert (tmp_path / "run" / "plots" / f"{name}.png").stat().st_size > 1000
    files = sorted((tmp_path / "run" / "checkpoints").rglob("*.npz"))
    assert [file.name for file in files] == 2 * ["mean_teacher.npz", "model.npz", "source.npz"]
    before = [file.stat().st_mtime_ns for file in files]
    assert run(tmp_path / "run", rows) == final
    assert before == [file.stat().st_mtime_ns for file in files]
    said = capsys.readouterr().out
    assert "6 made-up streets by day" in said and "labels of the target, %" in said


@pytest.mark.ci
def test_every_row_can_be_traced():
    """Its program is not compiled, which takes minutes for all of them together."""
    config, _ = load("configs/tta_dense.py:debug")
    module = Segmenter(num_classes=len(config.data.classes), **config.model.to_dict())
    config.rows = ROWS
    data = tta_dense.read_data(config)
    start = jax.eval_shape(from_linen(module).init, jax.random.key(0), data.source.images[:1] / 255)
    for name, row in chosen(config, classifier(module)).items():
        given = dict(source=data.source, target=data.target, key=jax.random.key(0))
        found = jax.eval_shape(functools.partial(adapting(row, 2), **given), *start)
        assert found.right.shape == (row.num_steps,), name
        assert jax.tree.map(np.shape, found[:2]) == jax.tree.map(np.shape, tuple(start)), name


def test_differences_are_of_the_same_pictures():
    def done(right):
        one = tta_dense.Scores(np.array(right), np.array([10, 30]), np.eye(2), np.zeros((1, 2, 2)))
        return tta_dense.Done(one, one, np.zeros(3))

    first, second = [done([9, 20]), done([8, 22])], [done([7, 19]), done([7, 21])]
    found = tta_dense.difference(first, second, "target")
    assert found.value == pytest.approx(5 / 80) and found.low <= found.value <= found.high
    assert tta_dense.accuracy(first[0].target) == pytest.approx(29 / 40)


def test_pictures_of_ones_own(tmp_path):
    streets = scenes.streets(3, (8, 16), 0, dusk=False)
    for name in ("pictures", "masks"):
        (tmp_path / name).mkdir()
    for i, (image, labels) in enumerate(zip(streets.images, streets.labels, strict=True)):
        Image.fromarray(image).save(tmp_path / "pictures" / f"{i}.png")
        Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "masks" / f"{i}.png")
    config, _ = load("configs/tta_dense.py:debug")
    config.data.data_dir = str(tmp_path)
    for part in ("source", "target", "test"):
        config.data[part], config.data[f"{part}_masks"] = "pictures", "masks"
    config.data.target = "pictures/1*"
    found = tta_dense.read_data(config)
    np.testing.assert_array_equal(found.source.images, streets.images)
    np.testing.assert_array_equal(found.target.labels, streets.labels[1:2])


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("data.test=x", "data.source is not named; name pictures and masks of every part"),
        ("data.classes=('sky','road')", "made-up streets have data.classes="),
    ],
)
def test_impossible_settings_are_named(spec, sentence):
    config, _ = load(f"configs/tta_dense.py:debug,{spec}")
    with pytest.raises(UsageError, match=sentence):
        tta_dense.read_data(config)


def test_sides_that_do_not_fit_are_one_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "run", "--config.data.size=(8,18)")
    assert stop.value.code == 2 and "8 x 18 pixels must have sides" in capsys.readouterr().err
