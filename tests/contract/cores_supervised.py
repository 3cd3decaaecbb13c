"""Supervised training, the combinators of cores, and closed-loop learning rates."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import jaxtrain
from jaxtrain import parallel
from jaxtrain.nets import from_linen
from jaxtrain.schedules.autolrs import autolrs as searching_rates
from jaxtrain.schedules.autolrs_phases import AutoLRSConfig
from tests.contract.row import BATCH_SIZE, CLASSES, FEATURES, Row


class MLP(nn.Module):
    """Two layers with dropout; rate 0 needs no randomness."""

    dropout: float = 0.0

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        hidden = nn.relu(nn.Dense(8)(inputs))
        hidden = nn.Dropout(self.dropout, deterministic=not train)(hidden)
        return nn.Dense(CLASSES)(hidden)


def labelled(i: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(i)
    return {
        "inputs": rng.normal(size=(BATCH_SIZE, FEATURES)).astype(np.float32),
        "labels": rng.integers(0, CLASSES, BATCH_SIZE).astype(np.int32),
    }


def cross_entropy(logits: jax.Array, batch: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
    return losses.mean(), {"accuracy": (logits.argmax(-1) == batch["labels"]).mean()}


def mlp(axis_name: parallel.AxisName | None, dropout: float = 0.0) -> jaxtrain.Core:
    model = from_linen(MLP(dropout))
    return jaxtrain.supervised(model, cross_entropy, optax.adam(1e-2), axis_name=axis_name)


def training_args() -> tuple[Any, ...]:
    return jax.random.key(0), jax.tree.map(jnp.asarray, labelled(0))


def no_inputs(core: jaxtrain.Core, state: Any) -> Any:
    return core.update(state, {"labels": labelled(0)["labels"]}, jax.random.key(0))


def autolrs(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    """Two candidates of one update, then two updates at the better rate, and so on."""
    build = lambda rate: jaxtrain.supervised(
        from_linen(MLP()), cross_entropy, optax.adam(rate), axis_name=axis_name
    )
    return searching_rates(build, AutoLRSConfig(1e-3, 1e-1, 2, 2, k=2, ratio=2))


ROWS = [
    Row("supervised", mlp, training_args, labelled, no_inputs, "'inputs'"),
    Row(
        "supervised_dropout",
        lambda axis_name: mlp(axis_name, dropout=0.5),
        training_args,
        labelled,
        no_inputs,
        "'inputs'",
        random=True,
        exceptions={
            "order": "a dropout mask belongs to a place in the batch",
            "devices": "every shard draws its own dropout mask",
            "unchecked_shard_map": "every shard draws its own dropout mask",
        },
    ),
    Row(
        "with_ema",
        lambda axis_name: jaxtrain.with_ema(mlp(axis_name), 0.9),
        training_args,
        labelled,
        no_inputs,
        "'inputs'",
    ),
    Row(
        "repeat",
        lambda axis_name: jaxtrain.repeat(mlp(axis_name), 2),
        training_args,
        labelled,
        no_inputs,
        "'inputs'",
    ),
    Row("autolrs", autolrs, training_args, labelled, no_inputs, "'inputs'"),
]
