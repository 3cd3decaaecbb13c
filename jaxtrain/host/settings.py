"""Configs that know which values their keys may have, and which of their keys a run reads.

A config file states the rule of a key where it states its default:

    config = settings(
        standard("ppo", num_steps=976, batch_size=4),
        method=choice("ppo", "dpo", "a2c"),  # the first is the default
        loss=dict(gamma=between(0, 1, 0.99), value_coef=at_least(0, 0.5)),
    )

`load`, the command line and `--sweep` check the rules; only rules that relate several keys are left
to the `validate` of an experiment. Every key but a bool has a rule: `free` says that any value of
its type is right. Numbers are finite and fit into 32 bits whatever their rule. `recorded` finds the
keys that building a run reads, so that a change of any other key can be refused.
"""

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

LARGEST_INTEGER = 2**31 - 1
# Of float32, in which numbers are traced.
SMALLEST_FLOAT, LARGEST_FLOAT = 2.0**-126, (2 - 2.0**-23) * 2.0**127


class UsageError(ValueError):
    """The user asked for something impossible; the message is one sentence with what to change."""


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """`"; did you mean 'x'?"` for the closest of `known`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]!r}?" if close else ""


def flatten(config: Mapping[str, Any] | ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value for every leaf; an empty group counts as a leaf."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, (Mapping, ConfigDict)) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


class Rule(NamedTuple):
    """A default value and what every value must satisfy; of a tuple, every item.

    Attributes:
      default: of the key.
      holds: whether one value, or one item of a tuple, is possible.
      says: ends the sentence "KEY=VALUE is impossible; ", for example "it must be at least 1".
      known: the possible values where they can be listed, else ().
      whole: whether the items of a tuple are whole numbers, which an empty one does not show.
      may_be_empty: whether a tuple without items is possible.
    """

    default: Any
    holds: Callable[[Any], bool]
    says: str
    known: tuple[Any, ...] = ()
    whole: bool = False
    may_be_empty: bool = True


def choice(default: Any, *others: Any) -> Rule:
    """One of the given values; the first is the default."""
    known = (default, *others)
    return Rule(default, lambda x: x in known, f"choose {_listed(known)}", known)


def choice_or_own(default: Any, *others: Any) -> Rule:
    """One of the given values, or a function of the user's as `module:function`."""
    rule = choice(default, *others)
    return rule._replace(
        holds=lambda x: rule.holds(x) or (isinstance(x, str) and ":" in x),
        says=f"{rule.says}, or name a function of your own as module:function",
    )


def some_of(known: Collection[Any], default: tuple[Any, ...]) -> Rule:
    """A tuple of some of the known values."""
    return Rule(default, lambda x: x in known, f"choose among {_listed(known)}", tuple(known))


def at_least(low: float, default: Any) -> Rule:
    """A number, or a tuple of numbers, of at least `low`. NaN is refused, as by all rules."""
    return _numbers(low, default, lambda x: x >= low, f"it must be at least {low}")


def above(low: float, default: Any) -> Rule:
    """A number, or a tuple of numbers, greater than `low`."""
    return _numbers(low, default, lambda x: x > low, f"it must be above {low}")


def share(default: Any) -> Rule:
    """A number, or a tuple of numbers, above 0 and at most 1."""
    return _numbers(0.0, default, lambda x: 0 < x <= 1, "it must be above 0 and at most 1")


def between(low: float, high: float, default: Any) -> Rule:
    """A number, or a tuple of numbers, from `low` to `high`, both included."""
    return _numbers(low, default, lambda x: low <= x <= high, f"it must be from {low} to {high}")


def size(default: Any, low: int = 1) -> Rule:
    """The length of an axis, or a tuple of them: whole numbers from `low` to 65,536."""
    return between(low, 65_536, default)


def depth(default: int, low: int = 1) -> Rule:
    """How often a program repeats a part of itself: a whole number from `low` to 1,000."""
    return between(low, 1_000, default)


def path(default: str) -> Rule:
    """The name of a file or folder that may exist, or of something else that the run looks up."""
    return Rule(default, _is_path, "name a file, folder or set in at most 255 bytes per part")


