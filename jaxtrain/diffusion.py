"""Diffusion by the level of noise: preconditioned networks, noise levels, and samplers.

What is to be made is `x = clean + sigma noise`, of any shape; a denoiser `D(x, sigma)` says what is
clean in it, and samplers go from a large sigma to 0 by asking it:

    levels = exponential_levels(3, 0.05, 1.0)                          # [4], the last one is 0
    x = sampled(denoise, levels[0] * noise, levels, key, "ddim")

Networks whose process is told in steps (`jaxtta.images.denoising`) share `guided` with these.

References:
  Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, NeurIPS 2022,
  arXiv 2206.00364 (preconditioning, Heun's method).
  Song et al., Denoising Diffusion Implicit Models, ICLR 2021, arXiv 2010.02502: in sigma its step
  is Euler's, (s'/s) x + (1 - s'/s) D(x, s), which is also the first-order step of DPM-Solver.
  Ho and Salimans, Classifier-Free Diffusion Guidance, arXiv 2207.12598.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

Denoiser = Callable[[Array, Array], Array]  # (x [...], sigma []) -> what is clean in x
# (x, how noisy it is) -> noise or what is clean
Predictor = Callable[[Array, Array], Array]
SAMPLERS = ("ddim", "heun", "ancestral")


def guided(conditional: Predictor, unconditional: Predictor, scale: ArrayLike) -> Predictor:
    """u + scale (c - u) of two predictions, of noise or of what is clean.

    Scale 1 is c alone, at the price of both; 0 is u alone.
    """

    def predict(x: Array, level: Array) -> Array:
        without = unconditional(x, level)
        return without + scale * (conditional(x, level) - without)

    return predict


# --- Networks -------------------------------------------------------------------------------------


class Scales(NamedTuple):
    """What surrounds a network F: D = skip x + out F(into x, log(sigma) / 4), like sigma each."""

    skip: Array
    out: Array
    into: Array


def scales(sigma: ArrayLike, sigma_data: ArrayLike = 0.5) -> Scales:
    """d^2 / (s^2 + d^2), s d / sqrt(s^2 + d^2), 1 / sqrt(s^2 + d^2), with d the data's deviation.

    With them inputs and targets of F have deviation 1 at every level of noise.
    """
    sigma, data = jnp.asarray(sigma), jnp.asarray(sigma_data)
    total = sigma**2 + data**2
    return Scales(data**2 / total, sigma * data / jnp.sqrt(total), total**-0.5)


def target(clean: Array, noisy: Array, scales: Scales) -> Array:
    """What F is to say, (clean - skip noisy) / out; `scales` broadcast to the data."""
    return (clean - scales.skip * noisy) / scales.out


def random_level(
    key: Array, low: ArrayLike, high: ArrayLike, location: ArrayLike, spread: ArrayLike = 0.5
) -> Array:
    """A sigma `[]` for training, log-logistic between `low` and `high`.

    log(sigma) is logistic around log(location) with scale `spread`, cut off at both ends.

    Args:
      key: consumed.
      low, high: least and greatest sigma, above 0.
      location: median before the cut, e.g. the data's deviation.
      spread: of log(sigma).
    """
    share = lambda sigma: jax.nn.sigmoid((jnp.log(sigma) - jnp.log(location)) / spread)
    u = jax.random.uniform(key, minval=share(low), maxval=share(high))
    return jnp.clip(jnp.exp(jnp.log(location) + spread * jax.scipy.special.logit(u)), low, high)


# --- Sampling -------------------------------------------------------------------------------------


def exponential_levels(num_steps: int, low: ArrayLike, high: ArrayLike) -> Array:
    """`num_steps` sigmas from `high` down to `low` by equal factors, and 0, `[num_steps + 1]`.

    One step goes from `high` to 0.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; give 1 or more.")
    logs = jnp.linspace(jnp.log(high), jnp.log(low), num_steps)
    return jnp.append(jnp.exp(logs), 0.0)


def toward(x: Array, clean: Array, sigma: Array, after: Array) -> Array:
    """The step of DDIM: (after / sigma) x + (1 - after / sigma) clean; `clean` itself at 0."""
    kept = after / sigma
    return kept * x + (1 - kept) * clean


def sampled(denoise: Denoiser, x: Array, levels: Array, key: Array, method: str = "ddim") -> Array:
    """What is left of `x` at level 0.

    Args:
      denoise: D.
      x: noise of deviation `levels[0]`, any shape.
      levels: falling sigmas, the last one 0, `[K + 1]`.
      key: of `ancestral`; the others draw nothing.
      method: one of `SAMPLERS`: `ddim`; `heun`, which asks D a second time and is of second order;
        `ancestral`, which adds fresh noise after every step.

    Raises:
      ValueError: another method.
    """
    if method not in SAMPLERS:
        raise ValueError(f"the sampler {method!r} is unknown; choose {', '.join(SAMPLERS)}.")

    def step(x: Array, given: tuple[Array, Array, Array]) -> tuple[Array, Any]:
        sigma, after, number = given
        clean = denoise(x, sigma)
        if method == "ancestral":
            fresh = after * jnp.sqrt(1 - (after / sigma) ** 2)
            down = after**2 / sigma
            noise = jax.random.normal(jax.random.fold_in(key, number), x.shape, x.dtype)
            return toward(x, clean, sigma, down) + fresh * noise, None
        moved = toward(x, clean, sigma, after)
        if method == "heun":
            # At level 0 there is no slope to average with.
            safe = jnp.where(after > 0, after, 1.0)
            slope = (x - clean) / sigma + (moved - denoise(moved, safe)) / safe
            moved = jnp.where(after > 0, x + (after - sigma) * slope / 2, moved)
        return moved, None

    steps = levels[:-1], levels[1:], jnp.arange(len(levels) - 1)
    return jax.lax.scan(step, x, steps)[0]
