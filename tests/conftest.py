"""Settings of every test process."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

# Tolerances are those of the CPU; JAX_PLATFORMS=cuda (or tpu) runs the tests there instead.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Real data and weights, where they lie beside the checkout.
if (data := Path(__file__).resolve().parents[2] / "shared" / "data").is_dir():
    os.environ.setdefault("JAXTTA_DATA", str(data))

# Workers and child processes inherit the folder, so that a program is compiled once per run. A
# folder that is already named is used and kept.
own_cache = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    own_cache = tempfile.mkdtemp(prefix="jaxtta-compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = own_cache
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# A test's programs take seconds to compile and run once, for milliseconds, so they are optimised
# as little as XLA can (tests/behaviour, which trains, says otherwise), and by the emitters of code
# that need least time: the update of LPN takes 2 CPU seconds instead of 7.
FAST_TO_COMPILE = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
if os.environ["JAX_PLATFORMS"] == "cpu":
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
    if FAST_TO_COMPILE not in (flags := os.environ.get("XLA_FLAGS", "")):
        os.environ["XLA_FLAGS"] = f"{flags} {FAST_TO_COMPILE}".strip()

import jax  # noqa: E402

from tests import programs  # noqa: E402

# Shapes of unequal rank meet only where the code says so.
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_unconfigure():
    if own_cache is not None:
        shutil.rmtree(own_cache, ignore_errors=True)


@pytest.fixture(autouse=True, scope="module")
def programs_of_other_modules_are_dropped():
    yield
    programs.drop_if_large()
