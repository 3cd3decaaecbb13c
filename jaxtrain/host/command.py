"""The command line as text: flags, parsing and help. Nothing here starts JAX or a run.

A command line is `--flag=value`, `--config=PATH:VARIANT,key=value` and `--config.key=value`.
"""

import inspect
import shlex
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags as absl_flags
from ml_collections import ConfigDict

from jaxtrain.host.config import (
    UsageError,
    as_text,
    did_you_mean,
    flatten,
    load,
    plain,
    set_value,
    split_items,
)
from jaxtrain.host.settings import check

_MODES = ("jit", "pmap", "shard_map")


class Flag(NamedTuple):
    """One command-line flag. Experiments make them with `define_*` and pass them to `main`."""

    name: str
    kind: str
    default: Any
    help: str
    values: tuple[str, ...] = ()


def define_string(name: str, default: str, help: str) -> Flag:
    """A flag that holds text."""
    return Flag(name, "TEXT", default, help)


def define_integer(name: str, default: int | None, help: str) -> Flag:
    """A flag that holds a whole number."""
    return Flag(name, "N", default, help)


def define_float(name: str, default: float, help: str) -> Flag:
    """A flag that holds a number."""
    return Flag(name, "NUMBER", default, help)


def define_bool(name: str, default: bool, help: str) -> Flag:
    """A flag that is on (`--name`) or off (`--noname`)."""
    return Flag(name, "", default, help)


def define_enum(name: str, default: str, values: Sequence[str], help: str) -> Flag:
    """A flag that holds one of `values`."""
    return Flag(name, "|".join(values), default, help, tuple(values))


CONFIG_FLAGS = (
    Flag("config", "PATH[:VARIANT]", "", "config file and variant, such as configs/x.py:small"),
    define_bool("print_config", False, "print the resolved config and exit"),
)
RUN_FLAGS = (
    Flag("workdir", "FOLDER", "", "where everything goes; resumes if it has checkpoints"),
    define_bool("allow_config_change", False, "resume although the config has changed"),
    define_string(
        "sweep", "", "trials in one program: 'seed=0:8;optimizer.learning_rate=1e-3,3e-3'"
    ),
    define_enum("parallel", "jit", _MODES, "how the update is spread over devices"),
    Flag("coordinator", "HOST:PORT", "", "address of process 0, for runs of several processes"),
    define_integer("num_processes", None, "number of processes, with --coordinator"),
    define_integer("process_id", None, "index of this process, with --coordinator"),
    Flag("profile", "FROM:TO", "", "record a profile of these steps in WORKDIR/profile"),
    define_bool("debug_nans", False, "stop at the first NaN and say where (slow)"),
    define_bool("disable_jit", False, "run without compilation, for a debugger (very slow)"),
)


class Command(NamedTuple):
    """A parsed command line.

    Attributes:
      config: the resolved config; None for tools without one.
      variant: name of the config's variant.
      flags: value of every flag, by name.
      arguments: what was given besides flags.
      show: text to print instead of running (`--help`, `--print_config`), or "".
      changed: config keys to which the command gave another value than the named variant has.
    """

    config: ConfigDict | None
    variant: str
    flags: dict[str, Any]
    arguments: tuple[str, ...]
    show: str = ""
    changed: tuple[str, ...] = ()


def program_of(run: Callable[..., Any]) -> tuple[str, str, str]:
    """How `run`'s module is started, its short name, and its docstring."""
    module = sys.modules[run.__module__]
    spec = getattr(module, "__spec__", None)
    if spec is not None:
        return f"python -m {spec.name}", spec.name.split(".")[-1], inspect.getdoc(module) or ""
    file = getattr(module, "__file__", None) or "notebook"
    return f"python {shlex.quote(file)}", Path(file).stem, inspect.getdoc(module) or ""


