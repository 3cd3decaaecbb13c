"""Chained modular arithmetic, one operation a line: `3+4*5?` is `3+4=0;0*5=0;#0$` modulo 7."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrl.lm.tasks import symbols
from jaxrl.lm.tasks.symbols import Symbols
from jaxrl.lm.tasks.task import Task, Verdict, below, judged, traced
from jaxtrain.known_numbers import check_whole

OPERATORS = "+-*"
LARGEST_MODULUS = 46_341  # products of smaller numbers fit in int32


class Chain(NamedTuple):
    """A problem, worked off from left to right.

    Attributes:
      start: `[]`, int.
      op: which of the operators, `[K]`, int.
      operand: `[K]`, int.
    """

    start: Array
    op: Array
    operand: Array


def operation(op: Array, operand: Array, operators: str, digits: int) -> Symbols:
    """An operator and its number, `+5`."""
    sign = symbols.symbol(jnp.asarray(symbols.ids(operators))[op])
    return symbols.joined(sign, symbols.number(operand, digits))


def asked(problem: Chain, operators: str, digits: int) -> Symbols:
    """The prompt, `3+4*5?`."""
    one = lambda op, operand: operation(op, operand, operators, digits)
    rest = symbols.rows(jax.vmap(one)(problem.op, problem.operand))
    return symbols.joined(symbols.number(problem.start, digits), rest, symbols.written("?"))


def _apply(op: Array, left: Array, right: Array) -> Array:
    return jnp.select([op == 0, op == 1], [left + right, left - right], left * right)


def chained(depth: int, modulus: int = 10) -> Task:
    """Chained arithmetic.

    Args:
      depth: how many operations, the difficulty; each is a step.
      modulus: of all numbers, the other difficulty; 2 to 46,341.

    Raises:
      ValueError: no operation, or a modulus whose products do not fit in int32.
    """
    check_whole(1, 1_000, depth=depth)
    check_whole(2, LARGEST_MODULUS, modulus=modulus)
    digits = len(str(modulus - 1))

    def sample(key: Array) -> Chain:
        share = jax.random.uniform(key, (2 * depth + 1,))
        value = below(share[: depth + 1], modulus)
        return Chain(value[0], below(share[depth + 1 :], 3), value[1:])

    def encode(problem: Chain) -> Symbols:
        return asked(problem, OPERATORS, digits)

    def values(problem: Chain, shift: Array) -> Array:
        """After each operation, with mistakes, `[K]`."""

        def step(value: Array, x: tuple[Array, ...]) -> tuple[Array, Array]:
            op, operand, wrong = x
            value = (_apply(op, value, operand) + wrong) % modulus
            return value, value

        return jax.lax.scan(step, problem.start, (problem.op, problem.operand, shift))[1]

    def trace(problem: Chain, shift: Array) -> Symbols:
        value = values(problem, shift)
        before = jnp.concatenate([problem.start[None], value[:-1]])

        def line(left: Array, op: Array, operand: Array, result: Array) -> Symbols:
            return symbols.joined(
                symbols.number(left, digits),
                operation(op, operand, OPERATORS, digits),
                symbols.written("="),
                symbols.number(result, digits),
                symbols.written(";"),
            )

        steps = symbols.rows(jax.vmap(line)(before, problem.op, problem.operand, value))
        answer = symbols.number(value[-1], digits)
        return symbols.joined(steps, symbols.written("#"), answer, symbols.written("$"))

    def verify(problem: Chain, tokens: Array, valid: Array) -> Verdict:
        found = symbols.lines(tokens, valid, depth + 1, 3 * symbols.MAX_DIGITS + 2)
        read = lambda line, whole: symbols.equation(symbols.reader(line, whole), OPERATORS)
        step = jax.vmap(read)(found.tokens[:depth], found.whole[:depth])
        before = jnp.concatenate([problem.start[None], step.result[:-1]])
        known = jnp.concatenate([jnp.ones(1, bool), step.ok[:-1]])
        asked = (step.op == problem.op) & (step.right == problem.operand) & (step.left == before)
        right = _apply(problem.op, before % modulus, problem.operand) % modulus
        answer, end = symbols.answer_line(found).number()
        truth = values(problem, jnp.zeros(depth, int))[-1]
        ok = known & step.ok & asked & (step.result == right)
        return judged(ok, found.number - found.ended, depth, answer, end.end(), truth)

    return traced(depth, sample, encode, trace, modulus - 1, verify)
