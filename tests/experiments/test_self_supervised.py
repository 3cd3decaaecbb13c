"""Barlow Twins from the command line, and the probe beside SciPy."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from experiments import self_supervised
from experiments.self_supervised import few, probe
from jaxtrain.host.config import load

DEBUG = "--config=configs/self_supervised.py:debug"


def test_a_sweep_ends_with_probes_and_correlations(tmp_path, capsys):
    flags = [f"--workdir={tmp_path}", "--sweep=loss.invariance=0,1;loss.redundancy=0,0.01"]
    self_supervised.main(argv=[DEBUG, *flags])
    final = json.loads((tmp_path / "summary.json").read_text())["final"]
    for name in ("accuracy_1", "accuracy_5", "off_diagonal"):
        assert len(final[name]["trials"]) == 4
    assert 0 <= final["pixels_accuracy_5"] <= 1
    assert "invariance=1, redundancy=0.01" in capsys.readouterr().out
    assert (tmp_path / "plots" / "correlations.png").stat().st_size > 1000


def test_the_probe_is_ridged_logistic_regression():
    rng = np.random.default_rng(0)
    labels = np.arange(12) % 3
    x = rng.normal(size=(12, 4)) + labels[:, None]

    def objective(flat):
        w, b = flat[:12].reshape(4, 3), flat[12:]
        z = x @ w + b
        log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
        return -log_p[np.arange(12), labels].sum() + 0.5 * (w**2).sum() + 0.005 * (b**2).sum()

    expected = minimize(objective, np.zeros(15), tol=1e-10).x
    w, b = jax.jit(probe, static_argnums=(2, 3))(jnp.asarray(x, jnp.float32), labels, 3, 2000)
    np.testing.assert_allclose(w, expected[:12].reshape(4, 3), atol=0.01)
    np.testing.assert_allclose(b - b.mean(), expected[12:] - expected[12:].mean(), atol=0.05)


def test_few_labels_are_of_every_class():
    labels = jnp.asarray(np.random.default_rng(0).integers(0, 4, 60))
    rows = np.asarray(few(jax.random.key(0), labels, 3, 4))
    assert len({*rows.tolist()}) == 12
    np.testing.assert_array_equal(labels[rows], np.repeat(np.arange(4), 3))
    assert (rows != np.asarray(few(jax.random.key(1), labels, 3, 4))).any()


def test_the_network_of_the_paper_has_its_sizes():
    config, _ = load("configs/self_supervised.py:full")
    model = self_supervised.model_of(config)
    image = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    params, state = jax.eval_shape(model.init, jax.random.key(0), image)
    assert params["projector"]["linear0"]["kernel"].shape == (2048, 8192)
    twin, _ = jax.eval_shape(
        lambda p, s, x: model.apply(p, s, x, key=None, train=True), params, state, image
    )
    assert twin.representation.shape == (2, 2048) and twin.embedding.shape == (2, 8192)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--config.network.encoder=resnet18"], "use views.kind=photographs"),
        (["--config.data.name=synthetic"], "takes grey images"),
        (["--config.data.num_images=20"], "the probe needs 5 of each"),
        (["--config.optimizer.vector_rate=0.5"], "would have no effect"),
        (["--config.evaluation.batch_size=500"], "more than the 120 images"),
    ],
)
def test_impossible_settings_are_named(tmp_path, capsys, flags, sentence):
    with pytest.raises(SystemExit) as stop:
        self_supervised.main(argv=[DEBUG, f"--workdir={tmp_path / 'w'}", *flags])
    assert stop.value.code == 2 and sentence in capsys.readouterr().err
    assert not (tmp_path / "w").exists()
