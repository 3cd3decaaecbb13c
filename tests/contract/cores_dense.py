"""Self-training of networks that classify pixels, and teachers that look ahead."""

from typing import Any

import jax
import numpy as np
import optax

import jaxtrain
from jaxtrain import parallel
from jaxtta.dense.fst import fst
from tests.contract.row import BATCH_SIZE, Row
from tests.jaxtta.images import tiny


def arguments() -> tuple[Any, ...]:
    return tiny.as_jax(tiny.variables(dtype=np.float32))


def pictures(i: int) -> dict[str, np.ndarray]:
    source, target = tiny.batches(2, BATCH_SIZE, seed=i, dtype=np.float32)
    labels = np.random.default_rng(i).integers(-1, tiny.CLASSES, source.shape[:-1])
    return {"inputs": source, "labels": labels.astype(np.int32), "target": target}


def with_future(i: int) -> dict[str, Any]:
    ahead = [pictures(j) for j in (i + 10, i + 20)]
    return {"now": pictures(i), "ahead": jax.tree.map(lambda *x: np.stack(x, 1), *ahead)}


def without_target(core: jaxtrain.Core, state: Any) -> Any:
    return core.update(state, {"inputs": pictures(0)["inputs"]}, jax.random.key(0))


def looking(kind: Any) -> Any:
    def build(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
        network, optimizer = tiny.network(axis_name, pixels=True), optax.sgd(1e-2, momentum=0.9)
        options = dict(num_steps=2, kind=kind, confidence=0.5, decay=0.9, axis_name=axis_name)
        return fst(network, optimizer, **options)

    return build


_ORDER = {"order": "random numbers belong to a place in the batch"}
ROWS = [
    Row(
        "fst",
        looking("deep"),
        arguments,
        pictures,
        without_target,
        "'target', but got",
        random=True,
        exceptions=_ORDER,
    ),
    Row(
        "fst_wide",
        looking("wide"),
        arguments,
        with_future,
        without_target,
        "'now' and 'ahead'",
        random=True,
        exceptions=_ORDER,
    ),
]
