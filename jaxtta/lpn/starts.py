"""Where a search starts: latents drawn from the encodings of pairs, and points made of them.

References:
  Macfarlane and Bonnet, Searching Latent Program Spaces, arXiv 2411.08706, sec. 4.
  Official code: clement-bonnet/lpn (src/models/lpn.py).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxtta.lpn.encoder import Posterior

LatentsFn = Callable[[Posterior, Array], Array]


def posterior_mean(posterior: Posterior, key: Array) -> Array:
    """The mean of every pair, `[N, H]`; nothing is drawn."""
    return posterior.mean


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


# (latents [N, H], their posterior, mask [N]) -> one latent for the problem, [H].
AggregateFn = Callable[[Array, Posterior, Array], Array]


def mean_latent(latents: Array, posterior: Posterior, mask: Array) -> Array:
    """Mean over the valid pairs (paper and official code); 0 if there is none."""
    weights = mask[:, None].astype(latents.dtype)
    return jnp.where(weights > 0, latents, 0.0).sum(0) / jnp.maximum(weights.sum(), 1.0)


def first_latent(latents: Array, posterior: Posterior, mask: Array) -> Array:
    """Latent of the first valid pair."""
    return latents[jnp.argmax(mask)]


def product_latent(latents: Array, posterior: Posterior, mask: Array) -> Array:
    """Mean of the product of the valid pairs' posteriors, see `product_of_experts`.

    Raises:
      ValueError: the latents are no samples of a Gaussian posterior.
    """
    if posterior.logvar is None:
        raise ValueError(
            "product_latent needs the posterior of a variational encoder; without one "
            "(variational=False, no_encoder=True) use mean_latent or first_latent."
        )
    return product_of_experts(posterior.mean, posterior.logvar, mask)[0]


def product_of_experts(mean: Array, logvar: Array, mask: Array) -> tuple[Array, Array]:
    """Product of the valid pairs' Gaussians, the alternative to averaging their samples.

    1 / var = sum_j 1 / var_j and mean = var * sum_j mean_j / var_j, per dimension.

    Args:
      mean: `[N, H]`.
      logvar: log variance, `[N, H]`.
      mask: False for padding pairs, `[N]`.

    Returns:
      Mean `[H]` and log variance `[H]`; those of N(0, I) when no pair is valid.
    """
    some = mask.any()
    used = (mask | ~some)[:, None]
    log_precision = jnp.where(used, -logvar, -jnp.inf)
    weights = jax.nn.softmax(log_precision, axis=0)
    product = jnp.where(used, weights * mean, 0.0).sum(0)
    return (
        jnp.where(some, product, 0.0),
        jnp.where(some, -jax.nn.logsumexp(log_precision, axis=0), 0.0),
    )


@dataclasses.dataclass(frozen=True)
class Starts:
    """Which points a search starts from, in the order aggregate, perturbations, pairs.

    Attributes:
      aggregate: makes one latent from those of the pairs: `mean_latent`, `first_latent` or
        `product_latent`.
      include_mean_latent: start at the aggregate.
      include_all_latents: start at each valid pair's latent.
      random_perturbation: `(num, scale)` adds points aggregate + scale * N(0, I).

    Raises:
      ValueError: there is no start point, or the aggregate has no effect.
    """

    aggregate: AggregateFn = mean_latent
    include_mean_latent: bool = True
    include_all_latents: bool = False
    random_perturbation: tuple[int, ArrayLike] | None = None

    def __post_init__(self) -> None:
        if not (self.include_mean_latent or self.include_all_latents):
            raise ValueError(
                "no start point: turn on include_mean_latent, include_all_latents or both."
            )
        unused = not self.include_mean_latent and self.random_perturbation is None
        if self.aggregate is not mean_latent and unused:
            raise ValueError(
                f"aggregate={self.aggregate.__name__} has no effect without "
                "include_mean_latent=True or a random_perturbation; turn one on."
            )


AT_THE_MEAN = Starts()


def start_points(
    latents: Array,
    mask: Array,
    key: Array | None = None,
    *,
    starts: Starts = AT_THE_MEAN,
    posterior: Posterior | None = None,
) -> tuple[Array, Array]:
    """Start points of one search.

    Args:
      latents: latent of each pair, `[N, H]`.
      mask: False for padding pairs, `[N]`.
      key: consumed by `random_perturbation`. Not the key the latents were drawn with.
      starts: which points.
      posterior: what the latents were drawn from, `[N, H]`; None if they are all that is known.

    Returns:
      Start points `[S, H]` and their mask `[S]`. Padding pairs at the end change no other start
      point's place or noise.

    Raises:
      ValueError: a perturbation without a key.
    """
    center = starts.aggregate(latents, posterior or Posterior(latents, None), mask)
    points = [center[None]] if starts.include_mean_latent else []
    if starts.random_perturbation is not None:
        if key is None:
            raise ValueError("random_perturbation draws noise; give start_points a key.")
        num, scale = starts.random_perturbation
        noise = jax.random.normal(key, (num, latents.shape[-1]), latents.dtype)
        points.append(center[None] + scale * noise)
    always = jnp.ones(sum(map(len, points)), bool)
    if starts.include_all_latents:
        return jnp.concatenate([*points, latents]), jnp.concatenate([always, mask.astype(bool)])
    return jnp.concatenate(points), always
