"""The frame of an experiment that trains a core: build, train or resume, evaluate, report.

A command built on it is a page:

    def build(config, setup):
        return experiment.Training(core=build_core, evaluate=..., report=...)

    if __name__ == "__main__":
        cli.main(build, sweepable=SWEEPABLE, flags=(experiment.MODE,))

The frame derives from `build_core(config, axis_name)` the core of one run, of all trials of a sweep
(`config` then holds traced numbers), and of a plan (`experiments.plan`).
"""

import contextlib
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxtrain.core import Core
from jaxtrain.host import begin, checks, command, loop, profile, sweep
from jaxtrain.host.checkpoint import load_params
from jaxtrain.host.config import UsageError
from jaxtrain.host.context import Context, Setup, Work
from jaxtrain.host.data import Generated, Pipeline
from jaxtrain.host.settings import flatten, standard
from jaxtrain.parallel import AxisName, bytes_per_device, jit_update, num_shards, state_layout

MODE = command.define_enum(
    "mode",
    "train_and_evaluate",
    ("train_and_evaluate", "train", "evaluate"),
    "evaluate uses the newest checkpoint of --workdir or config.init_from",
)


def evaluates(flags: Mapping[str, Any]) -> str:
    """Where in the work folder a run with these flags, which trains nothing, writes its numbers;
    empty for one that trains."""
    return "evaluation/summary-evaluate.json" if flags["mode"] == "evaluate" else ""


class Finished(NamedTuple):
    """A run after its last update.

    Attributes:
      state: of the core, with a trial axis in front in a sweep.
      initial: makes the state before the first update again.
      key: typed key for the final evaluation.
      workdir: the work folder.
      mesh: the devices.
      sweep: the trials, or None for a single run.
      trained: whether this start of the program trained; False in `--mode=evaluate`.
    """

    state: Any
    initial: Callable[[], Any]
    key: Array
    workdir: Path
    mesh: Mesh
    sweep: sweep.Axes | None
    trained: bool


Results = dict[str, Any]


class Training(NamedTuple):
    """A run that trains a core. All of it is bound to its settings; nothing has been made.

    Attributes:
      core: `(config, axis_name) -> Core` of one trial; numbers of the config may be traced.
      data: what the core's batches are: `Generated` (of each trial by itself in a sweep); a
        function of the begun run that opens a `Pipeline` as a context manager; or None when the
        core makes its own data and its batch is the places `[batch_size]`.
      arrays: what every batch holds besides the places when `data` is None, such as a data set:
        the batch is `(*arrays, places)`, and all trials share it.
      batch: `(config, devices) -> abstract batch`, for plans; needed for pipelines only.
      passes: `(config, devices) -> passes`, for plans: how often the loops named by
        `jaxtrain.loops.at_most` run on average; None for as often as they may.
      show: metrics of the progress line.
      watch: `(state, step, key) -> numbers`, every `eval_every` updates; or None.
      watched: names of those numbers, where they are known beforehand; `()` without `watch`.
      check: makes what stops a run that leads nowhere by its metrics, see `loop.train`.
      save: writes what others may use of a trained run, for example its weights.
      evaluate: the final numbers, a value or a vector over trials each; called by every process.
      report: prints and draws, by process 0; returns further numbers.
      read_params: `(path, abstract params) -> params` for `init_from`.
      trains: False for a run that uses a trained state only, such as a prediction.
    """

    core: Callable[[ConfigDict, AxisName | None], Core]
    data: Generated | Callable[[begin.Run], contextlib.AbstractContextManager[Pipeline]] | None = (
        None
    )
    arrays: tuple[Any, ...] = ()
    batch: Callable[[ConfigDict, int], Any] | None = None
    passes: Callable[[ConfigDict, int], Mapping[str, float]] | None = None
    show: tuple[str, ...] = ("loss",)
    watch: Callable[[Any, int, Array], Mapping[str, Any]] | None = None
    watched: tuple[str, ...] | None = None
    check: Callable[[], loop.Check] | None = None
    save: Callable[[Finished], None] | None = None
    evaluate: Callable[[Finished], Results] = lambda finished: {}
    report: Callable[[Finished, Results], Results | None] | None = None
    read_params: Callable[[str, Any], Any] = load_params
    trains: bool = True


def _places(batch_size: int, arrays: tuple[Any, ...]) -> Generated:
    with_arrays = lambda key, index, *arrays: (*arrays, index) if arrays else index
    return Generated(with_arrays, batch_size, arrays)


def core_of(
    training: Training, config: ConfigDict, axes: sweep.Axes | None, axis_name: AxisName | None
) -> Core:
    """The core of one run or of all trials of a sweep."""
    if axes is None:
        return training.core(config, axis_name)
    sample = None
    if isinstance(data := training.data, Generated):
        sample = lambda key, given: data.sample(key, *given)
    build = lambda values: training.core(sweep.overlay(config, values), axis_name)
    return sweep.swept(build, axes, sample)


def read_keys(training: Training, config: ConfigDict) -> None:
    """Reads the keys that the frame needs while it works, as far as the config has them.

    `eval_every` is one of them if there is something to watch, and without effect otherwise.
    """
    for key in flatten(standard("")):
        if key == "eval_every" and training.watch is None:
            continue
        node: Any = config
        for name in key.split("."):
            node = node[name] if name in node else {}


