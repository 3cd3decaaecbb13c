"""Latent program networks and their in-context baseline."""

import functools
from typing import Any

import jax
import numpy as np

import jaxtrain
from jaxtrain import parallel
from jaxtta import lpn
from tests.contract.row import BATCH_SIZE, Row, key_only


def latent_program_network(axis_name: parallel.AxisName | None, searches: bool) -> jaxtrain.Core:
    block = lpn.Block(num_layers=1, num_heads=2, head_dim=4, mlp_factor=1.0)
    network = lpn.LPN(lpn.Config(3, 3, 4, block, block))
    options: dict[str, Any] = {}
    if searches:
        ascent = functools.partial(lpn.gradient_ascent, optimizer=lpn.ascent_adam(0.1))
        options["context"] = lpn.search_context(ascent, 1)
    loss = functools.partial(lpn.task_loss, network, **options)
    return lpn.training(network.init, loss, lpn.adamw(1e-3), axis_name=axis_name)


def in_context_baseline(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    block = lpn.Block(num_layers=1, num_heads=2, head_dim=4, mlp_factor=1.0)
    network = lpn.LPN(lpn.Config(3, 3, 4, block, block, variational=False, num_slots=3))
    loss = functools.partial(lpn.in_context_loss, network)
    return lpn.training(network.init, loss, lpn.adamw(1e-3), axis_name=axis_name)


def tasks(i: int, num_pairs: int = 3) -> Any:
    rng = np.random.default_rng(i)
    lead = (BATCH_SIZE, 1, num_pairs)

    def grids() -> lpn.Grid:
        shape = rng.integers(1, 4, (*lead, 2)).astype(np.int32)
        cells = rng.integers(0, 10, (*lead, 9)).astype(np.uint8)
        valid = np.arange(9) < shape.prod(-1, keepdims=True)
        return lpn.Grid(np.where(valid, cells, 0).astype(np.uint8), shape)

    pairs = lpn.Pairs(grids(), grids(), np.ones(lead, bool))
    index = np.arange(BATCH_SIZE, dtype=np.int32)[:, None]
    return (lpn.Tasks(pairs, index, np.ones((BATCH_SIZE, 1), np.float32)),)


def single_pair(core: jaxtrain.Core, state: Any) -> Any:
    return core.update(state, tasks(0, num_pairs=1), jax.random.key(0))


ROWS = [
    Row(
        "lpn",
        functools.partial(latent_program_network, searches=False),
        key_only,
        tasks,
        single_pair,
        "at least 2 pairs",
        random=True,
    ),
    Row(
        "lpn_in_context",
        in_context_baseline,
        key_only,
        tasks,
        single_pair,
        "at least 2 pairs",
    ),
    Row(
        "lpn_gradient_ascent",
        functools.partial(latent_program_network, searches=True),
        key_only,
        tasks,
        single_pair,
        "at least 2 pairs",
        random=True,
    ),
]
