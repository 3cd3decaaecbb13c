"""The frame of a run: which state it starts from, where it saves, and training as the config's
standard keys say."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from jaxtrain.core import Core, HostCore
from jaxtrain.host import loop, schedules, sweep
from jaxtrain.host.checkpoint import CheckpointError, Checkpoints, Restored, load, load_params
from jaxtrain.host.config import UsageError
from jaxtrain.host.context import Context
from jaxtrain.host.data import Generated, Pipeline
from jaxtrain.host.metrics import Writer
from jaxtrain.host.settings import was_read
from jaxtrain.meshes import FSDP_AXIS, REPLICATED, is_spec
from jaxtrain.parallel import place


class Run(NamedTuple):
    """A run that has a state and a place to save it, made by `started`.

    Attributes:
      config: with the standard keys that `started` and `fit` name.
      context: what the command line gave.
      checkpoints: of this run, open.
      state: after `step` updates, placed on the mesh.
      step: updates done.
      meta: what the checkpoint said besides; `{}` without one.
    """

    config: ConfigDict
    context: Context
    checkpoints: Checkpoints
    state: Any
    step: int
    meta: dict[str, Any]


@contextlib.contextmanager
def started(
    init: Callable[[], Any],
    config: ConfigDict,
    context: Context,
    *,
    read_params: Callable[[str, Any], Any] = load_params,
    scratch: bool = True,
) -> Iterator[Run]:
    """Opens the checkpoints of a run and makes or reads its state (see `first_state`).

    Reads the config keys `num_steps`, `checkpoint.every`, `checkpoint.keep`,
    `checkpoint.keep_best`, `resume_from` and `init_from`. Saves under way are finished on leaving.

    Args:
      init: makes the state; with a trial axis in front if the context has a sweep.
      config: of the run.
      context: of the run.
      read_params: `(path, abstract params) -> params` for `init_from`.
      scratch: whether the run may start from nothing; False when it only evaluates.

    Raises:
      UsageError: what was to be read cannot be used, or there is nothing to evaluate or to train.
    """
    mesh, axes = context.execution.mesh, context.sweep
    with Checkpoints(
        context.workdir / "checkpoints",
        every=config.checkpoint.every,
        keep=config.checkpoint.keep,
        keep_best=config.checkpoint.keep_best or None,
    ) as checkpoints:
        if not (scratch or checkpoints.steps() or config.resume_from or config.init_from):
            raise UsageError(
                "there is nothing to evaluate; give --workdir of a trained run or "
                "--config.init_from=FILE with its parameters"
            )
        restored = first_state(
            init,
            checkpoints,
            mesh,
            # What only evaluates needs it whole.
            spec=sweep.state_spec(axes, mesh, jax.eval_shape(init)) if scratch else REPLICATED,
            resume_from=config.resume_from,
            init_from=config.init_from,
            read_params=read_params,
            num_trials=None if axes is None else axes.num_trials,
            report=print if jax.process_index() == 0 else lambda said: None,
        )
        if scratch:
            check_updates_left(restored.step, config, is_own=bool(checkpoints.steps()))
        yield Run(config, context, checkpoints, *restored)


def check_updates_left(step: int, config: ConfigDict, *, is_own: bool) -> None:
    """Refuses to report a training that would make no update.

    Args:
      step: updates done.
      config: of the run.
      is_own: whether this run made them; it may have ended, and is reported again then.

    Raises:
      UsageError: there are as many updates as `num_steps` already.
    """
    if step > config.num_steps or (step == config.num_steps and not is_own):
        whose = "this run" if is_own else f"resume_from={config.resume_from}"
        raise UsageError(
            f"{whose} is after update {step}, so num_steps={config.num_steps} leaves nothing to "
            "train; raise num_steps, or evaluate it with --mode=evaluate"
        )


def fit(
    run: Run,
    core: Core | HostCore,
    data: Generated | Pipeline | None,
    key: jax.Array,
    *,
    show: Sequence[str] = ("loss",),
    evaluate: loop.Evaluate | None = None,
    check: loop.Check | None = None,
) -> Any:
    """Trains from `run.state` to the end of the run and writes its metrics.

    Returns the state; one that was spread over a mesh axis `fsdp` is whole on every device now.

    Reads the config keys `num_steps`, `log_every`, `eval_every`, `tensorboard` and `wandb`. If
    there is an `optimizer.schedule`, its rates to come are written for the report, and so are
    gradient norms that the optimiser recorded. The state of `run` is donated. `loop.train` says
    what is raised.

    Args:
      run: from `started`.
      core: whose `init` made the state.
      data: of the run.
      key: typed key of the run.
      show: metrics of the progress line.
      evaluate: `(state, step, key) -> numbers`, called every `eval_every` steps.
      check: stops the run, see `loop.train`.
    """
    config, context = run.config, run.context
    leader = jax.process_index() == 0
    has_rates = "schedule" in config.get("optimizer", {})
    if leader and has_rates and was_read(config, "optimizer.schedule"):
        schedules.write_schedule(context.workdir, config, context.sweep)
    wandb = {"project": config.wandb} if config.wandb else None
    lines = run.meta.get("metrics_lines")
    with Writer(context.workdir, run.step, config.tensorboard, wandb, show, lines) as writer:
        state, _ = loop.train(
            core,
            run.state,
            data=data,
            key=key,
            num_steps=config.num_steps,
            log_every=config.log_every,
            execution=context.execution,
            checkpoints=run.checkpoints,
            writer=writer,
            evaluate=evaluate,
            eval_every=config.eval_every if evaluate else 0,
            start=run.step,
            meta=run.meta,
            bracket=context.profile,
            check=check,
        )
    if FSDP_AXIS in context.execution.mesh.shape:
        state = place(state, context.execution.mesh)
    if leader:
        schedules.save_norms(context.workdir, state)
    return state


def first_state(
    init: Callable[[], Any],
    checkpoints: Checkpoints,
    mesh: Mesh,
    *,
    spec: Any = REPLICATED,
    resume_from: str = "",
    init_from: str = "",
    read_params: Callable[[str, Any], Any] = load_params,
    num_trials: int | None = None,
    report: Callable[[str], None] = print,
) -> Restored:
    """Makes or reads the state of a run, in this order of preference, and says which it was.

    1. the newest good checkpoint of the run itself;
    2. `resume_from`: state and step of another run (to go on in another training mode, for
    example);
    3. `init_from`: parameters only, at step 0;
    4. scratch.

    Args:
      init: makes the state (traced and compiled here, placed on the mesh).
      checkpoints: of this run.
      mesh: where the state lives.
      spec: partition spec of the state, or a tree of them.
      resume_from: folder of a run or of a checkpoint.
      init_from: the same, or a file that `read_params` understands.
      read_params: `(path, abstract params) -> params`; default reads checkpoints of ours.
      num_trials: length of the state's leading axis in a sweep; every trial starts from the same
        parameters of `init_from`.
      report: says which way was taken.

    Returns:
      State, step and metadata.

    Raises:
      UsageError: checkpoints or parameters that cannot be used; one sentence says why.
    """
    shardings = jax.tree.map(lambda s: NamedSharding(mesh, s), spec, is_leaf=is_spec)
    abstract = jax.tree.map(
        lambda sharding, part: jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), part
        ),
        shardings,
        jax.eval_shape(init),
    )
    try:
        restored = checkpoints.restore_or(abstract)
        if restored.meta or restored.step:
            report(f"starting from step {restored.step} of {checkpoints.directory.parent.name}")
            return restored
        if resume_from:
            restored = load(resume_from, abstract)
            report(f"starting from state and step {restored.step} of {Path(resume_from).name}")
            return Restored(restored.tree, restored.step, {})
    except CheckpointError as error:
        raise UsageError(str(error)) from error
    state = jax.jit(init, out_shardings=shardings)()
    if not init_from:
        report("starting from scratch")
        return Restored(state, 0, {})
    try:
        if num_trials is None:
            params = read_params(init_from, abstract.params)
        else:
            one = NamedSharding(mesh, REPLICATED)
            like = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype, sharding=one), abstract.params
            )
            params = jax.tree.map(
                lambda x: jnp.broadcast_to(x, (num_trials, *jnp.shape(x))),
                read_params(init_from, like),
            )
    except (ValueError, OSError) as error:
        raise UsageError(f"init_from: {error}") from error
    params = jax.tree.map(lambda x, as_: jax.device_put(x, as_.sharding), params, abstract.params)
    report(f"starting from the parameters of {Path(init_from).name}")
    return Restored(state._replace(params=params), 0, {})
