"""Trials of `tta_images`: points of a sweep, run one after the other, and the rows they leave."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.images.report import Row
from jaxtrain.host import files, sweep
from jaxtrain.host.config import UsageError, flatten
from jaxtrain.host.settings import LARGEST_INTEGER

# Source model, its statistics and the clean images are the same for all trials of a sweep.
SWEEPABLE = ("method.*", "stream.concentration", "stream.ratio", "stream.imbalance")


class Trial(NamedTuple):
    """One point of a sweep; without one, all of the run.

    Attributes:
      config: what it reads; trials that differ in their seed only share it.
      seeds: of draws and stream.
      folder: name of its folder within the work folder; empty for that itself.
      about: the swept values.
    """

    config: ConfigDict
    seeds: list[int]
    folder: str
    about: dict[str, Any]


def trials_of(config: ConfigDict, axes: sweep.Axes | None) -> list[Trial]:
    """The trials of a run.

    Raises:
      UsageError: seeds are given twice or end beyond what a seed may be, or a swept key has no
        effect.
    """
    if (last := config.seed + config.num_seeds - 1) > LARGEST_INTEGER:
        raise UsageError(
            f"seed={config.seed} and num_seeds={config.num_seeds} ask for seeds up to {last}, and "
            f"{LARGEST_INTEGER} is the largest; lower one of them"
        )
    if axes is None:
        return [Trial(config, list(range(config.seed, config.seed + config.num_seeds)), "", {})]
    if sweep.SEED_AXIS in axes.names and config.num_seeds > 1:
        raise UsageError(
            f"--sweep names seeds and num_seeds={config.num_seeds} asks for others; add "
            "--config.num_seeds=1"
        )
    known = flatten(config)
    if unread := [name for name in axes.names if name not in known]:
        raise UsageError(
            f"{unread[0]} would have no effect, because nothing in this run reads it; leave it "
            "out of --sweep"
        )
    values = {name: sweep.as_typed(axes.values[name]) for name in axes.names}
    found = []
    for t, settings in enumerate(sweep.settings_of(config, axes)):
        about = {name: values[name][t] for name in axes.names}
        first = about.get(sweep.SEED_AXIS, config.seed)
        seeds = list(range(first, first + config.num_seeds))
        found.append(Trial(settings, seeds, f"trial_{t}", about))
    return found


def save_row(path: Path, row: Row) -> None:
    """Keeps a row, for a run that goes on later."""
    files.write_json(path, row._asdict())


def read_row(path: Path) -> Row | None:
    """What `save_row` wrote, or None."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        worst = content.pop("worst_group")
        return Row(**_with_nan(content), worst_group=worst)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(
            f"{path} is no row of results ({error}); remove it to compute that again"
        ) from error


def _with_nan(tree: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    if isinstance(tree, dict):
        return {name: _with_nan(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_with_nan(value) for value in tree]
    return math.nan if tree is None else tree
