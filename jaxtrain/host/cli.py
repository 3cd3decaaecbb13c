"""The life of a run: process start-up, checks, work folder, exit codes.

An experiment ends with

    if __name__ == "__main__":
        cli.main(build, sweepable=("optimizer.learning_rate",), validate=validate)

where `build(config, setup)` reads all settings and returns the work: an `experiment.Training`, or a
function of a `Context` that returns its final numbers. Building makes no files; what it did not
read of the config has no effect, and changing it is refused. Exit codes: 0 done, 1 error, 2 wrong
usage (one sentence on standard error), 3 stopped by a signal after saving.
"""

import contextlib
import datetime
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from jaxtrain.host import failures, files
from jaxtrain.host import workdir as workdirs
from jaxtrain.host.command import (
    CONFIG_FLAGS,
    RUN_FLAGS,
    Command,
    Flag,
    define_bool,
    define_enum,
    define_float,
    define_integer,
    define_number,
    define_string,
    parse_command,
    program_of,
)
from jaxtrain.host.config import UsageError, differences, parse_variant, plain
from jaxtrain.host.context import Context, Setup, Work
from jaxtrain.host.settings import recorded

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from jaxtrain.host import experiment, sweep
    from jaxtrain.parallel import Execution

__all__ = [
    "Command",
    "Context",
    "Flag",
    "Setup",
    "Work",
    "UsageError",
    "check_batch_divides",
    "check_effect",
    "define_bool",
    "define_enum",
    "define_float",
    "define_integer",
    "define_number",
    "define_string",
    "main",
    "parse_command",
    "parse_variant",
    "tool",
]


def _check_config(config: ConfigDict, experiment: str, program: str) -> None:
    """Checks the standard keys, as far as the config alone can tell.

    Raises:
      UsageError: one of them has an impossible value.
    """
    owner = config.get("experiment", experiment)
    if owner != experiment:
        raise UsageError(
            f"the config is for experiment {owner!r}; run it with "
            f"{program.replace(experiment, owner)}"
        )
    log_every = config.get("log_every", 1)
    every = config.checkpoint.every if "checkpoint" in config else 0
    for name, period in (("eval_every", config.get("eval_every", 0)), ("checkpoint.every", every)):
        if period % log_every:
            nearest = max(round(period / log_every), 1) * log_every
            raise UsageError(
                f"{name}={period} must be a multiple of log_every={log_every}, because the run "
                f"stops for nothing in between; use {name}={nearest}"
            )
    for name in ("resume_from", "init_from"):
        path = config.get(name, "")
        if path and "://" not in path and not os.path.exists(path):
            raise UsageError(f"{name}={path!r} does not exist")


def check_effect(changed: Sequence[str], read: Collection[str]) -> None:
    """Raises UsageError when the user changed a key, other than the mesh, that nothing reads.

    Args:
      changed: dotted keys that the command line changed.
      read: those that are read.
    """
    for key in changed:
        if key not in read and not key.startswith("mesh."):
            raise UsageError(
                f"{key} would have no effect, because nothing in this run reads it; leave it out, "
                "or change the setting that makes it count"
            )


def _execution(config: ConfigDict, mode: Any, axes: "sweep.Axes | None") -> "Execution":
    """Mesh and mode; sweeps take devices for their trials before the batch does."""
    import jax

    from jaxtrain.host import sweep
    from jaxtrain.parallel import FSDP_AXIS, Execution, make_mesh

    shape = config.mesh.to_dict() if "mesh" in config else {"data": -1}
    if axes is not None and mode == "jit":
        shape = sweep.mesh_shape(axes, shape, jax.device_count())
    try:
        mesh = make_mesh(shape)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if FSDP_AXIS in mesh.shape and (axes is not None or mode != "jit"):
        other = "--sweep" if mode == "jit" else f"--parallel={mode}"
        raise UsageError(
            f"mesh.fsdp={mesh.shape[FSDP_AXIS]} shares one state among devices, which {other} "
            "cannot; leave one of them out"
        )
    sweep.state_spec(axes, mesh)
    check_batch_divides(config, mesh)
    return Execution(mode, mesh)


def check_batch_divides(config: ConfigDict, mesh: "Mesh") -> None:
    """Raises UsageError when `config.batch_size` does not divide over the devices that share it."""
    from jaxtrain.parallel import batch_layout, num_shards

    devices = num_shards(mesh)
    batch_size = config.get("batch_size", 0)
    if batch_size % devices:
        raise UsageError(
            f"batch_size={batch_size} does not divide over the {devices} devices of mesh axis "
            f"{batch_layout(mesh)[0]!r}; use a multiple of {devices}, or fewer devices with "
            "--config.mesh.data=N"
        )


