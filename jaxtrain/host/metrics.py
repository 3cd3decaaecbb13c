"""Where the numbers of a run go: `metrics.jsonl`, `timing.jsonl`, the console, TensorBoard, W&B.

`metrics.jsonl` holds what the run computed and nothing else: one JSON object per line, `step`
first. It is the same, byte for byte, whether or not the run was interrupted. Whatever a clock says
goes to `timing.jsonl`.
"""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np

from jaxtrain.host.config import UsageError
from jaxtrain.host.extras import import_extra
from jaxtrain.host.files import write_text
from jaxtrain.host.tensorboard import Scalars
from jaxtrain.replacing import replacing


class Writer:
    """Writes the metrics of one run; does nothing on processes other than the first.

    Args:
      workdir: run folder, made if absent.
      start_step: step the run continues from. Lines of later steps, and a last line that was cut
        off, are removed, so that no step appears twice; 0 starts empty files.
      tensorboard: also write TensorBoard event files to `workdir/tensorboard`.
      wandb: arguments of `wandb.init` (a project, for example) to log there too; None for no W&B.
      show: names of the metrics on the progress line; empty for all.
      lines: how many lines `metrics.jsonl` must have until `start_step`; None: not known.

    Attributes:
      lines: how many lines `metrics.jsonl` has.

    Raises:
      UsageError: TensorBoard or W&B was asked for and its package is not installed; a line other
        than the last is not JSON; lines are missing.
    """

    def __init__(
        self,
        workdir: str | Path,
        start_step: int = 0,
        tensorboard: bool = True,
        wandb: Mapping[str, Any] | None = None,
        show: Sequence[str] = (),
        lines: int | None = None,
    ) -> None:
        self._metrics: TextIO | None = None
        self._tensorboard: Any = None
        self._wandb: Any = None
        self._show = tuple(show)
        self.lines = 0
        if jax.process_index() != 0:
            return
        folder = Path(workdir).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        self.lines = len(_kept(folder / "metrics.jsonl", start_step))
        if lines is not None and self.lines != lines:
            raise UsageError(
                f"{folder / 'metrics.jsonl'} has {self.lines} of the {lines} lines that belong to "
                f"the checkpoint of step {start_step}; restore the file, or go on without them "
                f"with --config.resume_from={workdir} and another --workdir"
            )
        for name in ("metrics.jsonl", "timing.jsonl"):
            drop_after(folder / name, start_step)
        if tensorboard:
            self._tensorboard = Scalars(folder / "tensorboard", start_step + 1)
        if wandb is not None:
            self._wandb = _wandb_run(folder, wandb, goes_on=start_step > 0)
        self._metrics = open(folder / "metrics.jsonl", "a", encoding="utf-8")
        self._timing = open(folder / "timing.jsonl", "a", encoding="utf-8")

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Adds one line to `metrics.jsonl`. Values are numbers or arrays (written as lists)."""
        if self._metrics is not None:
            _append(self._metrics, _line(step, metrics))
            self.lines += 1
            self._chart(step, metrics)

    def timing(self, step: int, numbers: Mapping[str, Any]) -> None:
        """Adds one line to `timing.jsonl`."""
        if self._metrics is not None:
            _append(self._timing, _line(step, numbers))
            self._chart(step, {f"timing/{name}": value for name, value in numbers.items()})

    def progress(
        self,
        step: int,
        num_steps: int,
        metrics: Mapping[str, Any],
        steps_per_second: float,
        eta_seconds: float,
    ) -> None:
        """Prints one line: step, percent, metrics (mean over finite trials), speed, time left."""
        if self._metrics is not None:
            numbers = "  ".join(
                f"{name} {finite_mean(metrics[name]):.4g}" for name in self._show or metrics
            )
            print(
                f"step {step}/{num_steps} ({100 * step / num_steps:.0f}%)  {numbers}  "
                f"{steps_per_second:.3g} steps/s  ETA {_duration(eta_seconds)}",
                flush=True,
            )

    def flush(self) -> None:
        """Returns when every line written so far is on disk."""
        if self._metrics is not None:
            for file in (self._metrics, self._timing):
                file.flush()
                os.fsync(file.fileno())
            if self._tensorboard is not None:
                self._tensorboard.flush()

    def close(self) -> None:
        """Flushes and closes everything; a second call does nothing."""
        if self._metrics is not None:
            self.flush()
            self._metrics.close()
            self._timing.close()
            self._metrics = None
            if self._tensorboard is not None:
                self._tensorboard.close()
            if self._wandb is not None:
                self._wandb.finish()

    def _chart(self, step: int, numbers: Mapping[str, Any]) -> None:
        means = {name: finite_mean(value) for name, value in numbers.items()}
        means = {name: mean for name, mean in means.items() if not math.isnan(mean)}
        if self._tensorboard is not None:
            for name, value in means.items():
                self._tensorboard.add(name, value, step)
        if self._wandb is not None:
            self._wandb.log(means, step=step)


def read(path: str | Path) -> list[dict[str, Any]]:
    """Lines of a metrics file, oldest first; a last line that was cut off is left out.

    Raises:
      UsageError: a line other than the last is not JSON; the message names it.
    """
    return [record for _, record in _parse(Path(path))]


def drop_after(path: Path, step: int) -> None:
    """Removes lines of steps later than `step` and a torn last line, in one atomic replacement.

    Step 0 means from scratch: every line goes.
    """
    if not path.exists():
        return
    kept = _kept(path, step)
    with replacing(path) as part:
        part.write_bytes(b"".join(kept))


def _kept(path: Path, step: int) -> list[bytes]:
    """The lines that `drop_after` leaves."""
    records = _parse(path) if path.exists() else []
    return [raw for raw, record in records if 0 < step >= record["step"]]


def _parse(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    lines = path.read_bytes().splitlines(keepends=True)
    parsed = []
    for number, raw in enumerate(lines, start=1):
        try:
            record = json.loads(raw)
            torn = not raw.endswith(b"\n") or not isinstance(record["step"], int)
        except (ValueError, TypeError, KeyError, RecursionError):
            torn = True
        if torn and number < len(lines):
            raise UsageError(
                f"{path}, line {number} is not a metrics line; repair that line, or remove it if "
                "it is none"
            )
        if not torn:
            parsed.append((raw, record))
    return parsed


def _append(file: TextIO, line: str) -> None:
    try:
        file.write(line)
        file.flush()
    except OSError as error:
        error.filename = error.filename or file.name  # a full disk names no file
        raise


def _line(step: int, numbers: Mapping[str, Any]) -> str:
    return json.dumps({"step": int(step)} | {k: _plain(v) for k, v in numbers.items()}) + "\n"


def _plain(value: Any) -> Any:
    """Python numbers and lists; None for what JSON cannot hold (NaN and infinities)."""
    array = np.asarray(value)
    if array.ndim:
        return [_plain(element) for element in array]
    if array.dtype.kind in "biu":
        return array.item()
    return float(array) if np.isfinite(array) else None


def finite_mean(value: Any) -> float:
    """Mean over the finite elements (trials that have not diverged); NaN if there are none."""
    array = np.asarray(value, np.float64)
    finite = array[np.isfinite(array)]
    return float(finite.mean()) if finite.size else math.nan


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"


def _wandb_run(folder: Path, arguments: Mapping[str, Any], goes_on: bool) -> Any:
    """The run that a resumed one began, which the work folder remembers; a new one else, also where
    another run used a folder of this name before."""
    wandb = import_extra("wandb", "wandb")
    file = folder / "wandb_id.txt"
    if not (goes_on and file.is_file()):
        write_text(file, uuid.uuid4().hex[:16] + "\n")
    run_id = file.read_text().strip()
    return wandb.init(**{"dir": str(folder), "id": run_id, "resume": "allow", **arguments})
