"""Writing tests for a function told in words of its own: `a+b<9?` and `1,2=3;7,8=9;#2$`.

A function of a and b is operations from left to right, `<` being the smaller and `>` the larger of
two. A test says what it gives for two numbers below 100; the answer is how many tests there are.
How good they are is what they run through (coverage) and which wrong functions fail them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrl.lm.tasks import symbols
from jaxrl.lm.tasks.symbols import LETTER, Symbols
from jaxrl.lm.tasks.task import Task, Verdict, below, each, judged, one_error
from jaxtrain.known_numbers import check_whole

OPERATORS = "+-*<>"
LARGEST_INPUT, DIGITS = 99, 9
NUM_OPS = len(OPERATORS)


class Function(NamedTuple):
    """A problem: `a op operand op operand ...`, operations of which are D.

    Attributes:
      op: of `OPERATORS`, `[D]`, int.
      operand: a number below 10, or 10 for a and 11 for b, `[D]`, int.
    """

    op: Array
    operand: Array


class Tests(NamedTuple):
    """Tests of a response, K of them at most.

    Attributes:
      a: `[K]`, int.
      b: `[K]`, int.
      expected: `[K]`, int.
      ok: which can be read and have small inputs, `[K]`, bool.
      number: how many lines there are, `[]`.
    """

    a: Array
    b: Array
    expected: Array
    ok: Array
    number: Array


def value(function: Function, a: Array, b: Array) -> tuple[Array, Array]:
    """f(a, b), `[]`, and which side each operation takes, `[D]`: 0 the left, 1 the right one.

    Sides are those of `<` and `>`, of equal numbers the left one; other operations have side 0.
    """

    def step(left: Array, x: tuple[Array, ...]) -> tuple[Array, Array]:
        op, operand = x
        right = jnp.select([operand == 10, operand == 11], [a, b], operand)
        smaller, larger = jnp.minimum(left, right), jnp.maximum(left, right)
        results = jnp.stack([left + right, left - right, left * right, smaller, larger])
        side = jnp.where(op == 3, right < left, (op == 4) & (right > left))
        return results[op], side.astype(int)

    result, side = jax.lax.scan(step, a, tuple(function))
    return result, side


def read(tokens: Array, valid: Array, most: int) -> tuple[Tests, symbols.Lines]:
    """The tests of a response, and its lines.

    Args:
      tokens: `[S]`.
      valid: `[S]`, bool.
      most: K.
    """
    found = symbols.lines(tokens, valid, most + 1, 3 * symbols.MAX_DIGITS + 3)

    def one(line: Array, whole: Array) -> tuple[Array, ...]:
        a, at = symbols.reader(line, whole).number()
        b, at = at.literal(",").number()
        expected, at = at.literal("=").signed()
        return a, b, expected, at.end() & (a <= LARGEST_INPUT) & (b <= LARGEST_INPUT)

    a, b, expected, ok = jax.vmap(one)(found.tokens[:most], found.whole[:most])
    number = jnp.minimum(found.number - found.ended, most)
    there = jnp.arange(most) < number
    return Tests(jnp.where(ok, a, 0), jnp.where(ok, b, 0), expected, ok & there, number), found


def coverage(function: Function, tests: Tests) -> Array:
    """Share of the sides of all `<` and `>` that the tests take, `[]`; 1 if there are none."""
    side = jax.vmap(lambda a, b: value(function, a, b)[1])(tests.a, tests.b)
    branches = function.op >= 3
    taken = jnp.stack([((side == s) & tests.ok[:, None]).any(0) & branches for s in (0, 1)])
    return jnp.where(branches.any(), taken.sum() / jnp.maximum(2 * branches.sum(), 1), 1.0)


def mutants(function: Function) -> tuple[Function, Array]:
    """All functions with one operation, or one number by one, changed, `[5 D]`; which there are."""
    depth = len(function.op)
    place, kind = jnp.divmod(jnp.arange(NUM_OPS * depth), NUM_OPS)
    here = place[:, None] == jnp.arange(depth)[None]
    other = (function.op[place] + kind) % NUM_OPS
    swapped = here & (kind > 0)[:, None]
    op = jnp.where(swapped, other[:, None], function.op[None])
    number = function.operand < 10
    more = here & (kind == 0)[:, None] & number[None]
    operand = jnp.where(more, (function.operand + 1) % 10, function.operand[None])
    return Function(op, operand), (kind > 0) | number[place]


def mutation_score(function: Function, tests: Tests) -> Array:
    """Share of the mutants that fail a test, `[]`; some compute the same and cannot fail any."""
    changed, there = mutants(function)
    run = lambda f: jax.vmap(lambda a, b: value(f, a, b)[0])(tests.a, tests.b)
    fails = (jax.vmap(run)(changed) != tests.expected[None]) & tests.ok[None]
    return (fails.any(-1) & there).sum() / there.sum()


def reward(function: Function, verdict: Verdict, tests: Tests) -> Array:
    """-2 if a test cannot be read or there is none, -0.3 if one fails, else 2 + 2 coverage, `[]`.

    References:
      Takerngsaksiri et al., PyTester: Deep Reinforcement Learning for Text-to-Testcase Generation,
      arXiv 2401.07576.
    """
    there = jnp.arange(len(tests.ok)) < tests.number
    readable = (tests.ok | ~there).all() & (tests.number > 0) & (verdict.answer_id >= 0)
    passed = jnp.where(verdict.correct, 2 + 2 * coverage(function, tests), -0.3)
    return jnp.where(readable, passed, -2.0)


def unit_tests(depth: int, most: int = 4) -> Task:
    """Writing tests; a test is a step.

    Args:
      depth: D, how many operations, the difficulty, 1 to 3.
      most: K, the most tests that count.

    Raises:
      ValueError: so many operations that a product may not fit in int32, or no test.
    """
    check_whole(1, 99, most=most)
    if not 1 <= depth <= 3:
        raise ValueError(f"functions of {depth} operations are not there; take 1, 2 or 3.")

    def sample(key: Array) -> Function:
        share = jax.random.uniform(key, (2, depth))
        return Function(below(share[0], NUM_OPS), below(share[1], 12))

    def encode(problem: Function) -> Symbols:
        def operation(op: Array, operand: Array) -> Symbols:
            name = jnp.where(operand < 10, symbols.ZERO + operand, LETTER + operand - 10)
            sign = symbols.symbol(jnp.asarray(symbols.ids(OPERATORS))[op])
            return symbols.joined(sign, symbols.symbol(name))

        rest = symbols.rows(jax.vmap(operation)(*problem))
        return symbols.joined(symbols.written("a"), rest, symbols.written("?"))

    def trace(inputs: Array, problem: Function, shift: Array) -> Symbols:
        def line(pair: Array, wrong: Array) -> Symbols:
            result = value(problem, pair[0], pair[1])[0] + wrong
            return symbols.joined(
                symbols.number(pair[0], 2),
                symbols.written(","),
                symbols.number(pair[1], 2),
                symbols.written("="),
                symbols.signed(result, DIGITS),
                symbols.written(";"),
            )

        steps = symbols.rows(jax.vmap(line)(inputs, shift))
        number = symbols.number(jnp.asarray(most), len(str(most)))
        return symbols.joined(steps, symbols.written("#"), number, symbols.written("$"))

    def solve(problem: Function) -> Symbols:
        """Inputs at and around the corners, the same for all functions."""
        corners = jnp.asarray([[7, 3], [0, 98], [99, 11], [4, 4], [60, 61], [1, 0], [23, 9]])
        return trace(corners[jnp.arange(most) % 7], problem, jnp.zeros(most, int))

    def corrupt(key: Array, problem: Function) -> tuple[Symbols, Array]:
        place, size = one_error(key, most)
        key_inputs = jax.random.fold_in(key, 1)
        inputs = below(jax.random.uniform(key_inputs, (most, 2)), LARGEST_INPUT + 1)
        wrong = jnp.where(size < 0.5, -1, 1) * (1 + below(size, 9))
        return trace(inputs, problem, jnp.where(jnp.arange(most) == place, wrong, 0)), place

    def verify(problem: Function, tokens: Array, valid: Array) -> Verdict:
        tests, found = read(tokens, valid, most)
        right = jax.vmap(lambda a, b: value(problem, a, b)[0])(tests.a, tests.b)
        given = found.number - found.ended
        number, end = symbols.answer_line(found).number()
        ok = tests.ok & (right == tests.expected)
        verdict = judged(ok, given, given, number, end.end(), given)
        passed = (verdict.first_error == -1) & (given > 0)
        return verdict._replace(correct=verdict.correct & passed)

    return Task(most, each(sample), encode, solve, corrupt, verify)
