"""KL terms and the leave-one-out loss of one task.

Everything here is for one task of N pairs; callers `vmap` over tasks. Normalisation is the
authors': the log-probabilities of the cells are *averaged* per grid while those of the two side
lengths enter whole, and the KL divergence is summed over latent dimensions but averaged over pairs
(the paper writes sums; all published values of beta belong to this form).

References:
  Macfarlane and Bonnet, Searching Latent Program Spaces, arXiv 2411.08706, sec. 3-4.
  Official code: clement-bonnet/lpn (src/models/lpn.py).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxtta.lpn.encoder import Posterior
from jaxtta.lpn.grids import Pairs, leave_one_out
from jaxtta.lpn.likelihood import PairLogProbs, log_probs, mean_cells, scorer
from jaxtta.lpn.model import LPN, Params
from jaxtta.lpn.search import ScoreFn
from jaxtta.lpn.starts import pair_noise, sample_latents

ACTIVE_KL = 0.01


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


ContextFn = Callable[[Leftout, ScoreFn, Array], Array]


def mean_context(others: Leftout, score_fn: ScoreFn | None, key: Array) -> Array:
    """Mean of the other pairs' latents, `[H]` (training mode `mean`)."""
    mask = others.pairs.mask[:, None]
    return jnp.where(mask, others.latents, 0.0).sum(0) / jnp.maximum(mask.sum(), 1)


DecodeFn = Callable[[Array], PairLogProbs]  # contexts [N, ...], one per pair


class _Task(NamedTuple):
    """What both losses start from: the encoded pairs and how to decode each one."""

    latents: Array
    posterior: Posterior
    others: Leftout
    decode: DecodeFn
    key_search: Array


class _Terms(NamedTuple):
    """Negative log-probabilities of every pair and whether it is predicted exactly, `[N]`."""

    rows: Array
    cols: Array
    cells: Array
    exact: Array


def task_loss(
    lpn: LPN,
    params: Params,
    pairs: Pairs,
    key: Array,
    *,
    context: ContextFn = mean_context,
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
      context: makes a context `[H]` from the other pairs: `mean_context`, or a search (see
        `jaxtta.lpn.train.search_context`).
      beta: weight of the KL divergence from the prior.
      gamma: weight of the pairwise KL divergence (0 in every published run).
      no_encoder: contexts start from N(0, I) draws instead of encoder samples.
      noise: standard normal `[N, H]` to use for the encoder samples instead of drawing it.

    Returns:
      Loss `[]` and metrics (scalars).

    Raises:
      ValueError: fewer than two pairs.
    """
    task = _leave_one_out_task(lpn, params, pairs, key, no_encoder, noise)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(task.key_search, jnp.arange(len(task.latents)))

    def one(left_out: Leftout, key: Array) -> Array:
        if context is mean_context:
            return mean_context(left_out, None, key)
        return context(left_out, scorer(lpn, params, left_out.pairs), key)

    contexts = jax.vmap(one, axis_name="pairs")(task.others, keys)
    parts = task.decode(contexts)
    terms = _Terms(-parts.rows, -parts.cols, -mean_cells(parts), parts.exact)
    return _weighted(task, contexts, terms, pairs.mask, beta, gamma)


def every_latent_loss(
    lpn: LPN,
    params: Params,
    pairs: Pairs,
    key: Array,
    *,
    beta: float | Array = 1e-4,
    gamma: float | Array = 0.0,
    no_encoder: bool = False,
    noise: Array | None = None,
) -> tuple[Array, dict[str, Array]]:
    """`task_loss` with pair i decoded under each other pair's latent, losses averaged.

    Training mode `all` of the paper. A pair counts as exact if it is so under every latent.
    Arguments, results and errors are those of `task_loss`.
    """
    task = _leave_one_out_task(lpn, params, pairs, key, no_encoder, noise)
    each = jax.vmap(task.decode, in_axes=1, out_axes=1)(task.others.latents)
    mask = task.others.pairs.mask
    weight = mask / jnp.maximum(mask.sum(1, keepdims=True), 1)
    rows, cols, cells = (
        -(weight * value).sum(1) for value in (each.rows, each.cols, mean_cells(each))
    )
    terms = _Terms(rows, cols, cells, (each.exact | ~mask).all(1))
    return _weighted(task, task.latents, terms, pairs.mask, beta, gamma)


def _leave_one_out_task(
    lpn: LPN, params: Params, pairs: Pairs, key: Array, no_encoder: bool, noise: Array | None
) -> _Task:
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
    known = posterior
    if no_encoder:
        latents = pair_noise(key_start, latents.shape)
        known = Posterior(latents, None)

    index = leave_one_out(num_pairs)
    others = jax.tree.map(lambda x: x[index], Leftout(latents, known, pairs))
    prepared = lpn.prepare(params, pairs, key=key_decoder)

    def decode(contexts: Array) -> PairLogProbs:
        return log_probs(lpn.logits(params, contexts, prepared, key=key_decoder), prepared.targets)

    return _Task(latents, posterior, others, decode, key_search)


def _weighted(
    task: _Task,
    contexts: Array,
    terms: _Terms,
    mask: Array,
    beta: float | Array,
    gamma: float | Array,
) -> tuple[Array, dict[str, Array]]:
    """The loss and its metrics from what every pair adds."""

    def mean(values: Array) -> Array:
        return _masked_mean(values, mask)

    posterior = task.posterior
    reconstruction = mean(terms.rows + terms.cols + terms.cells)
    loss = reconstruction
    metrics = {
        "row_loss": mean(terms.rows),
        "col_loss": mean(terms.cols),
        "cell_loss": mean(terms.cells),
        "reconstruction": reconstruction,
        "teacher_forced_accuracy": mean(terms.exact),
        **_latent_metrics(task.latents, contexts, mask),
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

    def norm(x: Array) -> Array:
        return jnp.sqrt((x**2).sum(-1))

    def spread(x: Array) -> tuple[Array, Array]:
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
