"""Batches of pattern tasks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.lpn_patterns import sampler, validate
from jaxtrain.host.config import UsageError, load


def test_a_task_depends_on_its_place_in_the_batch():
    config, _ = load("configs/lpn_patterns.py:debug,batch_size=4,micro_batch=0")
    sample = jax.jit(sampler(config))
    outputs = lambda index: np.asarray(sample(jax.random.key(0), index)[0].pairs.outputs.cells)
    found = outputs(jnp.arange(4)).reshape(4, -1)
    assert len(np.unique(found, axis=0)) == 4
    np.testing.assert_array_equal(outputs(jnp.arange(4)[::-1]).reshape(4, -1), found[::-1])


@pytest.mark.parametrize("side", ["num_rows", "num_cols"])
def test_both_sides_of_the_grid_are_those_of_the_model(side):
    config, _ = load("configs/lpn_patterns.py:debug")
    rows, cols = config.data.num_rows, config.data.num_cols
    config.data[side] += 1
    found = f"{config.data.num_rows} x {config.data.num_cols}, but the model is built for"
    with pytest.raises(UsageError, match=f"is {found} {rows} x {cols}; make them equal"):
        validate(config)
