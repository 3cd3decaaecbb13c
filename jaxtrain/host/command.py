"""The command line as text: flags, parsing and help. Nothing here starts JAX or a run.

A command line is `--flag=value`, `--config=PATH:VARIANT,key=value` and `--config.key=value`.
"""

import fnmatch
import inspect
import re
import runpy
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
from jaxtrain.host.restart import remembered
from jaxtrain.host.settings import Rule, check, check_value, keyed

_MODES = ("jit", "pmap", "shard_map")


class Flag(NamedTuple):
    """One command-line flag. Experiments make them with `define_*` and pass them to `main`."""

    name: str
    kind: str
    default: Any
    help: str
    values: tuple[str, ...] = ()
    rule: Rule | None = None


def define_string(name: str, default: str, help: str) -> Flag:
    """A flag that holds text."""
    return Flag(name, "TEXT", default, help)


def define_integer(name: str, default: int | None, help: str) -> Flag:
    """A flag that holds a whole number."""
    return Flag(name, "N", default, help)


def define_float(name: str, default: float, help: str) -> Flag:
    """A flag that holds a number."""
    return Flag(name, "NUMBER", default, help)


def define_number(name: str, rule: Rule, help: str) -> Flag:
    """A flag that holds a number; the rule states its default and its range."""
    kind = "N" if isinstance(rule.default, int) else "NUMBER"
    return Flag(name, kind, rule.default, help, rule=rule)


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
    Flag(
        "workdir", "FOLDER", "", "where everything goes; a run there goes on and needs no --config"
    ),
    define_bool("allow_config_change", False, "resume although the config has changed"),
    define_string(
        "sweep", "", "trials in one program: 'seed=0:8;optimizer.learning_rate=1e-3,3e-3'"
    ),
    define_enum("parallel", "jit", _MODES, "how the update is spread over devices"),
    Flag("coordinator", "HOST:PORT", "", "address of process 0, for runs of several processes"),
    define_integer("num_processes", None, "number of processes, with --coordinator"),
    define_integer("process_id", None, "index of this process, with --coordinator"),
    define_integer("join_timeout", 300, "seconds to wait for all processes of the run to come"),
    define_integer("partner_timeout", 40, "seconds of silence after which a process is dead"),
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
      changed: config keys to which the command gave another value than the named variant has, or
        the run in `--workdir` if there is no `--config`.
      config_file: path of the config file, or "".
    """

    config: ConfigDict | None
    variant: str
    flags: dict[str, Any]
    arguments: tuple[str, ...]
    show: str = ""
    changed: tuple[str, ...] = ()
    config_file: str = ""


def program_of(run: Callable[..., Any]) -> tuple[str, str, str]:
    """How `run`'s module is started, its short name, and its docstring."""
    module = sys.modules[run.__module__]
    spec = getattr(module, "__spec__", None)
    if spec is not None:
        name = spec.name.removesuffix(".__main__")
        return f"python -m {name}", name.split(".")[-1], inspect.getdoc(module) or ""
    file = getattr(module, "__file__", None) or "notebook"
    return f"python {shlex.quote(file)}", Path(file).stem, inspect.getdoc(module) or ""


class ConfigFile(NamedTuple):
    """What a config file says of itself.

    Attributes:
      variants: name of each variant -> how long it takes, or "" where the header does not say.
      examples: the commands in the header.
      variant: name of the variant whose values `keys` has.
      keys: (key, value, what it may be or "") of every setting.
    """

    variants: dict[str, str]
    examples: tuple[str, ...]
    variant: str
    keys: tuple[tuple[str, Any, str], ...]


def describe(spec: str) -> ConfigFile:
    """Reads `path[:arg]`, as `--config` takes it.

    A line `NAME: TIME` of the header, up to a full stop or semicolon, says how long the variant
    NAME takes; NAME may have a `*` for several.

    Raises:
      UsageError: the file cannot be loaded.
    """
    config, variant = load(spec)
    content = runpy.run_path(spec.partition(":")[0])
    header = inspect.cleandoc(content["__doc__"] or "")
    unit = r"\b(?:s|seconds?|minutes?|hours?|days?)\b"
    times = re.findall(rf"^([\w*]+): ([^.;\n]*{unit}[^.;\n]*)", header, re.M)
    variants = {
        name: next((time for known, time in times if fnmatch.fnmatchcase(name, known)), "")
        for name in content.get("VARIANTS", {})
    }
    examples = re.findall(r"^python -m .*", header, re.M)
    keys = tuple(keyed(config))
    return ConfigFile(variants, tuple(examples), variant, keys)


def _rows(rows: Sequence[tuple[str, str]]) -> str:
    """Two columns, the right one wrapped."""
    width = max(len(left) for left, _ in rows) + 2
    table = []
    for left, text in rows:
        lines = textwrap.wrap(text, max(96 - width, 40)) or [""]
        table += [f"  {left:<{width}}{lines[0]}".rstrip()]
        table += [" " * (width + 2) + line for line in lines[1:]]
    return "\n".join(table)


