"""Learned rules and drifts as files: one npz with the arrays by name and the settings they need.

    rule, eta, about = rule_files.read("runs/first/rule.npz")
    drift, weights, about = rule_files.read_drift("runs/second/drift.npz")

The one file of `jaxrl` that reads and writes; no core imports it.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrl.drift import Drift, DriftWeights, learned, zero_weights
from jaxrl.meta.learned_rule import SIGN, Rule, recurrent_rule
from jaxtrain import npz, trees
from jaxtrain.replacing import replacing


def save(path: str | Path, eta: Any, settings: dict[str, Any]) -> None:
    """Writes a rule.

    Args:
      path: npz file.
      eta: parameters of `recurrent_rule(**settings)`.
      settings: arguments of `recurrent_rule`.
    """
    _write(path, eta, {"sign": SIGN, "rule": settings})


def read(path: str | Path) -> tuple[Rule, Any, dict[str, Any]]:
    """Reads a rule: the functions, its parameters, and what the file says about it.

    Raises:
      ValueError: not a file of `save`, a damaged one, or a rule of another sign convention.
    """
    arrays, about = _parts(path, "rule")
    if about.get("sign") != SIGN:
        raise ValueError(
            f"{path} holds a rule for an agent that must {about.get('sign')}, not {SIGN}"
        )
    with _one_sentence(path, "rule"):
        rule = recurrent_rule(**about["rule"])
        like = jax.eval_shape(rule.init, jax.random.key(0))
    return rule, _tree(path, arrays, like), about


def save_drift(path: str | Path, weights: DriftWeights, settings: dict[str, Any]) -> None:
    """Writes a drift.

    Args:
      path: npz file.
      weights: of `learned(weights, **settings)`.
      settings: the other arguments of `jaxrl.drift.learned`; `{}` for its defaults.
    """
    _write(path, weights, {"drift": settings})


def read_drift(path: str | Path) -> tuple[Drift, DriftWeights, dict[str, Any]]:
    """Reads a drift: the function for `ppo(..., drift=...)`, its weights, what the file says of it.

    Raises:
      ValueError: not a file of `save_drift`, or a damaged one.
    """
    arrays, about = _parts(path, "drift")
    width = arrays["output"].size if "output" in arrays else 1
    is_temporal = "hidden" in arrays and arrays["hidden"].shape[:1] == (16,)
    like = jax.eval_shape(lambda: zero_weights(width, temporal=is_temporal))
    weights = _tree(path, arrays, like)
    with _one_sentence(path, "drift"):
        return learned(weights, **about["drift"]), weights, about


def _write(path: str | Path, tree: Any, about: dict[str, Any]) -> None:
    values = map(np.asarray, jax.tree.leaves(tree))
    arrays: dict[str, Any] = dict(zip(trees.path_names(tree), values, strict=True))
    said = np.frombuffer(json.dumps(about).encode(), np.uint8)
    with replacing(path) as part, part.open("wb") as file:  # NumPy would add a suffix
        np.savez(file, __about__=said, **arrays)


@contextlib.contextmanager
def _one_sentence(path: str | Path, kind: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # A file can be wrong in many ways.
        said = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is not a learned {kind}: {said}") from error


def _parts(path: str | Path, kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a file, and what it says about them, which names `kind`."""
    with _one_sentence(path, kind):
        with npz.opened(Path(path)) as (held, get):
            arrays = {name: get(name) for name in held}
        about = json.loads(arrays.pop("__about__").tobytes())
        about[kind], about.keys()
    return arrays, about


def _tree(path: str | Path, arrays: dict[str, np.ndarray], like: Any) -> Any:
    """The arrays in the structure of `like`, if they have its shapes and are finite numbers."""
    found = {name: (x.shape, x.dtype.kind) for name, x in arrays.items()}
    expected = {name: (shape, "f") for name, (shape, _) in trees.describe(like).items()}
    if odd := sorted(n for n in {*found, *expected} if found.get(n) != expected.get(n)):
        raise ValueError(f"{path} does not fit its own settings; differing arrays: {odd}")
    if bad := sorted(name for name, x in arrays.items() if not np.isfinite(x).all()):
        raise ValueError(f"{path} holds values that are not finite, in {bad}")
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in expected])
