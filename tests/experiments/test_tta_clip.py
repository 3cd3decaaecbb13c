"""RLCF from the command line: table, figure, towers of one's own, a second start."""

import json

import jax
import numpy as np
import pytest

from experiments import tta_clip
from experiments.clip.pairs import captions, started, towers_of
from jaxtrain import trees
from jaxtrain.host.config import UsageError, load

DEBUG = "--config=configs/tta_clip.py:debug"


def run(workdir, *flags):
    tta_clip.main(argv=[DEBUG, f"--workdir={workdir}", *flags])
    return json.loads((workdir / "summary.json").read_text())["final"]


@pytest.mark.ci
def test_a_run_ends_with_a_table_and_goes_on_where_it_was_stopped(tmp_path, capsys):
    folder = tmp_path / "run"
    rows = "--config.rows=('zero_shot','tpt','rlcf')"
    final = run(folder, rows)
    for row in ("zero_shot", "tpt", "rlcf"):
        assert len(final[f"{row}_accuracy"]["trials"]) == 2
    assert "rlcf over tpt" in final["differences"]
    assert (folder / "plots" / "answers.png").stat().st_size > 1000
    assert "rlcf over zero_shot" in capsys.readouterr().out
    checkpoints = folder / "checkpoints" / "1"
    names = ("policy", "reward", "answers_contrast")
    files = {name: dict(np.load(checkpoints / f"{name}.npz")) for name in names}
    (checkpoints / "answers_contrast.npz").unlink()
    assert run(folder, rows) == final
    for name, held in files.items():
        again = np.load(checkpoints / f"{name}.npz")
        jax.tree.map(np.testing.assert_array_equal, {key: again[key] for key in held}, held)


def test_a_caption_ends_with_its_highest_word_behind_the_name():
    words = captions(3)
    assert words.tolist() == [[0, 1, 2, 3, 4, 5 + c, 8] for c in range(3)]


def test_differences_are_of_the_same_images():
    right = {
        "zero_shot": np.array([[1, 0, 0, 1], [0, 0, 1, 1.0]]),
        "rlcf": np.array([[1, 1, 0, 1], [0, 1, 1, 1.0]]),
    }
    found = tta_clip.summary(right)
    np.testing.assert_allclose(found["rlcf_accuracy"], [0.75, 0.75])
    (name,) = found["differences"]
    assert name == "rlcf over zero_shot"
    assert found["differences"][name]["value"] == pytest.approx(0.25)
    said = tta_clip.table(right, ("fog", "contrast"))
    assert "fog" in said and "75.0" in said and "25.0" in said


def own_towers(file, change=lambda held: held):
    config, _ = load("configs/tta_clip.py:debug")
    words = captions(10)
    held = {"words": words}
    for name in ("policy", "reward"):
        networks = towers_of(config[name], 16, 7)
        shapes = jax.eval_shape(lambda n=networks: started(n, words, jax.random.key(0)))
        rng = np.random.default_rng(0)
        for path, leaf in zip(trees.path_names(shapes), jax.tree.leaves(shapes), strict=True):
            held[f"{name}/{path}"] = rng.normal(size=leaf.shape).astype(np.float32)
    np.savez(file, **change(held))
    return f"--config.data.towers={file}"


@pytest.mark.ci
def test_towers_of_ones_own(tmp_path):
    flag = own_towers(tmp_path / "mine.npz")
    rows = "--config.rows=('zero_shot','reward')"
    final = run(tmp_path / "run", flag, rows, "--config.data.severity=0")
    assert len(final["reward_accuracy"]["trials"]) == 2
    assert not (tmp_path / "run" / "checkpoints" / "0" / "policy.npz").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda held: {**held, "words": held["words"] + 5}, "must be [C, T], of 16 words"),
        (lambda held: {**held, "words": held["words"][:4]}, "4 texts of classes are fewer"),
        (
            lambda held: {**held, "reward/log_scale": np.zeros(2, np.float32)},
            "reward/log_scale has shape (2,), expected ()",
        ),
    ],
)
def test_impossible_towers_are_refused(tmp_path, capsys, change, sentence):
    flag = own_towers(tmp_path / "mine.npz", change)
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "run", flag)
    assert stop.value.code == 2 and sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("policy.patch=5", "policy.patch=5 does not divide policy.side=16"),
        ("reward.text.num_heads=3", "does not divide reward.text.width=8"),
        ("rlcf.num_candidates=11", "rlcf.num_candidates=11"),
        ("policy.weights=x.npz", "would have no effect"),
        ("data.towers=nowhere.npz", "was not found"),
        ("data.size=16", "Or take data.severity=0."),
    ],
)
def test_impossible_settings_are_named(tmp_path, capsys, flag, sentence):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "run", f"--config.{flag}")
    assert stop.value.code == 2 and sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_weights_that_are_not_there_are_named():
    config, _ = load("configs/tta_clip.py:debug,reward.depth=8")
    towers = towers_of(config.reward, 9, 7)
    assert tta_clip.read_weights(config.reward, towers, "") is None
    config.reward.network, config.reward.weights = "cifar_resnet", "nowhere.npz"
    with pytest.raises(UsageError, match="was not found"):
        tta_clip.read_weights(config.reward, towers, "")
