"""Scores and the leave-one-out loss against NumPy loops over pairs."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtta.lpn import LPN, Block, Config, Posterior, ascent_adam, from_padded, gradient_ascent
from jaxtta.lpn.decoder import Logits
from jaxtta.lpn.likelihood import log_probs, mean_cells, scorer, sum_cells
from jaxtta.lpn.loss import (
    active_units,
    every_latent_loss,
    kl_per_dimension,
    mean_context,
    pairwise_kl,
    prior_kl,
    task_loss,
)
from jaxtta.lpn.model import Prepared
from jaxtta.lpn.search import run_search
from jaxtta.lpn.starts import pair_noise, sample_latents
from jaxtta.lpn.train import search_context

SIDE, LATENT, PAIRS = 4, 3, 3
BLOCK = Block(1, 2, 4, 1.0)
LPN_ = LPN(Config(SIDE, SIDE, LATENT, BLOCK, BLOCK))
KEY = jax.random.key(0)
NOISE = np.random.default_rng(5).normal(size=(PAIRS, LATENT)).astype(np.float32)


@cache
def random_params(seed=0):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(LPN_.init, KEY)
    return jax.tree.map(lambda s: (0.5 * rng.normal(size=s.shape)).astype(np.float32), shapes)


def random_pairs(num_pairs=PAIRS, seed=1):
    rng = np.random.default_rng(seed)
    squares = rng.integers(0, 10, (num_pairs, SIDE, SIDE, 2), dtype=np.uint8)
    shapes = rng.integers(1, SIDE + 1, (num_pairs, 2, 2))
    return jax.device_get(jax.jit(from_padded)(squares, shapes))


def rearranged(pairs, order):
    return jax.tree.map(lambda x: x[np.array(order)], pairs)


def with_padding(pairs, seed=2):
    """The same pairs with longer, garbage-filled streams and a masked pair at the end."""
    rng = np.random.default_rng(seed)

    def longer(grid):
        cells = np.array(grid.cells)
        extra = rng.integers(0, 10, (len(cells) + 1, SIDE * SIDE + 5), dtype=np.uint8)
        for i, (rows, cols) in enumerate(np.array(grid.shape)):
            extra[i, : rows * cols] = cells[i, : rows * cols]
        return grid._replace(cells=extra, shape=np.append(grid.shape, [[2, 3]], axis=0))

    mask = np.append(pairs.mask, False)
    return pairs._replace(inputs=longer(pairs.inputs), outputs=longer(pairs.outputs), mask=mask)


@jax.jit
def encode(params, pairs):
    return LPN_.encode(params, pairs)


@jax.jit
def _parts(params, latents, pairs):
    prepared = LPN_.prepare(params, pairs)
    decode = lambda z: log_probs(
        LPN_.logits(params, jnp.broadcast_to(z, (PAIRS, LATENT)), prepared), prepared.targets
    )
    parts = jax.vmap(decode)(latents)
    return parts._replace(num_cells=mean_cells(parts))


def parts_of(params, latents, pairs):
    """log p of every pair under every latent, `[S, N]` each; `num_cells` holds the cells' means."""
    filled = np.resize(np.float32(latents), (4, LATENT))  # one program for any S
    parts = jax.device_get(_parts(params, filled, pairs))
    return jax.tree.map(lambda x: x[: len(latents)], parts)


WEIGHTS = {"beta": 0.3, "gamma": 0.2}


@jax.jit
def losses(params, pairs, noise):
    """Loss and metrics in the modes `mean` and `all`."""
    options = {"noise": noise, **WEIGHTS}
    mean = task_loss(LPN_, params, pairs, KEY, context=mean_context, **options)
    return mean, every_latent_loss(LPN_, params, pairs, KEY, **options)


