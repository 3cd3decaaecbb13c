"""Settings of every test process."""

import os

# Tolerances are those of the CPU; JAX_PLATFORMS=cuda (or tpu) runs the tests there instead.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402

# Shapes of unequal rank meet only where the code says so.
jax.config.update("jax_numpy_rank_promotion", "raise")