def _help(program: str, doc: str, flags: Sequence[Flag], arguments: str) -> str:
    with_config = any(flag.name == "config" for flag in flags)
    rows = [(f"--{f.name}" + (f"={f.kind}" if f.kind else ""), f.help, f.default) for f in flags]
    if with_config:
        rows.insert(1, ("--config.KEY=VALUE", "change one setting, with dots for groups", ""))
    width = max(len(left) for left, _, _ in rows) + 2
    table = []
    for left, text, default in rows:
        text += f" (default {default})" if default not in ("", None, False) else ""
        lines = textwrap.wrap(text, 96 - width) or [""]
        table += [f"  {left:<{width}}{lines[0]}", *(" " * (width + 2) + line for line in lines[1:])]
    call = " ".join(filter(None, (program, "--config=PATH" * with_config, arguments, "[flags]")))
    parts = [doc.strip(), f"Usage: {call}", "Flags\n" + "\n".join(table)]
    if with_config:
        parts += [
            f"Config keys\n  {program} --config=PATH:VARIANT --print_config",
            f"Example\n  {program} --config=PATH:small,seed=1 --config.batch_size=64 "
            "--workdir=runs/first",
        ]
    return "\n\n".join(filter(None, parts))


def _split_overrides(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Takes `--config.key=value`, `--config.key value` and `--noconfig.key` out of `argv`."""
    rest: list[str] = []
    overrides: list[tuple[str, str]] = []
    items = list(argv)
    while items:
        item = items.pop(0)
        name, equals, value = item.lstrip("-").partition("=")
        negated = name.startswith("noconfig.")
        if not item.startswith("-") or not (negated or name.startswith("config.")):
            rest.append(item)
            continue
        if negated:
            value = "false"
        elif not equals:
            value = items.pop(0) if items and not items[0].startswith("--") else "true"
        overrides.append((name.split(".", 1)[1], value))
    return rest, overrides


def _read_flags(argv: Sequence[str], flags: Sequence[Flag]) -> tuple[dict[str, Any], list[str]]:
    """Values of `flags` in `argv`, and the arguments that are no flags."""
    holder = absl_flags.FlagValues()
    for flag in flags:
        define: Any = {
            "": absl_flags.DEFINE_bool,
            "N": absl_flags.DEFINE_integer,
            "NUMBER": absl_flags.DEFINE_float,
        }.get(flag.kind, absl_flags.DEFINE_string)
        if flag.values:
            absl_flags.DEFINE_enum(
                flag.name, flag.default, flag.values, flag.help, flag_values=holder
            )
        else:
            define(flag.name, flag.default, flag.help, flag_values=holder)
    try:
        arguments = holder(["", *argv])[1:]
    except absl_flags.UnrecognizedFlagError as error:
        hint = did_you_mean(error.flagname, [flag.name for flag in flags])
        raise UsageError(f"unknown flag --{error.flagname}{hint or ' (see --help)'}") from None
    except absl_flags.Error as error:
        raise UsageError(str(error)) from None
    return {flag.name: holder[flag.name].value for flag in flags}, arguments


def parse_command(
    argv: Sequence[str],
    flags: Sequence[Flag],
    *,
    program: str = "",
    doc: str = "",
    arguments: str = "",
) -> Command:
    """Parses a command line without starting anything.

    Args:
      argv: the arguments, without the program.
      flags: the flags; one called `config` makes a config file required.
      program: how the program is called, for help.
      doc: first part of the help.
      arguments: what may be given besides flags, for help; empty means nothing.

    Raises:
      UsageError: anything unknown, missing or of the wrong type.
    """
    if any(item in ("--help", "-h", "-help", "--helpfull") for item in argv):
        return Command(None, "", {}, (), _help(program, doc, flags, arguments))
    rest, overrides = _split_overrides(argv)
    values, extra = _read_flags(rest, flags)
    if extra and not arguments:
        raise UsageError(f"unexpected argument {extra[0]!r}; settings are given as --flag=value")
    if "config" not in values:
        if overrides:
            raise UsageError(f"unknown flag --config.{overrides[0][0]} (see --help)")
        return Command(None, "", values, tuple(extra))
    if not values["config"]:
        raise UsageError(
            "--config is missing; give a config file, such as --config=configs/x.py:small"
        )
    config, variant = load(values["config"])
    for path, text in overrides:
        set_value(config, path, text)
    check(config)
    show = as_text(config) if values.get("print_config") else ""
    path, _, items = values["config"].partition(":")
    named = ",".join(item for item in split_items(items) if "=" not in item)
    before, after = (flatten(plain(c)) for c in (load(f"{path}:{named}".rstrip(":"))[0], config))
    changed = tuple(key for key, value in after.items() if before.get(key) != value)
    return Command(config, variant, values, tuple(extra), show, changed)
