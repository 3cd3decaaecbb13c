"""What a run costs: a trace of some steps, compilations per function, peak memory."""

import contextlib
import resource
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jax

from jaxtrain.host.config import UsageError

_TRACED = "/jax/core/compile/jaxpr_trace_duration"
_COMPILED = "/jax/core/compile/backend_compile_duration"


def parse_window(text: str) -> tuple[int, int]:
    """Reads `"100:120"`: the steps to trace, the first one included and the last one not.

    Raises:
      UsageError: `text` is not two steps in rising order.
    """
    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit() and int(first) < int(last)):
        raise UsageError(f"--profile={text!r} must be FROM:TO, two steps such as 100:120")
    return int(first), int(last)


class Trace:
    """Records one profile while the steps of a window run.

    Steps run in groups, so the profile holds every group that overlaps the window. Open the result
    with TensorBoard's profile plug-in, or `perfetto_trace.json.gz` in it with ui.perfetto.dev.

    Args:
      directory: where the profile goes, usually `workdir/profile`.
      first: first step to record.
      last: step before which to stop.
    """

    def __init__(self, directory: str | Path, first: int, last: int) -> None:
        self._directory = Path(directory)
        self._first, self._last = first, last
        self._recording = False

    @contextlib.contextmanager
    def __call__(self, start: int, stop: int) -> Iterator[None]:
        """Brackets the steps `start` to `stop`, the last one not included, when they are run.

        Fetch a result of these steps inside the bracket; otherwise the device is still at work when
        the recording stops.
        """
        if not self._recording and start < self._last and stop > self._first:
            self._directory.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(self._directory, create_perfetto_trace=True)
            self._recording = True
        try:
            with jax.profiler.StepTraceAnnotation("train", step_num=start):
                yield
        except BaseException:
            self.close()
            raise
        if stop >= self._last:
            self.close()

    def close(self) -> None:
        """Ends a recording that is still going, for runs that end inside the window."""
        if self._recording:
            jax.profiler.stop_trace()
            self._recording = False


class Compilations:
    """Counts traces and compilations while it is entered.

    ```python
    with Compilations() as seen:
        step(state, batch)
        step(state, batch)
    assert seen.compiled["step"] == 1
    ```

    Attributes:
      traced: name of the function -> how often it was traced.
      compiled: name of the function -> how often it was compiled; disk-cache hits count.
      seconds: time spent in the compiler.
    """

    def __init__(self) -> None:
        self.traced: Counter[str] = Counter()
        self.compiled: Counter[str] = Counter()
        self.seconds = 0.0

    def _listen(self, event: str, duration_secs: float, **about: str | int) -> None:
        name = str(about.get("fun_name", "?")).removeprefix("jit(").removesuffix(")")
        if event == _TRACED:
            self.traced[name] += 1
        elif event == _COMPILED:
            self.compiled[name] += 1
            self.seconds += duration_secs

    def again(self) -> list[str]:
        """Functions that were compiled more than once: usually a shape or a type that changes."""
        return sorted(name for name, count in self.compiled.items() if count > 1)

    def __enter__(self) -> "Compilations":
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)


def peak_memory() -> int:
    """Peak bytes of the fullest local device; of this process where devices do not say (CPU)."""
    peaks = [(d.memory_stats() or {}).get("peak_bytes_in_use", 0) for d in jax.local_devices()]
    unit = 1 if sys.platform == "darwin" else 1024
    return max(peaks) or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