def _run(
    held: contextlib.ExitStack,
    build: Callable[[ConfigDict, Setup], "Work | experiment.Training"],
    sweepable: Sequence[str],
    settled: Callable[[ConfigDict, Any], ConfigDict],
    validate: Callable[[ConfigDict], None] | None,
    may_change: Sequence[str],
    evaluates: Callable[[Mapping[str, Any]], str],
    flags: Sequence[Flag],
    without: Mapping[str, str],
    argv: Sequence[str],
) -> int:
    program, name, doc = program_of(build)
    for given in argv:
        flag = given.lstrip("-").partition("=")[0]
        if given.startswith("-") and flag in without:
            raise UsageError(f"{name} has no --{flag}; {without[flag]}")
    everything = (*CONFIG_FLAGS, *flags, *RUN_FLAGS)
    table = [flag for flag in everything if flag.name not in without]
    command = parse_command(argv, table, program=program, doc=doc)
    if command.show:
        print(command.show)
        return 0
    assert command.config is not None  # the table has --config
    config = command.config
    values = {flag.name: flag.default for flag in everything} | command.flags

    from jaxtrain.host import profile, startup

    window = profile.parse_window(values["profile"]) if values["profile"] else None
    if window and evaluates(values):
        raise UsageError("--profile records training steps, and this run trains nothing")
    names = ("coordinator", "num_processes", "process_id", "join_timeout", "partner_timeout")
    startup.join_processes(*(values[name] for name in names))
    own = ("config", "process_id")  # each process may have a path and has an index of its own
    startup.check_same_everywhere(
        [plain(config), {name: value for name, value in values.items() if name not in own}]
    )

    import jax

    from jaxtrain.host import experiment, sweep
    from jaxtrain.host.loop import Preempted
    from jaxtrain.parallel import FSDP_AXIS

    axes = sweep.parse(values["sweep"], sweepable, config) if values["sweep"] else None
    _check_config(config, name, program)
    execution = _execution(config, values["parallel"], axes)
    config = settled(config, execution.mesh)
    watched, reads = recorded(config)
    try:
        if validate is not None:
            validate(config)
        work = build(watched, Setup(execution, axes, values))
        if isinstance(work, experiment.Training):
            work = experiment.prepared(work, watched, Setup(execution, axes, values))
        elif FSDP_AXIS in execution.mesh.shape:
            raise UsageError(f"{name} keeps its whole state on every device; leave mesh.fsdp=1")
    except ValueError as error:
        raise UsageError(str(error)) from error
    reads.close()
    check_effect((*command.changed, *(() if axes is None else axes.names)), reads.keys)
    trials = {} if axes is None else {key: sweep.as_typed(axes.values[key]) for key in axes.names}
    about = workdirs.About(
        name, command.variant, plain(config), values["sweep"], trials, command.config_file
    )
    folder = startup.agree_on_folder(values["workdir"], f"{name}-{command.variant}")
    leader = jax.process_index() == 0
    refusal = ""
    if leader:
        try:
            # Once before the folder is made, once when no other process can fill it any more.
            workdirs.check(folder, about, may_change, values["allow_config_change"])
            held.enter_context(workdirs.claimed(folder))
            resumes = workdirs.check(folder, about, may_change, values["allow_config_change"])
        except (UsageError, OSError) as error:
            refusal = failures.in_a_sentence(error) or str(error)
    refusal = startup.of_first(refusal)
    if refusal:
        raise UsageError(refusal)

    line = f"{program} {shlex.join(argv)}"
    evaluated = evaluates(values)
    if leader:
        code = Path(sys.modules[build.__module__].__file__ or ".").resolve().parent
        if not (evaluated and (folder / "config.json").exists()):  # the training's stays
            files.write_json(folder / "config.json", about._asdict())
        clock = workdirs.Clock(folder, workdirs.environment(line, code))
        devices = f"{execution.mesh.size} {jax.default_backend()} device"
        print(
            f"{name}:{command.variant} on {devices}{'s' if execution.mesh.size > 1 else ''}, "
            f"{'resuming in' if resumes else 'work folder'} {folder}",
            flush=True,
        )
        for change in differences(command.config, config):
            print(f"for these devices {change}", flush=True)
    try:
        trace = profile.Trace(folder / "profile", *window) if window else None
        nothing = contextlib.nullcontext()  # leaves what environment variables say
        with (
            jax.debug_nans(True) if values["debug_nans"] else nothing,
            jax.disable_jit() if values["disable_jit"] else nothing,
            contextlib.closing(trace) if trace else nothing,
        ):
            results = work(Context(folder, execution, axes, values, trace))
    except BaseException as error:
        if leader:
            with contextlib.suppress(OSError):  # what ended the run is to be told, not this
                clock.stop()
        if isinstance(error, jax.errors.JaxRuntimeError) and jax.process_count() > 1:
            time.sleep(values["partner_timeout"] + 15)  # for the word of who is gone
        if not isinstance(error, Preempted):
            raise
        if leader:
            again = line if values["workdir"] else f"{line} --workdir={shlex.quote(str(folder))}"
            print(f"Stopped at {error}; continue with: {again}", file=sys.stderr, flush=True)
        return 3
    if leader:
        totals = clock.stop()
        workdirs.write_summary(folder, about, results or {}, totals, evaluated)
        wall = _clock_time(clock.seconds)
        if totals["starts"] > 1:
            wall += f", {_clock_time(totals['wall_seconds'])} in all {totals['starts']} starts"
        print(f"Done in {wall}; everything is in {folder}", flush=True)
    return 0