def _help(program: str, doc: str, flags: Sequence[Flag], arguments: str, spec: str) -> str:
    with_config = any(flag.name == "config" for flag in flags)
    rows = []
    for flag in flags:
        default = f" (default {flag.default})" if flag.default not in ("", None, False) else ""
        kind = f"={flag.kind}" if flag.kind else ""
        allowed = f"; {flag.rule.says}" if flag.rule else ""
        rows.append((f"--{flag.name}{kind}", flag.help + allowed + default))
    if with_config:
        rows.insert(1, ("--config.KEY=VALUE", "change one setting, with dots for groups"))
    call = " ".join(filter(None, (program, "--config=PATH" * with_config, arguments, "[flags]")))
    parts = [doc.strip(), f"Usage: {call}", f"Flags\n{_rows(rows)}" if rows else ""]
    if with_config and spec:
        path, file = spec.partition(":")[0], describe(spec)
        if file.variants:
            parts.append(f"Variants of {path}\n{_rows(list(file.variants.items()))}")
        keys = [
            (key, "; ".join(filter(None, (str(value) or '""', allowed))))
            for key, value, allowed in file.keys
        ]
        parts.append(f"Config keys, with their values in {file.variant}\n{_rows(keys)}")
        small = next((name for name in file.variants if name.startswith("small")), file.variant)
        folder = " --workdir=runs/first" * any(flag.name == "workdir" for flag in flags)
        examples = (*file.examples, f"{program} --config={path}:{small} --config.seed=1{folder}")
        parts.append("Examples\n" + "\n".join(f"  {example}" for example in examples))
    elif with_config:
        parts += [
            f"Config keys\n  {program} --config=PATH --help",
            f"Example\n  {program} --config=PATH:small,seed=1 --config.batch_size=64 "
            "--workdir=runs/first",
        ]
    return "\n\n".join(filter(None, parts))


def _config_to_describe(argv: Sequence[str], program: str) -> str:
    """The config that the command line or the name of the program names, or ""."""
    usual = f"configs/{re.split('[ .]', program)[-1]}.py"
    given = [item.partition("=")[2] for item in argv if item.startswith("--config=")]
    return next(iter(given), usual if Path(usual).is_file() else "")


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


def _as_setting(name: str, spec: str) -> str:
    """What to write if an unknown flag is a key of the config that `spec` names, or ""."""
    try:
        keys = list(flatten(load(spec)[0])) if spec else []
    except UsageError:
        return ""
    found = [key for key in keys if key == name or key.endswith(f".{name}")]
    return f"; the config has it, write --config.{found[0]}=VALUE" if found else ""


def _read_flags(
    argv: Sequence[str], flags: Sequence[Flag], config: str
) -> tuple[dict[str, Any], list[str]]:
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
        name = error.flagname
        hint = _as_setting(name, config) or did_you_mean(name, [flag.name for flag in flags])
        raise UsageError(f"unknown flag --{name}{hint or ' (see --help)'}") from None
    except absl_flags.Error as error:
        raise UsageError(str(error)) from None
    values = {flag.name: holder[flag.name].value for flag in flags}
    for flag in flags:
        if flag.rule:
            check_value(f"--{flag.name}", values[flag.name], flag.rule)
    return values, arguments


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
      flags: the flags; one called `config` makes a config file required, or beside `workdir` the
        folder of a run.
      program: how the program is called, for help.
      doc: first part of the help.
      arguments: what may be given besides flags, for help; empty means nothing.

    Raises:
      UsageError: anything unknown, missing or of the wrong type.
    """
    if any(item in ("--help", "-h", "-help", "--helpfull") for item in argv):
        spec = _config_to_describe(argv, program)
        return Command(None, "", {}, (), _help(program, doc, flags, arguments, spec))
    rest, overrides = _split_overrides(argv)
    has_config = any(flag.name == "config" for flag in flags)
    usual = _config_to_describe(argv, program) if has_config else ""
    values, extra = _read_flags(rest, flags, usual)
    if extra and not arguments:
        raise UsageError(f"unexpected argument {extra[0]!r}; settings are given as --flag=value")
    if "config" not in values:
        if overrides:
            raise UsageError(f"unknown flag --config.{overrides[0][0]} (see --help)")
        return Command(None, "", values, tuple(extra))
    file, _, items = values["config"].partition(":")
    if file:
        config, variant = load(values["config"])
        named = ",".join(item for item in split_items(items) if "=" not in item)
        before = flatten(plain(load(f"{file}:{named}".rstrip(":"))[0]))
    elif values.get("workdir"):
        config, about = remembered(values["workdir"])
        variant, file, before = about.variant, about.config_file, flatten(plain(config))
        values["sweep"] = values.get("sweep") or about.sweep
    else:
        raise UsageError(
            "--config is missing; give a config file, such as --config=configs/x.py:small"
            + ", or the --workdir of a run" * ("workdir" in values)
        )
    for path, text in overrides:
        set_value(config, path, text)
    check(config)
    show = as_text(config) if values.get("print_config") else ""
    after = flatten(plain(config))
    changed = tuple(key for key, value in after.items() if before.get(key) != value)
    return Command(config, variant, values, tuple(extra), show, changed, file)
