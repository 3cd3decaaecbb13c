r"""Drift functions: PPO, DPO, LPO and TA-LPO as one family.

Each maximises mean( rho A - D(rho, A) ) with rho = pi(a|s) / pi_old(a|s); they differ in D alone. A
drift keeps the guarantees of mirror learning if D >= 0, and D = 0 with zero slope at rho = 1.

A drift is a function `(log_ratio [], advantage [], progress []) -> D []`. `progress` is n / N, the
share of the training budget that is used; only TA-LPO looks at it.

References:
  Lu et al., Discovered Policy Optimisation, arXiv 2210.05639 (LPO, DPO).
  Jackson et al., Discovering Temporally-Aware Reinforcement Learning Algorithms, arXiv 2402.05828
  (TA-LPO, eq. 10).
  Official code of LPO and DPO: luchris429/discovered-policy-optimisation; there is none of TA-LPO.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

Drift = Callable[[Array, Array, Array], Array]


def ppo(epsilon: ArrayLike = 0.2) -> Drift:
    """D = relu( (rho - clip(rho, 1 - epsilon, 1 + epsilon)) A ), which is PPO's clip."""

    def drift(log_ratio: Array, advantage: Array, progress: Array) -> Array:
        ratio = jnp.exp(log_ratio)
        return jax.nn.relu((ratio - jnp.clip(ratio, 1 - epsilon, 1 + epsilon)) * advantage)

    return drift


def dpo(alpha: ArrayLike = 2.0, beta: ArrayLike = 0.6) -> Drift:
    """The closed form distilled from LPO.

    D = relu( u - alpha tanh(u / alpha) ), u = (rho - 1) A, where A >= 0;
    D = relu( v - beta tanh(v / beta) ), v = log(rho) A, where A < 0.
    """

    def drift(log_ratio: Array, advantage: Array, progress: Array) -> Array:
        u = jnp.expm1(log_ratio) * advantage
        v = log_ratio * advantage
        above = jax.nn.relu(u - alpha * jnp.tanh(u / alpha))
        below = jax.nn.relu(v - beta * jnp.tanh(v / beta))
        return jnp.where(advantage >= 0, above, below)

    return drift


class DriftWeights(NamedTuple):
    """Weights of a learned drift; both layers are without bias.

    Attributes:
      hidden: `[inputs, width]`, 8 inputs for LPO and 16 for TA-LPO.
      output: `[width]`.
    """

    hidden: Array
    output: Array


def zero_weights(width: int = 128, *, temporal: bool = False) -> DriftWeights:
    """Where evolution starts: with the PPO start, D is PPO's drift less `xi`."""
    return DriftWeights(jnp.zeros((16 if temporal else 8, width)), jnp.zeros(width))


def random_weights(
    key: Array, width: int = 128, *, temporal: bool = False, scale: float | Array = 1.0
) -> DriftWeights:
    """Normal weights with standard deviation `scale`."""
    key_hidden, key_output = jax.random.split(key)
    inputs = 16 if temporal else 8
    hidden = jax.random.normal(key_hidden, (inputs, width))
    output = jax.random.normal(key_output, (width,))
    return DriftWeights(jnp.asarray(scale * hidden), jnp.asarray(scale * output))


def learned(
    weights: DriftWeights,
    *,
    epsilon: ArrayLike | None = 0.2,
    xi: ArrayLike = 1e-4,
    clip: float | Array | None = None,
) -> Drift:
    r"""LPO and, with 16 inputs, TA-LPO.

        u = [1 - rho, (1 - rho)^2, log rho, (log rho)^2],  x = [u, A u],  x_TA = [x, (n/N) x]
        f = w^T tanh(W^T x)
        D = relu( relu( (rho - clip(rho, 1 - epsilon, 1 + epsilon)) A ) + f - xi )

    Without biases f = 0 at rho = 1 for any weights and any n/N, so the three conditions of a drift
    hold by construction; multiplying by n/N instead of appending it is what keeps them.

    Args:
      weights: 8 or 16 inputs decide between LPO and TA-LPO.
      epsilon: of the PPO drift inside; None starts from nothing, D = relu(f - xi).
      xi: dead zone; 1e-4 in the authors' code (the paper's 1e-6 is not confirmed).
      clip: bound on the entries of x, an option of some codes for the beginning of evolution.

    Raises:
      ValueError: the weights are for neither 8 nor 16 inputs.
    """
    num_inputs = weights.hidden.shape[0]
    if num_inputs not in (8, 16):
        raise ValueError(f"a learned drift has 8 (LPO) or 16 (TA-LPO) inputs but got {num_inputs}.")

    def drift(log_ratio: Array, advantage: Array, progress: Array) -> Array:
        away = -jnp.expm1(log_ratio)
        u = jnp.stack([away, away**2, log_ratio, log_ratio**2])
        x = jnp.concatenate([u, advantage * u])
        if clip is not None:
            x = jnp.clip(x, -clip, clip)
        if num_inputs == 16:
            x = jnp.concatenate([x, progress * x])
        f = jnp.tanh(x @ weights.hidden) @ weights.output
        base = 0.0 if epsilon is None else ppo(epsilon)(log_ratio, advantage, progress)
        return jax.nn.relu(base + f - xi)

    return drift


def slope(drift: Drift, ratio: Array, advantage: Array, progress: ArrayLike) -> Array:
    """d (rho A - D) / d rho, for plots: where it changes sign the drift stops the update.

    Args:
      drift: any.
      ratio: rho, `[R]`.
      advantage: A, `[A]`.
      progress: n / N, `[]`.

    Returns:
      `[A, R]`.
    """

    def objective(rho: Array, a: Array) -> Array:
        return rho * a - drift(jnp.log(rho), a, jnp.asarray(progress))

    of_ratios = jax.vmap(jax.grad(objective), (0, None))
    return jax.vmap(of_ratios, (None, 0))(ratio, advantage)
