"""Likelihoods of output grids, KL terms, and the leave-one-out loss of one task.

Everything here is for one task of N pairs; callers `vmap` over tasks. Normalisation is the
authors': the log-probabilities of the cells are *averaged* per grid while those of the two side
lengths enter whole, and the KL divergence is summed over latent dimensions but averaged over pairs
(the paper writes sums; all published values of beta belong to this form).

References:
  Macfarlane and Bonnet, Searching Latent Program Spaces, arXiv 2411.08706, sec. 3-4.
  Official code: clement-bonnet/lpn (src/models/lpn.py).
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxtta.lpn.grids import Grid, Pairs, coordinates, leave_one_out
from jaxtta.lpn.model import LPN, Logits, Params, Posterior, Prepared
from jaxtta.lpn.search import Scored

NUM_CELLS_EPS = 1e-5
ACTIVE_KL = 0.01


class PairLogProbs(NamedTuple):
    """Log-probabilities of given output grids, in nats, float32.

    Attributes:
      rows: log p(number of rows), `[...]`.
      cols: log p(number of columns), `[...]`.
      cells: sum over valid cells of log p(colour), `[...]`.
      num_cells: rows * cols, `[...]`.
      exact: every argmax is right, side lengths included, `[...]`, bool.
    """

    rows: Array
    cols: Array
    cells: Array
    num_cells: Array
    exact: Array

    @property
    def mean_cells(self) -> Array:
        """Mean log-probability per cell (denominator + 1e-5, as in the official code)."""
        return self.cells / (self.num_cells + NUM_CELLS_EPS)


def log_probs(logits: Logits, targets: Grid) -> PairLogProbs:
    """Log-probabilities of `targets` under teacher-forced `logits`; padding never enters."""
    num_cells = targets.shape[..., 0] * targets.shape[..., 1]
    valid = coordinates(targets.shape, targets.cells.shape[-1])[2]

    def pick(values, index):
        chosen = jnp.take_along_axis(values, index[..., None], axis=-1)[..., 0]
        return chosen - jax.nn.logsumexp(values, axis=-1), values.argmax(-1) == index

    rows, rows_right = pick(logits.rows, targets.shape[..., 0] - 1)
    cols, cols_right = pick(logits.cols, targets.shape[..., 1] - 1)
    cells, cells_right = pick(logits.cells, targets.cells.astype(jnp.int32))
    return PairLogProbs(
        rows,
        cols,
        jnp.where(valid, cells, 0.0).sum(-1),
        num_cells,
        rows_right & cols_right & (cells_right | ~valid).all(-1),
    )


def scorer(
    lpn: LPN,
    params: Params,
    pairs: Pairs,
    *,
    score: Literal["mean_cells", "sum_cells"] = "mean_cells",
    cell_weight: float | Array = 1.0,
    scan_pairs: bool = False,
) -> Callable[[Array], Scored]:
    """Score function of one task's demonstrations, to be searched.

    S(z) = sum over pairs of log p(rows) + log p(cols) + w * (mean or sum of log p(cell)).
    What does not depend on z is computed here, once.

    Args:
      lpn: model.
      params: parameters, not differentiated by the searches.
      pairs: `[N]` demonstrations; masked ones add nothing.
      score: `mean_cells` (official code) or `sum_cells` (the likelihood of the paper's equation).
      cell_weight: w.
      scan_pairs: score one pair after another (memory of one pair instead of N, same numbers).

    Returns:
      Function of latents `[S, H]` giving scores `[S]` and whether each latent reproduces every
      demonstration exactly, `[S]`.
    """
    if score not in ("mean_cells", "sum_cells"):
        raise ValueError(f"score is {score!r}; choose mean_cells or sum_cells.")
    prepared = lpn.prepare(params, pairs)

    def one_pair(latents: Array, pair: Prepared, mask: Array) -> tuple[Array, Array]:
        def one_latent(z):
            parts = log_probs(lpn.logits(params, z, pair), pair.targets)
            cells = parts.mean_cells if score == "mean_cells" else parts.cells
            return jnp.where(mask, parts.rows + parts.cols + cell_weight * cells, 0.0), parts.exact

        values, exact = jax.vmap(one_latent)(latents)
        return values, exact | ~mask

    def score_fn(latents: Array) -> Scored:
        if scan_pairs:
            values, exact = jax.lax.map(
                lambda pair: jax.checkpoint(one_pair)(latents, *pair), (prepared, pairs.mask)
            )
        else:
            values, exact = jax.vmap(one_pair, in_axes=(None, 0, 0))(latents, prepared, pairs.mask)
        return Scored(values.sum(0), exact.all(0))

    return score_fn


def _logvar(posterior: Posterior) -> Array:
    if posterior.logvar is None:
        raise ValueError("the encoder is not variational, so there is no KL; use variational=True.")
    return posterior.logvar


def kl_per_dimension(posterior: Posterior) -> Array:
    """KL(q || N(0, I)) of every latent dimension in nats, `[..., H]`."""
    mean, logvar = posterior.mean, _logvar(posterior)
    return -0.5 * (1 + logvar - mean**2 - jnp.exp(logvar))


def prior_kl(posterior: Posterior) -> Array:
    """KL(q || N(0, I)) in nats, summed over latent dimensions: `[...]`."""
    return kl_per_dimension(posterior).sum(-1)


def active_units(posterior: Posterior, mask: Array) -> Array:
    """Number of latent dimensions whose KL, averaged over valid pairs `[N]`, is above 0.01 nats."""
    kl = jnp.where(mask[:, None], kl_per_dimension(posterior), 0.0).sum(0)
    return (kl > ACTIVE_KL * jnp.maximum(mask.sum(), 1)).sum().astype(jnp.float32)


def pairwise_kl(posterior: Posterior, mask: Array) -> Array:
    """Mean KL(q_j || q_k) over ordered pairs j != k of valid pairs, in nats: `[]`."""
    mean, logvar = posterior.mean, _logvar(posterior)
    difference = logvar[None] - logvar[:, None]
    variance = jnp.exp(logvar)
    ratio = variance[:, None] / (variance[None] + 1e-7)
    distance = (mean[:, None] - mean[None]) ** 2 / (variance[None] + 1e-7)
    kl = 0.5 * (difference + ratio + distance - 1).sum(-1)
    chosen = mask[:, None] & mask[None] & ~jnp.eye(len(mask), dtype=bool)
    return jnp.where(chosen, kl, 0.0).sum() / jnp.maximum(chosen.sum(), 1)


def sample_latents(posterior: Posterior, key: Array) -> Array:
    """One sample per pair, `[N, H]`; the mean when the encoder is not variational.

    The noise of pair i is drawn from `fold_in(key, i)`, so padding pairs changes no other sample.
    """
    if posterior.logvar is None:
        return posterior.mean
    return posterior.mean + jnp.exp(0.5 * posterior.logvar) * pair_noise(key, posterior.mean.shape)


def pair_noise(key: Array, shape: tuple[int, ...]) -> Array:
    """Standard normal `[N, H]` whose row i depends on `key` and i only."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(shape[0]))
    return jax.vmap(lambda k: jax.random.normal(k, shape[1:]))(keys)


class Leftout(NamedTuple):
    """What is known when pair i of a task is to be predicted from the others.

    Attributes:
      latents: encoder samples of the other pairs, `[N - 1, H]`.
      posterior: their posterior, `[N - 1, H]`.
      pairs: the other pairs, `[N - 1]`.
    """

    latents: Array
    posterior: Posterior
    pairs: Pairs


ContextFn = Callable[[Leftout, Callable[[Array], Scored], Array], Array]


def mean_context(others: Leftout, score_fn: Callable, key: Array) -> Array:
    """Mean of the other pairs' latents, `[H]` (training mode `mean`)."""
    del score_fn, key
    mask = others.pairs.mask[:, None]
    return jnp.where(mask, others.latents, 0.0).sum(0) / jnp.maximum(mask.sum(), 1)


def task_loss(
    lpn: LPN,
    params: Params,
    pairs: Pairs,
    key: Array,
    *,
    context: ContextFn | Literal["all"] = mean_context,
    beta: float | Array = 1e-4,
    gamma: float | Array = 0.0,
    no_encoder: bool = False,
    noise: Array | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Leave-one-out loss of one task.

    L = mean_i [CE(rows_i) + CE(cols_i) + mean CE(cells_i)] + beta * KL + gamma * pairwise KL,
    where pair i is decoded under a context made from the other pairs.

    Args:
      lpn: model.
      params: parameters.
      pairs: `[N]` pairs, N >= 2; masked pairs change nothing.
      key: noise of this task.
      context: makes a context `[H]` from the other pairs: `mean_context`, a search (see
        `jaxtta.lpn.train.search_context`), or "all" to decode each pair once under every other
        pair's latent and average the losses.
      beta: weight of the KL divergence from the prior.
      gamma: weight of the pairwise KL divergence (0 in every published run).
      no_encoder: contexts start from N(0, I) draws instead of encoder samples.
      noise: standard normal `[N, H]` to use for the encoder samples instead of drawing it.

    Returns:
      Loss `[]` and metrics (scalars).

    Raises:
      ValueError: fewer than two pairs.
    """
    num_pairs = pairs.mask.shape[-1]
    if num_pairs < 2:
        raise ValueError(f"leave-one-out needs at least 2 pairs per task, got {num_pairs}.")
    key_sample, key_start, key_search, key_encoder, key_decoder = jax.random.split(key, 5)
    posterior = lpn.encode(params, pairs, key=key_encoder)
    if noise is None:
        latents = sample_latents(posterior, key_sample)
    elif posterior.logvar is None:
        latents = posterior.mean
    else:
        latents = posterior.mean + jnp.exp(0.5 * posterior.logvar) * noise
    if no_encoder:
        latents = pair_noise(key_start, latents.shape)

    index = leave_one_out(num_pairs)
    take = lambda tree: jax.tree.map(lambda x: x[index], tree)  # noqa: E731
    others = Leftout(take(latents), take(posterior), take(pairs))
    prepared = lpn.prepare(params, pairs, key=key_decoder)
    mask = pairs.mask

    def decode(contexts):
        return log_probs(lpn.logits(params, contexts, prepared, key=key_decoder), prepared.targets)

    if context == "all":
        contexts = latents
        each = jax.vmap(decode, in_axes=1, out_axes=1)(others.latents)
        weight = others.pairs.mask / jnp.maximum(others.pairs.mask.sum(1, keepdims=True), 1)
        row_loss, col_loss, cell_loss = (
            -(weight * value).sum(1) for value in (each.rows, each.cols, each.mean_cells)
        )
        exact = (each.exact | ~others.pairs.mask).all(1)
    else:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key_search, jnp.arange(num_pairs))

        def one(left_out, key):
            return context(left_out, scorer(lpn, params, left_out.pairs), key)

        contexts = jax.vmap(one, axis_name="pairs")(others, keys)
        parts = decode(contexts)
        row_loss, col_loss, cell_loss = -parts.rows, -parts.cols, -parts.mean_cells
        exact = parts.exact

    def mean(values):
        return _masked_mean(values, mask)

    reconstruction = mean(row_loss + col_loss + cell_loss)
    loss = reconstruction
    metrics = {
        "row_loss": mean(row_loss),
        "col_loss": mean(col_loss),
        "cell_loss": mean(cell_loss),
        "reconstruction": reconstruction,
        "teacher_forced_accuracy": mean(exact),
        **_latent_metrics(latents, contexts, mask),
    }
    if posterior.logvar is not None:
        kl = mean(prior_kl(posterior))
        loss = loss + beta * kl + gamma * pairwise_kl(posterior, mask)
        metrics |= {
            "prior_kl": kl,
            "active_units": active_units(posterior, mask),
            "latent_mean": mean(posterior.mean.mean(-1)),
            "latent_logvar": mean(posterior.logvar.mean(-1)),
        }
    return loss, {"loss": loss, **metrics}


def _masked_mean(values: Array, mask: Array) -> Array:
    return jnp.where(mask, values, 0.0).sum() / jnp.maximum(mask.sum(), 1)


def _latent_metrics(latents: Array, contexts: Array, mask: Array) -> dict[str, Array]:
    """Norms, distances and cosines that show a collapsed or exploding latent space."""
    latents, contexts = jax.lax.stop_gradient((latents, contexts))
    index = leave_one_out(latents.shape[0])
    both = mask[:, None] & mask[index]

    def norm(x):
        return jnp.sqrt((x**2).sum(-1))

    def spread(x):
        rest = x[index]
        cosine = (x[:, None] * rest).sum(-1) / (norm(x)[:, None] * norm(rest) + 1e-5)
        return _masked_mean(norm(x[:, None] - rest), both), _masked_mean(cosine, both)

    latent_distance, latent_cosine = spread(latents)
    context_distance, context_cosine = spread(contexts)
    return {
        "latent_norm": _masked_mean(norm(latents), mask),
        "context_norm": _masked_mean(norm(contexts), mask),
        "context_latent_distance": _masked_mean(norm(contexts - latents), mask),
        "latent_distance": latent_distance,
        "latent_cosine": latent_cosine,
        "context_distance": context_distance,
        "context_cosine": context_cosine,
    }
