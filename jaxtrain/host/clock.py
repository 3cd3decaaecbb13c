"""Where the seconds of a run go."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Seconds spent training, evaluating and compiling; compilation is not part of the speed."""

    def __init__(self, elapsed_before: float) -> None:
        self.compile_seconds = self.speed = 0.0
        self._origin = time.perf_counter() - elapsed_before
        self._train_seconds = self._window_seconds = 0.0
        self._steps = 0
        self._eval_seconds: float | None = None

    def elapsed(self) -> float:
        """Seconds since the run began, earlier processes included."""
        return time.perf_counter() - self._origin

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """Around the first call of a program, which returns when it is compiled and started."""
        began = time.perf_counter()
        yield
        self.compile_seconds += time.perf_counter() - began

    @contextlib.contextmanager
    def training(self, steps: int) -> Iterator[None]:
        began = time.perf_counter() - self.compile_seconds
        yield
        self._window_seconds = time.perf_counter() - self.compile_seconds - began
        self._steps += steps
        self._train_seconds += self._window_seconds
        self.speed = steps / self._window_seconds

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        seconds = time.perf_counter() - began  # the least of all: the first one compiles
        self._eval_seconds = min(self._eval_seconds or seconds, seconds)

    def remaining(self, steps: int, evaluations: int) -> float:
        """Seconds left; evaluations count as soon as one has been timed."""
        per_step = self._train_seconds / self._steps
        return steps * per_step + evaluations * (self._eval_seconds or 0.0)

    def numbers(self) -> dict[str, float]:
        return {
            "seconds": self._window_seconds,
            "steps_per_second": self.speed,
            "compile_seconds": self.compile_seconds,
            "elapsed_seconds": self.elapsed(),
        }
