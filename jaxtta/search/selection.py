"""Selection among sampled responses, and what it would give with fewer of them.

All functions work on the last axis, the pool of N samples of one problem, `[..., N]`. An answer is
an integer, equal for equal answers; a negative one says that the response had none, so it is never
chosen and has no vote. `valid` takes further samples out. What is returned is the index of a
sample, so that its response, its answer and its correctness are one indexing away. Ties go to the
sample seen first. Without any sample to choose from the index is 0. A score of NaN is the worst
there is, and no vote.

Curves over the number of samples come from one pool by its subsets; nothing is sampled again.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxtrain.known_numbers import check_whole

Aggregation = Literal["min", "prod", "last", "mean", "geomean"]


def best(scores: Array, valid: Array | None = None) -> Array:
    """Sample of the largest score.

    Args:
      scores: `[..., N]`.
      valid: which samples there are, `[..., N]`, bool; all without it.

    Returns:
      Index, `[...]`, int32.

    Raises:
      ValueError: there are other numbers of scores and of samples.
    """
    _check_samples(scores=scores, valid=valid)
    scores = _ordered(scores)
    kept = scores if valid is None else jnp.where(valid, scores, -jnp.inf)
    return jnp.argmax(kept, -1).astype(jnp.int32)


def _ordered(scores: Array) -> Array:
    """With the worst number for NaN and -inf, so that they lose against all but no sample."""
    scores = jnp.asarray(scores)
    if not jnp.issubdtype(scores.dtype, jnp.inexact):
        return scores
    worst = jnp.finfo(scores.dtype).min
    return jnp.where(jnp.isnan(scores), worst, jnp.maximum(scores, worst))


def _check_samples(**arrays: Array | None) -> None:
    sizes = {name: x.shape[-1] for name, x in arrays.items() if x is not None}
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(f"the arrays are of different numbers of samples ({said}).")


def weighted(answers: Array, scores: Array, valid: Array | None = None) -> Array:
    """First sample of the answer whose scores have the largest sum: best-of-N weighted.

    Args:
      answers: `[..., N]`, int; negative for a response without an answer.
      scores: `[..., N]`.
      valid: which samples there are, `[..., N]`, bool; all without it.

    Returns:
      Index, `[...]`, int32.

    Raises:
      ValueError: there are other numbers of scores and of samples.

    References:
      Li et al., Making Large Language Models Better Reasoners with Step-Aware Verifier,
      arXiv 2206.02336.
    """
    _check_samples(answers=answers, scores=scores, valid=valid)
    scores = jnp.where(jnp.isnan(scores), 0, scores)
    counts = answers >= 0 if valid is None else (answers >= 0) & valid
    same = (answers[..., :, None] == answers[..., None, :]) & counts[..., None, :]
    votes = jnp.where(same, jnp.expand_dims(scores, -2), 0).sum(-1)
    return best(votes, counts)


def majority(answers: Array, valid: Array | None = None) -> Array:
    """First sample of the most frequent answer: self-consistency.

    Args:
      answers: `[..., N]`, int; negative for a response without an answer.
      valid: which samples there are, `[..., N]`, bool; all without it.

    Returns:
      Index, `[...]`, int32.

    References:
      Wang et al., Self-Consistency Improves Chain of Thought Reasoning in Language Models,
      arXiv 2203.11171.
    """
    return weighted(answers, jnp.ones(answers.shape), valid)


def _check_k(k: int, num_samples: int) -> None:
    if not 1 <= k <= num_samples or k != int(k):
        raise ValueError(
            f"a subset of {k} of {num_samples} samples does not exist; take one of 1 to "
            f"{num_samples}."
        )


def pass_at_k(num_correct: Array, num_samples: int, k: int) -> Array:
    """Chance that k of the samples, drawn without replacement, hold a correct one.

    1 - C(n - c, k) / C(n, k) = 1 - prod_{i = n-c+1..n} (1 - k / i), the unbiased estimate of
    1 - (1 - p)^k. With k = n this is coverage.

    Args:
      num_correct: c, `[...]`, int.
      num_samples: n.
      k: size of the subsets.

    Returns:
      `[...]`, float32; NaN where c is not in 0..n.

    Raises:
      ValueError: k is not in 1..n.

    References:
      Chen et al., Evaluating Large Language Models Trained on Code, arXiv 2107.03374, eq. 1.
    """
    _check_k(k, num_samples)
    i = jnp.arange(1, num_samples + 1)
    wrong = num_samples - jnp.expand_dims(jnp.asarray(num_correct), -1)
    i, wrong = jnp.broadcast_arrays(jnp.expand_dims(i, range(wrong.ndim - 1)), wrong)
    found = 1 - jnp.where(i > wrong, jnp.maximum(1 - k / i, 0), 1.0).prod(-1)
    return jnp.where((wrong[..., 0] >= 0) & (wrong[..., 0] <= num_samples), found, jnp.nan)


def best_at_k(scores: Array, correct: Array, k: int) -> Array:
    """Chance that the best-scored of k samples, drawn without replacement, is correct.

    The sample that r others beat is the best of C(n - 1 - r, k - 1) of the C(n, k) subsets; the
    mean over all of them is exact.

    Args:
      scores: `[..., N]`; of equal ones the first counts as better.
      correct: `[..., N]`, bool.
      k: size of the subsets.

    Returns:
      `[...]`, float32.

    Raises:
      ValueError: k is not in 1..N, or there are other numbers of scores and of samples.
    """
    num_samples = scores.shape[-1]
    _check_samples(scores=scores, correct=correct)
    _check_k(k, num_samples)
    order = jnp.argsort(-scores, axis=-1, stable=True)
    ranked = jnp.take_along_axis(correct, order, -1)
    # share[r] = C(n-1-r, k-1) / C(n, k): k/n first, then times 1 - (k-1) / (n-1-r).
    left = num_samples - 1 - jnp.arange(num_samples - 1)
    steps = jnp.maximum(1 - (k - 1) / left, 0)
    share = k / num_samples * jnp.concatenate([jnp.ones(1), jnp.cumprod(steps)])
    return jnp.where(ranked, jnp.expand_dims(share, range(ranked.ndim - 1)), 0).sum(-1)


def reward_pass_at_k(scores: Array, correct: Array, k: int) -> Array:
    """Whether any of the k samples of largest score is correct.

    Args:
      scores: `[..., N]`; of equal ones the first counts as better.
      correct: `[..., N]`, bool.
      k: how many are looked at.

    Returns:
      `[...]`, bool.

    Raises:
      ValueError: k is not in 1..N, or there are other numbers of scores and of samples.
    """
    _check_samples(scores=scores, correct=correct)
    _check_k(k, scores.shape[-1])
    top = jax.lax.top_k(_ordered(scores), k)[1]
    return jnp.take_along_axis(correct, top, -1).any(-1)


def subset_curve(
    key: Array,
    choose: Callable[[Array], Array],
    correct: Array,
    sizes: Sequence[int],
    num_subsets: int,
) -> Array:
    """How often a choice is right with fewer samples: its mean over random subsets of one pool.

        subset_curve(key, lambda valid: majority(answers, valid), correct, [1, 2, 4, 8], 100)

    Every problem has subsets of its own, and those of one draw are nested over the sizes. The
    subset of all samples is the pool, so there the curve is the choice itself. For `best` and
    for coverage `best_at_k` and `pass_at_k` are exact.

    Args:
      key: of the subsets.
      choose: `valid [P, N] -> index [P]`, one of the choices of this file with its arrays.
      correct: `[P, N]`, bool.
      sizes: of the subsets.
      num_subsets: how many of each size.

    Returns:
      Mean correctness of the chosen samples, `[len(sizes), P]`.

    Raises:
      ValueError: a size is not in 1..N, or there are no subsets.
    """
    check_whole(1, 2**31 - 1, num_subsets=num_subsets)
    num_samples = correct.shape[-1]
    for size in sizes:
        _check_k(size, num_samples)

    def draw(key: Array) -> Array:
        rank = jnp.argsort(jax.random.uniform(key, correct.shape), -1)

        def of_size(size: Array) -> Array:
            among = rank < size  # if none of them has an answer, a choice may lie outside
            chosen = choose(among)
            return jnp.take_along_axis(correct & among, chosen[:, None], -1)[:, 0]

        return jax.lax.map(of_size, jnp.asarray(sizes))

    return jax.lax.map(draw, jax.random.split(key, num_subsets)).astype(jnp.float32).mean(0)


def aggregate(step_scores: Array, mask: Array, how: Aggregation) -> Array:
    """Score of a response from the scores of its steps.

    Args:
      step_scores: `[..., K]`, in [0, 1] for products and geometric means.
      mask: which steps there are, `[..., K]`, bool.
      how: the smallest, the product, the last, the mean, or the geometric mean.

    Returns:
      `[...]`; -1 for a response without steps.

    Raises:
      ValueError: there is no such aggregation, or there are other numbers of scores and of steps.
    """
    if step_scores.shape[-1] != mask.shape[-1]:
        raise ValueError(
            f"there are {step_scores.shape[-1]} scores and a mask for {mask.shape[-1]} steps."
        )
    number = jnp.maximum(mask.sum(-1), 1)
    if how == "min":
        found = jnp.where(mask, step_scores, jnp.inf).min(-1)
    elif how == "last":
        last = mask.shape[-1] - 1 - jnp.argmax(jnp.flip(mask, -1), -1)
        found = jnp.take_along_axis(step_scores, last[..., None], -1)[..., 0]
    elif how == "mean":
        found = jnp.where(mask, step_scores, 0).sum(-1) / number
    elif how in ("prod", "geomean"):
        product = jnp.where(mask, step_scores, 1).prod(-1)
        found = product if how == "prod" else product ** (1 / number)
    else:
        raise ValueError(f"there is no {how!r}; take min, prod, last, mean or geomean.")
    return jnp.where(mask.any(-1), found, -1.0)


def self_certainty(log_probs: Array, mask: Array) -> Array:
    """Mean over tokens of KL( uniform || p ), large for a model that is sure of every token.

        - 1 / (n V) sum_t sum_v log( V p(v | x, y_<t) )

    Args:
      log_probs: over the vocabulary, `[..., T, V]`, nats, finite where `mask` holds.
      mask: which tokens count, `[..., T]`, bool.

    Returns:
      `[...]`, nats; 0 for a response without tokens.

    References:
      Kang et al., Scalable Best-of-N Selection for Large Language Models via Self-Certainty,
      arXiv 2502.18581.
    """
    certainty = -jnp.log(log_probs.shape[-1]) - log_probs.mean(-1)
    return jnp.where(mask, certainty, 0).sum(-1) / jnp.maximum(mask.sum(-1), 1)


def borda_votes(scores: Array, power: ArrayLike) -> Array:
    """(N - rank)^power with rank 0 for the best: scores to vote with in `weighted`.

    Args:
      scores: `[..., N]`; of equal ones the first is ranked better.
      power: 0 for a majority vote, large to follow the best sample.

    Returns:
      `[..., N]`, in [1, N^power].

    References:
      Kang et al., Scalable Best-of-N Selection for Large Language Models via Self-Certainty,
      arXiv 2502.18581.
    """
    order = jnp.argsort(-scores, axis=-1, stable=True)
    return (scores.shape[-1] - jnp.argsort(order, -1).astype(jnp.float32)) ** power
