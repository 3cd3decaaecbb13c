"""Settings of the tests that train."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="package")
def programs_are_optimised():
    """They run for minutes and are compiled once; those of other tests are run once."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
