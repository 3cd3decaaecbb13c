"""Claims of test-time adaptation on pretrained CIFAR-10 weights, at small scale."""

import json

import numpy as np
import pytest

from experiments import tta_images
from jaxtrain.host import cli
from tests.shared_data import DATA

pytestmark = [
    pytest.mark.behaviour,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (DATA / "weights").is_dir(), reason="needs the pretrained weights beside the checkout"
    ),
]


def test_batch_statistics_repair_and_tent_improves_on_them(tmp_path):
    """Mean of the 15 corruptions at severity 5; the controls are where batch statistics hurt."""
    argv = [
        "--config=configs/tta_images.py:small",
        f"--workdir={tmp_path}",
        f"--config.data.data_dir={DATA}",
        "--config.data.num_images=300",
        "--config.num_seeds=1",
        "--config.batch_size=100",
        "--config.methods=('batch_norm', 'tent')",
    ]
    cli.main(tta_images.run, validate=tta_images.validate, argv=argv)
    rows = json.loads((tmp_path / "evaluation" / "results.json").read_text())["rows"]
    error = {r["method"]: {s: v["error"] for s, v in r["shifts"].items()} for r in rows}
    mean = {method: np.mean(list(values.values())) for method, values in error.items()}
    assert mean["batch_norm"] < mean["source"] - 0.10
    assert mean["tent"] <= mean["batch_norm"]
    gain = {s: error["source"][s] - error["batch_norm"][s] for s in error["source"]}
    assert min(gain[s] for s in ("contrast", "defocus_blur", "gaussian_noise")) > 0.10
    assert gain["brightness"] < 0 and gain["jpeg_compression"] < 0.02
    clean = {r["method"]: r["clean_error"] for r in rows}
    assert clean["source"] < clean["batch_norm"]
