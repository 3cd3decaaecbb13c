"""Losses of one sample, unbatched; callers `vmap` and average.

Everything here is minimised.
"""

import jax.numpy as jnp
from jax import Array


def policy_gradient_loss(log_prob: Array, advantage: Array) -> Array:
    """- A log pi(a | s), whose gradient is the negative of the policy gradient.

    Args:
      log_prob: log pi(a | s) in nats, `[]`.
      advantage: A, `[]`, a constant.
    """
    return -advantage * log_prob


def mirror_loss(log_ratio: Array, advantage: Array, drift: Array) -> Array:
    """- (rho A - D), the objective of mirror learning with rho = exp(log_ratio).

    PPO, DPO, LPO and TA-LPO differ in the drift D alone, see `jaxrl.drift`.

    Args:
      log_ratio: log pi(a | s) - log pi_old(a | s), `[]`.
      advantage: A, `[]`, a constant.
      drift: D, `[]`.

    References:
      Kuba et al., Mirror Learning: A Unifying Framework of Policy Optimisation, arXiv 2201.02373.
    """
    return drift - jnp.exp(log_ratio) * advantage


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
