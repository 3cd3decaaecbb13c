"""Test-time adaptation reduced to its mechanisms."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxtrain
from jaxtrain import parallel, trees
from tests.contract.cores_supervised import labelled
from tests.contract.row import BATCH_SIZE, CLASSES, FEATURES, Row


class AdaptState(NamedTuple):
    """Adapted and frozen parameters, and the momentum of the adapted ones."""

    params: Any
    frozen: Any
    momentum: Any


def entropy_minimiser(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    """Normalises with batch statistics and lowers the entropy of the confident predictions.

    Has what makes adapters hard to run on several devices: statistics over the batch inside the
    differentiated function, selection with different counts per device, momentum, and results per
    example.
    """

    def init(params: Any) -> AdaptState:
        copied = jax.tree.map(jnp.copy, params)
        selected, rest = trees.partition(copied, lambda names: "norm" in names)
        return AdaptState(selected, rest, jax.tree.map(jnp.zeros_like, selected))

    def update(state: AdaptState, batch: Any, key: jax.Array) -> Any:
        inputs = batch["inputs"]
        if inputs.shape[1:] != (FEATURES,):
            raise ValueError(f"inputs need {FEATURES} features but have shape {inputs.shape}.")

        def loss(selected: Any) -> Any:
            params = trees.merge(selected, state.frozen)
            mean = parallel.pmean(inputs.mean(0, keepdims=True), axis_name)
            variance = parallel.pmean(((inputs - mean) ** 2).mean(0, keepdims=True), axis_name)
            normal = (inputs - mean) / jnp.sqrt(variance + 1e-5)
            features = normal * params["norm"]["scale"][None] + params["norm"]["bias"][None]
            logits = features @ params["head"]["kernel"]
            log_p = jax.nn.log_softmax(logits)
            entropy = -(jnp.exp(log_p) * log_p).sum(-1)
            sure = entropy < 0.8 * np.log(CLASSES)
            return parallel.masked_mean(entropy, sure, axis_name), (logits, entropy, sure)

        (value, (logits, entropy, sure)), grads = parallel.local_value_and_grad(
            loss, axis_name, has_aux=True
        )(state.params)
        value, grads = parallel.pmean((value, grads), axis_name)
        momentum = jax.tree.map(lambda m, g: 0.9 * m + g, state.momentum, grads)
        params = jax.tree.map(lambda p, m: p - 0.1 * m, state.params, momentum)
        num_selected = parallel.psum(sure.sum().astype(jnp.float32), axis_name)
        metrics = {"loss": value, "num_selected": num_selected}
        outputs = {"logits": logits, "entropy": entropy}
        return AdaptState(params, state.frozen, momentum), jaxtrain.StepOutput(metrics, outputs)

    return jaxtrain.Core(init, update)


def source_params() -> tuple[Any, ...]:
    kernel = 2 * jax.random.normal(jax.random.key(1), (FEATURES, CLASSES))
    norm = {"scale": jnp.ones(FEATURES), "bias": jnp.zeros(FEATURES)}
    return ({"norm": norm, "head": {"kernel": kernel}},)


def unlabelled(i: int) -> dict[str, np.ndarray]:
    return {"inputs": 1.0 + labelled(i)["inputs"]}


def too_few_features(core: jaxtrain.Core, state: Any) -> Any:
    return core.update(state, {"inputs": np.zeros((BATCH_SIZE, 2), np.float32)}, jax.random.key(0))


ROWS = [
    Row(
        "entropy_minimiser",
        entropy_minimiser,
        source_params,
        unlabelled,
        too_few_features,
        "need 6 features",
    ),
    Row(
        "episodic",
        lambda axis_name: jaxtrain.episodic(jaxtrain.repeat(entropy_minimiser(axis_name), 2)),
        source_params,
        unlabelled,
        too_few_features,
        "need 6 features",
    ),
]
