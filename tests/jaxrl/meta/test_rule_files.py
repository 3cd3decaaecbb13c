"""Saved rules and drifts: what is read is what was written, and other files are refused."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxrl
from jaxrl.drift import DriftWeights
from jaxrl.meta import rule_files
from jaxrl.meta.learned_rule import recurrent_rule
from tests import corrupted

SETTINGS = {"num_predictions": 2, "width": 3}


@pytest.fixture
def saved(tmp_path):
    """A file, and the parameters in it."""
    shapes = jax.eval_shape(recurrent_rule(**SETTINGS).init, jax.random.key(0))
    rng = np.random.default_rng(0)
    eta = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes)
    rule_files.save(tmp_path / "rule.npz", eta, SETTINGS)
    return tmp_path / "rule.npz", eta


def test_a_rule_is_read_as_it_was_written(saved):
    path, eta = saved
    rule, found, about = rule_files.read(path)
    jax.tree.map(np.testing.assert_array_equal, found, eta)
    assert about["rule"] == SETTINGS and "minimise" in about["sign"]
    assert rule.num_predictions == 2


def test_a_file_is_called_as_it_was_asked_for(saved, tmp_path):
    rule_files.save(tmp_path / "folder" / "rule", saved[1], SETTINGS)
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["rule"]


def rewritten(path, about=lambda about: None, drop=(), add=()):
    """The file with another description, without some arrays, or with some more."""
    arrays = {name: x for name, x in np.load(path).items() if name not in drop}
    said = json.loads(arrays["__about__"].tobytes())
    about(said)
    arrays |= {name: np.zeros(1) for name in add}
    arrays["__about__"] = np.frombuffer(json.dumps(said).encode(), np.uint8)
    np.savez(path, **arrays)
    return path


def test_rules_of_another_sign_or_shape_are_refused(saved, tmp_path):
    path, eta = saved
    with pytest.raises(ValueError, match="differing arrays: .*bias"):
        rule_files.read(rewritten(path, drop=("pi_hat/bias",)))
    with pytest.raises(ValueError, match="maximise it"):
        rule_files.read(rewritten(path, lambda about: about.update(sign="maximise it")))
    np.savez(tmp_path / "plain.npz", x=np.zeros(2))
    with pytest.raises(ValueError, match="not a learned rule"):
        rule_files.read(tmp_path / "plain.npz")
    with pytest.raises(ValueError, match="not a learned rule"):
        rule_files.read(tmp_path / "absent.npz")


def test_damaged_rules_are_refused_in_a_sentence(saved):
    path, refused = saved[0], 0
    for content in corrupted.copies(path.read_bytes(), 40):
        path.write_bytes(content)
        try:
            rule_files.read(path)
        except ValueError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
    assert refused > 20


@pytest.mark.parametrize(
    "name, x, said",
    [
        ("pi_hat/bias", np.full(1, np.nan, np.float32), r"not finite, in \['pi_hat/bias'\]"),
        ("pi_hat/bias", np.zeros(3, np.float32), r"differing arrays: \['pi_hat/bias'\]"),
        ("pi_hat/bias", np.zeros(1, int), r"differing arrays: \['pi_hat/bias'\]"),
    ],
)
def test_arrays_of_another_shape_or_without_numbers_are_named(name, x, said, saved):
    path, _ = saved
    stored = dict(np.load(path))
    assert stored[name].shape == (1,)
    np.savez(path, **stored | {name: x})
    with pytest.raises(ValueError, match=said):
        rule_files.read(path)


def test_no_core_imports_the_files():
    """Only the face names them: what computes does not read or write."""
    package = Path(jaxrl.__file__).parent
    users = [path for path in package.rglob("*.py") if "rule_files" in path.read_text()]
    assert sorted(path.relative_to(package).as_posix() for path in users) == [
        "meta/__init__.py",
        "meta/rule_files.py",
    ]


def test_a_drift_is_read_as_it_was_written(tmp_path):
    """It is the function of formula (10), computed here in NumPy, with the settings of the file."""
    rng = np.random.default_rng(1)
    weights = DriftWeights(rng.normal(size=(16, 3)), rng.normal(size=3))
    rule_files.save_drift(tmp_path / "drift.npz", weights, {"epsilon": 0.5, "xi": 0.01})
    drift, found, about = rule_files.read_drift(tmp_path / "drift.npz")
    jax.tree.map(np.testing.assert_array_equal, found, weights)
    assert about == {"drift": {"epsilon": 0.5, "xi": 0.01}}

    rho, advantage, progress = 2.0, 0.7, 0.3
    u = np.array([1 - rho, (1 - rho) ** 2, np.log(rho), np.log(rho) ** 2])
    x = np.concatenate([u, advantage * u])
    f = np.tanh(np.concatenate([x, progress * x]) @ weights.hidden) @ weights.output
    expected = max(0.0, 0.5 * advantage + f - 0.01)  # rho is 0.5 above 1 + epsilon
    assert expected > 0.1
    given = jax.numpy.asarray([np.log(rho), advantage, progress])
    np.testing.assert_allclose(drift(*given), expected, rtol=1e-5)


def test_files_of_another_kind_are_refused(saved, tmp_path):
    rule, _ = saved
    with pytest.raises(ValueError, match="rule.npz is not a learned drift"):
        rule_files.read_drift(rule)
    drift = tmp_path / "drift.npz"
    rule_files.save_drift(drift, DriftWeights(np.zeros((8, 2)), np.zeros(2)), {})
    with pytest.raises(ValueError, match="drift.npz is not a learned rule"):
        rule_files.read(drift)
    with pytest.raises(ValueError, match="differing arrays: .*hidden"):
        rule_files.read_drift(rewritten(drift, drop=("hidden",)))
    with pytest.raises(ValueError, match="differing arrays: .*bias"):
        rule_files.read_drift(rewritten(drift, add=("hidden", "bias")))
    drift.write_bytes(rule.read_bytes()[:-40])
    with pytest.raises(ValueError, match="not a learned drift"):
        rule_files.read_drift(drift)
