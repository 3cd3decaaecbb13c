"""The table of all cores that keep the contract; `battery.py` says what that is.

A new method is one more `Row`. Keep it tiny: a row costs a few compilations in every test run.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import jaxtrain
from jaxtrain import parallel, trees
from jaxtrain.nets import from_linen
from jaxtta import lpn

BATCH_SIZE = 16
FEATURES = 6
CLASSES = 4


class Row(NamedTuple):
    """One core and what the battery needs to run it.

    Attributes:
      name: shown in test names.
      build: `axis_name -> Core`; called again for every execution mode.
      init_args: makes the arguments of `Core.init`, JAX arrays the core must not take over.
      batch: `i -> batch`; leaves are NumPy arrays `[batch, ...]`, batch divisible by 8.
      misuse: `core, state -> ...`, a call with wrong shapes that must raise `error`.
      error: regular expression that the message of that ValueError matches.
      random: whether results are claimed to depend on the key.
      exceptions: name of a check -> the reason why this core cannot pass it.
    """

    name: str
    build: Callable[[parallel.AxisName | None], jaxtrain.Core]
    init_args: Callable[[], tuple[Any, ...]]
    batch: Callable[[int], Any]
    misuse: Callable[[jaxtrain.Core, Any], Any]
    error: str
    random: bool = False
    exceptions: dict[str, str] = {}


# --- Supervised training --------------------------------------------------------------------------


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


# --- Test-time adaptation, reduced to its mechanisms ----------------------------------------------


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


# --- Latent program network -----------------------------------------------------------------------


def latent_program_network(axis_name: parallel.AxisName | None, searches: bool) -> jaxtrain.Core:
    block = lpn.Block(num_layers=1, num_heads=2, head_dim=4, mlp_factor=1.0)
    network = lpn.LPN(lpn.Config(3, 3, 4, block, block))
    options: dict[str, Any] = {}
    if searches:
        ascent = functools.partial(lpn.gradient_ascent, learning_rate=0.1, optimizer="adam")
        options["context"] = lpn.search_context(ascent, 1)
    loss = functools.partial(lpn.task_loss, network, **options)
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


def key_only() -> tuple[Any, ...]:
    return (jax.random.key(0),)


CORES = [
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
        "lpn_gradient_ascent",
        functools.partial(latent_program_network, searches=True),
        key_only,
        tasks,
        single_pair,
        "at least 2 pairs",
        random=True,
    ),
]
