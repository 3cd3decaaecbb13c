"""Consistency: do samples, decoders, heads or layers give one answer?

Answers are integers on the last axis, `[..., N]`, as in `jaxtta.search.selection`: equal for equal
answers, negative for none.
"""

import jax.numpy as jnp
from jax import Array

from jaxtta.search import selection


def _votes(answers: Array) -> Array:
    """How many samples share the answer of each, `[..., N]`; 0 for those without one."""
    same = (answers[..., :, None] == answers[..., None, :]) & (answers[..., None, :] >= 0)
    return same.sum(-1)


def agreement(answers: Array) -> Array:
    """Share of the most frequent answer among all samples; those without one agree with none.

    Args:
      answers: `[..., N]`, int.

    Returns:
      In [0, 1], `[...]`.
    """
    return _votes(answers).max(-1) / answers.shape[-1]


def answer_entropy(answers: Array) -> Array:
    """Entropy of the answers of the samples that have one.

    Args:
      answers: `[..., N]`, int.

    Returns:
      Nats, in [0, log N], `[...]`; 0 if none has an answer.
    """
    votes = _votes(answers)
    total = jnp.maximum((answers >= 0).sum(-1, keepdims=True), 1)
    # Each of the samples of an answer carries 1 / total of -log(share).
    surprise = jnp.where(votes > 0, -jnp.log(jnp.maximum(votes, 1) / total), 0)
    return (surprise / total).sum(-1)


def pairwise_agreement(answers: Array) -> Array:
    """Share of the pairs of different samples (or decoders, heads, layers) that agree.

    Args:
      answers: `[..., N]`, int, N at least 2; without an answer one agrees with none.

    Returns:
      In [0, 1], `[...]`.

    Raises:
      ValueError: there is only one, so no pair.
    """
    number = answers.shape[-1]
    if number < 2:
        raise ValueError("one answer is no pair; pass at least two.")
    pairs = jnp.maximum(_votes(answers) - 1, 0).sum(-1)
    return pairs / (number * (number - 1))


def checked_majority(answers: Array, judged_right: Array) -> Array:
    """Majority of the samples that the model itself judges right, of all if there is none.

    Args:
      answers: `[..., N]`, int.
      judged_right: own verdicts, `[..., N]`, bool.

    Returns:
      Index of the sample, `[...]`, int32.
    """
    kept = judged_right & (answers >= 0)
    return selection.majority(answers, kept | ~kept.any(-1, keepdims=True))
