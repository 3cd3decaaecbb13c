"""The checkpoints of a run: when to save, which to keep, which to read.

Step n means that n updates are done. `stored.py` says what one checkpoint is.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxtrain.host import stored
from jaxtrain.host.metrics import finite_mean
from jaxtrain.host.stored import CheckpointError as CheckpointError
from jaxtrain.host.stored import Restored as Restored
from jaxtrain.host.stored import load_arrays as load_arrays

logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run.

    Reading changes nothing on disk. The first save removes what a killed process left half done
    and sets aside (renames, never deletes) damaged checkpoints that `restore_or` had to skip.

    Args:
      directory: folder that holds one folder per step.
      every: save when the step is a multiple of this.
      keep: how many of the newest checkpoints to keep.
      keep_best: a metric whose best checkpoint is kept as well, for example `"eval/accuracy"`
        (highest) or `"-loss"` (lowest). With one value per trial, the mean of the finite ones.

    Raises:
      ValueError: `every` or `keep` is not positive.
    """

    def __init__(
        self, directory: str | Path, *, every: int, keep: int = 3, keep_best: str | None = None
    ) -> None:
        for name, value in (("every", every), ("keep", keep)):
            if value < 1:
                raise ValueError(f"checkpoint.{name} is {value}; give a whole number of 1 or more.")
        self.directory = Path(directory).absolute()
        self.every, self.keep, self.keep_best = every, keep, keep_best
        self._skipped: list[Path] = []
        self._values: dict[int, float | None] = {}
        self._pending: tuple[int, Callable[[], None]] | None = None
        self._last: int | None = None
        self._prepared = False

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exc: object) -> None:
        self.wait()

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, damaged ones included, oldest first."""
        return _steps(self.directory)

    def restore_or(
        self, state: Any, meta_check: Callable[[dict[str, Any]], None] | None = None
    ) -> Restored:
        """Reads the newest good checkpoint, or returns the given state at step 0.

        Args:
          state: the freshly made state, or its `ShapeDtypeStruct`s with shardings; says which
            leaves, shapes, dtypes and shardings are expected.
          meta_check: called with the metadata of a checkpoint before its arrays are read; raises
            to refuse the whole resume (a changed configuration, for example).

        Returns:
          `(state, step, meta)`, the state placed like the given one whatever number of devices
          wrote it.

        Raises:
          CheckpointError: there are checkpoints but none is usable; nothing has been deleted.
        """
        restored, self._skipped = _newest(self.directory, state, meta_check=meta_check)
        if restored is None:
            return Restored(state, 0, {})
        self._last = restored.step
        return restored

    def maybe_save(
        self,
        step: int,
        state: Any,
        meta: Mapping[str, Any],
        metrics: Mapping[str, Any],
        force: bool = False,
    ) -> bool:
        """Starts saving if the step is due; every process calls it.

        Returns as soon as the arrays are copied, so the state may be donated afterwards. A save
        still under way is waited for first.

        Args:
          step: number of updates done.
          state: tree of arrays.
          meta: anything that JSON can hold.
          metrics: numbers of this step, for `keep_best`.
          force: save although the step is not due (the last step, or before a preemption).

        Returns:
          Whether a save was started.

        Raises:
          CheckpointError: the step exists already, or the previous save failed.
          ValueError: `keep_best` is not among the metrics of a step that was due.
        """
        due = step % self.every == 0
        if step == self._last or not (due or force):
            return False
        self.wait()
        path = self.directory / str(step)
        value = self._value(step, metrics, required=due)
        if not self._prepared:
            self._prepare()
        if jax.process_index() == 0 and path.exists():
            raise CheckpointError(
                f"{path} exists already; restore from {self.directory} before training, "
                "or choose an empty folder."
            )
        committed = stored.begin_save(path, step, state, meta, [self.keep_best, value])
        self._pending, self._last, self._values[step] = (step, committed), step, value
        return True

    def wait(self) -> None:
        """Waits until the last save is committed, then removes checkpoints no longer wanted.

        Raises:
          CheckpointError: the save failed; the checkpoints before it are untouched.
        """
        if self._pending is None:
            return
        (step, committed), self._pending = self._pending, None
        try:
            committed()
        except Exception as error:
            raise CheckpointError(
                f"saving checkpoint {self.directory / str(step)} failed ({stored.reason(error)}); "
                "older checkpoints are untouched."
            ) from error
        if jax.process_index() == 0:
            self._prune()

    def _value(self, step: int, metrics: Mapping[str, Any], required: bool) -> float | None:
        """The number `keep_best` ranks by, larger is better; None if it cannot be ranked."""
        if self.keep_best is None:
            return None
        name = self.keep_best.removeprefix("-")
        if name not in metrics:
            if not required:
                return None
            raise ValueError(
                f"checkpoint.keep_best is {self.keep_best!r}, but the metrics of step {step} are "
                f"{sorted(metrics)}; name one of them, or let every checkpoint fall on a step that "
                "is evaluated."
            )
        value = finite_mean(metrics[name])
        if math.isnan(value):
            return None
        return -value if self.keep_best.startswith("-") else value

    def _prepare(self) -> None:
        """Before the first save: learns what there is and tidies what earlier processes left."""
        self._prepared = True
        for step in self.steps() if self.keep_best is not None else []:  # by all processes at once
            with contextlib.suppress(Exception), stored.quiet():
                name, value = stored.read_meta(self.directory / str(step))["best"]
                self._values[step] = value if name == self.keep_best else None
        if jax.process_index() != 0:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        for leftover in self.directory.iterdir():
            if ".orbax-checkpoint-tmp" in leftover.name or leftover.name.endswith(".removing"):
                shutil.rmtree(leftover, ignore_errors=True)
        for path in self._skipped:
            number = 0
            while (target := path.with_name(f"{path.name}.damaged{number or ''}")).exists():
                number += 1
            os.replace(path, target)

    def _prune(self) -> None:
        steps = self.steps()
        kept = set(steps[-self.keep :])
        ranked = [(value, s) for s in steps if (value := self._values.get(s)) is not None]
        if ranked:
            kept.add(max(ranked)[1])
        for step in sorted(set(steps) - kept):
            doomed = self.directory / f"{step}.removing"
            os.replace(self.directory / str(step), doomed)  # never a half-deleted checkpoint
            shutil.rmtree(doomed, ignore_errors=True)


def load(path: str | Path, abstract: Any, *, field: str = "") -> Restored:
    """Reads a checkpoint, or one field of its state.

    Args:
      path: a checkpoint, a folder of checkpoints (the newest good one is taken), or a run folder
        that holds `checkpoints/`.
      abstract: expected tree of arrays or `ShapeDtypeStruct`s; its shardings are used.
      field: dotted path of the wanted part of the state, such as `"params"`; empty for all of it.

    Raises:
      CheckpointError: there is no checkpoint, or none that fits.
    """
    path = Path(path).absolute()
    if (path / "checkpoints").is_dir():
        path = path / "checkpoints"
    if path.name.isdecimal() and path.is_dir():
        return stored.read(path, abstract, field)
    restored, _ = _newest(path, abstract, field)
    if restored is None:
        raise CheckpointError(f"{path} holds no checkpoint; give the folder of a run or of a step.")
    return restored


def load_params(path: str | Path, abstract: Any) -> Any:
    """Reads the field `params` of a saved state; see `load`."""
    return load(path, abstract, field="params").tree


def _newest(
    directory: Path,
    abstract: Any,
    field: str = "",
    meta_check: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[Restored | None, list[Path]]:
    """The newest good checkpoint and the newer ones that had to be skipped."""
    skipped: dict[Path, str] = {}
    for step in reversed(_steps(directory)):
        path = directory / str(step)
        try:
            restored = stored.read(path, abstract, field, meta_check)
            reason = ""
        except CheckpointError as error:
            reason = str(error)
        if _all_processes(not reason):
            return restored, list(skipped)
        skipped[path] = reason or f"{path}: another process could not read it."
        logger.warning("Skipped a checkpoint. %s", skipped[path])
    if skipped:
        raise CheckpointError(
            f"no checkpoint in {directory} can be used (nothing was deleted; to start over, choose "
            f"an empty folder): {' '.join(skipped.values())}"
        )
    return None, []


def _steps(directory: Path) -> list[int]:
    if not directory.is_dir():
        return []
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdecimal() and p.is_dir())


def _all_processes(ok: bool) -> bool:
    if jax.process_count() == 1:
        return ok
    return bool(np.all(multihost_utils.process_allgather(np.array(ok))))
