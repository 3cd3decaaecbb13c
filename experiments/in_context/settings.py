"""From configs to the parts of an in-context learning run: data, tasks, learner, core, probes.

The literal tables here are everything that can be chosen.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from ml_collections import ConfigDict

from experiments.data.images import vectors
from experiments.data.images.vectors import Vectors
from jaxtrain import optimizers
from jaxtrain.core import Core, StepOutput
from jaxtrain.host import schedules
from jaxtrain.host.config import UsageError
from jaxtrain.host.sweep import overlay
from jaxtrain.parallel import AxisName
from jaxtrain.schedules.autolrs import autolrs
from jaxtta import in_context as icl
from jaxtta.in_context import Learner, Probe, Projection

SWEEPABLE = (
    "tasks.num_tasks",
    "tasks.bias",
    "tasks.bias_steps",
    "tasks.single_task",
    "optimizer.learning_rate",
    "optimizer.eps",
    "optimizer.eps_root",
    "optimizer.weight_decay",
)
Hyper = Mapping[str, Any]


class Sets:
    """The data sets of a run, loaded once: `base` for meta-training, `foreign` by name."""

    def __init__(self, config: ConfigDict) -> None:
        data = config.data
        options = dict(
            size=data.size,
            channels=data.channels,
            data_dir=data.data_dir,
            download=data.download,
        )
        self.base: Vectors = vectors.load(data.name, **options)
        self.foreign: dict[str, Vectors] = {}
        for name in config.evaluation.foreign:
            spec = name
            if name == "random":  # as many images as there are classes
                spec = f"random:0-{self.base.num_classes - 1}"
            loaded = vectors.load(spec, **options)
            if loaded.num_classes > self.base.num_classes:
                raise UsageError(
                    f"evaluation.foreign names {name!r} with {loaded.num_classes} classes, but "
                    f"{data.name!r} has {self.base.num_classes}; choose classes with {name}:0-"
                    f"{self.base.num_classes - 1}"
                )
            self.foreign[name] = loaded

    @functools.cached_property
    def training(self) -> icl.Data:
        """What meta-training draws from."""
        return icl.Data(jnp.asarray(self.base.x_train), jnp.asarray(self.base.y_train))

    @property
    def provenance(self) -> str:
        return ", ".join(x.provenance for x in (self.base, *self.foreign.values()))


def projection_of(config: ConfigDict, sets: Sets) -> Projection:
    """Structure of the tasks' linear maps."""
    n, shrink = sets.base.x_train.shape[1], config.tasks.shrink
    if shrink < 1 or n % shrink:
        raise UsageError(f"tasks.shrink={shrink} must be a divisor of the {n} inputs")
    return Projection(n, n // shrink, config.tasks.column_blocks, config.tasks.softmax)


def _optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Of the inner steps of an online learner or MAML."""
    if config.optimizer == "sgd":
        return optax.sgd(config.learning_rate)
    if config.optimizer == "adam":
        return optax.adam(config.learning_rate, eps_root=config.eps_root)
    raise UsageError(f"model inner optimizer {config.optimizer!r} is unknown; use sgd or adam")


def _transformer(n: int, c: int, length: int, config: ConfigDict) -> Learner:
    fields = config.to_dict()
    fields |= {"positions": fields["positions"] or None, "dtype": jnp.dtype(fields["dtype"])}
    return icl.transformer(n, c, length, **fields)


def _gradient(learned_init: bool) -> Callable[[int, int, int, ConfigDict], Learner]:
    def make(n: int, c: int, length: int, config: ConfigDict) -> Learner:
        sizes = dict(width=config.width, num_layers=config.num_layers)
        return icl.gradient_learner(n, c, _optimizer(config), learned_init=learned_init, **sizes)

    return make


# model.name -> the learner, from (inputs, classes, length, the config group of that name).
LEARNERS: Mapping[str, Callable[[int, int, int, ConfigDict], Learner]] = {
    "transformer": _transformer,
    "lstm": lambda n, c, _, config: icl.lstm(n, c, **config.to_dict()),
    "outer_product_lstm": lambda n, c, _, config: icl.outer_product_lstm(n, c, **config.to_dict()),
    "vsml": lambda n, c, _, config: icl.vsml(n, c, **config.to_dict()),
    "unsymmetric_vsml": lambda n, c, _, config: icl.unsymmetric_vsml(n, c, **config.to_dict()),
    "fast_weights": lambda n, c, _, config: icl.fast_weights(n, c, **config.to_dict()),
    "mlp": lambda n, c, _, config: icl.mlp(n, c, **config.to_dict()),
    "online": _gradient(learned_init=False),
    "maml": _gradient(learned_init=True),
}


def build_learner(config: ConfigDict, num_inputs: int, num_classes: int) -> Learner:
    """The learner that `config.model` describes.

    Raises:
      UsageError: an unknown name or an impossible value.
    """
    name = config.model.name
    if name not in LEARNERS:
        raise UsageError(f"model.name={name!r} is unknown; the models are {', '.join(LEARNERS)}")
    try:
        return LEARNERS[name](num_inputs, num_classes, config.tasks.length, config.model[name])
    except (ValueError, TypeError) as error:
        raise UsageError(f"model.{name}: {error}") from error


def base_key(seed: Any) -> Array:
    """Fixes all tasks of the run with this seed; the same whatever else is swept."""
    return jax.random.fold_in(jax.random.key(0), seed)


def build_core(
    config: ConfigDict, sets: Sets, learner: Learner, axis_name: AxisName | None = None
) -> Core:
    """Meta-training core of `config`, whose numbers may be traced.

    A batch is `(data set, places)`: all trials of a sweep share one data set, no checkpoint has it.
    """
    tasks, optimizer = config.tasks, config.optimizer
    draw = functools.partial(
        icl.sampler,
        base_key=base_key(config.seed),
        projection=projection_of(config, sets),
        num_classes=learner.num_classes,
        length=tasks.length,
        batch_size=config.batch_size,
        num_tasks=tasks.num_tasks,
        sequences_per_task=tasks.sequences_per_task,
        bias=tasks.bias,
        bias_draw=tasks.bias_draw,
        bias_steps=tasks.bias_steps,
        single_task=tasks.single_task,
        replace=sets.base.replace,
    )
    options = dict(
        max_norm=optimizer.clip_norm or None,
        accumulate=optimizer.accumulate,
        eps=optimizer.eps,
        eps_root=optimizer.eps_root,
        weight_decay=optimizer.weight_decay,
    )

    def build(rate: Array | optax.Schedule) -> Core:
        schedule = rate if callable(rate) else optax.constant_schedule(rate)
        made = optimizers.adamw(schedule, **options)
        on = lambda data: icl.meta_training(learner, draw(data), made, axis_name=axis_name)

        def update(state: Any, batch: Any, key: Array) -> tuple[Any, StepOutput]:
            data, places = batch
            return on(data).update(state, places, key)

        return Core(on(sets.training).init, update)

    search = schedules.autolrs_config(config)
    if search is None:
        return build(schedule_of(config))
    try:
        return autolrs(build, search)
    except ValueError as error:
        raise UsageError(str(error)) from error


def schedule_of(config: ConfigDict) -> optax.Schedule:
    """`optimizer.schedule` over the optimiser's steps, fewer than batches if it accumulates."""
    steps = max(1, config.num_steps // config.optimizer.accumulate)
    return schedules.from_config(overlay(config, {"num_steps": steps}))


def probes(config: ConfigDict, sets: Sets, learner: Learner) -> dict[str, Probe]:
    """What a run is meta-tested on: always with images that meta-training has not seen."""

    def data(x: Vectors) -> icl.Data:
        return icl.Data(jnp.asarray(x.x_test), jnp.asarray(x.y_test))

    base, replace = data(sets.base), sets.base.replace
    found = {
        "seen": Probe(base, seen=True, replace=replace),
        "unseen": Probe(base, replace=replace),
    }
    if config.tasks.shrink == 1:
        found["raw"] = Probe(base, raw=True, replace=replace)
    if config.evaluation.shuffled:
        found["shuffled"] = Probe(base, shuffled=True, replace=replace)
    for name, one in sets.foreign.items():
        found[name] = Probe(data(one), replace=one.replace)
    short = [
        name
        for name, probe in found.items()
        if not probe.replace and len(probe.data.labels) < config.tasks.length
    ]
    if short:
        raise UsageError(
            f"data set {short[0]!r} has fewer test images than tasks.length={config.tasks.length}"
        )
    return found


def meta_tester(
    config: ConfigDict, sets: Sets, learner: Learner, all_probes: Mapping[str, Probe]
) -> Callable[[Any, Array, Hyper, Mapping[str, icl.Data]], dict[str, icl.Curve]]:
    """`(params, key, swept values, data of the probes) -> {probe: curve}` of one trial."""
    options, projection = config.evaluation, projection_of(config, sets)
    seed, num_tasks = config.seed, config.tasks.num_tasks
    settings = dict(
        length=config.tasks.length,
        num_unseen=options.num_unseen,
        num_sequences=options.num_sequences,
        batch_size=options.batch_size,
    )

    def test(
        params: Any, key: Array, values: Hyper, data: Mapping[str, icl.Data]
    ) -> dict[str, icl.Curve]:
        return icl.meta_test(
            learner,
            params,
            key,
            base_key(values.get("seed", seed)),
            {name: probe._replace(data=data[name]) for name, probe in all_probes.items()},
            projection,
            num_tasks=values.get("tasks.num_tasks", num_tasks),
            **settings,
        )

    return test
