"""Four verifiers for every task: one that knows, one that errs, one that likes length, one blind.

A claim about search or about learning from a verifier is made with the first three and fails with
the last.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxrl.lm.tasks.task import Verdict
from jaxtrain.known_numbers import check_known


class Judgement(NamedTuple):
    """Scores of one response.

    Attributes:
      answer: of the whole, `[]`.
      steps: of each prefix that ends with a step, `[K]`.
    """

    answer: Array
    steps: Array


Verifier = Callable[[Array, Verdict, Array], Judgement]


def oracle() -> Verifier:
    """1 for right answers and for prefixes without a wrong step, else 0.

    Returns:
      `(key, verdict, valid [S]) -> Judgement`, as do the others.
    """

    def judge(key: Array, verdict: Verdict, valid: Array) -> Judgement:
        right = jnp.cumprod(verdict.step_ok.astype(jnp.float32))
        return Judgement(verdict.correct.astype(jnp.float32), right)

    return judge


def noisy(flip_rate: ArrayLike) -> Verifier:
    """The oracle, each of whose verdicts is turned around with this chance.

    Args:
      flip_rate: 0 for the oracle, 0.5 for no information.

    Raises:
      ValueError: a rate that is no chance.
    """
    check_known(lambda x: 0 <= x <= 1, "from 0 to 1", flip_rate=flip_rate)

    def judge(key: Array, verdict: Verdict, valid: Array) -> Judgement:
        right = oracle()(key, verdict, valid)
        flipped = jax.random.bernoulli(key, flip_rate, (1 + len(right.steps),))
        turned = lambda score, flip: jnp.where(flip, 1 - score, score)
        return Judgement(turned(right.answer, flipped[0]), turned(right.steps, flipped[1:]))

    return judge


def biased(bonus: ArrayLike) -> Verifier:
    """The oracle and a bonus for every token of the response.

    Args:
      bonus: per token; with 1 / length a long wrong response beats a short right one.

    Raises:
      ValueError: a bonus that is not finite.
    """
    check_known(lambda x: abs(x) < float("inf"), "finite", bonus=bonus)

    def judge(key: Array, verdict: Verdict, valid: Array) -> Judgement:
        extra = bonus * valid.sum()
        return jax.tree.map(lambda score: score + extra, oracle()(key, verdict, valid))

    return judge


def blind() -> Verifier:
    """Uniform numbers that know nothing of the response."""

    def judge(key: Array, verdict: Verdict, valid: Array) -> Judgement:
        scores = jax.random.uniform(key, (1 + len(verdict.step_ok),))
        return Judgement(scores[0], scores[1:])

    return judge
