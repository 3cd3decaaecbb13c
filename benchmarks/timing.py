"""How benchmarks measure: wall and CPU time, medians, the machine's rate, and a word every minute.

Wall time says what a user waits for on an idle machine; CPU time, of all threads, is what remains
comparable while other programs run.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np


class Spent(NamedTuple):
    """Seconds of wall and of CPU time."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:.3g} s (CPU {self.cpu:.3g} s)"


def now() -> Spent:
    return Spent(time.perf_counter(), time.process_time())


def since(begin: Spent) -> Spent:
    return Spent(*(float(b - a) for a, b in zip(begin, now(), strict=True)))


def timed(
    function: Callable[..., Any], *args: Any, repeats: int = 1, warm: bool = True
) -> tuple[Spent, Any]:
    """Medians over calls, after one that is not counted, and the last result."""
    if warm:
        jax.block_until_ready(function(*args))
    spent, result = [], None
    for _ in range(repeats):
        begin = now()
        result = jax.block_until_ready(function(*args))
        spent.append(since(begin))
    return Spent(*np.median(spent, axis=0).tolist()), result


def in_turns(
    functions: Mapping[str, Callable[[], Any]], rounds: int
) -> tuple[dict[str, Spent], dict[str, Any]]:
    """Medians of each over rounds in which all take turns, and the last results.

    A round before them is not counted.
    """
    spent: dict[str, list[Spent]] = {name: [] for name in functions}
    results: dict[str, Any] = {}
    for _ in range(rounds + 1):
        for name, function in functions.items():
            begin = now()
            results[name] = jax.block_until_ready(function())
            spent[name].append(since(begin))
    medians = {name: np.median(each[1:], axis=0).tolist() for name, each in spent.items()}
    return {name: Spent(*median) for name, median in medians.items()}, results


class Rate(NamedTuple):
    """FLOPs per second of wall and of CPU time."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall / 1e9:.0f} GFLOP/s ({self.cpu / 1e9:.0f} per second of CPU time)"


def matmul_rates(size: int = 2048, repeats: int = 8) -> Rate:
    """Of a large float32 product."""
    x = jax.random.normal(jax.random.key(0), (size, size))
    spent, _ = timed(jax.jit(lambda a: a @ a), x, repeats=repeats)
    return Rate(*(2 * size**3 / seconds for seconds in spent))


def matmul_rate(size: int = 2048, repeats: int = 8) -> float:
    """FLOP/s of a large float32 product, by wall time."""
    return matmul_rates(size, repeats).wall


@contextlib.contextmanager
def told(every: float = 60.0) -> Iterator[None]:
    """Prints the time spent every minute and at the end; put it above `main`."""
    begin, done = now(), threading.Event()

    def tell() -> None:
        while not done.wait(every):
            print(f"... {since(begin)} so far", flush=True)

    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    threading.Thread(target=tell, daemon=True).start()
    try:
        yield
    finally:
        done.set()
        print(f"in all {since(begin)}")
