"""Compiled programs, which stay in memory for as long as JAX's caches hold them."""

import ctypes
import gc
import math
import os
from pathlib import Path

import jax

LARGE = 1.2e9  # bytes of a process that lets its programs go before the next file


def resident() -> float:
    """Bytes of this process that are in memory; infinity where the system does not say."""
    status = Path("/proc/self/statm")
    if not status.exists():
        return math.inf
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def drop_if_large() -> None:
    """`drop` for a process above `LARGE`; below it, the next tests use what is compiled."""
    if resident() > LARGE:
        drop()


def drop() -> None:
    """Lets go of every compiled program and gives its memory back to the system.

    A program that is still needed comes back from the run's compilation cache. glibc keeps freed
    memory until it is told to trim it.
    """
    jax.clear_caches()
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
