"""The rows of the table: what adapts a source model to pictures without labels, and how it is used.

`mean_teacher` is FST without a look ahead. `faster_teacher` moves as far per step as one that looks
K times, and `longer_teacher` takes K + 1 times the steps, which costs what `fst_d` costs.
`random_future` is the control: its virtual steps have the length of true ones and no direction.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from ml_collections import ConfigDict

from jaxtrain import trees
from jaxtrain.core import Core, StepOutput
from jaxtrain.host import schedules
from jaxtrain.nets.classifier import ClassifierFn
from jaxtrain.nets.norm import BATCH, SOURCE, Norm
from jaxtrain.optimizers import adam, adamw
from jaxtta.dense.fst import dacs
from jaxtta.dense.teacher import averaging, look_ahead
from jaxtta.images.batch_statistics import batch_norm, source
from jaxtta.images.entropy import tent
from jaxtta.images.mean_teacher import cotta, standard_augmentation


class Row(NamedTuple):
    """One way to adapt.

    Attributes:
      core: with `init(params, model_state)`.
      model: `state -> params`, those that predict.
      num_steps: updates.
      norm: statistics of the predictions.
      with_source: whether it learns from labelled pictures of the source too.
      ahead: batches to come that an update looks at.
      passes: what an update costs, in updates of the mean teacher; 0 for none of the kind.
    """

    core: Core
    model: Callable[[Any], Any]
    num_steps: int
    norm: Norm = BATCH
    with_source: bool = False
    ahead: int = 0
    passes: int = 0


def at_random(core: Core, decay: float) -> Core:
    """The core with steps of the same lengths in random directions, leaf by leaf; for a control."""

    def update(state: Any, batch: Any, key: Array) -> tuple[Any, StepOutput]:
        key_step, key_direction = jax.random.split(key)
        after, out = core.update(state, batch, key_step)
        leaves, structure = jax.tree.flatten(state.params)
        keys = jax.tree.unflatten(structure, list(jax.random.split(key_direction, len(leaves))))

        def step(x: Array, y: Array, key: Array) -> Array:
            way = jax.random.normal(key, x.shape, x.dtype)
            return x + way * jnp.linalg.norm(y - x) / jnp.linalg.norm(way)

        params = jax.tree.map(step, state.params, after.params, keys)
        share = averaging(state.memory.num_updates, decay)
        teacher = trees.ema(state.memory.teacher, params, share)
        memory = after.memory._replace(teacher=teacher)
        return after._replace(params=params, memory=memory), out

    return Core(core.init, update)


def _student(state: Any) -> Any:
    return trees.merge(state.params, state.frozen)


def _teacher(state: Any) -> Any:
    return trees.merge(state.memory.teacher, state.frozen)


def chosen(config: ConfigDict, network: ClassifierFn) -> dict[str, Row]:
    """The rows that the config asks for, in its order."""
    num_steps, options = config.num_steps, config.fst.to_dict()
    leaky, ahead = options.pop("leaky_moments"), options.pop("num_steps")
    decay = options["decay"]

    def optimizer(factor: int) -> optax.GradientTransformation:
        longer = config.copy_and_resolve_references()
        longer.num_steps = factor * num_steps
        rate = schedules.from_config(longer)
        return adamw(rate, weight_decay=config.optimizer.weight_decay)

    def taught(factor: int = 1, **changes: Any) -> Core:
        return dacs(network, optimizer(factor), **{**options, **changes})

    def row(core: Core, passes: int, factor: int = 1, ahead: int = 0) -> Row:
        return Row(core, _teacher, factor * num_steps, BATCH, True, ahead, passes)

    def looking(num: int, kind: Any = "deep", **changes: Any) -> Row:
        core = look_ahead(taught(), num, kind, leaky_moments=leaky, **changes)
        return row(core, num + 1, ahead=num if kind == "wide" else 0)

    def with_tent() -> Row:
        return Row(tent(network, adam(config.tent.learning_rate)), _student, num_steps)

    def with_cotta() -> Row:
        given = config.cotta.to_dict()
        rate, change = given.pop("learning_rate"), standard_augmentation(moves=False)
        core = cotta(network, adam(rate), augmentation=change, **given)
        return Row(core, lambda state: trees.merge(state.memory, state.frozen), num_steps)

    rows: dict[str, Callable[[], Row]] = {
        "source": lambda: Row(source(network), lambda state: state.params, 0, SOURCE),
        "batch_norm": lambda: Row(batch_norm(network), lambda state: state.params, 0),
        "tent": with_tent,
        "cotta": with_cotta,
        "mean_teacher": lambda: row(taught(), 1),
        "faster_teacher": lambda: row(taught(decay=decay ** (ahead + 1)), 1),
        "longer_teacher": lambda: row(taught(ahead + 1), 1, ahead + 1),
        "fst_d1": lambda: looking(1),
        "fst_d": lambda: looking(ahead),
        "fst_w": lambda: looking(ahead, "wide"),
        "random_future": lambda: looking(ahead, virtual=at_random(taught(), decay)),
    }
    return {name: rows[name]() for name in config.rows}
