"""Saved rules: what is read is what was written, and other files are refused."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxrl
from jaxrl.meta import rule_files
from jaxrl.meta.learned_rule import recurrent_rule

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


def rewritten(path, about=lambda about: None, drop=()):
    """The file with another description, or without some arrays."""
    arrays = {name: x for name, x in np.load(path).items() if name not in drop}
    said = json.loads(arrays["__about__"].tobytes())
    about(said)
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


def test_no_core_imports_the_files():
    """Only the face names them: what computes does not read or write."""
    package = Path(jaxrl.__file__).parent
    users = [path for path in package.rglob("*.py") if "rule_files" in path.read_text()]
    assert sorted(path.relative_to(package).as_posix() for path in users) == [
        "meta/__init__.py",
        "meta/rule_files.py",
    ]
