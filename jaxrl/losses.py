"""Losses of one sample, unbatched; callers `vmap` and average.

Everything here is minimised.
"""

import jax.numpy as jnp
from jax import Array

LARGEST_LOG_RATIO = 20.0  # in nats, rho = 4.9e8; its square times an advantage fits in a float32


def ratio_of(log_ratio: Array) -> Array:
    """rho = exp(log_ratio), with log-ratios above `LARGEST_LOG_RATIO` taken as that one.

    A ratio of 4.9e8 says as much as a larger one, and the square of it is still a float32. The
    gradient is 0 above the bound.

    Args:
      log_ratio: log pi(a | s) - log pi_old(a | s), any shape.
    """
    return jnp.exp(jnp.minimum(log_ratio, LARGEST_LOG_RATIO))


def policy_gradient_loss(log_prob: Array, advantage: Array) -> Array:
    """- A log pi(a | s), whose gradient is the negative of the policy gradient.

    Args:
      log_prob: log pi(a | s) in nats, `[]`.
      advantage: A, `[]`, a constant.
    """
    return -advantage * log_prob


def mirror_loss(log_ratio: Array, advantage: Array, drift: Array) -> Array:
    """- (rho A - D), the objective of mirror learning with rho = `ratio_of(log_ratio)`.

    For a D that is known as a number and does not grow with rho A: where D is close to a large
    rho A, as that of PPO's clip is, the difference of the two float32 numbers is rounding. The
    drifts of `jaxrl.drift` give this loss themselves, in a form that does not subtract them.

    Args:
      log_ratio: log pi(a | s) - log pi_old(a | s), `[]`.
      advantage: A, `[]`, a constant.
      drift: D, `[]`.

    References:
      Kuba et al., Mirror Learning: A Unifying Framework of Policy Optimisation, arXiv 2201.02373.
    """
    return drift - ratio_of(log_ratio) * advantage


def value_loss(
    value: Array, old_value: Array, target: Array, clip: float | Array | None = None
) -> Array:
    """0.5 (V - G)^2 or, with a clip, 0.5 max( (V - G)^2, (V_clipped - G)^2 ).

    V_clipped = V_old + clip(V - V_old, -clip, clip).

    Args:
      value: V(s) now, `[]`.
      old_value: V(s) when the data were collected, `[]`.
      target: G, `[]`, a constant.
      clip: largest change that is rewarded, in units of the value; None for no clip.

    References:
      The clipped form is that of the code of Schulman et al., arXiv 1707.06347 (baselines, ppo2).
    """
    error = (value - target) ** 2
    if clip is None:
        return 0.5 * error
    clipped = old_value + jnp.clip(value - old_value, -clip, clip)
    return 0.5 * jnp.maximum(error, (clipped - target) ** 2)


def categorical_kl(p: Array, q: Array, floor: float = 1e-8) -> Array:
    """KL(p || q) = sum_j p_j (log(p_j + floor) - log(q_j + floor)) in nats.

    Args:
      p: probabilities, `[m]`.
      q: probabilities, `[m]`.
      floor: keeps the logarithm of 0 finite.
    """
    return jnp.sum(p * (jnp.log(p + floor) - jnp.log(q + floor)), axis=-1)


def categorical_entropy(p: Array, floor: float = 1e-8) -> Array:
    """-sum_j p_j log(p_j + floor) in nats, for probabilities `[m]`."""
    return -jnp.sum(p * jnp.log(p + floor), axis=-1)
