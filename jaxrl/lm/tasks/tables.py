"""Policies that are tables, whose every sequence can be counted, and the exact laws of sharpening.

A policy is the log-probabilities of the next of V tokens after every prefix: a tuple of L arrays,
the one at position t of shape `[V^t, V]`. Sequences are numbered in base V, the first token being
the most significant, as `itertools.product` lists them. A policy for X prompts has a table of
`[X V^t, V]` at position t, and the prompt goes before the first token: the sequences of prompt x
have the numbers x V^L to (x + 1) V^L - 1.

Sharpening moves a policy towards its own most probable sequence y*. By best-of-N under its own
probability the chance of y* is 1 - (1 - p)^N: the samples that are needed grow with coverage, 1/p.
By reward log pi_base and a divergence with weight beta the optimum is pi_base^(1 + 1 / beta).
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxtrain.known_numbers import check_known

Policy = tuple[Array, ...]


def random_policy(
    key: Array, vocabulary: int, length: int, scale: ArrayLike = 1.0, num_prompts: int = 1
) -> Policy:
    """Logits from a normal distribution.

    Args:
      key: of the logits.
      vocabulary: V.
      length: L.
      scale: standard deviation of the logits, large for policies that are sure.
      num_prompts: X.
    """
    return tuple(
        jax.nn.log_softmax(scale * jax.random.normal(k, (num_prompts * vocabulary**t, vocabulary)))
        for t, k in enumerate(jax.random.split(key, length))
    )


def log_probs(policy: Policy) -> Array:
    """Of all sequences, `[V^L]`, of all prompts `[X V^L]`, nats."""
    total = jnp.zeros(len(policy[0]))
    for table in policy:
        total = (total[:, None] + table).reshape(-1)
    return total


def log_prob_of(policy: Policy, number: Array) -> Array:
    """Of one sequence, `[]`, nats; the tables may hold logits that are not normalised."""
    total, vocabulary = jnp.zeros(()), policy[0].shape[-1]
    for t, table in enumerate(policy):
        written = number // vocabulary ** (len(policy) - 1 - t)  # the tokens up to this one
        row = jax.nn.log_softmax(table[written // vocabulary])
        total = total + row[written % vocabulary]
    return total


def draw(key: Array, policy: Policy, prompt: ArrayLike = 0) -> Array:
    """The number of a sequence that the policy writes token by token, `[]`, int32."""
    number = jnp.asarray(prompt, jnp.int32)
    for t, table in enumerate(policy):
        token = jax.random.categorical(jax.random.fold_in(key, t), table[number])
        number = number * table.shape[-1] + token.astype(jnp.int32)
    return number


def tokens_of(number: Array, vocabulary: int, length: int) -> Array:
    """The tokens of a sequence, `[...] -> [..., L]`."""
    power = vocabulary ** jnp.arange(length - 1, -1, -1)
    return jnp.expand_dims(number, -1) // jnp.expand_dims(power, range(number.ndim)) % vocabulary


def best_of(log_prob: Array, num_samples: ArrayLike) -> Array:
    """Distribution of the most probable of N sequences that were drawn.

    With F(y) the mass of all sequences that are not more probable than y it is F(y)^N minus the
    same without y; of equally probable ones the one with the smaller number counts as better.

    Args:
      log_prob: of all sequences, `[Y]`, nats.
      num_samples: N, at least 1.

    Returns:
      Probabilities, `[Y]`. That of y* is 1 - (1 - p)^N.

    Raises:
      ValueError: N is below 1.

    References:
      Huang et al., Self-Improvement in Language Models: The Sharpening Mechanism, arXiv 2412.01951.
    """
    check_known(lambda x: 1 <= x < float("inf"), "at least 1", num_samples=num_samples)
    order = jnp.argsort(-log_prob, stable=True)
    mass = jnp.exp(log_prob[order])
    above = jnp.cumsum(mass)
    kept = jnp.clip(1 - jnp.concatenate([jnp.zeros(1), above]), 0, 1) ** num_samples
    return jnp.zeros_like(mass).at[order].set(kept[:-1] - kept[1:])


def samples_needed(log_prob: Array, delta: ArrayLike) -> Array:
    """The N after which best-of-N misses y* with chance delta at most, `[]`, real.

    log delta / log(1 - p), at most log(1 / delta) / p: the coverage law.

    Args:
      log_prob: of all sequences, `[Y]`, nats.
      delta: in (0, 1).

    Raises:
      ValueError: delta is not.
    """
    check_known(lambda x: 0 < x < 1, "above 0 and below 1", delta=delta)
    return jnp.log(delta) / jnp.log1p(-jnp.exp(log_prob.max()))


def still_drawing(log_prob: Array, mu: ArrayLike, num_draws: Array) -> Array:
    """Chance that adaptive sharpening goes on after k draws.

    It stops once a sequence of probability mu / k at least has been seen. The bound falls with k,
    so it goes on exactly if all k draws are below the bound of now.

    Args:
      log_prob: of all sequences, `[Y]`, nats.
      mu: about log(2 / delta).
      num_draws: k, `[K]`, at least 1.

    Returns:
      `[K]`.
    """
    mass = jnp.exp(log_prob)
    below = jnp.where(mass[None, :] < mu / num_draws[:, None], mass[None, :], 0).sum(-1)
    return below**num_draws


def power(log_prob: Array, exponent: ArrayLike) -> Array:
    """pi^exponent, normalised, `[Y]`, nats."""
    return jax.nn.log_softmax(exponent * log_prob)


def sharpening_objective(log_prob: Array, base: Array, beta: ArrayLike) -> Array:
    """E_pi[ log pi_base ] - beta KL(pi || pi_base), largest at `power(base, 1 + 1 / beta)`.

    Args:
      log_prob: of the policy, `[Y]`, nats.
      base: of the base policy, `[Y]`, nats.
      beta: weight of the divergence, at least 0.

    Raises:
      ValueError: beta is below 0.
    """
    check_known(lambda x: 0 <= x < float("inf"), "at least 0", beta=beta)
    return (jnp.exp(log_prob) * (base - beta * (log_prob - base))).sum()


def sharpening_loss(
    log_prob: tuple[Array, Array], base: tuple[Array, Array], beta: ArrayLike
) -> Array:
    """Regression on pairs, (beta [r(y) - r(y')] - [log pi_base(y) - log pi_base(y')])^2.

    r is log pi / pi_base. It is zero on all pairs exactly at the optimum of `sharpening_objective`.

    Args:
      log_prob: of both sequences under the policy, two arrays of one shape, nats.
      base: of both under the base policy, a constant.
      beta: weight of the divergence.
    """
    gain = (log_prob[0] - base[0]) - (log_prob[1] - base[1])
    return (gain * beta - (base[0] - base[1])) ** 2
