"""Advantages of responses: against their group, against a critic, turn by turn.

A group is the G responses to one prompt, `[P, G]`. Where all of a group have one reward there is
nothing to learn and the advantage is exactly 0; `informative` says where, so that the share can be
reported and the group skipped or replaced.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxrl.returns import generalised_advantages

Baseline = Literal["centred", "standardised", "leave_one_out"]


def informative(reward: Array, taken: Array | None = None) -> Array:
    """Which groups have different rewards, `[P, G] -> [P]`, bool.

    Args:
      reward: `[P, G]`.
      taken: responses that count, `[P, G]`, bool; None: all.
    """
    if taken is not None:
        first = jnp.take_along_axis(reward, taken.argmax(-1, keepdims=True), -1)
        reward = jnp.where(taken, reward, first)
    return reward.max(-1) > reward.min(-1)


def group_advantage(reward: Array, baseline: Baseline, taken: Array | None = None) -> Array:
    """Rewards against those of the other responses to the prompt.

    | baseline | advantage |
    |---|---|
    | `centred` | r - mean |
    | `standardised` | (r - mean) / (std + 1e-6), with the standard deviation of a sample, n - 1 |
    | `leave_one_out` | r_i - mean of the others = G / (G - 1) (r_i - mean), unbiased |

    Args:
      reward: `[P, G]`, G at least 2.
      baseline: see the table.
      taken: responses that are compared, and with which, `[P, G]`, bool; None: all. Others are rows
        that ended before this turn.

    Returns:
      `[P, G]`; exactly 0 in groups whose rewards are all equal, and where nothing was taken.

    Raises:
      ValueError: there is no such baseline, or a group of one.

    References:
      Shao et al., DeepSeekMath, arXiv 2402.03300 (standardised); Liu et al., Understanding
      R1-Zero-Like Training, arXiv 2503.20783 (centred); Ahmadian et al., Back to Basics, arXiv
      2402.14740 (leave-one-out).
    """
    size = reward.shape[-1]
    if size < 2:
        raise ValueError("a group of one response has no baseline; sample at least two a prompt.")
    taken = jnp.ones(reward.shape, bool) if taken is None else taken
    number = jnp.maximum(taken.sum(-1, keepdims=True), 2)  # one alone is compared with nothing
    total = lambda x: jnp.where(taken, x, 0).sum(-1, keepdims=True)
    centred = reward - total(reward) / number
    if baseline == "centred":
        found = centred
    elif baseline == "standardised":
        found = centred / (jnp.sqrt(total(centred**2) / (number - 1)) + 1e-6)
    elif baseline == "leave_one_out":
        found = number / (number - 1) * centred
    else:
        raise ValueError(
            f"there is no baseline {baseline!r}; take centred, standardised or leave_one_out."
        )
    return jnp.where(taken & informative(reward, taken)[..., None], found, 0)


def without_equal_groups(mask: Array, reward: Array) -> Array:
    """The mask of a loss without the groups that teach nothing, so that no mean counts them.

    Args:
      mask: which tokens count, `[P, G, T]`, bool; responses without any are not compared.
      reward: `[P, G]`.
    """
    return mask & informative(reward, mask.any(-1))[:, None, None]


def token_advantages(
    reward: Array, value: Array, mask: Array, *, gamma: ArrayLike, lambda_: ArrayLike
) -> Array:
    """Generalised advantages over the tokens of the policy; forced ones between them take no time.

    The response ends after its last token of the policy, where the value of the future is 0.

    Args:
      reward: paid for a token, `[B, T]`; read where the mask holds.
      value: of the critic *before* the token, `[B, T]`; read where the mask holds.
      mask: which tokens the policy produced, `[B, T]`, bool.
      gamma: discount per token of the policy.
      lambda_: 0 for one-token differences, 1 for returns minus values.

    Returns:
      `[B, T]`, 0 where the mask is.
    """
    place = jnp.argsort(~mask, axis=-1, stable=True)  # tokens of the policy first
    back = jnp.argsort(place, axis=-1)
    take = lambda x, at: jnp.take_along_axis(x, at, -1)
    reward, value = (take(jnp.where(mask, x, 0), place) for x in (reward, value))
    number = mask.sum(-1, keepdims=True)
    last = jnp.expand_dims(jnp.arange(mask.shape[-1]), 0) >= number - 1
    following = jnp.concatenate([value[:, 1:], jnp.zeros_like(value[:, :1])], -1)
    estimate = functools.partial(generalised_advantages, gamma=gamma, lambda_=lambda_)
    found = jax.vmap(estimate)(
        reward_t=reward,
        value_t=value,
        next_value_t=following,
        terminated_t=last,
        truncated_t=jnp.zeros_like(last),
    )
    return jnp.where(mask, take(found, back), 0)


def turn_returns(reward: Array, gamma: ArrayLike) -> Array:
    """G_k = r_k + gamma G_{k+1} over the turns of a dialogue; gamma 0 credits each turn alone.

    Args:
      reward: at the end of each turn, `[..., K]`.
      gamma: discount between turns.

    Returns:
      `[..., K]`.
    """
    turns = reward.shape[-1]
    gap = jnp.arange(turns)[None, :] - jnp.arange(turns)[:, None]
    weight = jnp.where(gap >= 0, jnp.asarray(gamma, reward.dtype) ** jnp.maximum(gap, 0), 0)
    return reward @ weight.T


def of_turns(value: Array, turn: Array) -> Array:
    """What each token gets from its turn.

    Args:
      value: of the turns, `[B, K]`.
      turn: of the tokens, `[B, T]`, int; negative for tokens of no turn, which get 0.

    Returns:
      `[B, T]`.
    """
    return jnp.where(turn >= 0, jnp.take_along_axis(value, jnp.maximum(turn, 0), -1), 0)


def with_progress(reward: Array, taken: Array, alpha: ArrayLike) -> Array:
    """Rewards of turns with a bonus alpha (r_k - r_{k-1}) for making the answer better.

    Args:
      reward: at the end of each turn, `[..., K]`; the first has no bonus.
      taken: which turns there were, `[..., K]`, bool; others have no bonus either.
      alpha: 0 for none.

    References:
      Kumar et al., Training Language Models to Self-Correct via Reinforcement Learning (SCoRe),
      arXiv 2409.12917.
    """
    bonus = alpha * (reward[..., 1:] - reward[..., :-1])
    return reward.at[..., 1:].add(jnp.where(taken[..., 1:], bonus, 0))