def _clock_time(seconds: float) -> str:
    return str(datetime.timedelta(seconds=math.ceil(seconds)))


def _exit(code_of: Callable[[], int]) -> None:
    try:
        code = code_of()
    except Exception as error:
        said = str(error) if isinstance(error, UsageError) else failures.in_a_sentence(error)
        if not said:
            raise
        print(f"error: {' '.join(said.split())}", file=sys.stderr, flush=True)
        code = 2
    if code:
        sys.exit(code)


def one_process(why: str) -> dict[str, str]:
    """For `without` of `main`: the flags of several processes, refused for this reason."""
    names = ("coordinator", "num_processes", "process_id", "join_timeout", "partner_timeout")
    return dict.fromkeys(names, why)


def main(
    build: Callable[[ConfigDict, Setup], "Work | experiment.Training"],
    *,
    sweepable: Sequence[str] = (),
    settled: Callable[[ConfigDict, "Mesh"], ConfigDict] = lambda config, mesh: config,
    validate: Callable[[ConfigDict], None] | None = None,
    may_change: Sequence[str] = (),
    evaluates: Callable[[Mapping[str, Any]], str] = lambda flags: "",
    flags: Sequence[Flag] = (),
    without: Mapping[str, str] | None = None,
    argv: Sequence[str] | None = None,
) -> None:
    """Runs an experiment from the command line.

    Args:
      build: `build(config, setup)` returns the work, see the head of this file; the numbers that
        the work returns go to `summary.json` (a vector is one value per trial and gets mean and
        interval). A ValueError while building is wrong usage.
      sweepable: config keys that `--sweep` may vary inside one program, besides `seed`.
      settled: `settled(config, mesh)` returns the config with what its values stand for on these
        devices, where a value leaves that to them; the run prints and records it.
      validate: `validate(config)` raises ValueError, with one sentence, for settings that do not go
        together; what one key may be stands in the config file (`settings.Rule`).
      may_change: config keys or groups, besides the standard ones, that a resumed run may change.
      evaluates: `evaluates(flags)` names the file in the work folder for the numbers of a run that
        trains nothing, or is empty for one that trains; the former leaves `summary.json` and
        `config.json` of the training as they are.
      flags: the experiment's own flags, made with `define_*`; their values are in `context.flags`.
      without: flags of `RUN_FLAGS` that this experiment does not implement, and what to do instead.
      argv: arguments without the program; those of the process when None.

    Raises:
      SystemExit: with code 2 (wrong usage) or 3 (stopped after saving). An error in the work is
        not caught, so Python prints its traceback and exits with code 1.
    """
    arguments = sys.argv[1:] if argv is None else argv

    def code() -> int:
        with contextlib.ExitStack() as held, failures.quiet_threads():
            options = (sweepable, settled, validate, may_change, evaluates, flags, without or {})
            return _run(held, build, *options, arguments)

    _exit(code)


def tool(
    run: Callable[[Command], None],
    *,
    flags: Sequence[Flag] = (),
    needs_config: bool = False,
    arguments: str = "",
    argv: Sequence[str] | None = None,
) -> None:
    """Runs a command that makes no run folder, with the same errors, help and exit codes as `main`.

    Args:
      run: `run(command)`.
      flags: its flags.
      needs_config: whether `--config` is one of them.
      arguments: what it takes besides flags, as shown in the help; empty for nothing.
      argv: arguments without the program; those of the process when None.
    """

    def code() -> int:
        program, _, doc = program_of(run)
        table = (*CONFIG_FLAGS, *flags) if needs_config else tuple(flags)
        given = sys.argv[1:] if argv is None else argv
        command = parse_command(given, table, program=program, doc=doc, arguments=arguments)
        if command.show:
            print(command.show)
        else:
            run(command)
        return 0

    _exit(code)
