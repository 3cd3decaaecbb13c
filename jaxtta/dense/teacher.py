"""Self-training with an averaged teacher, and a teacher that follows students of the future.

`self_training` is the frame: a student takes a step on a loss that may ask the teacher, and the
teacher moves towards it. `look_ahead` lets the teacher move towards students of steps that are only
tried, before the step that counts is taken with its answers.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel, trees
from jaxtrain.core import Core, StepOutput
from jaxtta import adaptation, batches
from jaxtta.adaptation import AdaptState
from jaxtta.selection import Predicate, all_parameters


class Following(NamedTuple):
    """What a core with a teacher remembers.

    Attributes:
      teacher: averages, like the adapted parameters.
      num_updates: steps that were taken, `[]`, int32.
    """

    teacher: Any
    num_updates: Array


class Lesson(NamedTuple):
    """What a loss gives beside its value.

    Attributes:
      model_state: batch statistics after the passes of the student.
      logits: of the teacher, one entry per row, `[B, ...]`.
      metrics: named scalars of this shard.
    """

    model_state: Any
    logits: Array
    metrics: dict[str, Array]


# (student's parameters, teacher's, model state, batch, key) -> mean loss [] of this shard, lesson
Loss = Callable[[Any, Any, Any, Any, Array], tuple[Array, Lesson]]


def averaging(num_updates: ArrayLike, decay: ArrayLike) -> Array:
    """Share that the teacher keeps of itself: min(1 - 1 / (t + 1), decay), so 0 at first."""
    return jnp.minimum(1 - 1 / (jnp.asarray(num_updates) + 1), decay)


def self_training(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    decay: ArrayLike = 0.999,
    select: Predicate = all_parameters,
    axis_name: parallel.AxisName | None = None,
) -> Core:
    """A student and a teacher, who is its average and whom the loss may ask.

    1. One optimiser step on the loss. 2. teacher <- a teacher + (1 - a) student, `averaging` says
    a. Nothing moves where the loss, its gradient or the step is not finite.

    Args:
      loss: `(student, teacher, model_state, batch, key) -> (value, Lesson)`, both sets of
        parameters whole.
      optimizer: over the adapted parameters.
      decay: may be traced.
      select: adapted parameters, by path.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(params, model_state)`; the state's memory is `Following`. Metrics: `loss`,
      `did_update` and those of the lesson. Outputs: the teacher's logits before it moved.
    """

    def init(params: Any, model_state: Any) -> AdaptState:
        teacher, _ = adaptation.split(params, select)
        memory = Following(teacher, jnp.zeros((), jnp.int32))
        return adaptation.start(params, model_state, optimizer, select, memory=memory)

    def update(state: AdaptState, batch: Any, key: Array) -> tuple[AdaptState, StepOutput]:
        whole = lambda params: trees.merge(params, state.frozen)
        memory, before = state.memory, state.model_state

        def objective(params: Any) -> tuple[Array, Lesson]:
            return loss(whole(params), whole(memory.teacher), before, batch, key)

        (value, lesson), grads = parallel.local_value_and_grad(objective, axis_name, has_aux=True)(
            state.params
        )
        value, grads, after, metrics = parallel.pmean(
            (value, grads, lesson.model_state, lesson.metrics), axis_name
        )
        sound = batches.stays_finite(after, before)
        state, moved = adaptation.descend(state, value, grads, optimizer, sound)
        share = averaging(memory.num_updates, decay)
        teacher = trees.ema(memory.teacher, state.params, share)
        following = Following(teacher, memory.num_updates + 1)
        after, memory = adaptation.where(moved, (after, following), (before, memory))
        state = state._replace(model_state=after, memory=memory)
        metrics = {"loss": value, "did_update": moved, **metrics}
        selected = jnp.ones(len(lesson.logits), bool) & moved
        return state, adaptation.report(metrics, lesson.logits, selected)

    return Core(init, update)


def look_ahead(
    core: Core,
    num_steps: int,
    kind: Literal["deep", "wide"] = "deep",
    *,
    virtual: Core | None = None,
    leaky_moments: bool = False,
) -> Core:
    """Lets the teacher learn from the future: from students after steps that are then taken back.

    deep: K updates one after the other on the same batch, each moving student and teacher. wide:
    K updates of the same student on K batches that are still to come; the teacher moves towards
    their mean. Then the student is put back, and the update that counts follows with the new
    teacher. The first update of all has no look ahead. No gradient passes through virtual steps.

    With K = 0, deep, this is the core as it was.

    Args:
      core: its state has `params`, `opt_state` and a memory `Following`, and its teacher moves
        towards the student after each step, as in `self_training`.
      num_steps: K.
      kind: `deep`, or `wide`, whose batch is a dict with `now`, the batch of the core, and `ahead`,
        the same with K batches on the second axis of every leaf, `[B, K, ...]`.
      virtual: takes the virtual steps in place of the core, for controls.
      leaky_moments: whether the moments of the optimiser stay as the virtual steps left them, as in
        the official code, which puts weights back only; else they are put back too. Counts, on
        which schedules and bias corrections rest, are always those of the steps that count.

    Returns:
      A core with the `init`, state and outputs of the given one; virtual updates use `fold_in(key,
      i)`, i = 1 to K, and the one that counts the key itself.

    Raises:
      ValueError: an unknown kind, or fewer than 0 (deep) or 1 (wide) steps.

    References:
      Du et al., Learning from Future: A Novel Self-Training Framework for Semantic Segmentation,
      NeurIPS 2022. Official code: usr922/FST.
    """
    if kind not in ("deep", "wide") or num_steps < (kind == "wide"):
        raise ValueError(
            f"kind={kind!r} with num_steps={num_steps}; look ahead deep for 0 steps or more, or "
            "wide for 1 or more."
        )
    attempt = core if virtual is None else virtual

    def tried(state: Any, batch: Any, key: Array) -> Any:
        """The state after a virtual update; what it does not move are steps and statistics."""
        after, _ = attempt.update(state, batch, key)
        memory = state.memory._replace(teacher=after.memory.teacher)
        return state._replace(params=after.params, opt_state=after.opt_state, memory=memory)

    def deep(state: Any, batch: Any, key: Array) -> Any:
        def body(ahead: Any, i: Array) -> tuple[Any, None]:
            return tried(ahead, batch, jax.random.fold_in(key, i)), None

        return jax.lax.scan(body, state, jnp.arange(1, num_steps + 1))[0]

    def wide(state: Any, ahead: Any, key: Array) -> Any:
        def body(moments: Any, given: tuple[Array, Any]) -> tuple[Any, Any]:
            i, batch = given
            start = state._replace(opt_state=moments) if leaky_moments else state
            after = tried(start, batch, jax.random.fold_in(key, i))
            return after.opt_state, after.memory.teacher

        each = jnp.arange(1, num_steps + 1), ahead
        moments, teachers = jax.lax.scan(body, state.opt_state, each)
        # The average of teachers that moved towards one student each is the teacher that moved
        # towards the average student.
        teacher = jax.tree.map(lambda x: x.mean(0).astype(x.dtype), teachers)
        memory = state.memory._replace(teacher=teacher)
        return state._replace(opt_state=moments, memory=memory)

    def update(state: Any, batch: Any, key: Array) -> tuple[Any, StepOutput]:
        now = batch
        if kind == "wide":
            now, coming = _now_and_ahead(batch, num_steps)
            ahead = wide(state, coming, key)
        else:
            ahead = deep(state, batch, key)
        teacher, moments = ahead.memory.teacher, _moments(ahead.opt_state, state.opt_state)
        held = state.memory.teacher, state.opt_state
        new = teacher, moments if leaky_moments else state.opt_state
        teacher, opt_state = adaptation.where(state.memory.num_updates > 0, new, held)
        memory = state.memory._replace(teacher=teacher)
        return core.update(state._replace(opt_state=opt_state, memory=memory), now, key)

    return Core(core.init, update)


def _moments(new: Any, old: Any) -> Any:
    """The floating-point numbers of `new`, and the counts of `old`."""
    is_real = lambda x: jnp.issubdtype(x.dtype, jnp.inexact)
    return jax.tree.map(lambda x, y: x if is_real(x) else y, new, old)


def _now_and_ahead(batch: Any, num_steps: int) -> tuple[Any, Any]:
    """The batch of the step that counts, and those of the virtual ones on a leading axis."""
    if not isinstance(batch, dict) or set(batch) != {"now", "ahead"}:
        raise ValueError(
            "a wide look ahead needs a batch that is a dict of 'now' and 'ahead', which holds the "
            f"same with {num_steps} batches on the second axis."
        )
    numbers = {x.shape[1] for x in jax.tree.leaves(batch["ahead"])}
    if numbers != {num_steps}:
        raise ValueError(
            f"the second axes of 'ahead' have the lengths {sorted(numbers)}; they must hold "
            f"num_steps={num_steps} batches."
        )
    return batch["now"], jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), batch["ahead"])
