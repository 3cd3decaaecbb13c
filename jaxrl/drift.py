r"""Drift functions: PPO, DPO, LPO and TA-LPO as one family.

Each maximises mean( rho A - D(rho, A) ) with rho = pi(a|s) / pi_old(a|s); they differ in D alone. A
drift keeps the guarantees of mirror learning if D >= 0, and D = 0 with zero slope at rho = 1.

A drift is a function `(log_ratio [], advantage [], progress []) -> D []`. `progress` is n / N, the
share of the training budget that is used; only TA-LPO looks at it. Since D of a clipped sample is
rho A but for a small rest, `D - rho A` from two float32 numbers is rounding from log-ratios of 12
on; so a drift also gives that loss, written without the two large terms. rho is
`jaxrl.losses.ratio_of(log_ratio)`, which is bounded: all of it is finite for any log-ratio.

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

from jaxrl.losses import LARGEST_LOG_RATIO, mirror_loss, ratio_of
from jaxtrain.schedules.checks import known

Function = Callable[[Array, Array, Array], Array]  # (log_ratio [], advantage [], progress []) -> []


class Drift(NamedTuple):
    """A drift; calling it gives D.

    Attributes:
      distance: `(log_ratio, advantage, progress) -> D`.
      loss: `(log_ratio, advantage, progress) -> D - rho A`, accurate for any log-ratio.
    """

    distance: Function
    loss: Function

    def __call__(self, log_ratio: Array, advantage: Array, progress: Array) -> Array:
        return self.distance(log_ratio, advantage, progress)


def from_distance(distance: Function) -> Drift:
    """A drift of your own from D alone; its loss is `jaxrl.losses.mirror_loss`."""

    def loss(log_ratio: Array, advantage: Array, progress: Array) -> Array:
        return mirror_loss(log_ratio, advantage, distance(log_ratio, advantage, progress))

    return Drift(distance, loss)


def none() -> Drift:
    """D = 0: the policy gradient with importance weights."""
    return from_distance(lambda log_ratio, advantage, progress: jnp.zeros_like(log_ratio))


def ppo(epsilon: ArrayLike = 0.2) -> Drift:
    """D = relu( (rho - clip(rho, 1 - epsilon, 1 + epsilon)) A ), which is PPO's clip.

    Its loss is - min(rho A, clip(rho) A).
    """

    def parts(log_ratio: Array, advantage: Array) -> tuple[Array, Array, Array]:
        ratio = ratio_of(log_ratio)
        near = jnp.clip(ratio, 1 - epsilon, 1 + epsilon)
        return ratio, near, (ratio - near) * advantage

    def distance(log_ratio: Array, advantage: Array, progress: Array) -> Array:
        return jax.nn.relu(parts(log_ratio, advantage)[2])

    def loss(log_ratio: Array, advantage: Array, progress: Array) -> Array:
        ratio, near, beyond = parts(log_ratio, advantage)
        return -jnp.where(beyond > 0, near, ratio) * advantage

    return Drift(distance, loss)


def dpo(alpha: ArrayLike = 2.0, beta: ArrayLike = 0.6) -> Drift:
    """The closed form distilled from LPO.

    D = relu( u - alpha tanh(u / alpha) ), u = (rho - 1) A, where A >= 0;
    D = relu( v - beta tanh(v / beta) ), v = log(rho) A, where A < 0.

    Where D > 0 and A >= 0 the loss is - A - alpha tanh(u / alpha).
    """

    def parts(log_ratio: Array, advantage: Array) -> tuple[Array, Array, Array]:
        u = jnp.expm1(jnp.minimum(log_ratio, LARGEST_LOG_RATIO)) * advantage
        v = log_ratio * advantage
        near = jnp.asarray(alpha * jnp.tanh(u / alpha))
        return u, near, jax.nn.relu(v - beta * jnp.tanh(v / beta))

    def distance(log_ratio: Array, advantage: Array, progress: Array) -> Array:
        u, near, below = parts(log_ratio, advantage)
        return jnp.where(advantage >= 0, jax.nn.relu(u - near), below)

    def loss(log_ratio: Array, advantage: Array, progress: Array) -> Array:
        u, near, below = parts(log_ratio, advantage)
        plain = -ratio_of(log_ratio) * advantage
        above = jnp.where(u > near, -advantage - near, plain)
        return jnp.where(advantage >= 0, above, below + plain)

    return Drift(distance, loss)


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
    hold by construction; multiplying by n/N instead of appending it is what keeps them. Where D > 0
    the loss is f - xi - min(rho A, clip(rho) A).

    Args:
      weights: 8 or 16 inputs decide between LPO and TA-LPO.
      epsilon: of the PPO drift inside; None starts from nothing, D = relu(f - xi).
      xi: dead zone, above 0, without which D has a kink at rho = 1; 1e-4 in the authors' code (the
        paper's 1e-6 is not confirmed).
      clip: bound on the entries of x, an option of some codes for the beginning of evolution.

    Raises:
      ValueError: the weights are for neither 8 nor 16 inputs, or xi is not positive.
    """
    num_inputs = weights.hidden.shape[0]
    if num_inputs not in (8, 16):
        raise ValueError(f"a learned drift has 8 (LPO) or 16 (TA-LPO) inputs but got {num_inputs}.")
    if known(xi) and not xi > 0:  # type: ignore[operator]
        raise ValueError(
            f"xi is {xi}, but the dead zone of a learned drift must be above 0: without it D has a "
            "kink at a ratio of 1."
        )
    base = none() if epsilon is None else ppo(epsilon)

    def network(log_ratio: Array, advantage: Array, progress: Array) -> Array:
        away = -jnp.expm1(jnp.minimum(log_ratio, LARGEST_LOG_RATIO))
        u = jnp.stack([away, away**2, log_ratio, log_ratio**2])
        x = jnp.concatenate([u, advantage * u])
        if clip is not None:
            x = jnp.clip(x, -clip, clip)
        if num_inputs == 16:
            x = jnp.concatenate([x, progress * x])
        return jnp.tanh(x @ weights.hidden) @ weights.output

    def distance(*at: Array) -> Array:
        return jax.nn.relu(base.distance(*at) + network(*at) - xi)

    def loss(*at: Array) -> Array:
        log_ratio, advantage, _ = at
        f = network(*at)
        plain = -ratio_of(log_ratio) * advantage
        return jnp.where(base.distance(*at) + f - xi > 0, base.loss(*at) + f - xi, plain)

    return Drift(distance, loss)


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
