"""Many short runs in one program: what the studies of `experiments.lr_schedules` share.

A trial is one combination of schedule, peak rate and seed. Rates are looked up in a table
`[schedules, steps]`, so schedules too are data and all trials of a study are one compiled program,
run by the ordinary loop with its metrics, checkpoints and resume.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from ml_collections import ConfigDict

from jaxtrain import schedules
from jaxtrain.core import Core
from jaxtrain.host import cli
from jaxtrain.host.begin import first_state
from jaxtrain.host.checkpoint import Checkpoints
from jaxtrain.host.data import Generated
from jaxtrain.host.loop import Evaluate, train
from jaxtrain.host.metrics import Writer
from jaxtrain.host.report import grid, with_interval
from jaxtrain.host.sweep import Axes


def product(**values: Sequence[float]) -> Axes:
    """All combinations, the last name fastest."""
    columns = zip(*itertools.product(*values.values()), strict=True)
    whole = lambda column: all(isinstance(x, (int, np.integer)) for x in column)
    arrays = {
        name: np.asarray(column, np.int32 if whole(column) else np.float32)
        for name, column in zip(values, columns, strict=True)
    }
    return Axes(tuple(values), arrays)


def rate_table(texts: Sequence[str], num_steps: int, warmup: float) -> Array:
    """Rates relative to the peak, `[schedules, steps]`; `warmup` is a fraction of the run."""
    rows = [
        jax.vmap(schedules.make_schedule(text, 1.0, num_steps, warmup_steps=warmup))(
            jnp.arange(num_steps)
        )
        for text in texts
    ]
    return jnp.stack([jnp.broadcast_to(row, (num_steps,)) for row in rows])


def looked_up(table: Array, values: dict[str, Array]) -> optax.Schedule:
    """The schedule of one trial with values `schedule` (a row) and `peak`."""
    last = table.shape[1] - 1
    return lambda step: values["peak"] * table[values["schedule"], jnp.clip(step, 0, last)]


def train_trials(
    config: ConfigDict,
    context: cli.Context,
    name: str,
    core: Core,
    num_steps: int,
    *,
    evaluate: Evaluate | None = None,
    eval_every: int = 0,
    arrays: tuple[Any, ...] = (),
) -> Any:
    """Runs a swept core; its metrics go to `workdir/name`.

    Its batch is the example indices, or `(indices, *arrays)` if there are arrays to draw from.
    """
    batch = lambda key, index, *arrays: (index, *arrays) if arrays else index
    key_init, key_run = jax.random.split(jax.random.key(config.seed))
    folder = context.workdir / name
    saved = context.workdir / "checkpoints" / name
    with Checkpoints(saved, every=config.checkpoint.every, keep=1) as checkpoints:
        state, start, meta = first_state(
            lambda: core.init(key_init),
            checkpoints,
            context.execution.mesh,
            report=lambda text: print(f"{name}: {text}"),
        )
        lines = meta.get("metrics_lines")
        with Writer(folder, start, config.tensorboard, None, ("loss",), lines) as writer:
            state, _ = train(
                core,
                state,
                data=Generated(batch, config.batch_size, arrays),
                key=key_run,
                num_steps=num_steps,
                log_every=config.log_every,
                execution=context.execution,
                checkpoints=checkpoints,
                writer=writer,
                evaluate=evaluate,
                eval_every=eval_every,
                start=start,
                meta=meta,
                bracket=context.profile,
            )
    return state


def tuned(losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Losses `[schedules, peaks, seeds]` -> those at each schedule's best peak `[schedules, seeds]`
    and the index of that peak; the best has the lowest mean over seeds, diverged ones excluded."""
    means = np.where(np.isfinite(losses), losses, np.inf).mean(-1)
    best = means.argmin(1)
    return losses[np.arange(len(losses)), best], best


def show(title: str, rows: dict[str, np.ndarray], note: Callable[[str], str] | None = None) -> None:
    """Prints one line per name: mean with 95 % interval over seeds, then every seed."""
    table = [["", "mean [95 % interval]", "seeds", ""]]
    for name, values in rows.items():
        listed = " ".join(f"{v:.4f}" for v in values)
        table.append([name, with_interval(values), listed, note(name) if note else ""])
    print(f"\n{title}\n{grid(table)}", flush=True)
