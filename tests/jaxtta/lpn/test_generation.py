"""Cached generation against running the whole decoder again for every token."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtta.lpn import LPN, Block, Config, Grid, Pairs, from_padded, generate, log_probs

SIDE, LATENT, BATCH = 3, 3, 16
TINY = Config(SIDE, SIDE, LATENT, Block(0, 2, 4), Block(2, 2, 4, 1.0))
CONFIGS = {
    "learned": TINY,
    "scaled": replace(TINY, positions="scaled", next_position=False),
    "rope": replace(TINY, positions="rope", input_sees_context=False),
    "slots": replace(TINY, num_slots=2, input_sees_context=False),
    "seen slots": replace(TINY, num_slots=2, decoder=Block(1, 2, 4, 1.0)),
}


def random_params(lpn):
    rng = np.random.default_rng(3)
    shapes = jax.eval_shape(lpn.init, jax.random.key(0))
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)


def random_inputs():
    rng = np.random.default_rng(1)
    squares = rng.integers(0, 10, (BATCH, SIDE, SIDE, 2), dtype=np.uint8)
    shapes = rng.integers(1, SIDE + 1, (BATCH, 2, 2))
    shapes[0], shapes[1] = 1, SIDE
    return jax.device_get(jax.jit(from_padded)(squares, shapes).inputs)


def random_contexts(config):
    shape = (BATCH, config.num_slots, LATENT) if config.num_slots else (BATCH, LATENT)
    return 2 * np.random.default_rng(2).normal(size=shape).astype(np.float32)


@cache
def decoders(name):
    """The model and its two compiled ways to decode a batch."""
    lpn = LPN(CONFIGS[name])

    @jax.jit
    def teacher_forced(params, contexts, inputs, outputs, context_valid):
        pairs = Pairs(inputs, outputs, jnp.ones(len(contexts), bool))
        prepared = lpn.prepare(params, pairs)
        logits = lpn.logits(params, contexts, prepared, context_valid=context_valid)
        return logits, log_probs(logits, outputs)

    @jax.jit
    def cached(params, contexts, inputs, context_valid):
        return generate(lpn, params, contexts, inputs, context_valid=context_valid)

    return lpn, teacher_forced, cached


def case(name):
    """Arguments of both decoders, without the outputs; the last contexts are partly masked."""
    lpn, _, _ = decoders(name)
    valid = np.ones((BATCH, max(1, lpn.config.num_slots)), bool)
    valid[BATCH // 2 :, 1:] = False
    return random_params(lpn), random_contexts(lpn.config), random_inputs(), valid


def decode_again_for_every_token(name):
    """Greedy grids from full passes over what has been generated so far."""
    _, teacher_forced, _ = decoders(name)
    params, contexts, inputs, valid = case(name)
    shape, cells = np.ones((BATCH, 2), np.int32), np.zeros((BATCH, SIDE**2), np.uint8)
    for step in range(2 + SIDE**2):
        logits, _ = teacher_forced(params, contexts, inputs, Grid(cells, shape), valid)
        if step < 2:
            shape[:, step] = (logits.rows, logits.cols)[step].argmax(-1) + 1
        else:
            colours = logits.cells[:, step - 2].argmax(-1)
            cells[:, step - 2] = np.where(step - 2 < shape.prod(-1), colours, 0)
    return Grid(cells, shape)


@pytest.mark.parametrize("name", ["learned", "rope", "slots", "scaled", "seen slots"])
def test_cached_generation_equals_decoding_again(name):
    _, teacher_forced, cached = decoders(name)
    params, contexts, inputs, valid = case(name)
    grids = cached(params, contexts, inputs, valid)
    expected = decode_again_for_every_token(name)
    np.testing.assert_array_equal(grids.shape, expected.shape)
    np.testing.assert_array_equal(grids.cells, expected.cells)
    assert grids.cells.dtype == np.uint8 and grids.shape.dtype == np.int32
    # The comparison would mean little if all grids were alike.
    shapes = np.array(grids.shape)
    assert len(np.unique(shapes, axis=0)) > 4 and shapes.prod(-1).max() >= 6

    # What was generated is what teacher forcing finds most likely, cell for cell.
    exact = lambda *grid: teacher_forced(params, contexts, inputs, Grid(*grid), valid)[1].exact
    cells = np.array(grids.cells)
    assert exact(cells, shapes).all()
    assert not exact(np.where(np.arange(SIDE**2) == 0, (cells + 1) % 10, cells), shapes).any()
    assert not exact(cells, shapes % SIDE + 1).any()


@pytest.mark.parametrize("name", ["slots", "seen slots"])
def test_masked_contexts_change_nothing(name):
    _, _, cached = decoders(name)
    params, contexts, inputs, valid = case(name)
    grids = cached(params, contexts, inputs, valid)
    contexts = np.where(valid[..., None], contexts, 9.0)
    same = cached(params, contexts, inputs, valid)
    jax.tree.map(np.testing.assert_array_equal, same, grids)
    different = cached(params, contexts, inputs, np.ones_like(valid))
    assert (different.cells != grids.cells).any()


def test_order_and_neighbours_in_the_batch_do_not_matter():
    """Sequences that end early wait for the longest without being touched by it."""
    _, _, cached = decoders("learned")
    params, contexts, inputs, valid = case("learned")
    grids = cached(params, contexts, inputs, valid)
    for i in (0, 1, BATCH - 1):
        alone = jax.tree.map(lambda x, i=i: np.repeat(x[i : i + 1], BATCH, 0), (contexts, inputs))
        repeated = cached(params, *alone, valid)
        for part, whole in zip(repeated, grids, strict=True):
            np.testing.assert_array_equal(part, np.repeat(whole[i : i + 1], BATCH, 0))


def test_segments_change_nothing():
    lpn, _, cached = decoders("learned")
    params, contexts, inputs, valid = case("learned")
    expected = cached(params, contexts, inputs, valid)
    assert 3 < expected.shape.prod(-1).max()  # more than one segment is needed
    grown = jax.jit(lambda p, z, x: generate(lpn, p, z, x, segments=(1, 3, 20)))
    jax.tree.map(np.testing.assert_array_equal, grown(params, contexts, inputs), expected)
    # A batch that ends within the first segment.
    single = np.array(expected.shape.prod(-1)).argmin()
    contexts, inputs = jax.tree.map(
        lambda x: np.repeat(x[single : single + 1], BATCH, 0), (contexts, inputs)
    )
    small = grown(params, contexts, inputs)
    np.testing.assert_array_equal(small.cells, np.repeat(expected.cells[single][None], BATCH, 0))


def test_padding_of_the_inputs_changes_nothing():
    _, _, cached = decoders("learned")
    params, contexts, inputs, valid = case("learned")
    outside = np.arange(SIDE**2)[None] >= np.array(inputs.shape).prod(-1, keepdims=True)
    spoiled = Grid(np.where(outside, 7, inputs.cells).astype(np.uint8), inputs.shape)
    assert (spoiled.cells != inputs.cells).any()
    grids, same = (cached(params, contexts, x, valid) for x in (inputs, spoiled))
    jax.tree.map(np.testing.assert_array_equal, same, grids)
    beyond = np.arange(SIDE**2)[None] >= np.array(grids.shape).prod(-1, keepdims=True)
    assert (np.array(grids.cells)[beyond] == 0).all()
