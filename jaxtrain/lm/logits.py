"""From logits to samples and scores: temperature, truncation, log-probabilities, entropy.

Truncated sampling draws from another distribution than the model's. A learner that scores the
whole vocabulary then sees importance ratios equal to the mass that was kept, not 1. So every token
has two log-probabilities: of the model's distribution at the sampling temperature, and of the
distribution it was drawn from.

Scores of whole texts are computed for a few tokens at a time, because all logits of 64 texts of
512 tokens over 49,152 entries are 6.4 GB.

References:
  Fan et al., ACL 2018, arXiv 1805.04833 (top-k). Holtzman et al., ICLR 2020, arXiv 1904.09751
  (top-p). Nguyen et al., ICLR 2025, arXiv 2407.01082 (min-p).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxtrain.known_numbers import check_known

LARGEST = 2**24
"""Default of how many logits are held at once: 64 MB in float32."""


class Options(NamedTuple):
    """How tokens are drawn. Numbers are one for all rows or `[rows]`, and may be traced.

    The parts act in this order. Whatever they say, the most probable token that is not forbidden
    can be drawn; among equal ones the lower id comes first.

    Attributes:
      temperature: logits are divided by it; 0: the most probable token.
      top_k: this many tokens stay, at least 1; None: all.
      top_p: of these the fewest whose probabilities reach this sum; None: all.
      min_p: of these the ones with at least this share of the largest probability; None: all.
      forbidden: True for tokens that never come, `[V]` or `[rows, V]`; None: none.
    """

    temperature: Array | float = 1.0
    top_k: Array | int | None = None
    top_p: Array | float | None = None
    min_p: Array | float | None = None
    forbidden: Array | None = None

    def of(self, rows: Array) -> "Options":
        """The options of tokens that lie in `rows` `[N]`."""
        pick = lambda x, ndim: x if x is None or jnp.ndim(x) < ndim else jnp.asarray(x)[rows]
        temperature, top_k, top_p, min_p = (pick(x, 1) for x in self[:4])
        return Options(temperature, top_k, top_p, min_p, pick(self.forbidden, 2))


PLAIN = Options()
"""The model's own distribution."""


def check(options: Options) -> None:
    """Refuses numbers that are known now and say nothing; traced ones and arrays pass.

    Raises:
      ValueError: a temperature that is neither 0 nor from 1e-6 on (logits would overflow), a top-k
        below 1, a top-p outside (0, 1], a min-p outside [0, 1].
    """
    heat = lambda x: x == 0 or 1e-6 <= x < float("inf")
    check_known(heat, "0, or from 1e-6 and finite", temperature=options.temperature)
    check_known(lambda x: x >= 1 and x == int(x), "a whole number from 1", top_k=options.top_k)
    check_known(lambda x: 0 < x <= 1, "above 0 and at most 1", top_p=options.top_p)
    check_known(lambda x: 0 <= x <= 1, "from 0 to 1", min_p=options.min_p)


class Scores(NamedTuple):
    """What is known of given tokens.

    Attributes:
      logp: log-probability under the model at the sampling temperature (1 if that is 0).
      sampled: log-probability under the distribution tokens are drawn from: also truncated; at
        temperature 0 the log of 1 or of 0.
      entropy: of the distribution of `logp`, nats.
    """

    logp: Array
    sampled: Array
    entropy: Array


def distributions(logits: Array, options: Options) -> tuple[Array, Array]:
    """Log-probabilities `[N, V]` of the model and of what tokens are drawn from.

    Args:
      logits: `[N, V]`.
      options: for N rows.

    Raises:
      ValueError: the options say nothing, see `check`.
    """
    check(options)
    temperature, *truncation = options
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    heat = _column(temperature)
    scaled = logits / jnp.where(heat > 0, heat, 1).astype(logits.dtype)
    plain = jax.nn.log_softmax(scaled)
    drawn = plain
    if any(x is not None for x in truncation):
        drawn = jax.nn.log_softmax(jnp.where(_allowed(scaled, options), scaled, -jnp.inf))
    if not isinstance(temperature, float | int) or temperature <= 0:
        best = jnp.arange(logits.shape[-1])[None] == drawn.argmax(axis=-1, keepdims=True)
        drawn = jnp.where(heat > 0, drawn, jnp.where(best, 0, -jnp.inf))
    return plain, drawn


def choose(keys: Array, logits: Array, options: Options) -> tuple[Array, Array, Array]:
    """Draws a token per row.

    Args:
      keys: `[N]`, one per row.
      logits: `[N, V]`.
      options: for N rows.

    Returns:
      Tokens, and their `logp` and `sampled` as in `Scores`, all `[N]`.
    """
    plain, drawn = distributions(logits, options)
    if isinstance(options.temperature, float | int) and options.temperature == 0:
        tokens = drawn.argmax(axis=-1)  # without a number per token of the vocabulary
    else:
        tokens = jax.vmap(jax.random.categorical)(keys, drawn)
    return tokens, _of(plain, tokens), _of(drawn, tokens)


