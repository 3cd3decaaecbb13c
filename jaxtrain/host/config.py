"""Config files: loading, `:variant,key=value`, typed overrides, comparison, printing.

A config file is a Python file with `get_config(arg: str = "full") -> ConfigDict`. Its last line is
usually `return parse_variant(arg, VARIANTS, config)`, where `VARIANTS` is a literal dict from the
name of a variant to what it changes. One parser, `set_value`, serves `--config.key=value` and
`:variant,key=value`, so both spellings accept and refuse the same things with the same words.
"""

import ast
import difflib
import importlib.util
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxtrain.host import settings as settings_
from jaxtrain.host.settings import UsageError as UsageError
from jaxtrain.host.settings import did_you_mean as did_you_mean
from jaxtrain.host.settings import flatten as flatten

Variant = Callable[[ConfigDict], Any] | Mapping[str, Any]

_BOOLS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_EXPECTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    tuple: "a tuple such as (1,2)",
    list: "a list such as [1,2]",
}


def _near(word: str, known: Iterable[str]) -> str:
    """The one of `known` that `word` is, abbreviates (lr for learning_rate) or misspells; or ""."""
    names = list(known)
    if word in names:
        return word
    initials = [name for name in names if word == "".join(part[:1] for part in name.split("_"))]
    return next(iter(initials or difflib.get_close_matches(word, names, n=1)), "")


def _hint(config: ConfigDict, path: str) -> str:
    """What the user may have meant by the unknown key `path`."""
    node: Any = config
    found: list[str] = []
    for word in path.split("."):
        name = _near(word, node.keys()) if isinstance(node, ConfigDict) else ""
        if not name:
            break
        found.append(name)
        node = node[name]
    else:
        return f"; did you mean {'.'.join(found)!r}?"
    known = list(flatten(config))
    same_leaf = [key for key in known if _near(path.split(".")[-1], [key.split(".")[-1]])]
    if same_leaf:
        return f"; did you mean {same_leaf[0]!r}?"
    if found and isinstance(node, ConfigDict):
        return f"; {'.'.join(found)!r} has the keys {', '.join(node)}"
    return did_you_mean(path, known) or " (--print_config lists the keys)"


def _lookup(config: ConfigDict, path: str) -> tuple[ConfigDict, str]:
    """The group that holds the key `path`, and its name there."""
    *groups, name = path.split(".")
    node: Any = config
    for group in groups:
        node = node[group] if isinstance(node, ConfigDict) and group in node else None
    if isinstance(node, ConfigDict) and name in node:
        return node, name
    raise UsageError(f"the config has no key {path!r}{_hint(config, path)}")


def _convert(value: Any, old: Any, kind: type) -> Any:
    """`value` (text, or a Python value) as type `kind`; ValueError when it is not one."""
    text = isinstance(value, str)
    if kind is bool:
        value = _BOOLS.get(value.strip().lower()) if text else value
        if not isinstance(value, bool):
            raise ValueError
        return value
    if isinstance(value, bool) and kind in (int, float):
        raise ValueError
    if kind is int:
        number = float(value)  # so that 1e6 is a whole number too
        if not number.is_integer():
            raise ValueError
        return int(value) if not text or value.strip().lstrip("+-").isdigit() else int(number)
    if kind is float:
        return float(value)
    if kind is str:
        if not text:
            raise ValueError
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
        return value[1:-1] if quoted else value
    if text:
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            if kind is not type(None):
                raise ValueError from None
    if kind in (tuple, list):
        if not isinstance(value, (tuple, list)):
            raise ValueError
        if old and len({type(item) for item in old}) == 1:
            value = [_convert(item, old[0], type(old[0])) for item in value]
        return kind(value)
    return value


def set_value(config: ConfigDict, path: str, value: Any) -> None:
    """Sets the existing key `path` of `config`, keeping its type.

    Args:
      config: the config; changed in place.
      path: dotted name, such as `"optimizer.learning_rate"`.
      value: text to be parsed as the type of the present value, or a Python value of that type.

    Raises:
      UsageError: unknown key (the probable one is named), wrong type, or a group instead of a key.
    """
    node, name = _lookup(config, path)
    old, kind = node[name], node.get_type(name)
    if isinstance(old, ConfigDict):
        if not isinstance(value, Mapping):
            keys = ", ".join(f"{path}.{key}" for key in old) or "it is empty"
            raise UsageError(f"{path!r} is a group of keys and takes no value; its keys: {keys}")
        for key, item in value.items():
            set_value(config, f"{path}.{key}", item)
        return
    try:
        new = _convert(value, old, kind)
    except (ValueError, TypeError, OverflowError):
        expected = _EXPECTED.get(kind, f"a value of type {kind.__name__}")
        if kind in (tuple, list) and old:
            expected += f", like the present {old!r}"
        raise UsageError(f"{path!r} must be {expected}, but got {value!r}") from None
    with node.ignore_type() if old is None else node.unlocked():
        node[name] = new