def numpy_log_probs(logits, target):
    """(rows, cols, list of cells, exact) of one grid, from the definition."""

    def log_softmax(x):
        return np.float64(x) - np.log(np.exp(np.float64(x)).sum(-1, keepdims=True))

    rows, cols = target.shape
    cells = target.cells[: rows * cols]
    exact = logits.rows.argmax() == rows - 1 and logits.cols.argmax() == cols - 1
    exact = exact and (logits.cells[: rows * cols].argmax(-1) == cells).all()
    return (
        log_softmax(logits.rows)[rows - 1],
        log_softmax(logits.cols)[cols - 1],
        [log_softmax(logits.cells[k])[colour] for k, colour in enumerate(cells)],
        exact,
    )


# --- Likelihoods and scores -----------------------------------------------------------------------


def test_log_probs_equal_a_loop_and_ignore_padding():
    rng = np.random.default_rng(0)
    pairs = random_pairs(4)
    targets = jax.tree.map(np.array, pairs.outputs)
    logits = Logits(
        rng.normal(size=(4, SIDE)), rng.normal(size=(4, SIDE)), rng.normal(size=(4, 16, 10))
    )
    for i in (1, 2):  # two grids that are predicted right, cells beyond them excepted
        logits.rows[i, targets.shape[i, 0] - 1] += 9
        logits.cols[i, targets.shape[i, 1] - 1] += 9
        for k in range(targets.shape[i].prod()):
            logits.cells[i, k, targets.cells[i, k]] += 9
    parts = jax.jit(log_probs)(logits, targets)
    for i in range(4):
        one = jax.tree.map(lambda x, i=i: x[i], (logits, targets))
        rows, cols, cells, exact = numpy_log_probs(*one)
        np.testing.assert_allclose(parts.rows[i], rows, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(parts.cols[i], cols, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(parts.cells[i], sum(cells), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(mean_cells(parts)[i], np.mean(cells), rtol=1e-4, atol=1e-5)
        assert parts.num_cells[i] == len(cells) and parts.exact[i] == exact == (i in (1, 2))


def test_uniform_predictor():
    """Zero heads predict every count and colour alike: ln R + ln C + ln 10."""
    params = random_params()
    heads = ("shape_row_logits_proj", "shape_col_logits_proj", "grid_logits_proj")
    decoder = dict(params["decoder"])
    decoder |= {name: jax.tree.map(np.zeros_like, decoder[name]) for name in heads}
    uniform = {**params, "decoder": decoder}
    metrics = losses(uniform, random_pairs(), NOISE)[0][1]
    np.testing.assert_allclose(metrics["row_loss"], np.log(SIDE), rtol=1e-4)
    np.testing.assert_allclose(metrics["col_loss"], np.log(SIDE), rtol=1e-4)
    np.testing.assert_allclose(metrics["cell_loss"], np.log(10), rtol=1e-4)
    total = np.log(SIDE) + np.log(SIDE) + np.log(10)
    np.testing.assert_allclose(metrics["reconstruction"], total, rtol=1e-4)
    row_loss = losses(params, random_pairs(), NOISE)[0][1]["row_loss"]
    assert abs(row_loss - np.log(SIDE)) > 0.01


def test_score_equals_a_loop_over_pairs():
    pairs, params = random_pairs(), random_params()
    latents = np.random.default_rng(3).normal(size=(4, LATENT)).astype(np.float32)
    parts = parts_of(params, latents, pairs)
    each = np.array(parts.rows + parts.cols + parts.num_cells)
    score = jax.jit(lambda pairs: scorer(LPN_, params, pairs)(latents).score)
    np.testing.assert_allclose(score(pairs), each.sum(1), rtol=1e-5)
    masked = pairs._replace(mask=jnp.array([True, False, True]))
    np.testing.assert_allclose(score(masked), each[:, [0, 2]].sum(1), rtol=1e-5)

    sums = np.array(parts.rows + parts.cols + parts.cells).sum(1)
    options = {"cells": sum_cells, "scan_pairs": True}
    scanned = jax.jit(lambda pairs: scorer(LPN_, params, pairs, **options)(latents).score)
    np.testing.assert_allclose(scanned(pairs), sums, rtol=1e-5)
    assert abs(sums - each.sum(1)).min() > 1e-3


# --- KL terms and noise ---------------------------------------------------------------------------


def test_prior_kl_closed_form():
    zero = jnp.zeros((2, LATENT))
    np.testing.assert_array_equal(prior_kl(Posterior(zero, zero)), np.zeros(2))
    mean, sigma = np.array([[1.0, -2.0]]), np.array([[0.5, 3.0]])
    expected = sum(
        np.log(1 / s) + (s**2 + m**2) / 2 - 0.5 for m, s in zip(mean[0], sigma[0], strict=True)
    )
    kl = prior_kl(Posterior(jnp.array(mean), jnp.array(2 * np.log(sigma))))
    np.testing.assert_allclose(kl, [expected], rtol=1e-5)


def test_active_units_are_dimensions_with_kl():
    # KL of N(m, 1) is m^2 / 2: 0.02, 0.008 and 0 nats on average over the two valid pairs.
    mean = jnp.array([[0.2, 0.0, 0.0], [0.2, 0.1789, 0.0], [9.0, 9.0, 9.0]])
    posterior = Posterior(mean, jnp.zeros_like(mean))
    assert active_units(posterior, jnp.array([True, True, False])) == 1
    assert active_units(posterior, jnp.array([True, True, True])) == 3
    assert active_units(posterior, jnp.zeros(3, bool)) == 0
    np.testing.assert_allclose(kl_per_dimension(posterior), mean**2 / 2, rtol=1e-5)


def test_pairwise_kl_equals_a_loop():
    rng = np.random.default_rng(0)
    mean, logvar = rng.normal(size=(2, 4, LATENT))
    mask = np.array([True, True, False, True])
    kls = []
    for j, k in np.ndindex(4, 4):
        if j != k and mask[j] and mask[k]:
            ratio = np.exp(logvar[j] - logvar[k])
            distance = (mean[j] - mean[k]) ** 2 / np.exp(logvar[k])
            kls.append(0.5 * (logvar[k] - logvar[j] + ratio + distance - 1).sum())
    posterior = Posterior(jnp.array(mean), jnp.array(logvar))
    assert len(kls) == 6
    np.testing.assert_allclose(pairwise_kl(posterior, jnp.array(mask)), np.mean(kls), rtol=1e-4)


def test_noise_of_a_pair_depends_on_its_place_only():
    few, many = pair_noise(KEY, (2, LATENT)), pair_noise(KEY, (5, LATENT))
    np.testing.assert_array_equal(few, many[:2])
    assert len(np.unique(many)) == many.size
    posterior = Posterior(jnp.ones((5, LATENT)), jnp.full((5, LATENT), np.log(4.0)))
    np.testing.assert_allclose(sample_latents(posterior, KEY), 1 + 2 * many, rtol=1e-5)
    assert sample_latents(posterior._replace(logvar=None), KEY) is posterior.mean


# --- The leave-one-out loss -----------------------------------------------------------------------


def numpy_loss(mode, pairs, *, beta, gamma, noise=NOISE):
    """The loss from log-probabilities of single pairs under single contexts, by loops."""
    params = random_params()
    posterior = jax.device_get(encode(params, pairs))
    latents = posterior.mean + np.exp(posterior.logvar / 2) * noise
    losses, exact = [], []
    for i in range(PAIRS):
        others = [latents[j] for j in range(PAIRS) if j != i]
        contexts = [np.mean(others, axis=0)] if mode == "mean" else others
        parts = parts_of(params, np.array(contexts), pairs)
        each = -(parts.rows + parts.cols + parts.num_cells)[:, i]
        losses.append(np.mean(each))
        exact.append(parts.exact[:, i].all())
    kl = [0.5 * (m**2 + np.exp(v) - 1 - v).sum() for m, v in zip(*posterior, strict=True)]
    between = pairwise_kl(posterior, np.ones(PAIRS, bool))
    return np.mean(losses) + beta * np.mean(kl) + gamma * between, np.mean(losses)


def test_loss_equals_loops_over_left_out_pairs():
    pairs = random_pairs()
    expected = [numpy_loss(mode, pairs, **WEIGHTS) for mode in ("mean", "all")]
    for (loss, metrics), (total, reconstruction) in zip(
        losses(random_params(), pairs, NOISE), expected, strict=True
    ):
        np.testing.assert_allclose(loss, total, rtol=1e-5)
        np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)
        np.testing.assert_allclose(metrics["reconstruction"], reconstruction, rtol=1e-5)
    assert abs(expected[0][0] - expected[1][0]) > 1e-3  # the two modes can be told apart


def all_close(results, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), results, expected)


def test_padding_changes_nothing():
    """Longer streams with garbage and a masked pair: same noise, same loss, same metrics."""
    pairs, params = random_pairs(), random_params()
    noise = np.append(NOISE, np.full((1, LATENT), 7.0, np.float32), axis=0)
    padded = with_padding(pairs)
    expected = losses(params, pairs, NOISE)
    all_close(losses(params, padded, noise), expected)
    unmasked = losses(params, padded._replace(mask=np.ones(PAIRS + 1, bool)), noise)
    for (loss, _), (different, _) in zip(expected, unmasked, strict=True):
        assert abs(different - loss) > 1e-3


def test_order_of_pairs_does_not_matter():
    """Given the same noise for each pair."""
    pairs, params, order = random_pairs(), random_params(), [2, 0, 1]
    expected = losses(params, pairs, NOISE)
    all_close(losses(params, rearranged(pairs, order), NOISE[order]), expected)
    wrong = losses(params, rearranged(pairs, order), NOISE)
    assert abs(wrong[0][0] - expected[0][0]) > 1e-4


# --- Modes, on networks small enough to differentiate twice ---------------------------------------


class Toy:
    """An encoder and a decoder of one layer each, in place of the networks."""

    def params(self, scale=0.5):
        rng = np.random.default_rng(6)
        sizes = {"mean": (32, LATENT), "logvar": (32, LATENT), "decoder": (LATENT, 8 + 160)}
        return {k: (scale * rng.normal(size=v)).astype(np.float32) for k, v in sizes.items()}

    def encode(self, params, pairs, *, key=None):
        cells = jnp.concatenate([pairs.inputs.cells, pairs.outputs.cells], -1) / 10 - 0.5
        return Posterior(cells @ params["mean"], cells @ params["logvar"])

    def prepare(self, params, pairs, *, key=None):
        return Prepared(None, None, pairs.outputs)

    def attended(self, params, prepared):
        return prepared

    def logits(self, params, contexts, prepared, *, key=None):
        out = jnp.sin(contexts @ params["decoder"])
        cells = out[..., 8:].reshape(*out.shape[:-1], 16, 10)
        return Logits(out[..., :4], out[..., 4:8], cells)


def ascent(**options):
    return partial(gradient_ascent, optimizer=ascent_adam(0.5), **options)


def toy_loss(params, context, **options):
    options = {"noise": NOISE, "beta": 0.0} | options
    return task_loss(Toy(), params, random_pairs(), KEY, context=context, **options)


@jax.jit
def toy_gradients(params):
    """(loss, gradients) of mean training, first-order and second-order ascent, and the fixed moves.

    In the last one, every context is the mean of the others plus a number found beforehand.
    """
    pairs = random_pairs()
    modes = [
        mean_context,
        search_context(ascent(), 3),
        search_context(ascent(stop_gradient_latent_move=False), 3),
    ]
    results = [
        jax.value_and_grad(lambda p, mode=mode: toy_loss(p, mode)[0])(params) for mode in modes
    ]

    def means(params):
        latents = sample(params)
        return [(latents.sum(0) - latents[i]) / (PAIRS - 1) for i in range(PAIRS)]

    def sample(params):
        posterior = Toy().encode(params, pairs)
        return posterior.mean + jnp.exp(posterior.logvar / 2) * NOISE

    moves = []
    for i, start in enumerate(means(params)):
        others = rearranged(pairs, [j for j in range(PAIRS) if j != i])
        search = ascent()(scorer(Toy(), params, others))
        moves.append(run_search(search, KEY, start[None], 3).best_latents[0] - start)

    def fixed(params, moves):
        contexts = jnp.stack([z + move for z, move in zip(means(params), moves, strict=True)])
        logits = Toy().logits(params, contexts, None)
        parts = log_probs(logits, pairs.outputs)
        return -(parts.rows + parts.cols + mean_cells(parts)).mean()

    return [*results, jax.value_and_grad(fixed)(params, moves)], moves


def test_stop_gradient_ascent_differentiates_like_a_constant_move():
    (mean, first, second, constant), moves = toy_gradients(Toy().params())
    assert min(jnp.linalg.norm(move) for move in moves) > 0.1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), first, constant)
    np.testing.assert_allclose(first[0], second[0], rtol=1e-6)
    assert abs(first[0] - mean[0]) > 1e-3
    for name in ("mean", "decoder"):
        assert abs(first[1][name] - second[1][name]).max() > 1e-3  # second order is different
        assert abs(first[1][name] - mean[1][name]).max() > 1e-3  # and so is no move at all


