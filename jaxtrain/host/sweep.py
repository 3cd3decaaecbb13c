"""Sweeps over seeds and traced hyper-parameters: many trials of one run in one compiled program.

`--sweep="seed=0:8;optimizer.learning_rate=1e-3,3e-3"` is 16 trials. `parse` turns the text into
`Axes`, `swept` turns the function that builds a core into one core whose state has a leading trial
axis, and that core is trained, saved, resumed and logged like any other. Only numbers can be swept
this way; whatever changes a shape or the program (layers, batch size, method) needs its own run.
"""

import contextlib
import fnmatch
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from jaxtrain import parallel
from jaxtrain.core import Core, StepOutput, is_held
from jaxtrain.host.settings import UsageError, check, did_you_mean, flatten

SEED_AXIS = "seed"
MOST_TRIALS = 10_000
_EXAMPLE = "seed=0:8;optimizer.learning_rate=1e-3,3e-3"


class Axes(NamedTuple):
    """The trials of a sweep: the cartesian product of its axes, last axis fastest.

    Attributes:
      names: swept keys, in the order given.
      values: key -> its value in each trial, `[trials]`, int32 or float32.
    """

    names: tuple[str, ...]
    values: dict[str, np.ndarray]

    @property
    def num_trials(self) -> int:
        return len(self.values[self.names[0]])


def _numbers(name: str, text: str, whole: bool) -> Sequence[float]:
    values: Sequence[float] = ()
    with contextlib.suppress(ValueError):
        if ":" in text:
            bounds = [int(part) for part in text.split(":")]
            values = range(*bounds) if len(bounds) in (2, 3) else ()
        else:
            values = [int(item) if whole else float(item) for item in text.split(",")]
    if not values or (name == "seed" and min(values[0], values[-1]) < 0):
        kind = "whole numbers" if whole else "numbers"
        sign = " that are not negative" if name == "seed" else ""
        raise UsageError(
            f"--sweep needs {kind}{sign} for {name!r}, as start:stop or a,b,c, but got {text!r}"
        )
    return values


def _bounded(lengths: Sequence[int]) -> None:
    if math.prod(lengths) > MOST_TRIALS:
        product = " x ".join(f"{length:,}" for length in lengths)
        raise UsageError(
            f"--sweep asks for {product} trials in one program, and {MOST_TRIALS:,} are the most; "
            "spread them over several commands"
        )


def parse(text: str, sweepable: Sequence[str], config: ConfigDict | None = None) -> Axes:
    """Reads a sweep expression.

    Args:
      text: `name=values` parts joined by `;`, values as `start:stop[:step]` or `a,b,c`.
      sweepable: config keys that the experiment can vary inside one program, besides `seed`; `*`
        stands for any part of a name.
      config: says which keys hold whole numbers; without it all but `seed` are floats.

    Raises:
      UsageError: unreadable text, a key or a value named twice, a key that cannot be swept (the
        possible ones are listed), a value that the config does not allow, or too many trials.
    """
    settings = flatten(config) if config else {}
    axes: dict[str, np.ndarray] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, given = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise UsageError(f"--sweep cannot read {part!r}; write it like {_EXAMPLE!r}")
        if name != "seed" and not any(fnmatch.fnmatchcase(name, one) for one in sweepable):
            raise UsageError(
                f"--sweep cannot vary {name!r} inside one program, only "
                f"{', '.join(['seed', *sweepable])}; start one run per value with "
                f"--config.{name}=..."
            )
        if settings and name not in ("seed", *settings):
            raise UsageError(
                f"--sweep: the config has no key {name!r}{did_you_mean(name, settings)}"
            )
        if isinstance(settings.get(name), (bool, str, tuple)):
            raise UsageError(
                f"--sweep varies numbers, and {name!r} is none; start one run per value with "
                f"--config.{name}=..."
            )
        if name in axes:
            raise UsageError(f"--sweep names {name!r} twice; list all its values together")
        whole = name == "seed" or isinstance(settings.get(name), int)
        values = _numbers(name, given, whole)
        if isinstance(values, range):  # whose length may be too large to have one
            for end in (values[0], values[-1]):
                check(ConfigDict(), {name: end})
        _bounded([*map(len, axes.values()), len(values)])
        check(ConfigDict() if config is None else config, {name: tuple(values)})
        axes[name] = np.asarray(values, np.int32 if whole else np.float32)
        if len(np.unique(axes[name])) < len(values):
            raise UsageError(
                f"--sweep lists a value of {name!r} twice in {given!r}, which would be one trial "
                "counted twice; leave out the repetitions"
            )
    if not axes:
        raise UsageError(f"--sweep is empty; write it like {_EXAMPLE!r}")
    columns = zip(*itertools.product(*axes.values()), strict=True)
    stacked = {n: np.asarray(c, axes[n].dtype) for n, c in zip(axes, columns, strict=True)}
    return Axes(tuple(axes), stacked)