def split_items(text: str) -> list[str]:
    """Splits at commas that are not inside brackets or quotes."""
    items, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        if char == "," and depth == 0 and not quote:
            items.append("")
        else:
            items[-1] += char
    return [item.strip() for item in items if item.strip()]


def parse_variant(arg: str, variants: Mapping[str, Variant], config: ConfigDict) -> ConfigDict:
    """Applies `"small,optimizer.learning_rate=1e-3"` to `config`, from left to right.

    Args:
      arg: what follows `:` in `--config=path:arg`; variants and `key=value`, comma-separated.
      variants: name -> function that changes the config in place, or dict of dotted key -> value.
      config: the complete configuration before any change.

    Returns:
      `config`, changed and locked.

    Raises:
      UsageError: an unknown variant (the valid ones are listed), key or type.
    """
    for item in split_items(arg):
        if "=" in item:
            path, text = item.split("=", 1)
            set_value(config, path.strip(), text.strip())
        elif item in variants:
            change = variants[item]
            if callable(change):
                change(config)
            else:
                for path, value in change.items():
                    set_value(config, path, value)
        else:
            raise UsageError(
                f"unknown variant {item!r}; the variants are {', '.join(variants)}, and single "
                "settings are written key=value"
            )
    return config.lock()


def load(spec: str) -> tuple[ConfigDict, str]:
    """Loads `path[:arg]`.

    Returns:
      The locked config, and the name of the variant (`"small"`; the default of `get_config` when
      the command names none).

    Raises:
      UsageError: no such file, no `get_config`, a value that breaks the rule of its key, or
        whatever `parse_variant` refuses.
    """
    path, _, arg = spec.partition(":")
    file = Path(path)
    if not file.is_file():
        folder = file.parent if file.parent.is_dir() else Path("configs")
        hint = did_you_mean(path, map(str, folder.glob("*.py")))
        raise UsageError(f"config file {path!r} does not exist{hint or f' in {Path.cwd()}'}")
    module_spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    if module_spec is None or module_spec.loader is None:
        raise UsageError(f"config file {path!r} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    get_config = getattr(module, "get_config", None)
    if get_config is None:
        raise UsageError(f"{path!r} is not a config file: it has no function get_config(arg)")
    parameters = list(inspect.signature(get_config).parameters.values())
    if arg and not parameters:
        raise UsageError(f"{path!r} has no variants, so leave out {':' + arg!r}")
    config = get_config(arg) if arg else get_config()
    names = [item for item in split_items(arg) if "=" not in item]
    if not names and parameters and isinstance(parameters[0].default, str):
        names = [item for item in split_items(parameters[0].default) if "=" not in item]
    settings_.check(config)
    return config.lock(), "-".join(names) or "default"


def plain(config: Mapping[str, Any] | ConfigDict) -> dict[str, Any]:
    """The config as JSON gives it back: nested dicts, lists for tuples."""
    tree = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    return json.loads(json.dumps(tree))


def differences(
    old: Mapping[str, Any] | ConfigDict,
    new: Mapping[str, Any] | ConfigDict,
    ignore: Iterable[str] = (),
) -> list[str]:
    """`"key: old -> new"` for each key that differs; `ignore` lists keys or groups to leave out."""
    left, right = flatten(plain(old)), flatten(plain(new))
    ignored = tuple(ignore)
    lines = []
    for key in sorted(left.keys() | right.keys()):
        if any(key == name or key.startswith(f"{name}.") for name in ignored):
            continue
        before, after = (
            json.dumps(side[key]) if key in side else "absent" for side in (left, right)
        )
        if before != after:
            lines.append(f"{key}: {before} -> {after}")
    return lines


def as_text(config: Mapping[str, Any] | ConfigDict, indent: int = 0) -> str:
    """The config as readable YAML."""
    lines = []
    for name, value in plain(config).items():
        if isinstance(value, dict) and value:
            lines += [f"{' ' * indent}{name}:", as_text(value, indent + 2)]
        else:
            lines.append(f"{' ' * indent}{name}: {json.dumps(value)}")
    return "\n".join(lines)
