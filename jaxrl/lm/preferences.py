"""Losses of preferences between two responses to one prompt, one loss per pair, minimised.

    margin = preference_margin(chosen, rejected, reference_chosen, reference_rejected)
    loss = dpo(margin, beta=0.1).mean()

The arguments are log-probabilities of whole responses, sums over the tokens that count
(`objectives.sequence_log_prob`) or, where a function says so, means (`mean_log_prob`). Preferences
between *steps* are the same losses with masks of `jaxtrain.lm.sequences.after_common_prefix`.

Strengths, rates and weights may be traced; those that are known and impossible are a ValueError.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxtrain.known_numbers import check_known


def _check_beta(beta: ArrayLike) -> None:
    check_known(lambda x: 0 < x < float("inf"), "above 0", beta=beta)


def preference_margin(
    chosen: Array, rejected: Array, reference_chosen: Array, reference_rejected: Array
) -> Array:
    """D = (l_w - ref_w) - (l_l - ref_l), how much more than the reference the policy prefers.

    Args:
      chosen: log-probability of the better response, `[B]`.
      rejected: of the worse one, `[B]`.
      reference_chosen: of the better one under the reference, `[B]`, a constant.
      reference_rejected: of the worse one under the reference, `[B]`, a constant.
    """
    constant = jax.lax.stop_gradient(reference_chosen - reference_rejected)
    return chosen - rejected - constant


def dpo(margin: Array, beta: ArrayLike, *, smoothing: ArrayLike = 0.0) -> Array:
    """-(1 - e) log sigmoid(beta D) - e log sigmoid(-beta D), which is log 2 at D = 0.

    Args:
      margin: D, `[B]`, of summed log-probabilities.
      beta: strength of the reference.
      smoothing: e, the chance that a label is wrong: conservative DPO. One for each pair if it is
        an array `[B]`, for example `visit_smoothing`.

    References:
      Rafailov et al., Direct Preference Optimization, arXiv 2305.18290; Mitchell, A note on DPO
      with noisy preferences, 2023.
    """
    _check_beta(beta)
    check_known(lambda x: 0 <= x <= 1, "from 0 to 1", smoothing=smoothing)
    return _smoothed(margin * beta, smoothing)


def _smoothed(logit: Array, smoothing: ArrayLike) -> Array:
    right, wrong = jax.nn.softplus(-logit), jax.nn.softplus(logit)
    return right * (1 - smoothing) + wrong * smoothing


def robust_dpo(margin: Array, beta: ArrayLike, flip_rate: ArrayLike) -> Array:
    """((1 - e) dpo(D) - e dpo(-D)) / (1 - 2 e), whose mean over flipped labels is that of clean.

    Args:
      margin: D, `[B]`.
      beta: strength of the reference.
      flip_rate: e, below 0.5.

    References:
      Chowdhury et al., Provably Robust DPO: Aligning Language Models with Noisy Feedback, arXiv
      2403.00409.
    """
    _check_beta(beta)
    check_known(lambda x: 0 <= x < 0.5, "from 0 to below 0.5", flip_rate=flip_rate)
    logit = margin * beta
    right, wrong = jax.nn.softplus(-logit), jax.nn.softplus(logit)
    return (right * (1 - flip_rate) - wrong * flip_rate) / (1 - 2 * flip_rate)


def ipo(margin: Array, beta: ArrayLike) -> Array:
    """(D - 1 / (2 beta))^2, which has a finite margin as its optimum.

    Args:
      margin: D of *mean* log-probabilities, `[B]`.
      beta: strength of the reference.

    References:
      Azar et al., A General Theoretical Paradigm to Understand Learning from Human Preferences,
      arXiv 2310.12036.
    """
    _check_beta(beta)
    return (margin - 1 / (2 * jnp.asarray(beta))) ** 2


def hinge(margin: Array, beta: ArrayLike) -> Array:
    """max(0, 1 - beta D).

    Args:
      margin: D, `[B]`.
      beta: strength of the reference.

    References:
      Zhao et al., SLiC-HF, arXiv 2305.10425; as a loss of D: Liu et al., Statistical Rejection
      Sampling Improves Preference Optimization, arXiv 2309.06657.
    """
    _check_beta(beta)
    return jnp.maximum(1 - margin * beta, 0)


def exo(margin: Array, beta: ArrayLike, smoothing: ArrayLike = 1e-3) -> Array:
    """KL( q || (1 - e, e) ) of the policy's own preference q = sigmoid(beta D): EXO for pairs.

    Args:
      margin: D, `[B]`.
      beta: strength of the reference.
      smoothing: e, in (0, 0.5).

    References:
      Ji et al., Towards Efficient Exact Optimization of Language Model Alignment, arXiv 2402.00856.
    """
    _check_beta(beta)
    check_known(lambda x: 0 < x < 0.5, "above 0 and below 0.5", smoothing=smoothing)
    log_chosen, log_rejected = (
        jax.nn.log_sigmoid(margin * beta),
        jax.nn.log_sigmoid(-(margin * beta)),
    )
    e = jnp.asarray(smoothing, margin.dtype)
    return jnp.exp(log_chosen) * (log_chosen - jnp.log1p(-e)) + jnp.exp(log_rejected) * (
        log_rejected - jnp.log(e)
    )


LARGEST_MEAN = -1e-6  # of log-probabilities, so that the odds of certain responses are finite


def odds_ratio(chosen: Array, rejected: Array) -> Array:
    """log of odds(w) / odds(l), with odds(y) = p / (1 - p) of the mean log-probability.

    Args:
      chosen: *mean* log-probability per token of the better response, `[B]`.
      rejected: of the worse one, `[B]`.
    """
    chosen, rejected = (jnp.minimum(x, LARGEST_MEAN) for x in (chosen, rejected))
    log_not = lambda x: jnp.log(-jnp.expm1(x))
    return (chosen - rejected) - (log_not(chosen) - log_not(rejected))


def orpo(chosen: Array, rejected: Array, weight: ArrayLike) -> Array:
    """-l_w - lambda log sigmoid(odds ratio): fine-tuning and preference without a reference.

    Args:
      chosen: *mean* log-probability per token of the better response, `[B]`.
      rejected: of the worse one, `[B]`.
      weight: lambda.

    References:
      Hong et al., ORPO: Monolithic Preference Optimization without Reference Model, arXiv
      2403.07691.
    """
    check_known(lambda x: 0 <= x < float("inf"), "at least 0", weight=weight)
    return -chosen + weight * jax.nn.softplus(-odds_ratio(chosen, rejected))


def bradley_terry(chosen: Array, rejected: Array) -> Array:
    """-log sigmoid(s_w - s_l), the loss of a reward model.

    Args:
      chosen: score of the better response, `[B]`.
      rejected: of the worse one, `[B]`.

    References:
      Bradley and Terry, Rank Analysis of Incomplete Block Designs, 1952; for rewards: Ouyang et
      al., arXiv 2203.02155.
    """
    return jax.nn.softplus(rejected - chosen)


def visit_smoothing(better_visits: Array, worse_visits: Array) -> Array:
    """e = min(1 - conf, 0.5) with conf = 1 / (1 + N_worse / max(1, N_better)), for `dpo`.

    Args:
      better_visits: of a tree search, `[B]`.
      worse_visits: `[B]`.

    References:
      Xie et al., Monte Carlo Tree Search Boosts Reasoning via Iterative Preference Learning, arXiv
      2405.00451.
    """
    confidence = 1 / (1 + worse_visits / jnp.maximum(better_visits, 1))
    return jnp.minimum(1 - confidence, 0.5)
