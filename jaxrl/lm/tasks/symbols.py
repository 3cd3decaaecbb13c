"""The symbols of all tasks, how JAX writes with them, and how it reads.

A symbol is a character and a token. A text is `Symbols(tokens, valid)`: slots that are not valid
hold nothing, wherever they are, so texts are joined by joining arrays and a number with few digits
leaves slots empty. A response is lines that end in `;`, the last of them the answer, `#42`, which
ends in `$`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

ALPHABET = "_$;#0123456789+-*/%=()<>,:?![]~@.& abcdefghijklmnopqrstuvwxyz"
PAD, END, STEP, ANSWER = (ALPHABET.index(c) for c in "_$;#")
ZERO, LETTER = ALPHABET.index("0"), ALPHABET.index("a")
MAX_DIGITS = 9  # numbers fit in int32
NOTHING = -1  # where a line has ended


class Symbols(NamedTuple):
    """A text.

    Attributes:
      tokens: `[S]`, int32.
      valid: which slots hold a token, `[S]`, bool.
    """

    tokens: Array
    valid: Array


def ids(text: str) -> np.ndarray:
    """Tokens of a text, `[len(text)]`.

    Raises:
      ValueError: a character that is no symbol.
    """
    if unknown := set(text) - set(ALPHABET):
        raise ValueError(f"{sorted(unknown)} are no symbols; there are {ALPHABET!r}.")
    return np.array([ALPHABET.index(c) for c in text], np.int32)


def text(tokens: Array, valid: Array) -> str:
    """The characters of one row of tokens; on the host."""
    return "".join(ALPHABET[t] for t in np.asarray(tokens)[np.asarray(valid, bool)])


def written(characters: str) -> Symbols:
    """A text that is known."""
    tokens = jnp.asarray(ids(characters))
    return Symbols(tokens, jnp.ones(len(characters), bool))


def symbol(token: Array) -> Symbols:
    """One symbol that is computed, `[]`."""
    return Symbols(jnp.asarray(token, jnp.int32)[None], jnp.ones(1, bool))


def number(value: Array, digits: int) -> Symbols:
    """Decimal digits of a number.

    Args:
      value: `[]`, int, from 0 to below 10^digits.
      digits: slots.
    """
    power = jnp.asarray([10**i for i in reversed(range(digits))])
    return Symbols(ZERO + value // power % 10, (value >= power) | (power == 1))


def signed(value: Array, digits: int) -> Symbols:
    """A number with a minus sign if it is negative."""
    sign = Symbols(jnp.asarray(ids("-")), (value < 0)[None])
    return joined(sign, number(jnp.abs(value), digits))


def joined(*parts: Symbols) -> Symbols:
    """One text after the other."""
    return Symbols(*(jnp.concatenate(x).astype(x[0].dtype) for x in zip(*parts, strict=True)))


def only_if(condition: Array, part: Symbols) -> Symbols:
    """The text, or nothing."""
    return part._replace(valid=part.valid & condition)


def rows(parts: Symbols) -> Symbols:
    """The texts of all rows, one after the other, `[R, W] -> [R W]`."""
    return Symbols(*(x.reshape(-1) for x in parts))


def filled(tokens: Array, valid: Array) -> Array:
    """The tokens without gaps, `[S]`, and `NOTHING` after the last."""
    order = jnp.argsort(~valid, stable=True)
    return jnp.where(valid[order], tokens[order], NOTHING)


class Lines(NamedTuple):
    """A response line by line.

    Attributes:
      tokens: without the `;` or `$` at their ends, `[N, W + 1]`, `NOTHING` behind the last token.
      whole: which lines are there and not longer than W, `[N]`, bool.
      number: how many lines there are, `[]`; those beyond N are counted but not kept.
      ended: whether the response has an end, `[]`, bool. The line before it is the last; without
        an end what comes after the last `;` is no line.
    """

    tokens: Array
    whole: Array
    number: Array
    ended: Array


def lines(tokens: Array, valid: Array, num_lines: int, width: int) -> Lines:
    """Cuts a response into lines.

    Args:
      tokens: `[S]`.
      valid: `[S]`, bool.
      num_lines: N, how many are kept.
      width: W, the longest line that counts.
    """
    tokens = filled(tokens, valid)
    after_end = jnp.cumsum(tokens == END) - (tokens == END) > 0
    stop = (tokens == STEP) | (tokens == END)
    row = jnp.cumsum(stop) - stop
    at = jnp.arange(len(tokens))
    begin = jax.lax.cummax(jnp.where(jnp.concatenate([jnp.ones(1, bool), stop[:-1]]), at, 0))
    inside = ~stop & (tokens != NOTHING)
    column = jnp.where(inside & (at - begin < width), at - begin, width + 1)
    kept = jnp.full((num_lines, width + 1), NOTHING).at[row, column].set(tokens, mode="drop")
    length = jnp.zeros(num_lines, int).at[row].add(inside, mode="drop")
    ended = (tokens == END).any()
    number_of = (stop & ~after_end).sum()
    whole = (length <= width) & (jnp.arange(num_lines) < number_of)
    return Lines(kept, whole, number_of, ended)


class Reader(NamedTuple):
    """A place in a line, and whether all was as expected so far.

    Attributes:
      line: `[W + 1]`, ends in `NOTHING`.
      place: `[]`, int.
      ok: `[]`, bool.
    """

    line: Array
    place: Array
    ok: Array

    def symbol(self) -> Array:
        """The symbol here, `[]`; `NOTHING` at the end."""
        return self.line[jnp.minimum(self.place, len(self.line) - 1)]

    def skip(self) -> "Reader":
        """One symbol further."""
        return self._replace(place=self.place + 1)

    def literal(self, character: str) -> "Reader":
        """Expects one symbol."""
        found = self.symbol() == ALPHABET.index(character)
        return self._replace(place=self.place + 1, ok=self.ok & found)

    def one_of(self, characters: str) -> tuple[Array, "Reader"]:
        """Expects one of several symbols; which it is, `[]`."""
        same = self.symbol() == jnp.asarray(ids(characters))
        return jnp.argmax(same), self._replace(place=self.place + 1, ok=self.ok & same.any())

    def number(self) -> tuple[Array, "Reader"]:
        """Expects a number of 1 to 9 digits; its value, `[]`, 0 if it is none."""
        at = jnp.arange(len(self.line))
        digit = (self.line >= ZERO) & (self.line < ZERO + 10)
        run = (jnp.cumprod(digit | (at < self.place)) > 0) & (at >= self.place)
        count = run.sum()
        power = 10 ** jnp.clip(self.place + count - 1 - at, 0, MAX_DIGITS - 1)
        fits = (count >= 1) & (count <= MAX_DIGITS)
        value = jnp.where(run & fits, (self.line - ZERO) * power, 0).sum()
        return value, self._replace(place=self.place + count, ok=self.ok & fits)

    def signed(self) -> tuple[Array, "Reader"]:
        """Expects a number that may have a minus sign."""
        minus = self.symbol() == ALPHABET.index("-")
        value, after = self._replace(place=self.place + minus).number()
        return jnp.where(minus, -value, value), after

    def end(self) -> Array:
        """Whether all was as expected and the line ends here, `[]`, bool."""
        return self.ok & (self.symbol() == NOTHING)


def reader(line: Array, whole: Array) -> Reader:
    """At the begin of a line, see `Lines`."""
    return Reader(line, jnp.zeros((), int), whole)


class Equation(NamedTuple):
    """`left op right = result`, every field `[]`.

    Attributes:
      left: number.
      op: which of the operators.
      right: number.
      result: number.
      ok: whether the line is one.
    """

    left: Array
    op: Array
    right: Array
    result: Array
    ok: Array


def equation(at: Reader, operators: str) -> Equation:
    """Reads the rest of a line as `left op right = result`."""
    left, at = at.number()
    op, at = at.one_of(operators)
    right, at = at.number()
    result, at = at.literal("=").number()
    return Equation(left, op, right, result, at.end())


def answer_line(found: Lines) -> Reader:
    """The last line of a response that has ended, behind its `#`."""
    last = jnp.clip(found.number - 1, 0, len(found.whole) - 1)
    kept = found.ended & (found.number <= len(found.whole)) & found.whole[last]
    return reader(found.tokens[last], kept).literal("#")
