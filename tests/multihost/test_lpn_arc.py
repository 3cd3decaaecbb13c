"""The Latent Program Network on ARC, trained and evaluated by several processes on this machine."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import lpn_arc
from jaxtrain.host import arrays
from tests.multihost.processes import free_port, together

ROOT = Path(__file__).resolve().parents[2]
CONFIG = f"--config={ROOT / 'configs/lpn_arc.py'}:debug"

pytestmark = [
    pytest.mark.multihost,
    pytest.mark.ci,
    pytest.mark.skipif(
        importlib.util.find_spec("reasoning_gym") is None, reason="needs reasoning-gym"
    ),
]


def start(number, folder, *flags):
    """Runs the command in `number` processes with one device each; returns what each one said."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    environment.pop("XLA_FLAGS", None)
    cluster = (f"--coordinator=localhost:{free_port()}", f"--num_processes={number}")
    command = [sys.executable, "-m", "experiments.lpn_arc", CONFIG, f"--workdir={folder}", *flags]
    commands = [
        [*command, *cluster, f"--process_id={index}", "--partner_timeout=200"]
        for index in range(number)
    ]
    ended = together(commands, ROOT, environment, timeout=900)
    said = [one.out + one.err for one in ended]
    assert [one.code for one in ended] == [0] * number, "\n".join(said)
    return said


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same_training(folder, alone):
    for found, expected in zip(
        lines(folder / "metrics.jsonl"), lines(alone / "metrics.jsonl"), strict=True
    ):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
    weights, wanted = (arrays.read(path / "weights.npz") for path in (folder, alone))
    assert weights.keys() == wanted.keys()
    for name, x in wanted.items():
        np.testing.assert_allclose(weights[name], x, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "run"
    lpn_arc.main(argv=[CONFIG, f"--workdir={folder}"])
    return folder


def test_two_processes_train_watch_and_evaluate_like_one(alone, tmp_path):
    first, second = start(2, tmp_path / "w")
    assert "on 2 cpu devices" in first and "top_2" in first and "top_2" not in second
    assert_same_training(tmp_path / "w", alone)
    for method in ("mean", "gradient_ascent"):
        name = f"evaluation/arcagi-training-{method}.jsonl"
        for found, expected in zip(lines(tmp_path / "w" / name), lines(alone / name), strict=True):
            assert found["id"] == expected["id"]
            assert found["scores"] == pytest.approx(expected["scores"], rel=1e-3)
    assert (tmp_path / "w/submission-arcagi-training-mean.json").exists()


def test_four_processes_train_like_one(alone, tmp_path):
    start(4, tmp_path / "w", "--mode=train", "--config.eval_every=0")
    trained = [line for line in lines(alone / "metrics.jsonl") if "loss" in line]
    for found, expected in zip(lines(tmp_path / "w/metrics.jsonl"), trained, strict=True):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
