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
import pytest
from flax import linen as nn

import jaxtrain
from jaxrl import actor_critic, drift, envs, evolution, learned_objective, learned_rule, lifetime
from jaxrl.networks import mlp as actor_critic_mlp
from jaxtrain import lr_control, parallel, trees
from jaxtrain.nets import Classified, from_linen
from jaxtta import (
    adaptation,
    deyo,
    entropy,
    feature_alignment,
    hebbian,
    in_context,
    itta,
    label_shift,
    lame,
    lpn,
    mean_teacher,
    memo,
    nearest,
    norm,
    petal,
    prompts,
    rmt,
    roid,
    rotta,
    sharpness,
    synthetic_domain,
    vida,
)
from tests.jaxtta.images import tiny

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

    Rows named in `SLOW` are checked with `-m slow` only: another row runs the same code by default.
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


def autolrs(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    """Two candidates of one update, then two updates at the better rate, and so on."""
    build = lambda rate: jaxtrain.supervised(
        from_linen(MLP()), cross_entropy, optax.adam(rate), axis_name=axis_name
    )
    return lr_control.autolrs(build, lr_control.AutoLRSConfig(1e-3, 1e-1, 2, 2, k=2, ratio=2))


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


def key_only() -> tuple[Any, ...]:
    return (jax.random.key(0),)


# --- In-context learning --------------------------------------------------------------------------


def in_context_training(
    axis_name: parallel.AxisName | None, learner: in_context.Learner
) -> jaxtrain.Core:
    rng = np.random.default_rng(0)
    data = in_context.Data(
        jnp.asarray(rng.normal(size=(10, 3)), jnp.float32), jnp.arange(10, dtype=jnp.int32) % 2
    )
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
    # Not Adam: biases of keys have a gradient of exactly 0, and Adam makes steps of its rounding.
    return in_context.meta_training(learner, sample, optax.sgd(0.1), axis_name=axis_name)


TRANSFORMER = in_context.transformer(
    3, 2, 4, num_layers=1, width=8, num_heads=2, key_size=4, layout="paired"
)


def places(i: int) -> np.ndarray:
    return np.arange(BATCH_SIZE, dtype=np.int32)


def places_as_matrix(core: jaxtrain.Core, state: Any) -> Any:
    return core.update(state, places(0).reshape(4, 4), jax.random.key(0))


# --- Reinforcement learning -----------------------------------------------------------------------


def reinforcement_learner(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    """Proximal policy optimisation with everything that is carried from update to update."""
    env = envs.pendulum()
    weights = drift.random_weights(jax.random.key(3), 4, temporal=True)
    return actor_critic.ppo(
        env,
        actor_critic_mlp(env.action, (4,)),
        actor_critic.adam(1e-3),
        num_workers=BATCH_SIZE,
        num_steps=6,
        num_epochs=2,
        num_minibatches=1,
        drift=drift.learned(weights),
        horizon=10,
        normalise_observations=True,
        scale_rewards=True,
        axis_name=axis_name,
    )


# jax.debug_key_reuse takes keys that a scan under vmap runs over for used ones: test_battery.
SCANNED_UNDER_VMAP = {"keys": "the checker refuses every vmap of a scan over keys"}


def workers(i: int) -> np.ndarray:
    return np.arange(BATCH_SIZE, dtype=np.int32)


def no_workers(core: jaxtrain.Core, state: Any) -> Any:
    return core.update(state, {}, jax.random.key(0))


def evolution_strategy(axis_name: parallel.AxisName | None, shape: Any) -> jaxtrain.Core:
    def fitness(params: jax.Array, key_task: jax.Array, key_run: jax.Array) -> jax.Array:
        target = jax.random.normal(key_task, (3,))
        return -((params - target) ** 2).sum() + 0.1 * jax.random.normal(key_run)

    return evolution.evolution(
        lambda key: jax.random.normal(key, (3,)),
        evolution.each(fitness),
        evolution.decaying_adam(0.1),
        num_pairs=BATCH_SIZE,
        sigma_decay=0.9,
        shape=shape,
        axis_name=axis_name,
    )


def learned_objectives(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    family = envs.FAMILIES["debug"]._replace(lifetime=(1, 3))
    rule = learned_rule.recurrent_rule(2, width=3, embed_width=2, temporal=True)
    body, rates = lifetime.tabular(family.shape.num_states), lifetime.sgd(1.0, 1.0)
    env = envs.grid_world(family.shape)
    setting = lifetime.Setting(env, rule, body, rates, num_workers=2, num_steps=3)

    def life(key: jax.Array) -> Any:
        key_level, key_length = jax.random.split(key)
        return envs.sample_level(family, key_level), envs.sample_lifetime(family, key_length)

    return learned_objective.meta_gradient(
        setting,
        life,
        optax.adam(1e-3),
        num_lifetimes=BATCH_SIZE,
        num_updates=2,
        num_chunks=2,
        axis_name=axis_name,
    )


# --- Test-time adaptation of image classifiers ----------------------------------------------------


def classifier_args() -> tuple[Any, ...]:
    return tiny.as_jax(tiny.variables(dtype=np.float32))


def images(i: int) -> dict[str, np.ndarray]:
    return {"inputs": tiny.batches(1, BATCH_SIZE, seed=i, dtype=np.float32)[0]}


def with_labels(core: jaxtrain.Core, state: Any) -> Any:
    return core.update(state, images(0) | {"labels": np.zeros(BATCH_SIZE)}, jax.random.key(0))


def adapter(
    name: str,
    build: Callable[..., jaxtrain.Core],
    *given: Any,
    random: bool = False,
    **options: Any,
) -> Row:
    """The row of `build(apply_fn, *given, **options)`."""

    def make(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
        return build(tiny.network(axis_name), *given, axis_name=axis_name, **options)

    exceptions = {"order": "random numbers belong to a place in the batch"} if random else {}
    error = "keep labels outside"
    return Row(
        name, make, classifier_args, images, with_labels, error, random, exceptions=exceptions
    )


def resetting(apply_fn: Any, axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    tent = entropy.tent(apply_fn, optax.adam(1e-2), axis_name=axis_name)
    return adaptation.reset_every(adaptation.rescored(tent, apply_fn), 2)


def shifted(apply_fn: Any, axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    params, _ = classifier_args()
    head, prior = label_shift.head_of(params), jnp.arange(1.0, 1 + tiny.CLASSES) / 10
    adapter = label_shift.identity(prior, head, 3, jax.random.key(0))
    adapter = jax.tree.map(lambda x: x + 0.1, adapter)._replace(prior=prior)
    apply_fn = label_shift.with_adapter(apply_fn, adapter)
    tent = entropy.tent(apply_fn, optax.adam(1e-2), axis_name=axis_name)
    return label_shift.following(tent, apply_fn, tiny.CLASSES, axis_name=axis_name)


def jitter(x: jax.Array, key: jax.Array, keys: jax.Array) -> jax.Array:
    rows = jax.vmap(lambda k: jax.random.normal(k, x.shape[1:]))(keys)
    return x * (1 + 0.1 * jax.random.normal(key)) + 0.1 * rows


def single_images(apply_fn: Any, *args: Any, **options: Any) -> jaxtrain.Core:
    """MEMO, whose network has no device axis."""
    del apply_fn
    return memo.memo(tiny.network(), *args, **options)


def with_pairs(apply_fn: Any, optimizer: Any, **options: Any) -> jaxtrain.Core:
    """ViDA with pairs of random matrices beside both dense layers."""
    params = classifier_args()[0]
    where = lambda path: path[0].startswith("dense")
    new = vida.new_adapters(jax.random.key(0), params, high_rank=2, where=where)
    new = jax.tree.map(lambda x: x + 0.1, new)
    return vida.vida(apply_fn, optimizer, optax.sgd(1e-3), new, **options)


def shaken(x: jax.Array, key: jax.Array) -> jax.Array:
    return x * (1 + 0.2 * jax.random.normal(key, x.shape))


def noisy(x: jax.Array, keys: jax.Array) -> jax.Array:
    return x + 0.1 * jax.vmap(lambda k: jax.random.normal(k, x.shape[1:]))(keys)


def in_stages(params: Any, state: Any, x: jax.Array, *, after: Any = None, **_: Any) -> Any:
    """The tiny network without its norms, as ITTA takes it.

    Softplus: behind ReLU many numbers are exactly 0, where rounding decides a block's gradient.
    """
    for k in (0, 1):
        x = nn.softplus(x @ params[f"dense{k + 1}"]["kernel"])
        x = x if after is None else after(k, x)
    features, head = x.mean((1, 2)), params["head"]
    return Classified(features @ head["kernel"] + head["bias"][None], features), state


def itta_blocks(apply_fn: Any, axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    return itta.itta(in_stages, SGD, (2, 4, 3), weight=0.5, axis_name=axis_name)


def itta_training(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    return itta.training(in_stages, SGD, SGD, (2, 4, 3), axis_name=axis_name)


def labelled_images(i: int) -> dict[str, np.ndarray]:
    return images(i) | {"labels": labelled(i)["labels"]}


def without_labels(core: jaxtrain.Core, state: Any) -> Any:
    return core.update(state, images(0), jax.random.key(0))


SGD = optax.sgd(1e-2, momentum=0.9)
ADAPTERS = [
    adapter("batch_norm", norm.batch_norm),
    adapter("alpha_norm", norm.alpha_norm, prior_strength=16.0),
    adapter("ema_norm", norm.ema_norm),
    adapter("core", norm.core, optax.adam(1e-2), 0.3),
    adapter("lame", lame.lame),
    adapter("tent", entropy.tent, optax.adam(1e-2)),
    adapter("tent_reset_every", resetting),
    adapter("open_set", entropy.open_set, optax.adam(1e-2)),
    adapter("eata", entropy.eata, SGD, tiny.CLASSES, threshold=1.0, redundancy=0.9),
    adapter("sar", sharpness.sar, SGD, tiny.CLASSES, threshold=1.0),
    adapter(
        "deyo",
        deyo.deyo,
        SGD,
        tiny.CLASSES,
        threshold=1.1,
        min_difference=0.02,
        num_patches=2,
        random=True,
    ),
    adapter("label_shift", shifted),
    adapter("sda", synthetic_domain.sda, noisy, random=True),
    adapter("itta", itta_blocks, random=True),
    Row(
        "itta_training",
        itta_training,
        classifier_args,
        labelled_images,
        without_labels,
        "'inputs' and 'labels'",
        random=True,
        exceptions={"order": "random numbers belong to a place in the batch"},
    ),
    adapter("nhl", hebbian.nhl, SGD, layer=hebbian.FirstLayer(("dense1",)), rate=0.1),
    adapter(
        "cafa",
        feature_alignment.cafa,
        optax.adam(1e-2),
        feature_alignment.ClassGaussians(
            jnp.asarray(
                np.random.default_rng(0).random((tiny.CLASSES, tiny.FEATURES)), jnp.float32
            ),
            jnp.eye(tiny.FEATURES)[None],
        ),
    ),
    adapter(
        "adanpc",
        nearest.adanpc,
        tiny.CLASSES,
        np.random.default_rng(0).random((9, tiny.FEATURES)).astype(np.float32),
        np.arange(9) % tiny.CLASSES,
        num_neighbors=3,
        temperature=0.01,
        min_confidence=0.36,
        growth=20,
    ),
    adapter("roid", roid.roid, SGD, tiny.CLASSES, augmentation=jitter, random=True),
    adapter(
        "cotta",
        mean_teacher.cotta,
        SGD,
        num_augmentations=2,
        min_confidence=1.1,
        augmentation=jitter,
        random=True,
    ),
    adapter(
        "rmt",
        rmt.rmt,
        SGD,
        np.abs(tiny.variables()[0]["head"]["kernel"].T).astype(np.float32),
        sample_source=rmt.replay_of(images(99)["inputs"], np.arange(BATCH_SIZE) % tiny.CLASSES),
        augmentation=jitter,
        random=True,
    ),
    adapter(
        "petal",
        petal.petal,
        SGD,
        jax.tree.map(lambda x: np.full_like(x, 0.01), tiny.variables(dtype=np.float32)[0]),
        prior_weight=1e-3,
        num_augmentations=2,
        min_confidence=1.1,
        augmentation=jitter,
        random=True,
    ),
    adapter(
        "rotta",
        rotta.rotta,
        SGD,
        tiny.CLASSES,
        images(0)["inputs"].shape[1:],
        capacity=8,
        update_every=12,
        augmentation=jitter,
        random=True,
    ),
    adapter(
        "memo",
        single_images,
        SGD,
        num_views=3,
        num_steps=2,
        rows_at_once=4,
        view=shaken,
        random=True,
    ),
    adapter(
        "vdp",
        prompts.vdp,
        SGD,
        images(0)["inputs"].shape[1:],
        detection_threshold=1e-3,
        augmentation=jitter,
        random=True,
    ),
    adapter("vida", with_pairs, SGD, num_augmentations=2, augmentation=jitter, random=True),
]


CORES = [
    *ADAPTERS,
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
    Row(
        "in_context_transformer",
        functools.partial(in_context_training, learner=TRANSFORMER),
        key_only,
        places,
        places_as_matrix,
        "places",
        random=True,
    ),
    Row(
        "in_context_lstm",
        functools.partial(in_context_training, learner=in_context.lstm(3, 2, width=4)),
        key_only,
        places,
        places_as_matrix,
        "places",
        random=True,
    ),
    Row(
        "ta_lpo",
        reinforcement_learner,
        key_only,
        workers,
        no_workers,
        "places of the workers",
        random=True,
        exceptions=SCANNED_UNDER_VMAP,
    ),
    Row(
        "evolution",
        functools.partial(evolution_strategy, shape=evolution.pair_rank),
        key_only,
        workers,
        no_workers,
        "places of the pairs",
        random=True,
        exceptions={
            "keys": "noise is made again from its keys, and a pair shares those of its run"
        },
    ),
    Row(
        "evolution_centred_rank",
        functools.partial(evolution_strategy, shape=evolution.centred_rank),
        key_only,
        workers,
        no_workers,
        "places of the pairs",
        random=True,
        exceptions={
            "keys": "noise is made again from its keys, and a pair shares those of its run"
        },
    ),
    Row(
        "ta_lpg_meta_gradient",
        learned_objectives,
        key_only,
        workers,
        no_workers,
        "places of the lifetimes",
        random=True,
        exceptions=SCANNED_UNDER_VMAP,
    ),
]

SLOW = {
    "lpn_in_context",
    "in_context_transformer",
    "ta_lpo",
    "evolution_centred_rank",
    "ta_lpg_meta_gradient",
    *(row.name for row in ADAPTERS if row.name not in ("batch_norm", "tent")),
}
MARKED = [
    pytest.param(row, marks=pytest.mark.slow if row.name in SLOW else (), id=row.name)
    for row in CORES
]
