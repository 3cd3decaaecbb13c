"""Compiled programs, which stay in memory for as long as JAX's caches hold them."""

import ctypes
import gc

import jax


def drop() -> None:
    """Lets go of every compiled program and gives its memory back to the system.

    A program that is still needed comes back from the run's compilation cache. glibc keeps freed
    memory until it is told to trim it.
    """
    jax.clear_caches()
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