def test_no_encoder_leaves_the_encoder_to_the_kl_term():
    @jax.jit
    def gradient(params, beta):
        return jax.grad(lambda p: toy_loss(p, mean_context, no_encoder=True, beta=beta)[0])(params)

    params = Toy().params()
    without, with_kl = gradient(params, 0.0), gradient(params, 0.1)
    assert abs(without["decoder"]).max() > 1e-3
    assert abs(without["mean"]).max() == abs(without["logvar"]).max() == 0
    assert abs(with_kl["mean"]).max() > 1e-3


def test_point_encoder_has_no_kl():
    class Point(Toy):
        def encode(self, params, pairs, *, key=None):
            return super().encode(params, pairs)._replace(logvar=None)

    loss, metrics = jax.jit(lambda params: task_loss(Point(), params, random_pairs(), KEY))(
        Toy().params()
    )
    assert loss == metrics["reconstruction"] and "prior_kl" not in metrics


def test_exactness_in_all_mode_ignores_masked_pairs():
    class Right(Toy):
        """Right about every output, except under the latent of the last pair."""

        def encode(self, params, pairs, *, key=None):
            return Posterior(jnp.array([[1.0], [1.0], [-1.0]]), None)

        def logits(self, params, contexts, prepared, *, key=None):
            target = prepared.targets
            truth = (target.shape[:, 0] - 1, 4), (target.shape[:, 1] - 1, 4), (target.cells, 10)
            rows, cols, cells = (jax.nn.one_hot(*x) for x in truth)
            return Logits(rows * contexts, cols, cells)

    pairs = random_pairs()
    pairs = pairs._replace(outputs=pairs.outputs._replace(shape=jnp.full((PAIRS, 2), 2)))

    @jax.jit
    def accuracy(mask):
        masked = pairs._replace(mask=mask)
        return every_latent_loss(Right(), None, masked, KEY)[1]["teacher_forced_accuracy"]

    assert accuracy(jnp.array([True, True, False])) == 1
    np.testing.assert_allclose(accuracy(jnp.ones(3, bool)), 1 / 3, rtol=1e-6)


def test_one_pair_cannot_be_left_out():
    with pytest.raises(ValueError, match="at least 2 pairs per task, got 1"):
        task_loss(Toy(), Toy().params(), random_pairs(1), KEY)
