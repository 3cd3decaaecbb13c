"""Returns and advantages of one trajectory, unbatched; callers `vmap` over workers.

Everything is given by name; under `vmap` what is named has a leading axis of workers, and numbers
are bound before:

    estimate = functools.partial(generalised_advantages, gamma=0.99, lambda_=0.95)
    advantage = jax.vmap(estimate)(reward_t=reward, value_t=value, ...)                   # [W, T]

Step t starts in s_t and ends in s'_t, the observation *before* any reset. `terminated` says that
the episode ended in a state without a future (its value is 0), `truncated` that it was cut by a
time limit (its value is V(s'_t)). Both cut the recursion, since step t + 1 is of another episode:
nothing crosses a cut, not even a NaN.
The last step of the arrays may be the middle of an episode; it is bootstrapped like every other.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def _check(**arrays: Array) -> None:
    shapes = {name: jnp.shape(x) for name, x in arrays.items()}
    if len(set(shapes.values())) > 1 or len(next(iter(shapes.values()))) != 1:
        raise ValueError(
            f"a trajectory needs arrays of one length [T] but got {shapes}; vmap over workers."
        )


def generalised_advantages(
    *,
    reward_t: Array,
    value_t: Array,
    next_value_t: Array,
    terminated_t: Array,
    truncated_t: Array,
    gamma: ArrayLike,
    lambda_: ArrayLike,
) -> Array:
    r"""Generalised advantage estimation.

        delta_t = r_t + gamma (1 - terminated_t) V(s'_t) - V(s_t)
        A_t     = delta_t + gamma lambda (1 - terminated_t or truncated_t) A_{t+1}

    Args:
      reward_t: r, `[T]`.
      value_t: V(s_t), `[T]`.
      next_value_t: V(s'_t), `[T]`; what stands at terminated steps is not used.
      terminated_t: `[T]`, bool.
      truncated_t: `[T]`, bool.
      gamma: discount per step.
      lambda_: 0 for one-step differences, 1 for Monte-Carlo returns minus values.

    Returns:
      A, `[T]`.

    Raises:
      ValueError: the arrays are not of one length.

    References:
      Schulman et al., High-Dimensional Continuous Control Using Generalized Advantage Estimation,
      arXiv 1506.02438, eq. 16.
    """
    _check(
        reward_t=reward_t,
        value_t=value_t,
        next_value_t=next_value_t,
        terminated_t=terminated_t,
        truncated_t=truncated_t,
    )
    delta_t = reward_t + gamma * jnp.where(terminated_t, 0.0, next_value_t) - value_t
    cut_t = terminated_t | truncated_t
    decay_t = jnp.where(cut_t, 0.0, gamma * lambda_)

    def back(advantage: Array, step: tuple[Array, ...]) -> tuple[Array, Array]:
        delta, decay, cut = step
        advantage = delta + decay * jnp.where(cut, 0.0, advantage)
        return advantage, advantage

    steps = (delta_t, decay_t, cut_t)
    return jax.lax.scan(back, jnp.zeros_like(delta_t[-1]), steps, reverse=True)[1]


def lambda_returns(
    *,
    reward_t: Array,
    next_value_t: Array,
    terminated_t: Array,
    truncated_t: Array,
    gamma: ArrayLike,
    lambda_: ArrayLike,
) -> Array:
    r"""The targets of TD(lambda).

        G_t = r_t + gamma ( (1 - lambda) V(s'_t) + lambda G_{t+1} )

    where the bracket is V(s'_t) at truncated and last steps, and 0 at terminated ones. Equals
    `generalised_advantages` plus V(s_t) when V(s'_t) = V(s_{t+1}) inside episodes. With `lambda_=1`
    these are discounted returns, bootstrapped where an episode was cut.

    Args:
      reward_t: r, `[T]`.
      next_value_t: V(s'_t), `[T]`; what stands at terminated steps is not used.
      terminated_t: `[T]`, bool.
      truncated_t: `[T]`, bool.
      gamma: discount per step.
      lambda_: weight of the longer return.

    Returns:
      G, `[T]`.

    Raises:
      ValueError: the arrays are not of one length.
    """
    _check(
        reward_t=reward_t,
        next_value_t=next_value_t,
        terminated_t=terminated_t,
        truncated_t=truncated_t,
    )
    value_t = jnp.where(terminated_t, 0.0, next_value_t)
    cut_t = terminated_t | truncated_t

    def back(target: Array, step: tuple[Array, ...]) -> tuple[Array, Array]:
        reward, value, cut = step
        target = jnp.where(cut, value, target)
        target = reward + gamma * ((1 - lambda_) * value + lambda_ * target)
        return target, target

    return jax.lax.scan(back, value_t[-1], (reward_t, value_t, cut_t), reverse=True)[1]
