"""Learners of trajectories. What they draw, they draw with their batches."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxtrain
from jaxrl.offline.beso import DenoisingTransformer, beso
from jaxrl.offline.cloning import cloning, network
from jaxrl.offline.hilp import Hilp, hilp
from jaxtrain import parallel
from jaxtrain.optimizers import adam
from tests.contract.row import BATCH_SIZE, Row, key_only

STATE, ACTION, LATENT = 3, 2, 4


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=(BATCH_SIZE, *shape)).astype(np.float32)


def steps(i: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(i)
    return {
        "observation": normal(rng, STATE),
        "action": normal(rng, ACTION),
        "next_observation": normal(rng, STATE),
        "goal": normal(rng, STATE),
        "is_goal": rng.random(BATCH_SIZE) < 0.2,
        "skill": normal(rng, LATENT),
    }


def demonstrated(i: int) -> dict[str, Any]:
    rng = np.random.default_rng(i)
    inputs = {"observation": normal(rng, STATE), "goal": normal(rng, STATE)}
    return {"inputs": inputs, "action": normal(rng, ACTION)}


def noised(i: int) -> dict[str, Any]:
    rng = np.random.default_rng(i)
    actions = {"action": normal(rng, 2, ACTION), "noise": normal(rng, 2, ACTION)}
    states = {"observation": normal(rng, 2, STATE), "goal": normal(rng, 1, STATE)}
    sigma = rng.uniform(0.1, 1.0, BATCH_SIZE).astype(np.float32)
    return {"inputs": {"sigma": sigma, **actions, **states}}


def denoiser(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    network = DenoisingTransformer(ACTION, width=4, num_layers=1, num_heads=2)
    return jaxtrain.with_ema(beso(network, adam(1e-3), axis_name=axis_name), 0.9)


def skills(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    return hilp(Hilp(STATE, ACTION, LATENT, (5,)), adam(1e-3), axis_name=axis_name)


def cloner(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    return cloning(network(ACTION, (5,)), adam(1e-3), axis_name=axis_name)


def first(batch: Any) -> Any:
    return lambda: (jax.random.key(0), jax.tree.map(jnp.asarray, batch(0)))


def no_goal(core: jaxtrain.Core, state: Any) -> Any:
    batch = {name: x for name, x in steps(0).items() if name != "goal"}
    return core.update(state, batch, jax.random.key(0))


def no_inputs(core: jaxtrain.Core, state: Any) -> Any:
    return core.update(state, {"action": steps(0)["action"]}, jax.random.key(0))


ROWS = [
    Row("hilp", skills, key_only, steps, no_goal, "a dict with observation"),
    Row("beso", denoiser, first(noised), noised, no_inputs, "'inputs'"),
    Row("cloning", cloner, first(demonstrated), demonstrated, no_inputs, "'inputs'"),
]