def free(default: Any) -> Rule:
    """Any value of the default's type: what it may be is checked where it is used."""
    return Rule(default, lambda x: True, "")


def filled(rule: Rule) -> Rule:
    """The same rule for a tuple that may not be empty."""
    return rule._replace(may_be_empty=False)


def mesh() -> dict[str, Rule]:
    """The group `mesh`: devices that share the batch, -1 for all that are left.

    `data` of them hold the whole state each; or `fsdp`, which share the batch too, one state.
    """
    good = lambda n: n == -1 or n >= 1
    return dict(
        data=Rule(-1, good, "it must be -1, for all devices, or at least 1"), fsdp=at_least(1, 1)
    )


def _numbers(low: float, default: Any, holds: Callable[[Any], bool], says: str) -> Rule:
    whole = all(isinstance(x, int) for x in (low, *_items(default)))
    return Rule(default, holds, says, whole=whole)


def _is_path(text: Any) -> bool:
    parts = str(text).encode().split(b"/")
    return isinstance(text, str) and b"\0" not in b"".join(parts) and max(map(len, parts)) <= 255


def _listed(known: Collection[Any]) -> str:
    return ", ".join(repr(x) if x == "" else str(x) for x in known)


class Settings(ConfigDict):
    """A `ConfigDict` with rules, whose reads can be recorded. Made by `settings`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        object.__setattr__(self, "_rules", {})
        object.__setattr__(self, "_log", lambda key: None)
        object.__setattr__(self, "_reads", None)
        super().__init__(*args, **kwargs)

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        if not isinstance(value, ConfigDict):
            self._log(key)
        return value

    def copy_and_resolve_references(self, visit_map: Any = None) -> "Settings":
        copy = super().copy_and_resolve_references(visit_map)
        object.__setattr__(copy, "_rules", self._rules)
        object.__setattr__(copy, "_log", self._log)
        object.__setattr__(copy, "_reads", self._reads)
        return copy


def unrecorded(config: ConfigDict) -> ConfigDict:
    """A copy whose reads are not recorded, to be written down as a whole for example."""
    copy = config.copy_and_resolve_references()

    def silence(node: ConfigDict) -> None:
        object.__setattr__(node, "_log", lambda key: None)
        for name in node:
            if isinstance(node[name], ConfigDict):
                silence(node[name])

    if isinstance(copy, Settings):
        object.__setattr__(copy, "_log", lambda key: None)
        silence(copy)
    return copy


def settings(*trees: Mapping[str, Any], **keys: Any) -> ConfigDict:
    """A config from nested dicts whose leaves are values or rules.

    Later trees and keyword arguments replace or add keys, group by group.
    """
    rules: dict[str, Rule] = {}
    config = _built(_merged([*trees, keys]), "", rules)
    object.__setattr__(config, "_rules", rules)
    return config


def _merged(trees: list[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for tree in trees:
        for name, value in tree.items():
            old = found.get(name)
            if isinstance(value, Mapping) and isinstance(old, Mapping):
                value = _merged([old, value])
            elif isinstance(old, Rule) and not isinstance(value, (Rule, Mapping)):
                value = old._replace(default=value)  # another default under the same rule
            found[name] = value
    return found


def _built(tree: Mapping[str, Any], prefix: str, rules: dict[str, Rule]) -> Settings:
    config = Settings()
    for name, value in tree.items():
        if isinstance(value, Mapping):
            value = _built(value, f"{prefix}{name}.", rules)
        elif isinstance(value, Rule):
            rules[prefix + name] = value
            value = value.default
        config[name] = value
    return config


def standard(experiment: str, **changes: Any) -> dict[str, Any]:
    """The keys that every experiment which trains has, for `settings`.

    Args:
      experiment: name of the command.
      **changes: other defaults of these keys.
    """
    keys = dict(
        experiment=choice(experiment),
        seed=at_least(0, 0),
        num_steps=at_least(1, 1),
        batch_size=size(1),  # over all devices
        log_every=at_least(1, 100),
        eval_every=at_least(0, 0),  # 0: never
        checkpoint=dict(every=at_least(1, 1_000), keep=at_least(1, 2), keep_best=free("")),
        mesh=mesh(),
        resume_from=path(""),  # run whose state and step to continue
        init_from=path(""),  # run or file whose parameters to start from
        tensorboard=True,
        wandb=free(""),  # W&B project; empty for none
    )
    return _merged([keys, changes])


def rules_of(config: ConfigDict) -> Mapping[str, Rule]:
    """Dotted key -> its rule."""
    return getattr(config, "_rules", {}) if isinstance(config, Settings) else {}


def check(config: ConfigDict, keys: Mapping[str, Any] | None = None) -> None:
    """Checks values against the rules of a config.

    Args:
      config: has the rules.
      keys: dotted key -> value to check; all of the config when None.

    Raises:
      UsageError: a value breaks the rule of its key.
    """
    rules = rules_of(config)
    for key, given in (flatten(config) if keys is None else keys).items():
        rule = rules.get(key)
        if rule is not None and not rule.may_be_empty and given in ((), []):
            raise UsageError(f"{key}=() is impossible; give at least one value")
        check_value(key, given, rule)


def check_value(name: str, given: Any, rule: Rule | None) -> None:
    """Checks the value of one key or flag.

    Args:
      name: of the key or flag.
      given: its value; of a tuple every item is checked.
      rule: of the key; None for what holds for all.

    Raises:
      UsageError: the value breaks the rule.
    """
    for value in _items(given):
        if says := _breach(value, rule):
            shown = repr(given) if isinstance(value, str) else given
            hint = did_you_mean(value, rule.known) if rule and isinstance(value, str) else ""
            raise UsageError(f"{name}={shown} is impossible; {says}{hint}")


def _breach(value: Any, rule: Rule | None) -> str:
    """What a value must be and is not, or ""."""
    if isinstance(value, float) and not abs(value) <= LARGEST_FLOAT:
        return "it must be a finite number" + (f", and {rule.says}" if rule and rule.says else "")
    if isinstance(value, float) and 0 < abs(value) < SMALLEST_FLOAT:
        return f"numbers other than 0 may be as small as {SMALLEST_FLOAT:.3g}"
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        return f"whole numbers may be as large as {LARGEST_INTEGER}"
    if isinstance(value, str) and "\0" in value:
        return "text may not have the character of code 0"
    if rule is None:
        return ""
    if rule.whole and not isinstance(value, int):
        return f"it must be whole, and {rule.says}"
    try:
        return "" if rule.holds(value) else rule.says
    except TypeError:
        return rule.says


def _items(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def keyed(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """(dotted key, value, what its rule says or "") of every key, for help."""
    rules = rules_of(config)
    for key, value in flatten(config, prefix).items():
        yield key, value, rules[key].says if key in rules else ""


class Reads:
    """The keys of a config that were read, until `close`; later reads of other keys are errors."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self._closed = False

    def note(self, key: str) -> None:
        if self._closed and key not in self.keys:
            raise RuntimeError(
                f"the config key {key!r} is read after the run was built; bind it while building, "
                "so that changes of keys without effect can be refused."
            )
        self.keys.add(key)

    def close(self) -> None:
        self._closed = True


def recorded(config: ConfigDict) -> tuple[ConfigDict, Reads]:
    """A locked copy of a config that records which of its keys are read.

    Reading a group as keyword arguments (`**config.group`) reads all its keys. Copies of the copy
    record too.
    """
    reads = Reads()

    def copied(node: ConfigDict, prefix: str) -> Settings:
        copy = Settings()
        for name, value in node.items():
            is_group = isinstance(value, ConfigDict)
            copy[name] = copied(value, f"{prefix}{name}.") if is_group else value
        object.__setattr__(copy, "_log", lambda key: reads.note(prefix + key))
        return copy

    copy = copied(config, "")
    object.__setattr__(copy, "_rules", rules_of(config))
    object.__setattr__(copy, "_reads", reads)
    return copy.lock(), reads


def was_read(config: ConfigDict, key: str) -> bool:
    """Whether a dotted key of a recorded config has been read; True where nothing is recorded."""
    reads = getattr(config, "_reads", None)
    return reads is None or key in reads.keys
