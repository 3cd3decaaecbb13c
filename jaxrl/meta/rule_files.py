"""Learned rules as files: one npz with the parameters by name and the settings that built them.

    rule, eta, about = rule_files.read("runs/first/rule.npz")

The one file of `jaxrl` that reads and writes; no core imports it.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrl.meta.learned_rule import SIGN, Rule, recurrent_rule
from jaxtrain import trees


def save(path: Path, eta: Any, settings: dict[str, Any]) -> None:
    """Writes a rule.

    Args:
      path: npz file.
      eta: parameters of `recurrent_rule(**settings)`.
      settings: arguments of `recurrent_rule`.
    """
    values = map(np.asarray, jax.tree.leaves(eta))
    arrays: dict[str, Any] = dict(zip(trees.path_names(eta), values, strict=True))
    about = json.dumps({"sign": SIGN, "rule": settings})
    np.savez(path, __about__=np.frombuffer(about.encode(), np.uint8), **arrays)


def read(path: str | Path) -> tuple[Rule, Any, dict[str, Any]]:
    """Reads a rule: the functions, its parameters, and what the file says about it.

    Raises:
      ValueError: not a file of `save`, or a rule of another sign convention.
    """
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(arrays.pop("__about__").tobytes())
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is not a learned rule: {error}") from error
    if about["sign"] != SIGN:
        raise ValueError(f"{path} holds a rule for an agent that must {about['sign']}, not {SIGN}")
    rule = recurrent_rule(**about["rule"])
    like = jax.eval_shape(rule.init, jax.random.key(0))
    names = trees.path_names(like)
    if missing := sorted(set(names) ^ set(arrays)):
        raise ValueError(f"{path} does not fit its own settings; differing arrays: {missing}")
    eta = jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in names])
    return rule, eta, about
