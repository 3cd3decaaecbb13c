"""Augmentation against numpy.rot90 and against what it must leave alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtta.lpn import grids
from jaxtta.lpn.grid_augment import augment, color_table, rotate_grid

SIDES = range(1, 31)


def as_stream(array, length):
    cells = np.zeros(length, np.uint8)
    cells[: array.size] = array.ravel()
    return cells


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("turns", range(4))
def test_rotation_equals_rot90_for_every_shape(turns, mirror):
    rng = np.random.default_rng(turns)
    arrays = [rng.integers(0, 10, (r, c), dtype=np.uint8) for r in SIDES for c in SIDES]
    grid = grids.Grid(
        jnp.stack([as_stream(a, 900) for a in arrays]), jnp.array([a.shape for a in arrays])
    )
    rotated = jax.jit(rotate_grid)(grid, turns, mirror)
    expected = [np.rot90(np.fliplr(a) if mirror else a, -turns) for a in arrays]
    np.testing.assert_array_equal(rotated.shape, [a.shape for a in expected])
    np.testing.assert_array_equal(rotated.cells, [as_stream(a, 900) for a in expected])


def random_tasks(num_tasks, seed=0):
    rng = np.random.default_rng(seed)
    pairs = rng.integers(0, 10, (num_tasks, 3, 4, 5, 2), dtype=np.uint8)
    shapes = rng.integers(1, 5, (num_tasks, 3, 2, 2))
    return jax.jit(grids.from_padded)(pairs, shapes)


def unpack(pairs, task):
    """Lists the (input, output) arrays of one task."""
    result = []
    for i in range(pairs.mask.shape[1]):
        pair = []
        for grid in (pairs.inputs, pairs.outputs):
            rows, cols = np.asarray(grid.shape[task, i])
            pair.append(np.asarray(grid.cells[task, i])[: rows * cols].reshape(rows, cols))
        result.append(pair)
    return result


def symmetries(flip):
    return [(k, m) for k in range(4) for m in ((False, True) if flip else (False,))]


@pytest.mark.parametrize("flip", [False, True])
def test_one_symmetry_and_one_permutation_per_task(flip):
    tasks = random_tasks(64)
    keys = jax.random.split(jax.random.key(0), 64)
    changed = jax.jit(jax.vmap(lambda k, p: augment(k, p, flip=flip)))(keys, tasks)
    rotations_seen = set()
    for task in range(64):
        before, after = unpack(tasks, task), unpack(changed, task)
        explained = []
        for turns, mirror in symmetries(flip):
            moved = [[np.rot90(np.fliplr(a) if mirror else a, -turns) for a in p] for p in before]
            if any(
                m.shape != a.shape
                for p, q in zip(moved, after, strict=True)
                for m, a in zip(p, q, strict=True)
            ):
                continue
            old = np.concatenate([m.ravel() for p in moved for m in p])
            new = np.concatenate([a.ravel() for p in after for a in p])
            pairs = set(zip(old.tolist(), new.tolist(), strict=True))
            # one colour goes to one colour, no two meet, and black stays black
            if len(pairs) == len({o for o, _ in pairs}) == len({n for _, n in pairs}):
                assert all((o == 0) == (n == 0) for o, n in pairs)
                explained.append((turns, mirror))
        assert len(explained) == 1
        rotations_seen.add(explained[0])
    assert rotations_seen == set(symmetries(flip))


def test_switches_turn_each_change_off():
    tasks = random_tasks(32, seed=1)
    keys = jax.random.split(jax.random.key(1), 32)

    def changed(**switches):
        return jax.jit(jax.vmap(lambda k, p: augment(k, p, **switches)))(keys, tasks)

    none = changed(rotate=False, colors=False)
    jax.tree.map(np.testing.assert_array_equal, none, tasks)
    colors = changed(rotate=False)
    np.testing.assert_array_equal(colors.inputs.shape, tasks.inputs.shape)
    assert (colors.inputs.cells != tasks.inputs.cells).any()
    np.testing.assert_array_equal(colors.inputs.cells == 0, tasks.inputs.cells == 0)
    turned = changed(colors=False)
    np.testing.assert_array_equal(  # the same colours, moved
        np.sort(turned.inputs.cells, -1), np.sort(tasks.inputs.cells, -1)
    )
    flipped = changed(rotate=False, colors=False, flip=True)
    moved = (flipped.outputs.cells != tasks.outputs.cells).any((-1, -2))
    assert 0 < moved.sum() < 32


def test_color_permutations_are_bijective_and_uniform():
    keys = jax.random.split(jax.random.key(2), 2000)
    tables = np.asarray(jax.jit(jax.vmap(color_table))(keys))
    np.testing.assert_array_equal(np.sort(tables, -1), np.tile(np.arange(10), (2000, 1)))
    np.testing.assert_array_equal(tables[:, 0], 0)
    counts = np.stack([np.bincount(tables[:, c], minlength=10)[1:] for c in range(1, 10)])
    # each count is Binomial(2000, 1/9): mean 222, standard deviation 14; 81 cells stay within 5
    assert abs(counts - 2000 / 9).max() < 5 * np.sqrt(2000 / 9 * 8 / 9)


def test_equivariant_rule_stays_the_rule():
    """ARC task 007bbfb7 puts a copy of the grid wherever the grid is not black: kron(x != 0, x).

    The rule commutes with rotation and recolouring, so it must still hold after augmentation.
    """

    def rule(array):
        return np.kron(array != 0, array)

    rng = np.random.default_rng(3)
    arrays = [rng.integers(0, 4, (2, 3), dtype=np.uint8) for _ in range(3)]
    outputs = [rule(a) for a in arrays]
    task = grids.Pairs(
        grids.Grid(
            jnp.stack([as_stream(a, 9) for a in arrays]), jnp.full((3, 2), jnp.array([2, 3]))
        ),
        grids.Grid(
            jnp.stack([as_stream(a, 40) for a in outputs]), jnp.full((3, 2), jnp.array([4, 9]))
        ),
        jnp.ones(3, bool),
    )
    changed = jax.jit(jax.vmap(augment, (0, None)))(jax.random.split(jax.random.key(3), 16), task)
    for draw in range(16):
        for new_input, new_output in unpack(changed, draw):
            np.testing.assert_array_equal(rule(new_input), new_output)


def test_mask_is_left_alone_and_unequal_lengths_work():
    tasks = random_tasks(2)
    shorter = tasks.outputs._replace(cells=tasks.outputs.cells[..., :16])
    tasks = tasks._replace(outputs=shorter, mask=tasks.mask.at[:, 2].set(False))
    changed = jax.jit(jax.vmap(augment))(jax.random.split(jax.random.key(4), 2), tasks)
    np.testing.assert_array_equal(changed.mask, tasks.mask)
    assert changed.outputs.cells.shape == (2, 3, 16)
