"""Meta-training of in-context learners."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxtrain
from jaxtrain import parallel
from jaxtta import in_context
from tests.contract.row import BATCH_SIZE, Row, places


def in_context_training(
    axis_name: parallel.AxisName | None, learner: in_context.Learner
) -> jaxtrain.Core:
    def on(data: in_context.Data) -> jaxtrain.Core:
        sample = in_context.sampler(
            data,
            jax.random.key(1),
            in_context.Projection(3, 3),
            2,
            length=4,
            batch_size=BATCH_SIZE,
            num_tasks=8,
            sequences_per_task=2,
            bias=0.5,
            bias_steps=3,
        )
        # Not Adam: biases of keys have a gradient of 0, and Adam makes steps of its rounding.
        return in_context.meta_training(learner, sample, optax.sgd(0.1), axis_name=axis_name)

    return jaxtrain.holding(on)


def data_and_key() -> tuple[Any, ...]:
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(10, 3)), jnp.float32)
    return in_context.Data(inputs, jnp.arange(10, dtype=jnp.int32) % 2), jax.random.key(0)


TRANSFORMER = in_context.transformer(
    3, 2, 4, num_layers=1, width=8, num_heads=2, key_size=4, layout="paired"
)


def places_as_matrix(core: jaxtrain.Core, state: Any) -> Any:
    return core.update(state, places(0).reshape(4, 4), jax.random.key(0))


ROWS = [
    Row(
        "in_context_transformer",
        functools.partial(in_context_training, learner=TRANSFORMER),
        data_and_key,
        places,
        places_as_matrix,
        "places",
        random=True,
    ),
    Row(
        "in_context_lstm",
        functools.partial(in_context_training, learner=in_context.lstm(3, 2, width=4)),
        data_and_key,
        places,
        places_as_matrix,
        "places",
        random=True,
    ),
]
