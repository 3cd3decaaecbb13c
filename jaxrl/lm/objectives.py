"""Losses of language models on log-probabilities of tokens, everything is minimised.

    loss = aggregate(surrogate(log_prob, old, advantage) + 0.01 * k2, mask, "token_mean")

Log-probabilities are those of the tokens that stand in the sequences, `[B, T]` in nats. A mask says
which tokens the policy produced and answers for, `[B, T]`, bool; others (prompts, tool output,
hints, padding) get a gradient of exactly zero, whatever stands there. A row without any such token
is left out of every mean.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxrl.losses import ratio_of
from jaxtrain.collectives import AxisName, masked_mean
from jaxtrain.known_numbers import check_known

Aggregation = Literal["sequence_mean", "token_mean", "constant"]
Estimate = Literal["k1", "k2", "k3"]


def aggregate(
    values: Array,
    mask: Array,
    aggregation: Aggregation,
    *,
    length: ArrayLike | None = None,
    axis_name: AxisName | None = None,
) -> Array:
    """One number of the values of tokens; the three ways differ in what long responses weigh.

    | aggregation | is | a token of a response of n tokens weighs |
    |---|---|---|
    | `sequence_mean` | mean over responses of their means | 1 / (B n): less in a long response |
    | `token_mean` | mean over all tokens | 1 / (sum of n): the same in all, long ones dominate |
    | `constant` | sum over all tokens / (B length) | 1 / (B length), whatever n is |

    With the same advantage a wrong answer is punished less per token the longer it is under
    `sequence_mean`, which lengthens wrong answers; under `constant` it is not.

    Args:
      values: `[B, T]`.
      mask: `[B, T]`, bool.
      aggregation: see the table.
      length: of `constant`: 1 for the mean over responses of their sums; T without it.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      `[]`; 0 if nothing counts.

    Raises:
      ValueError: there is no such aggregation, a length that it does not use or that is not above
        0, or a mask of another shape.

    References:
      Liu et al., Understanding R1-Zero-Like Training: A Critical Perspective, arXiv 2503.20783.
    """
    if length is not None and aggregation != "constant":
        raise ValueError(f"{aggregation!r} uses no length; leave it out or take 'constant'.")
    check_known(lambda x: 0 < x < float("inf"), "above 0", length=length)
    if values.shape != mask.shape:
        raise ValueError(f"the mask has shape {mask.shape}, but the values have {values.shape}.")
    values = jnp.where(mask, values, 0)
    if aggregation == "token_mean":
        return masked_mean(values, mask, axis_name)
    if aggregation == "sequence_mean":
        means = values.sum(-1) / jnp.maximum(mask.sum(-1), 1)
        return masked_mean(means, mask.any(-1), axis_name)
    if aggregation == "constant":
        sums = masked_mean(values.sum(-1), mask.any(-1), axis_name)
        return sums / (values.shape[-1] if length is None else length)
    raise ValueError(
        f"there is no aggregation {aggregation!r}; take sequence_mean, token_mean or constant."
    )


def sequence_log_prob(log_prob: Array, mask: Array) -> Array:
    """log pi(y | x), the sum over the tokens that count, `[B, T] -> [B]`."""
    return jnp.where(mask, log_prob, 0).sum(-1)


def mean_log_prob(log_prob: Array, mask: Array) -> Array:
    """The mean over the tokens that count, `[B, T] -> [B]`; 0 where none does."""
    return sequence_log_prob(log_prob, mask) / jnp.maximum(mask.sum(-1), 1)


def supervised(
    log_prob: Array,
    mask: Array,
    aggregation: Aggregation,
    *,
    weight: Array | None = None,
    axis_name: AxisName | None = None,
) -> Array:
    """- log pi of the tokens: supervised fine-tuning, and with weights regression on rewards.

    Args:
      log_prob: `[B, T]`.
      mask: `[B, T]`, bool.
      aggregation: of `aggregate`.
      weight: of each response, `[B]`; all 1 without it. They are not normalised.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      `[]`, nats.

    Raises:
      ValueError: as `aggregate`, or weights of another shape.
    """
    if weight is not None and weight.shape != log_prob.shape[:1]:
        raise ValueError(
            f"weight has shape {weight.shape}; give one for each of {len(log_prob)} responses."
        )
    loss = -jnp.where(mask, log_prob, 0)
    weighted = loss if weight is None else weight[:, None] * loss
    return aggregate(weighted, mask, aggregation, axis_name=axis_name)


def reward_weight(reward: Array, temperature: ArrayLike) -> Array:
    """exp(r / tau), the weight of reward-weighted regression (RWR), a constant.

    Args:
      reward: r, `[B]`.
      temperature: tau, above 0.

    Returns:
      `[B]`.

    Raises:
      ValueError: a temperature that is not above 0.

    References:
      Peters and Schaal, Reinforcement Learning by Reward-Weighted Regression, 2007; Qu et al.,
      Recursive Introspection, arXiv 2407.18219.
    """
    check_known(lambda x: 0 < x < float("inf"), "above 0", temperature=temperature)
    return jax.lax.stop_gradient(jnp.exp(reward / temperature))


SMALLEST = 1e-3  # N p below which the quotients are taken from their series
LARGEST_PROBABILITY = 1 - 1e-7


def confidence_factor(log_prob: Array, num_samples: ArrayLike) -> Array:
    """F(N, p) = N p (1 - p)^(N-1) / (1 - (1 - p)^N), the gradient of `coverage_loss` over that of
    cross-entropy.

    1 for N = 1 and for rare targets, 0 for targets that N samples find anyway. Computed in log
    space; for N p < 1e-3, where p may underflow, as 1 - (N - 1) p / 2.

    Args:
      log_prob: log p of whole targets, `[...]`, nats.
      num_samples: N, at least 1.

    Returns:
      `[...]`, in [0, 1].

    Raises:
      ValueError: N is below 1.
    """
    check_known(lambda x: 1 <= x < float("inf"), "at least 1", num_samples=num_samples)
    n = jnp.asarray(num_samples, log_prob.dtype)
    p = jnp.clip(jnp.exp(log_prob), max=LARGEST_PROBABILITY)
    small = n * p < SMALLEST
    safe = jnp.where(small, 0.5, p)
    missed = jnp.log1p(-safe)  # log(1 - p)
    found = jnp.log(-jnp.expm1(n * missed))
    exact = jnp.exp(jnp.log(n) + jnp.log(safe) + (n - 1) * missed - found)
    return jnp.where(n == 1, 1.0, jnp.where(small, 1 - (n - 1) * p / 2, exact))


def coverage_loss(log_prob: Array, mask: Array, num_samples: ArrayLike) -> Array:
    """-log( 1 - (1 - p)^N ) with p = pi(y | x): the chance that N samples hold the target (DCO).

    The gradient is `confidence_factor` times that of -log p, without the cancellation and overflow
    of the formula; with N = 1 value and gradient are those of -log p bit by bit. For chains of
    thought p should be the chance of the right *answer*: estimate it by a pass rate, and filter by
    `confidence_factor(log(rate), N)`.

    Args:
      log_prob: of the tokens, `[B, T]`.
      mask: `[B, T]`, bool.
      num_samples: N, at least 1.

    Returns:
      One loss per target, `[B]`, nats.

    Raises:
      ValueError: N is below 1.

    References:
      Chen et al., Rethinking Fine-Tuning when Scaling Test-Time Compute: Limiting Confidence
      Improves Mathematical Reasoning, arXiv 2502.07154.
    """
    check_known(lambda x: 1 <= x < float("inf"), "at least 1", num_samples=num_samples)
    total = sequence_log_prob(log_prob, mask)
    n = jnp.asarray(num_samples, total.dtype)
    p = jnp.clip(jnp.exp(total), max=LARGEST_PROBABILITY)
    small = n * p < SMALLEST
    exact = -jnp.log(-jnp.expm1(n * jnp.log1p(-jnp.where(small, 0.5, p))))
    series = -(jnp.log(n) + total + jnp.log1p(-(n - 1) * jnp.where(small, p, 0) / 2))
    value = jnp.where(n == 1, -total, jnp.where(small, series, exact))
    slope = -jax.lax.stop_gradient(confidence_factor(total, n)) * total
    return jax.lax.stop_gradient(value - slope) + slope


def surrogate(
    log_prob: Array,
    old_log_prob: Array,
    advantage: Array,
    mask: Array,
    *,
    clip: tuple[ArrayLike, ArrayLike] | None = None,
) -> Array:
    """- rho A per token, with rho = pi / pi_old, and PPO's clip if there is one.

    On fresh samples rho is 1 and the gradient is that of - A log pi. `old_log_prob` is that of the
    distribution the tokens were drawn from. For REINFORCE pass `jax.lax.stop_gradient(log_prob)`
    as the old one.

    Args:
      log_prob: of the tokens now, `[B, T]`.
      old_log_prob: when they were sampled, `[B, T]`, a constant.
      advantage: A, `[B, T]` or `[B, 1]`, a constant.
      mask: `[B, T]`, bool.
      clip: `(low, high)`: rho counts between 1 - low and 1 + high, so that no gradient takes it
        further; PPO has (0.2, 0.2).

    Returns:
      For `aggregate`, `[B, T]`, 0 where the mask is.

    Raises:
      ValueError: advantages of another number of axes, or a clip that is none.

    References:
      Schulman et al., Proximal Policy Optimization Algorithms, arXiv 1707.06347; two clips: Yu et
      al., DAPO, arXiv 2503.14476.
    """
    if jnp.ndim(advantage) not in (0, log_prob.ndim):
        raise ValueError(
            f"advantage has shape {advantage.shape}, log_prob {log_prob.shape}; give one for each "
            "token, or [B, 1] for one of each response."
        )
    if clip is not None:
        check_known(lambda x: 0 <= x <= 1, "from 0 to 1", low=clip[0])
        check_known(lambda x: 0 <= x < float("inf"), "at least 0", high=clip[1])
    log_ratio = jnp.where(mask, log_prob - jax.lax.stop_gradient(old_log_prob), 0)
    ratio, advantage = ratio_of(log_ratio), jnp.where(mask, jax.lax.stop_gradient(advantage), 0)
    if clip is None:
        return jnp.where(mask, -ratio * advantage, 0)
    clipped = jnp.clip(ratio, 1 - clip[0], 1 + clip[1])
    return jnp.where(mask, jnp.maximum(-ratio * advantage, -clipped * advantage), 0)


def kl_estimate(log_prob: Array, reference: Array, mask: Array, estimate: Estimate) -> Array:
    """KL( pi || reference ) per token, estimated at a token that pi has drawn.

    With u = log reference - log pi: k1 is -u, k2 is u^2 / 2, k3 is e^u - u - 1. k1 and k3 have the
    KL as their mean, k3 is never negative; k2 is biased. What they do differs with their place.

    | place | k1 | k2 | k3 |
    |---|---|---|---|
    | in the reward, a constant | gradient of the KL | biased | that minus the next entry |
    | in the loss, differentiated | 0 in the mean | gradient of the KL | gradient of KL(ref, pi) |

    Args:
      log_prob: under pi, `[B, T]`.
      reference: under the reference, `[B, T]`.
      mask: `[B, T]`, bool.
      estimate: which.

    Returns:
      `[B, T]`, nats, 0 where the mask is; `jax.lax.stop_gradient` of it belongs into a reward.

    Raises:
      ValueError: there is no such estimate.

    References:
      Schulman, Approximating KL Divergence, 2020, http://joschu.net/blog/kl-approx.html.
    """
    u = jnp.where(mask, reference - log_prob, 0)
    if estimate == "k1":
        return -u
    if estimate == "k2":
        return u**2 / 2
    if estimate == "k3":
        return ratio_of(u) - u - 1
    raise ValueError(f"there is no estimate {estimate!r}; take k1, k2 or k3.")


def exact_kl(log_probs: Array, reference: Array) -> Array:
    """KL( pi || reference ) over the vocabulary, `[..., V] -> [...]`, nats.

    Args:
      log_probs: of pi, normalised; -inf for impossible tokens.
      reference: of the reference, finite where pi is.
    """
    possible = log_probs > -jnp.inf
    gap = jnp.where(possible, log_probs, 0) - jnp.where(possible, reference, 0)
    return jnp.where(possible, jnp.exp(log_probs) * gap, 0).sum(-1)


def entropy(log_probs: Array) -> Array:
    """- sum p log p over the vocabulary, `[..., V] -> [...]`, nats; -inf for impossible tokens."""
    possible = log_probs > -jnp.inf
    finite = jnp.where(possible, log_probs, 0)
    return -jnp.where(possible, jnp.exp(finite) * finite, 0).sum(-1)
