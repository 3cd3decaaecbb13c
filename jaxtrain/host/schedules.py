"""From the optimiser section of a config to a schedule, and the files that schedules use.

An optimiser section has `learning_rate`, `warmup_steps` and `schedule`, a text such as
`wsd(decay=0.2)`: a name of `jaxtrain.schedules.SCHEDULES`, or `autolrs(...)` with fields of
`AutoLRSConfig`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import optax
from ml_collections import ConfigDict

from jaxtrain import schedules
from jaxtrain.host import arrays
from jaxtrain.host.config import UsageError, did_you_mean
from jaxtrain.host.files import write_json
from jaxtrain.host.sweep import Axes, overlay
from jaxtrain.replacing import replacing
from jaxtrain.schedules.autolrs_phases import AutoLRSConfig
from jaxtrain.schedules.refinement import recorded_norms

SCHEDULE_FILE = "schedule.json"
NORMS_FILE = "grad_norms.npy"
_POINTS = 500  # at most, in the file of a schedule
_RATE = "optimizer.learning_rate"


def read_numbers(path: str) -> np.ndarray:
    """A vector from an `.npy` or text file, or the gradient norms that a run folder recorded.

    Of the norms of several trials, `[trials, steps]`, it takes the median over the trials.

    Raises:
      UsageError: nothing there, or not numbers.
    """
    file = Path(path) / NORMS_FILE if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise UsageError(
            f"{str(file)!r} does not exist; gradient norms are recorded with "
            "optimizer.record_grad_norms=l1"
        )
    with arrays.one_sentence(file, "file of numbers"):
        values = arrays.read_npy(file) if file.suffix == ".npy" else np.loadtxt(file)
        if values.ndim not in (1, 2) or values.dtype.kind not in "iuf":
            raise ValueError(f"it holds {values.dtype} of shape {values.shape}, not [steps]")
    return np.median(values, axis=0) if values.ndim == 2 else values


def check_own_batches(config: ConfigDict) -> None:
    """For learners that make their batches themselves.

    Raises:
      UsageError: the schedule is a search, which compares losses on the same batches.
    """
    if autolrs_config(config) is not None:
        raise UsageError(
            "optimizer.schedule=autolrs compares losses on the same batches, but what learns here "
            "makes its own; choose another schedule"
        )


def autolrs_config(config: ConfigDict) -> AutoLRSConfig | None:
    """Settings of the search if `config.optimizer.schedule` asks for one, else None.

    `warmup_steps` and `learning_rate` of the section are the search's warm-up and where it ends.

    Raises:
      UsageError: an unknown field, or no range.
    """
    section = config.optimizer
    name, fields = _parse(section.schedule)
    if name != "autolrs":
        return None
    fields = {"warmup_steps": section.warmup_steps, "warmup_lr": section.learning_rate} | fields
    for field in fields:
        if field not in AutoLRSConfig._fields:
            hint = did_you_mean(field, AutoLRSConfig._fields)
            known = f"; its arguments are {', '.join(AutoLRSConfig._fields)}"
            raise UsageError(
                f"optimizer.schedule: autolrs has no argument {field!r}{hint or known}"
            )
    if missing := [field for field in ("min_lr", "max_lr") if field not in fields]:
        raise UsageError(
            f"optimizer.schedule: autolrs needs {' and '.join(missing)}, for example "
            "'autolrs(min_lr=1e-4, max_lr=1e-1)'"
        )
    return AutoLRSConfig(**fields)


def from_config(config: ConfigDict) -> optax.Schedule:
    """The schedule of `config.optimizer` over `config.num_steps` updates.

    Args:
      config: of the run; numbers of the section may be traced.

    Raises:
      UsageError: whatever `schedules.make_schedule` refuses.
    """
    section = config.optimizer
    try:
        return schedules.make_schedule(
            section.schedule,
            section.learning_rate,
            config.num_steps,
            warmup_steps=section.warmup_steps,
            read=read_numbers,
        )
    except ValueError as error:
        raise UsageError(f"optimizer.schedule: {error}") from error


def write_schedule(workdir: str | Path, config: ConfigDict, sweep: Axes | None = None) -> None:
    """Writes the rates to come to `schedule.json`, a row per trial; `experiments.report` draws it.

    AutoLRS knows no rates beforehand; what it applied is the metric `learning_rate`.

    Raises:
      UsageError: one of the swept rates is impossible.
    """
    if autolrs_config(config) is not None:
        return
    swept = sweep.values.get(_RATE) if sweep else None
    peaks = [None] if swept is None else [float(f"{rate:.7g}") for rate in swept]
    count = min(config.num_steps, _POINTS)
    steps = np.unique(np.linspace(0, config.num_steps - 1, count).astype(int))
    at_peak = lambda peak: config if peak is None else overlay(config, {_RATE: peak})
    rates = [_evaluated(from_config(at_peak(peak)), steps) for peak in peaks]
    about = {"schedule": config.optimizer.schedule, "steps": steps.tolist(), "rates": rates}
    write_json(Path(workdir) / SCHEDULE_FILE, about)


def _evaluated(schedule: optax.Schedule, steps: np.ndarray) -> list[float]:
    import jax

    return np.asarray(jax.vmap(schedule)(steps), float).tolist()


def read_schedule(workdir: str | Path) -> dict[str, Any] | None:
    """What `write_schedule` wrote, or None.

    Raises:
      UsageError: the file holds something else.
    """
    file = Path(workdir) / SCHEDULE_FILE
    if not file.is_file():
        return None
    with arrays.one_sentence(file, "list of rates"):
        about = json.loads(file.read_text(encoding="utf-8"))
        np.asarray([about["steps"], *about["rates"]], float)  # numbers, equally many
        return about | {"schedule": str(about["schedule"])}


def save_norms(workdir: str | Path, state: Any) -> None:
    """Writes the gradient norms that `state` recorded, if any, to `grad_norms.npy`."""
    try:
        norms = recorded_norms(state)
    except ValueError:
        return
    with replacing(Path(workdir) / NORMS_FILE) as part:
        np.save(part, norms)


def _parse(text: str) -> tuple[str, dict[str, Any]]:
    try:
        return schedules.parse_call(text)
    except ValueError as error:
        raise UsageError(f"optimizer.schedule: {error}") from error
