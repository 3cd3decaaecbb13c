"""Training core of the Latent Program Network.

`training(...)` is a `Core`: `init(key) -> TrainState` and
`update(state, batch, key) -> (state, StepOutput)`.

A batch is a tuple of `Tasks`, one per grid-size bucket, each cut into micro-batches. One update
sums the gradients of all micro-batches and takes one optimiser step, so a batch of mixed sizes
gives the loss of the whole batch while small grids never pay for large ones, and gradient
accumulation is the same mechanism. Noise belongs to a task's place in the batch, not to its
micro-batch or device: the numbers do not depend on how the batch was cut.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import optimizers, schedules
from jaxtrain.core import Core, StepOutput, TrainState
from jaxtrain.loops import at_most
from jaxtrain.parallel import AxisName, local_value_and_grad, mark_varying, pmax, psum
from jaxtta.lpn.grids import Pairs
from jaxtta.lpn.loss import ContextFn, Leftout
from jaxtta.lpn.model import Params
from jaxtta.lpn.search import ScoreFn, Search, run_search
from jaxtta.lpn.starts import AT_THE_MEAN, Starts, start_points


class Tasks(NamedTuple):
    """Tasks of one size bucket, cut into n micro-batches of m tasks.

    The first axis is sharded over devices; micro-batches without any weight at the end are skipped.

    Attributes:
      pairs: `[m, n, N]` pairs.
      index: place of the task in the batch, `[m, n]`, int32; decides its random numbers.
      weight: 1 for real tasks, 0 for filler, `[m, n]`, float32.
    """

    pairs: Pairs
    index: Array  # type: ignore[assignment]  # shadows tuple.index
    weight: Array


def cut(pairs: Pairs, index: Array, num_micro_batches: int = 1) -> tuple[Tasks]:
    """Cuts a batch of equally sized tasks `[B, N]` into micro-batches.

    Raises:
      ValueError: B is not a multiple of `num_micro_batches`.
    """
    size = index.shape[0]
    if size % num_micro_batches:
        raise ValueError(
            f"a batch of {size} tasks cannot be cut into {num_micro_batches} micro-batches; "
            "choose a divisor."
        )

    whole = (pairs, index, jnp.ones((size,), jnp.float32))
    cut_one = lambda x: rearrange(x, "(m n) ... -> m n ...", n=num_micro_batches)
    return (Tasks(*jax.tree.map(cut_one, whole)),)


def adamw(
    learning_rate: float | Array | optax.Schedule,
    *,
    warmup_steps: int = 99,
    weight_decay: float | Array = 1e-4,
    clip_norm: float | Array = 1.0,
) -> optax.GradientTransformation:
    """The authors' optimiser: global-norm clip, then AdamW with a linear warm-up from lr / 100.

    b1 0.9, b2 0.999, eps 1e-8, decay on all parameters (Optax defaults); all numbers may be traced,
    `warmup_steps` may not. A schedule as `learning_rate` replaces the authors' one and its warm-up,
    which is all that this function adds to `jaxtrain.optimizers.adamw`.
    """
    schedule: Any = learning_rate
    if not callable(learning_rate):
        schedule = schedules.warmup_constant(learning_rate, warmup_steps)
    return optimizers.adamw(schedule, max_norm=clip_norm, weight_decay=weight_decay)


SearchFn = Callable[[ScoreFn], Search]


def search_context(
    make_search: SearchFn, num_steps: int, starts: Starts = AT_THE_MEAN
) -> ContextFn:
    """A training mode that searches the latent of pair i on the other pairs before decoding it.

    Args:
      make_search: builds a search from a score function, e.g.
        `functools.partial(gradient_ascent, optimizer=ascent_adam(0.1))`.
      num_steps: search steps.
      starts: which latents the search starts from.
    """

    def context(others: Leftout, score_fn: ScoreFn, key: Array) -> Array:
        key_start, key_search = jax.random.split(key)
        points, mask = start_points(
            others.latents,
            others.pairs.mask,
            key_start,
            starts=starts,
            posterior=others.posterior,
        )
        result = run_search(make_search(score_fn), key_search, points, num_steps, start_mask=mask)
        return result.best_latents[0]

    return context


InitParamsFn = Callable[[Array], Params]
LossFn = Callable[[Params, Pairs, Array], tuple[Array, dict[str, Array]]]
Sums = tuple[Params, dict[str, Array]]  # gradients and metrics, added up over micro-batches


def training(
    init_params: InitParamsFn,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    axis_name: AxisName | None = None,
) -> Core:
    """Training core over batches of tasks.

    Args:
      init_params: key -> parameters, e.g. `lpn.init`.
      loss_fn: loss and metrics of ONE task: (params, pairs `[N]`, key) -> (`[]`, dict of `[]`),
        e.g. `functools.partial(task_loss, lpn, ...)`.
      optimizer: any Optax transformation.
      axis_name: mapped device axis, None under plain jit.

    Returns:
      A core whose batch is a sequence of `Tasks`. Metrics are means over tasks plus `grad_norm`,
      and `learning_rate` where the optimiser keeps it in its state.
    """

    def init(key: Array) -> TrainState:
        params = init_params(key)
        return TrainState(params, optimizer.init(params))

    def update(
        state: TrainState, batch: Sequence[Tasks], key: Array
    ) -> tuple[TrainState, StepOutput]:
        total = psum(sum(group.weight.sum() for group in batch), axis_name)

        def micro_batch_loss(params: Params, tasks: Tasks) -> tuple[Array, dict[str, Array]]:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, tasks.index)
            losses, metrics = jax.vmap(loss_fn, (None, 0, 0), axis_name="tasks")(
                params, tasks.pairs, keys
            )
            share = tasks.weight / total
            return (losses * share).sum(), jax.tree.map(lambda x: (x * share).sum(), metrics)

        grad_fn = local_value_and_grad(micro_batch_loss, axis_name, has_aux=True)

        def run_micro_batch(group: Tasks, i: ArrayLike) -> Sums:
            tasks = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, 1, False), group)
            (_, metrics), grads = grad_fn(state.params, tasks)
            return grads, metrics

        sums: Sums | None = None
        for group in batch:
            num = group.index.shape[1]
            if num == 1 and len(batch) == 1:
                part = run_micro_batch(group, 0)
                sums = part if sums is None else jax.tree.map(jnp.add, sums, part)
                continue
            if sums is None:
                shapes = jax.eval_shape(lambda g: run_micro_batch(g, 0), group)
                zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
                sums = mark_varying(zeros, axis_name)
            used = jnp.where((group.weight > 0).any(0), jnp.arange(1, num + 1), 0).max()

            def add(i: Array, sums: Sums, group: Tasks = group) -> Sums:
                return jax.tree.map(jnp.add, sums, run_micro_batch(group, i))

            length = group.pairs.inputs.cells.shape[-1]
            with at_most(f"micro_batches_of_{length}_cells", num):
                sums = jax.lax.fori_loop(0, pmax(used, axis_name), add, sums)

        grads, metrics = psum(sums, axis_name)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = metrics | {"grad_norm": optax.tree.norm(grads)}
        metrics |= schedules.applied_rate(opt_state)
        return state._replace(params=params, opt_state=opt_state), StepOutput(metrics)

    return Core(init, update)