def prepared(training: Training, config: ConfigDict, setup: Setup) -> Work:
    """The work of a training, after its core has been built and traced once.

    Raises:
      ValueError: settings that the core refuses.
    """
    read_keys(training, config)
    core = core_of(training, config, setup.sweep, setup.execution.axis_name)
    asked = setup.flags.get("profile")
    if asked and profile.parse_window(asked)[0] >= config.num_steps:
        raise UsageError(f"--profile={asked} begins after the last of the {config.num_steps} steps")
    state = jax.eval_shape(core.init, jax.random.key(0))
    mesh = setup.execution.mesh
    spec = sweep.state_spec(setup.sweep, mesh, state)
    checks.check_fits(bytes_per_device(state, mesh, spec))
    if name := config.checkpoint.keep_best:
        every = config.checkpoint.every, config.eval_every
        checks.check_keep_best(name, _metrics(training, config), training.watched, every)
    return functools.partial(run, training, config, core)


def _metrics(training: Training, config: ConfigDict) -> set[str]:
    """What every update measures."""
    core, key = training.core(config, None), jax.random.key(0)
    data = training.data
    if data is None:
        data = _places(config.batch_size, training.arrays)
    if isinstance(data, Generated):
        places = jnp.arange(config.batch_size)
        batch = jax.eval_shape(lambda: data.sample(key, places, *data.arrays))
    else:
        assert training.batch is not None, "a check needs the shapes of piped batches"
        batch = training.batch(config, 1)
    return set(jax.eval_shape(core.update, jax.eval_shape(core.init, key), batch, key)[1].metrics)


def run(training: Training, config: ConfigDict, core: Core, context: Context) -> Results:
    """Trains or resumes, evaluates and reports, as `--mode` says; returns the final numbers."""
    mode = context.flags.get("mode", "train_and_evaluate")
    trains = training.trains and mode != "evaluate"
    key_init, key_run, key_final = jax.random.split(jax.random.key(config.seed), 3)
    initial = lambda: core.init(key_init)
    with begin.started(
        initial, config, context, read_params=training.read_params, scratch=trains
    ) as begun:
        state = begun.state
        if trains:
            state = _fitted(training, config, begun, core, key_run)
    finished = Finished(
        state, initial, key_final, context.workdir, context.execution.mesh, context.sweep, trains
    )
    if training.save is not None and trains:
        training.save(finished)
    if mode == "train":
        return {}
    results = training.evaluate(finished)
    if training.report is not None and jax.process_index() == 0:
        results |= training.report(finished, results) or {}
    return results


def _fitted(
    training: Training, config: ConfigDict, begun: begin.Run, core: Core, key: Array
) -> Any:
    data = training.data
    if data is None:
        opened: Any = contextlib.nullcontext(_places(config.batch_size, training.arrays))
    elif isinstance(data, Generated) and begun.context.sweep is not None:
        # Every trial draws by itself, from its places and the arrays that all share.
        opened = contextlib.nullcontext(data._replace(sample=lambda key, *given: given))
    elif isinstance(data, Generated):
        opened = contextlib.nullcontext(data)
    else:
        opened = data(begun)
    with opened as made:
        check = training.check() if training.check is not None else None
        watch = training.watch
        return begin.fit(begun, core, made, key, show=training.show, evaluate=watch, check=check)


def planned(training: Training, config: ConfigDict, mesh: Mesh) -> tuple[Any, tuple[Any, ...]]:
    """The jitted training step of a run and its abstract arguments (state, batch, (key,)).

    Args:
      training: from the experiment's `build`.
      config: the same.
      mesh: the devices, which need not exist.
    """
    core = training.core(config, None)
    key = jax.random.key(0)
    state = jax.eval_shape(core.init, key)
    spec = state_layout(state, mesh)
    data = training.data
    if data is None:
        data = _places(config.batch_size, training.arrays)
    if isinstance(data, Generated) and data.arrays:
        update = lambda state, index, key, *arrays: core.update(
            state, data.sample(key, index, *arrays), key
        )
        batch = jax.ShapeDtypeStruct((config.batch_size,), jnp.int32)
        shapes = jax.eval_shape(lambda: data.arrays)
        return jit_update(update, mesh, spec), (state, batch, (key, *shapes))
    if isinstance(data, Generated):
        batch = jax.eval_shape(data.sample, key, jnp.arange(config.batch_size))
    else:
        assert training.batch is not None, "a plan needs the shapes of piped batches"
        batch = training.batch(config, num_shards(mesh))
    return jit_update(core.update, mesh, spec), (state, batch, (key,))


def show(results: Mapping[str, Any], digits: int = 4) -> None:
    """Prints one line per number: the value, or the mean over trials and every trial."""
    width = max(map(len, results), default=0) + 2
    for name, value in results.items():
        print(f"{name:<{width}}{_shown(value, digits)}")


def _shown(value: Any, digits: int) -> str:
    if isinstance(value, (str, int)):
        return f"{value}"
    if isinstance(value, list):
        return " ".join(map(str, value))
    values = jnp.atleast_1d(jnp.asarray(value)).tolist()
    listed = " ".join(f"{v:.{digits}f}" for v in values)
    mean = sum(values) / len(values)
    return listed if len(values) == 1 else f"mean {mean:.{digits}f} of {listed}"
