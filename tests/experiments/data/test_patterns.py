"""Pattern tasks against a NumPy generator written from the description."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data import patterns

NUM_TASKS = 4000


def numpy_task(rng, num_pairs, rows, cols, size, density):
    """Reference generator: (inputs, outputs), each `[N, rows, cols]`."""
    program = rng.integers(1, 10, (size, size)) * (rng.random((size, size)) < density)
    inputs = np.zeros((num_pairs, rows, cols), int)
    outputs = np.zeros((num_pairs, rows, cols), int)
    for i in range(num_pairs):
        row, col = rng.integers(0, rows - size + 1), rng.integers(0, cols - size + 1)
        inputs[i, row, col] = 1
        outputs[i, row : row + size, col : col + size] = program
    return inputs, outputs


def batch(seed, count=NUM_TASKS, **kwargs):
    sample = jax.jit(jax.vmap(lambda key: patterns.sample_task_and_program(key, **kwargs)))
    pairs, program = sample(jax.random.split(jax.random.key(seed), count))
    return pairs, np.asarray(program)


def test_every_pair_pastes_the_program_on_the_dot():
    pairs, programs = batch(0, 50, num_pairs=3, num_rows=5, num_cols=7, pattern_size=2, density=0.6)
    assert pairs.inputs.cells.dtype == pairs.outputs.cells.dtype == jnp.uint8
    np.testing.assert_array_equal(pairs.inputs.shape, np.broadcast_to([5, 7], (50, 3, 2)))
    assert pairs.mask.all() and pairs.mask.shape == (50, 3)
    inputs = np.asarray(pairs.inputs.cells).reshape(50, 3, 5, 7)
    outputs = np.asarray(pairs.outputs.cells).reshape(50, 3, 5, 7)
    for task in range(50):
        for i in range(3):
            ((row, col),) = np.argwhere(inputs[task, i])
            assert inputs[task, i, row, col] == 1
            expected = np.zeros((5, 7), int)
            expected[row : row + 2, col : col + 2] = programs[task]
            np.testing.assert_array_equal(outputs[task, i], expected)


@pytest.mark.parametrize("density", [0.5, 1.0])
def test_distribution_equals_the_reference(density):
    rows, cols, size = 4, 5, 2
    rng = np.random.default_rng(0)
    reference = [numpy_task(rng, 2, rows, cols, size, density) for _ in range(NUM_TASKS)]
    reference = np.array(reference)  # [tasks, channel, pair, rows, cols]
    pairs, _ = batch(
        1, num_pairs=2, num_rows=rows, num_cols=cols, pattern_size=size, density=density
    )
    ours = np.stack([pairs.inputs.cells, pairs.outputs.cells], 1).reshape(reference.shape)
    for colour in range(10):  # how often each cell of each grid has each colour
        a, b = (ours == colour).mean(0), (reference == colour).mean(0)
        # difference of two proportions over 4000 tasks: standard error at most 0.0112
        assert abs(a - b).max() < 5 * 0.0112
    # positions of the two pairs are independent: they coincide one time in (rows-1) * (cols-1)
    same = [(x[:, 0, 0] == x[:, 0, 1]).all((1, 2)).mean() for x in (ours, reference)]
    assert abs(same[0] - 1 / 12) < 0.022 and abs(same[1] - 1 / 12) < 0.022


def test_cells_of_the_program_are_independent_and_uniform():
    _, programs = batch(2, num_rows=4, num_cols=4, pattern_size=2, density=0.5)
    flat = programs.reshape(NUM_TASKS, 4)
    for i in range(4):
        counts = np.bincount(flat[:, i], minlength=10) / NUM_TASKS
        expected = np.array([0.5] + [0.5 / 9] * 9)
        assert (abs(counts - expected) < 5 * np.sqrt(expected * (1 - expected) / NUM_TASKS)).all()
        for j in range(i):
            both = ((flat[:, i] == 0) & (flat[:, j] == 0)).mean()
            assert abs(both - 0.25) < 5 * np.sqrt(0.25 * 0.75 / NUM_TASKS)


def test_same_key_same_task_and_density_is_traceable():
    def sample(key, density):
        return patterns.sample_task(
            key, num_pairs=2, num_rows=4, num_cols=4, pattern_size=2, density=density
        )

    key = jax.random.key(3)
    densities = jnp.array([0.25, 1.0])
    swept = jax.jit(jax.vmap(sample, (None, 0)))(key, densities)
    for i, density in enumerate((0.25, 1.0)):
        for one, many in zip(*map(jax.tree.leaves, (sample(key, density), swept)), strict=True):
            np.testing.assert_array_equal(one, many[i])
    assert (swept.outputs.cells[1] > 0).sum() == 8  # two pairs, all four cells coloured


@pytest.mark.parametrize("size", [0, 4, 5])
def test_pattern_that_does_not_fit_is_refused(size):
    with pytest.raises(ValueError, match=f"pattern_size is {size} on a grid of 4 x 6"):
        patterns.sample_task(jax.random.key(0), num_rows=4, num_cols=6, pattern_size=size)


@pytest.mark.parametrize("density", [0, -0.5, 1.5])
def test_impossible_density_is_refused(density):
    with pytest.raises(ValueError, match=f"density is {density}"):
        patterns.sample_task(jax.random.key(0), density=density)


def test_no_key_is_used_twice():
    with jax.debug_key_reuse(True):
        jax.jit(lambda key: patterns.sample_task(key))(jax.random.key(0))