def scores(
    read: Callable[[Array], Array],
    hidden: Array,
    targets: Array,
    mask: Array | None = None,
    options: Options = PLAIN,
    largest: int = LARGEST,
) -> Scores:
    """Scores tokens without ever holding all logits, forwards or backwards.

    Tokens outside the mask cost nothing beyond the last chunk, and their gradient is exactly 0.

    Args:
      read: `hidden [N, D] -> logits [N, V]`.
      hidden: `[B, T, D]`, from which each target is predicted.
      targets: `[B, T]`.
      mask: `[B, T]`, True where a score is wanted, 0 elsewhere; None: everywhere.
      options: for B rows.
      largest: at most so many logits at once, but those of one token at least.

    Returns:
      Three arrays `[B, T]`, float32.
    """
    rows, length, width = hidden.shape
    number = rows * length
    row = jnp.repeat(jnp.arange(rows), length)
    wanted = jnp.ones(number, bool) if mask is None else mask.reshape(number) > 0
    given = (hidden.reshape(number, width), targets.reshape(number), row, wanted)
    vocabulary = jax.eval_shape(read, given[0][:1]).shape[-1]
    size = max(1, largest // vocabulary)

    def some(given: tuple[Array, ...]) -> Scores:
        hidden, targets, row, wanted = given
        plain, drawn = distributions(read(hidden), options.of(row))
        entropy = -(jnp.exp(plain) * plain).sum(axis=-1)
        made = Scores(_of(plain, targets), _of(drawn, targets), entropy)
        return jax.tree.map(lambda x: jnp.where(wanted, x, 0), made)

    if number <= size:
        return jax.tree.map(lambda x: x.reshape(rows, length), some(given))

    def nothing(given: tuple[Array, ...]) -> Scores:
        zeros = jnp.zeros(size, jax.eval_shape(some, given).logp.dtype)
        return Scores(zeros, zeros, zeros)

    # Wanted tokens come first, so that whole chunks of others can be left out.
    order = jnp.argsort(~wanted, stable=True)
    order = jnp.pad(order, (0, -number % size), constant_values=number)
    taken = lambda x: jnp.take(x, order, axis=0, mode="fill", fill_value=0)
    chunks = jax.tree.map(lambda x: taken(x).reshape(-1, size, *x.shape[1:]), given)
    step = lambda chunk: jax.lax.cond(chunk[-1].any(), some, nothing, chunk)
    made = jax.lax.map(jax.checkpoint(step), chunks)
    back = lambda x: jnp.zeros(number, x.dtype).at[order].set(x.reshape(-1), mode="drop")
    return jax.tree.map(lambda x: back(x).reshape(rows, length), made)


def _allowed(scaled: Array, options: Options) -> Array:
    """Which tokens `[N, V]` may be drawn."""
    _, top_k, top_p, min_p, forbidden = options
    allowed = jnp.ones(scaled.shape, bool)
    if forbidden is not None:
        allowed &= ~jnp.broadcast_to(jnp.atleast_2d(forbidden), scaled.shape)
    scaled = jnp.where(allowed, scaled, -jnp.inf)
    if top_k is not None or top_p is not None:
        order = jnp.argsort(scaled, axis=-1, stable=True, descending=True)
        rank = jnp.arange(scaled.shape[-1])[None]
        kept = rank < (scaled.shape[-1] if top_k is None else _column(top_k))
        kept = jnp.broadcast_to(kept | (rank == 0), scaled.shape)
        if top_p is not None:
            sorted_ = jnp.take_along_axis(scaled, order, axis=-1)
            share = jax.nn.softmax(jnp.where(kept, sorted_, -jnp.inf))
            kept &= (jnp.cumsum(share, axis=-1) - share < _column(top_p)) | (rank == 0)
        rows = jnp.arange(len(scaled))[:, None]
        allowed &= jnp.zeros_like(allowed).at[rows, order].set(kept)
    if min_p is not None:
        best = scaled.max(axis=-1, keepdims=True)
        allowed &= (scaled >= best + jnp.log(_column(min_p))) | (scaled == best)
    return allowed


def _column(x: Array | float) -> Array:
    """`[]` or `[N]` -> `[1, 1]` or `[N, 1]`."""
    return jnp.asarray(x).reshape(-1, 1)


def _of(log_probs: Array, tokens: Array) -> Array:
    return jnp.take_along_axis(log_probs, tokens[:, None], axis=-1)[:, 0]
