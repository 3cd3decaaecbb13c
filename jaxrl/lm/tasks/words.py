"""Symbolic word problems: quantities that hang together, told in any order, some of no use.

`b is a plus 3,a is 5,c is b times 2,c?` is `a=5;b=5+3=8;c=8*2=16;#16$`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrl.lm.tasks import symbols
from jaxrl.lm.tasks.symbols import LETTER, Symbols
from jaxrl.lm.tasks.task import Task, Verdict, below, judged, traced
from jaxtrain.known_numbers import check_whole

OPERATORS, WORDS = "+-*", ("plus ", "less ", "times ")
DIGITS, LARGEST = 4, 999  # a wrong result may be a little larger than any right one


class Story(NamedTuple):
    """A problem of V quantities, the first D + 1 of which are needed, in this order.

    Attributes:
      letter: name of each, `[V]`, int, all different.
      source: the one it is made from, `[V]`, int; of the first none.
      op: of `+-*`, `[V]`, int.
      operand: `[V]`, int; the first is this number.
      order: in which they are told, `[V]`, int.
    """

    letter: Array
    source: Array
    op: Array
    operand: Array
    order: Array


def _apply(op: Array, left: Array, right: Array) -> Array:
    return jnp.select([op == 0, op == 1], [left + right, left - right], left * right)


def word_problems(depth: int, num_distractors: int = 0) -> Task:
    """Word problems.

    Args:
      depth: D, how many operations are needed, the difficulty; there is a step more.
      num_distractors: quantities that nothing asked for is made from, the other difficulty.

    Raises:
      ValueError: more quantities than letters, or fewer than none.
    """
    check_whole(0, 2**31 - 1, depth=depth, num_distractors=num_distractors)
    total, steps = depth + 1 + num_distractors, depth + 1
    if total > 26:
        raise ValueError(f"{total} quantities need as many letters; there are 26.")

    def sample(key: Array) -> Story:
        share = jax.random.uniform(key, (total, 7))
        names = jax.random.uniform(jax.random.fold_in(key, 1), (26,))

        def quantity(value: Array, x: tuple[Array, Array]) -> tuple[Array, tuple[Array, ...]]:
            place, share = x
            anything = below(share[0], jnp.maximum(place, 1))
            source = jnp.where(place <= depth, place - 1, anything)
            left = value[jnp.maximum(source, 0)]
            number, factor = 1 + below(share[1], 20), 2 + below(share[2], 3)
            fits = jnp.stack([left + number <= LARGEST, left >= number, left * factor <= LARGEST])
            op = jnp.argmax(jnp.where(fits, share[3:6], -1))
            operand = jnp.where((op == 2) & (place > 0), factor, number)
            result = jnp.where(place == 0, number, _apply(op, left, operand))
            return value.at[place].set(result), (source, op, operand)

        places = jnp.arange(total), share
        _, (source, op, operand) = jax.lax.scan(quantity, jnp.zeros(total, int), places)
        letters, order = jnp.argsort(names)[:total], jnp.argsort(share[:, 6])
        return Story(letters, source, op, operand, order)

    def encode(problem: Story) -> Symbols:
        def sentence(place: Array) -> Symbols:
            derived = place > 0
            letter = lambda at: symbols.symbol(LETTER + problem.letter[jnp.maximum(at, 0)])
            words = [
                symbols.only_if(problem.op[place] == i, symbols.written(word))
                for i, word in enumerate(WORDS)
            ]
            relation = symbols.joined(letter(problem.source[place]), symbols.written(" "), *words)
            return symbols.joined(
                letter(place),
                symbols.written(" is "),
                symbols.only_if(derived, relation),
                symbols.number(problem.operand[place], 2),
                symbols.written(","),
            )

        asked = symbols.symbol(LETTER + problem.letter[depth])
        told = symbols.rows(jax.vmap(sentence)(problem.order))
        return symbols.joined(told, asked, symbols.written("?"))

    def values(problem: Story, shift: Array) -> Array:
        def step(value: Array, x: tuple[Array, ...]) -> tuple[Array, Array]:
            place, op, operand, wrong = x
            value = jnp.where(place == 0, operand, _apply(op, value, operand))
            value = jnp.abs(value + wrong) % 10**DIGITS
            return value, value

        plan = jnp.arange(steps), problem.op[:steps], problem.operand[:steps], shift
        return jax.lax.scan(step, jnp.zeros((), int), plan)[1]

    def trace(problem: Story, shift: Array) -> Symbols:
        value = values(problem, shift)
        before = jnp.concatenate([jnp.zeros(1, int), value[:-1]])

        def line(place: Array) -> Symbols:
            made = symbols.joined(
                symbols.written("="),
                symbols.number(before[place], DIGITS),
                symbols.symbol(jnp.asarray(symbols.ids(OPERATORS))[problem.op[place]]),
                symbols.number(problem.operand[place], 2),
            )
            return symbols.joined(
                symbols.symbol(LETTER + problem.letter[place]),
                symbols.only_if(place > 0, made),
                symbols.written("="),
                symbols.number(value[place], DIGITS),
                symbols.written(";"),
            )

        told = symbols.rows(jax.vmap(line)(jnp.arange(steps)))
        answer = symbols.number(value[-1], DIGITS)
        return symbols.joined(told, symbols.written("#"), answer, symbols.written("$"))

    def verify(problem: Story, tokens: Array, valid: Array) -> Verdict:
        width = 3 * symbols.MAX_DIGITS + 4
        found = symbols.lines(tokens, valid, steps + 1, width)

        def read(place: Array, line: Array, whole: Array) -> tuple[Array, ...]:
            begin = symbols.reader(line, whole)
            named = begin.symbol() == LETTER + problem.letter[place]
            begin = begin.skip()._replace(ok=begin.ok & named).literal("=")
            number, end = begin.number()
            made = symbols.equation(begin, OPERATORS)
            known = (made.op == problem.op[place]) & (made.right == problem.operand[place])
            first = place == 0
            return (
                jnp.where(first, number, made.result),
                made.left,
                jnp.where(first, end.end() & (number == problem.operand[0]), made.ok & known),
                jnp.where(first, end.end(), made.ok),
            )

        at = jnp.arange(steps)
        result, left, ok, readable = jax.vmap(read)(at, found.tokens[:steps], found.whole[:steps])
        before = jnp.concatenate([jnp.zeros(1, int), result[:-1]])
        known = jnp.concatenate([jnp.ones(1, bool), readable[:-1]])
        small = before < 10**symbols.MAX_DIGITS // 100
        right = _apply(problem.op[:steps], jnp.where(small, before, 0), problem.operand[:steps])
        follows = (at == 0) | ((left == before) & small & known & (result == right))
        number, end = symbols.answer_line(found).number()
        truth = values(problem, jnp.zeros(steps, int))[-1]
        given = found.number - found.ended
        return judged(ok & follows, given, steps, number, end.end(), truth)

    return traced(steps, sample, encode, trace, 9, verify)
