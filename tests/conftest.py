"""Settings of every test process."""

import os
from pathlib import Path

# Tolerances are those of the CPU; JAX_PLATFORMS=cuda (or tpu) runs the tests there instead.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Real data and weights, where they lie beside the checkout.
if (data := Path(__file__).resolve().parents[2] / "shared" / "data").is_dir():
    os.environ.setdefault("JAXTTA_DATA", str(data))

import jax  # noqa: E402

# Shapes of unequal rank meet only where the code says so.
jax.config.update("jax_numpy_rank_promotion", "raise")
