"""The planted subsequence: is it better to copy an expert or to ask a verifier? By counting.

The prompt is k different digits. A map that the learner does not know turns them into content
symbols, and a response earns 1 per token from the moment they stand in it one after the other. An
expert of rate lambda writes the symbol that is needed next with chance lambda and a uniform one
else; a wrong one restarts the match. Experts whose rate differs from trace to trace are
heterogeneous. How a trace of H tokens matches is a chain over k + 1 states, so returns, their
variance and the gap below are exact.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxrl.lm.tasks import symbols
from jaxrl.lm.tasks.symbols import Symbols
from jaxrl.lm.tasks.task import Task, Verdict, below, each, first_error, one_error
from jaxtrain.known_numbers import check_known, check_whole

CONTENT = "abcdefghijklmnopqrstuvwxyz+-*/"


class Planted(NamedTuple):
    """A problem.

    Attributes:
      digits: of the prompt, all different, `[k]`, int.
      hidden: the content symbols they stand for, tokens, `[k]`, int.
    """

    digits: Array
    hidden: Array


def _matched(hidden: Array, tokens: Array) -> Array:
    """How much of the pattern stands before each place and ends there, `[S]`, and k ever after."""
    length = len(hidden)

    def step(state: Array, token: Array) -> tuple[Array, Array]:
        goes_on = token == hidden[jnp.minimum(state, length - 1)]
        begins = (token == hidden[0]).astype(state.dtype)
        state = jnp.where(state == length, length, jnp.where(goes_on, state + 1, begins))
        return state, state

    return jax.lax.scan(step, jnp.zeros((), int), tokens)[1]


def _content(hidden: Array, tokens: Array, valid: Array) -> Array:
    """Progress over the tokens before the end, `[S]`."""
    tokens = symbols.filled(tokens, valid)
    ended = jnp.cumsum(tokens == symbols.END) > 0
    return _matched(hidden, jnp.where(ended, symbols.NOTHING, tokens))


def planted(length: int, map_seed: int = 0) -> Task:
    """The task; its steps are the symbols of the pattern.

    Args:
      length: k, the difficulty, at most 10.
      map_seed: of the map from the 10 digits into the 30 content symbols.

    Raises:
      ValueError: a pattern that needs more digits than there are.
    """
    if not 1 <= length <= 10:
        raise ValueError(f"a pattern of {length} different digits does not exist; take 1 to 10.")
    content = jnp.asarray(symbols.ids(CONTENT))

    def mapped() -> Array:
        return jax.random.permutation(jax.random.key(map_seed), content)[:10]

    def sample(key: Array) -> Planted:
        digits = jnp.argsort(jax.random.uniform(key, (10,)))[:length]
        return Planted(digits, mapped()[digits])

    def encode(problem: Planted) -> Symbols:
        digits = Symbols(symbols.ZERO + problem.digits, jnp.ones(length, bool))
        return symbols.joined(digits, symbols.written("?"))

    def written(hidden: Array) -> Symbols:
        return symbols.joined(Symbols(hidden, jnp.ones(length, bool)), symbols.written("$"))

    def corrupt(key: Array, problem: Planted) -> tuple[Symbols, Array]:
        """The pattern with one symbol that does not belong to it."""
        place, size = one_error(key, length)
        foreign = ~(content[:, None] == problem.hidden[None, :]).any(-1)
        order = jnp.argsort(~foreign, stable=True)
        wrong = content[order[below(size, len(CONTENT) - length)]]
        return written(jnp.where(jnp.arange(length) == place, wrong, problem.hidden)), place

    def verify(problem: Planted, tokens: Array, valid: Array) -> Verdict:
        most = _content(problem.hidden, tokens, valid).max()
        step_ok = jnp.arange(length) < most
        found = most == length
        return Verdict(
            found, jnp.where(found, 0, -1).astype(jnp.int32), step_ok, first_error(step_ok)
        )

    return Task(length, each(sample), encode, lambda p: written(p.hidden), corrupt, verify)


def earned(problem: Planted, tokens: Array, valid: Array) -> Array:
    """The return: how many tokens there are from the moment the pattern is complete on, `[]`.

    Args:
      problem: of `planted`.
      tokens: a response, `[S]`.
      valid: `[S]`, bool.
    """
    written = jnp.arange(len(tokens)) < valid.sum()
    complete = _content(problem.hidden, tokens, valid) == len(problem.hidden)
    return (complete & written).sum()


def expert(key: Array, problem: Planted, rate: ArrayLike, horizon: int) -> Array:
    """A trace of an expert, `[horizon]`, tokens without an end.

    Args:
      key: of the trace.
      problem: of `planted`.
      rate: lambda, in [0, 1].
      horizon: H.

    Raises:
      ValueError: a rate that is no chance, or no token.
    """
    check_known(lambda x: 0 <= x <= 1, "from 0 to 1", rate=rate)
    check_whole(1, 2**31 - 1, horizon=horizon)
    content = jnp.asarray(symbols.ids(CONTENT))
    share = jax.random.uniform(key, (horizon, 2))
    length = len(problem.hidden)

    def step(state: Array, share: Array) -> tuple[Array, Array]:
        needed = problem.hidden[jnp.minimum(state, length - 1)]
        token = jnp.where(share[0] < rate, needed, content[below(share[1], len(CONTENT))])
        begins = (token == problem.hidden[0]).astype(state.dtype)
        state = jnp.where(state == length, length, jnp.where(token == needed, state + 1, begins))
        return state, token

    return jax.lax.scan(step, jnp.zeros((), int), share)[1]


def transitions(rate: ArrayLike, length: int) -> Array:
    """Of an expert between the k + 1 states of the match, `[from, to]`; the last is kept.

    Args:
      rate: lambda.
      length: k.

    Raises:
      ValueError: a rate that is no chance, or no pattern.
    """
    check_known(lambda x: 0 <= x <= 1, "from 0 to 1", rate=rate)
    check_whole(1, 10, length=length)
    other = (1 - jnp.asarray(rate)) / len(CONTENT)
    up = jnp.asarray(rate) + other
    state = jnp.arange(length)
    table = jnp.zeros((length + 1, length + 1)).at[length, length].set(1.0)
    again = jnp.where(state > 0, other, 0.0)  # the first symbol begins a new match
    table = table.at[state, 0].add(1 - up - again).at[state, 1].add(again)
    return table.at[state, state + 1].add(up)


def return_law(rate: ArrayLike, length: int, horizon: int) -> Array:
    """Distribution of the return of an expert, `[H + 1]`: the chance to earn 0, 1, ..., H.

    Args:
      rate: lambda.
      length: k.
      horizon: H.
    """
    table = transitions(rate, length)

    def step(state: Array, _: None) -> tuple[Array, Array]:
        state = state @ table
        return state, state[-1]

    start = jnp.zeros(length + 1).at[0].set(1.0)
    complete = jax.lax.scan(step, start, None, horizon)[1]  # by token 1, ..., H
    before = jnp.concatenate([jnp.zeros(1), complete[:-1]])
    return jnp.concatenate([1 - complete[-1:], jnp.flip(complete - before)])


def heterogeneity(rate: ArrayLike, length: int, horizon: int) -> Array:
    """sigma^2 = sum over tokens of E[ Var over the token of Q ], by backward recursion, `[]`.

    It equals the variance of the return, since nothing but the tokens is random. For experts whose
    rate varies the variance of the mixture of `return_law` is sigma^2 of the mixture.

    Args:
      rate: lambda.
      length: k.
      horizon: H.

    References:
      Setlur et al., Scaling Test-Time Compute Without Verification or RL is Suboptimal, arXiv
      2502.12118.
    """
    table = transitions(rate, length)
    earns = jnp.zeros(length + 1).at[-1].set(1.0)

    def step(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        value, variance = carry
        after = earns + value  # Q of the token that leads there
        mean = table @ after
        spread = table @ after**2 - mean**2
        return (mean, spread + table @ variance), None

    start = jnp.zeros(length + 1), jnp.zeros(length + 1)
    return jax.lax.scan(step, start, None, horizon)[0][1][0]


class Gap(NamedTuple):
    """What a verifier is worth, every field `[]`.

    Attributes:
      copied: expected return of the mixture, which a learner that copies traces comes to.
      verified: of the mixture of the rates among traces that the verifier accepts.
      gap: verified - copied; 0 for one rate.
      variance: sigma^2 of the mixture.
      above: chance of a return larger than the mean by `margin` standard deviations.
    """

    copied: Array
    verified: Array
    gap: Array
    variance: Array
    above: Array


def verification_gap(
    rates: Array, weights: Array, length: int, horizon: int, *, margin: ArrayLike = 0.5
) -> Gap:
    """Copying against filtering by a verifier, for learners that can tell rates and no more.

    The verifier accepts a trace whose return is above the mean of all; the accepted traces have
    rates in the proportion weight * chance of being accepted, and the learner that copies *them*
    earns what those rates earn. The traces of one rate are all alike to it.

    Args:
      rates: lambda of the experts, `[R]`.
      weights: share of each, `[R]`, sums to 1.
      length: k.
      horizon: H.
      margin: of `above`, the constant of anti-concentration.
    """
    law = jax.vmap(lambda rate: return_law(rate, length, horizon))(rates)
    earned = jnp.arange(horizon + 1.0)
    expected = law @ earned
    copied = weights @ expected
    mixture = weights @ law
    variance = mixture @ (earned - copied) ** 2
    accepted = law @ (earned > copied).astype(law.dtype)
    posterior = weights * accepted
    total = posterior.sum()  # 0 if all traces earn the same: the verifier tells nothing
    posterior = jnp.where(total > 0, posterior / jnp.where(total > 0, total, 1), weights)
    verified = posterior @ expected
    above = mixture @ (earned > copied + margin * jnp.sqrt(variance)).astype(law.dtype)
    return Gap(copied, verified, verified - copied, variance, above)
