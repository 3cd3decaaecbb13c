"""Systems of one file: a memory of sparse codes, and representations without labels."""

from typing import Any

import jax
import numpy as np

import jaxtrain
from jaxtrain import parallel
from jaxtta.sparsey import Rule, Sizes, sparsey
from tests.contract.row import BATCH_SIZE, FEATURES, Row, key_only


def memory(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    fields = np.array([[0, 1, 2, 3], [2, 3, 4, -1]])
    sizes = Sizes(2, 3, fields, num_labels=3, recurrent=True)
    rule = Rule(last_centre=0.6, moves_at=0.1, freeze=0.8, band=(0.1, 0.9))
    return sparsey(sizes, rule=rule, axis_name=axis_name)


def presented(i: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(i)
    return {
        "inputs": rng.random((BATCH_SIZE, FEATURES)) < 0.5,
        "labels": rng.integers(-1, 3, BATCH_SIZE).astype(np.int32),
        "first": rng.random(BATCH_SIZE) < 0.3,
    }


def too_few_inputs(core: jaxtrain.Core, state: Any) -> Any:
    batch = presented(0)
    return core.update(state, {**batch, "inputs": batch["inputs"][:, :3]}, jax.random.key(0))


ROWS = [
    Row(
        "sparsey",
        memory,
        key_only,
        presented,
        too_few_inputs,
        "features up to 4",
        random=True,
        exceptions={"order": "items are written one after the other"},
    ),
]
