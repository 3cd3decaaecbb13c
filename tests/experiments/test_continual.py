"""OVOR from the command line: table, figure, images of one's own, a second start."""

import json

import numpy as np
import pytest

from experiments import continual
from jaxtrain.host.config import UsageError, load

DEBUG = "--config=configs/continual.py:debug"


def run(workdir, *flags):
    continual.main(argv=[DEBUG, f"--workdir={workdir}", *flags])
    return json.loads((workdir / "summary.json").read_text())["final"]


@pytest.mark.ci
def test_a_run_ends_with_a_table_and_goes_on_where_it_was_stopped(tmp_path, capsys):
    folder = tmp_path / "run"
    final = run(folder)
    for row in ("one_prompt", "pool", "head_only", "ovor"):
        assert len(final[f"{row}_accuracy"]["trials"]) == 2
    assert set(final["differences"]) == {
        "ovor over head_only",
        "one_prompt over pool",
        "ovor over one_prompt",
    }
    assert (folder / "plots" / "tasks.png").stat().st_size > 1000
    assert "taken for another task" in capsys.readouterr().out
    checkpoints = folder / "checkpoints" / "1"
    files = {file.name: dict(np.load(file)) for file in checkpoints.glob("*.npz")}
    assert len(files) == 1 + 3 * 5
    # A run that was stopped in the last two tasks of a row.
    for task in (3, 4):
        (checkpoints / f"head_only_{task}.npz").unlink()
    assert run(folder) == final
    for name, held in files.items():
        again = np.load(checkpoints / name)
        for key, value in held.items():
            np.testing.assert_array_equal(again[key], value)


def test_weights_of_timm_are_read(tmp_path):
    config, _ = load("configs/continual.py:debug,model.depth=1,model.num_classes=3")
    rng = np.random.default_rng(0)
    shapes = {
        "cls_token": (1, 1, 8),
        "pos_embed": (1, 5, 8),
        "patch_embed.proj.weight": (8, 3, 4, 4),
        "patch_embed.proj.bias": (8,),
        "blocks.0.norm1.weight": (8,),
        "blocks.0.norm1.bias": (8,),
        "blocks.0.attn.qkv.weight": (24, 8),
        "blocks.0.attn.qkv.bias": (24,),
        "blocks.0.attn.proj.weight": (8, 8),
        "blocks.0.attn.proj.bias": (8,),
        "blocks.0.norm2.weight": (8,),
        "blocks.0.norm2.bias": (8,),
        "blocks.0.mlp.fc1.weight": (32, 8),
        "blocks.0.mlp.fc1.bias": (32,),
        "blocks.0.mlp.fc2.weight": (8, 32),
        "blocks.0.mlp.fc2.bias": (8,),
        "norm.weight": (8,),
        "norm.bias": (8,),
        "head.weight": (3, 8),
        "head.bias": (3,),
    }
    held = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    np.savez(tmp_path / "vit.npz", **held)
    config.model.weights = str(tmp_path / "vit.npz")
    _, weights_of = continual.source_of(config)
    found = weights_of(0, tmp_path)["block0"]["attention"]["qkv"]["kernel"]
    np.testing.assert_array_equal(found, held["blocks.0.attn.qkv.weight"].T)
    config.model.weights = "nowhere.npz"
    with pytest.raises(UsageError, match="was not found"):
        continual.source_of(config)


def test_classes_of_ones_own(tmp_path):
    rng = np.random.default_rng(0)
    parts = {}
    for split, number in (("train", 40), ("test", 12)):
        parts[f"x_{split}"] = rng.integers(0, 256, (number, 8, 8)).astype(np.uint8)
        parts[f"y_{split}"] = np.arange(number) % 6
    np.savez(tmp_path / "mine.npz", **parts)
    config, _ = load("configs/continual.py:debug")
    config.data.name, config.data.num_train, config.data.num_test = str(tmp_path / "mine.npz"), 0, 0
    config.data.num_tasks = 3
    train, test, classes = continual.read(config)
    assert classes == 2 and len(train.images) == 40 and len(test.images) == 12
    config.data.num_tasks = 4
    with pytest.raises(UsageError, match="does not divide the 6 classes"):
        continual.read(config)
    config.data.num_tasks, config.data.num_test = 3, 5
    with pytest.raises(UsageError, match="class 5 of .* has no test images"):
        continual.read(config)


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("prompts.lengths=(1,1,1)", "more than model.depth=2"),
        ("prompts.lengths=(1,)", "the row pool needs"),
        ("model.num_heads=3", "does not divide model.width=8"),
        ("model.patch=3", "does not divide data.size=8"),
        ("outliers.num_epochs=3", "must be below num_epochs=3"),
        ("outliers.per_class=21", "more than the 4 x 10 candidates"),
        ("data.num_tasks=3", "does not divide the 10 classes"),
        ("model.num_classes=7", "would have no effect"),
    ],
)
def test_impossible_settings_are_named(tmp_path, capsys, flag, sentence):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "run", f"--config.{flag}")
    assert stop.value.code == 2 and sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