def swept(
    build: Callable[[dict[str, jax.Array]], Core],
    axes: Axes,
    sample: Callable[[jax.Array, Any], Any] | None = None,
) -> Core:
    """The core of all trials at once.

    State and metrics get a leading trial axis, `outputs` a second axis (`[batch, trials, ...]`, so
    that the batch axis stays in front). Where `seed` is swept, a trial's key in `init` and in every
    `update` is `fold_in(key, seed)`; a sweep over one seed therefore repeats that trial of a larger
    sweep, to float tolerance (vectorised products round differently). Parts of a state that are
    `Held` get no trial axis: all trials share one copy.

    Args:
      build: traced values by key (`seed` among them when it is swept) -> the core of one trial.
      axes: the trials.
      sample: `(key, batch) -> batch` that draws each trial's own data from the trial's key and the
        batch given by the loop (usually example indices); None gives all trials the same batch.

    Returns:
      `Core(init(key, *args), update(state, batch, key))`; all trials share `args` and `batch`.
    """

    def trial_key(key: jax.Array, values: Mapping[str, jax.Array]) -> jax.Array:
        return jax.random.fold_in(key, values["seed"]) if "seed" in values else key

    def init(key: jax.Array, *args: Any) -> Any:
        start = lambda values: build(values).init(trial_key(key, values), *args)
        one = jax.eval_shape(start, {name: x[0] for name, x in axes.values.items()})
        return jax.vmap(start, out_axes=_own_axes(one))(axes.values)

    def update(state: Any, batch: Any, key: jax.Array) -> tuple[Any, StepOutput]:
        def trial(state: Any, values: Any) -> tuple[Any, StepOutput]:
            key_trial = trial_key(key, values)
            if sample is None:
                return build(values).update(state, batch, key_trial)
            key_update, key_data = jax.random.split(key_trial)
            return build(values).update(state, sample(key_data, batch), key_update)

        own = _own_axes(state)
        out_axes: Any = (own, StepOutput(0, 1))  # type: ignore[arg-type]
        return jax.vmap(trial, in_axes=(own, 0), out_axes=out_axes)(state, axes.values)

    return Core(init, update)


def _own_axes(state: Any) -> Any:
    """Axis 0 for what every trial has of its own, None for what they share."""
    return jax.tree.map(lambda x: None if is_held(x) else 0, state, is_leaf=is_held)


def overlay(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    """A copy of a config in which some numbers are replaced, by traced ones for example.

    So `build(overlay(config, values))` builds the core of one trial and needs to know nothing of
    sweeps.

    Args:
      config: left as it is.
      values: dotted key -> number.
    """
    copy = config.copy_and_resolve_references()
    with copy.ignore_type(), copy.unlocked():
        for key, value in values.items():
            *groups, name = key.split(".")
            functools.reduce(lambda node, group: node[group], groups, copy)[name] = value
    return copy


def trials(tree: Any, axes: Axes | None) -> list[Any]:
    """The tree of every trial; a list of one without a sweep."""
    if axes is None:
        return [tree]
    return [jax.tree.map(lambda x, t=t: x[t], tree) for t in range(axes.num_trials)]


def as_typed(values: np.ndarray) -> list[Any]:
    """Numbers of an axis as they were typed: 0.001, not 0.0010000000474974513."""
    return [int(v) if values.dtype.kind == "i" else float(f"{v:.7g}") for v in values]


def folders(workdir: Path, axes: Axes | None) -> list[Path]:
    """The folder of every trial: the work folder itself without a sweep."""
    if axes is None:
        return [workdir]
    return [workdir / f"trial_{t}" for t in range(axes.num_trials)]


def settings_of(config: ConfigDict, axes: Axes | None) -> list[ConfigDict]:
    """The config of every trial, the seed left as it is; equal ones are one object."""
    if axes is None:
        return [config]
    found: dict[tuple[Any, ...], ConfigDict] = {}
    names = [name for name in axes.names if name != SEED_AXIS]
    every = list(zip(*(as_typed(axes.values[name]) for name in names), strict=True))
    for values in every:
        if values not in found:
            found[values] = overlay(config, dict(zip(names, values, strict=True)))
    return [found[values] for values in every] if names else [config] * axes.num_trials


def mesh_shape(axes: Axes, shape: Mapping[str, int], num_devices: int) -> dict[str, int]:
    """Adds a `seed` axis, as long as the trials allow, to a mesh that has a free (-1) axis.

    Trials need no communication, so they get the devices before the batch does.
    """
    taken = math.prod(size for size in shape.values() if size > 0)
    shards = math.gcd(axes.num_trials, num_devices // max(taken, 1))
    if SEED_AXIS in shape or -1 not in shape.values() or shards <= 1:
        return dict(shape)
    return {SEED_AXIS: shards, **shape}


def state_spec(axes: Axes | None, mesh: Mesh, state: Any = None) -> Any:
    """Layout of a state: trials over the mesh axis `seed` where there is one; of a single run as
    `parallel.state_layout` says; else replicated.

    Raises:
      UsageError: the number of trials does not divide.
    """
    if axes is None:
        return parallel.state_layout(state, mesh)
    if SEED_AXIS not in mesh.axis_names:
        return P()
    devices = mesh.shape[SEED_AXIS]
    if axes.num_trials % devices:
        raise UsageError(
            f"{axes.num_trials} trials do not divide over the {devices} devices of mesh axis "
            f"{SEED_AXIS!r}; use a multiple of {devices} trials or --config.mesh.{SEED_AXIS}=1"
        )
    return P(SEED_AXIS)


def place(state: Any, axes: Axes | None, mesh: Mesh) -> Any:
    """Puts the state of a sweep on its mesh, laid out by `state_spec`; trainers keep it so."""
    return parallel.place(state, mesh, state_spec(axes, mesh, state))
