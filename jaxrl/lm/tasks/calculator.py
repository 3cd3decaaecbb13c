"""Sums of numbers too large to do in the head, with a calculator to call.

`437*82+915?` is `[437*82]35834;[35834+915]36749;#36749$`, where what follows a `]` is what the
calculator says: stop at `]`, insert `respond`, go on.
"""

import jax
import jax.numpy as jnp
from jax import Array

from jaxrl.lm.tasks import symbols
from jaxrl.lm.tasks.chained import Chain, asked, operation
from jaxrl.lm.tasks.symbols import Reader, Symbols
from jaxrl.lm.tasks.task import Task, Verdict, below, judged, traced

OPERATORS = "+*"
DIGITS = 9
LARGEST = 10**DIGITS - 1


def _apply(op: Array, left: Array, right: Array) -> Array:
    """-1 where the result has more than 9 digits."""
    fits = jnp.where(op == 0, left <= LARGEST - right, left <= LARGEST // jnp.maximum(right, 1))
    return jnp.where(fits, jnp.where(op == 0, left + right, left * right), -1)


def _call(at: Reader) -> tuple[Array, Array, Array, Reader]:
    """Reads `left op right]`."""
    left, at = at.number()
    op, at = at.one_of(OPERATORS)
    right, at = at.number()
    return left, op, right, at.literal("]")


def respond(tokens: Array, valid: Array) -> Symbols:
    """What the calculator says to the last call of a response, `[9]`.

    Args:
      tokens: `[S]`, up to and with the `]` of the call.
      valid: `[S]`, bool.

    Returns:
      The result, or `!` if the call cannot be read or the result has more than 9 digits.
    """
    tokens = symbols.filled(tokens, valid)
    opens = tokens == symbols.ALPHABET.index("[")
    place = len(tokens) - 1 - jnp.argmax(jnp.flip(opens))
    line = jnp.concatenate([tokens, jnp.full(1, symbols.NOTHING)])
    left, op, right, at = _call(Reader(line, place + 1, opens.any()))
    result = _apply(op, left, right)
    good = at.end() & (result >= 0)
    said = symbols.number(jnp.maximum(result, 0), DIGITS)
    error = symbols.ALPHABET.index("!")
    first = jnp.arange(DIGITS) == 0
    return Symbols(jnp.where(good, said.tokens, error), jnp.where(good, said.valid, first))


def calculator(num_operations: int, digits: int = 3) -> Task:
    """Sums for a calculator. A mistake is a result that it did not say.

    Args:
      num_operations: K, the difficulty; each is a step.
      digits: of the numbers, the other difficulty, at most 4. A product that would have more than
        9 digits is a sum instead.

    Raises:
      ValueError: numbers of too many digits, or no operation, or so many that sums have too many.
    """
    if not 1 <= digits <= 4 or not 1 <= num_operations <= 10:
        raise ValueError("take numbers of 1 to 4 digits and 1 to 10 operations.")

    def values(problem: Chain, shift: Array) -> Array:
        def step(value: Array, x: tuple[Array, ...]) -> tuple[Array, Array]:
            op, operand, wrong = x
            value = jnp.maximum(_apply(op, value, operand), 0) + wrong
            return value, value

        return jax.lax.scan(step, problem.start, (problem.op, problem.operand, shift))[1]

    def sample(key: Array) -> Chain:
        share = jax.random.uniform(key, (2 * num_operations + 1,))
        number = 1 + below(share[: num_operations + 1], 10**digits - 1)

        def step(value: Array, x: tuple[Array, Array]) -> tuple[Array, Array]:
            op, operand = x
            # Room for the sums that may follow, and for a mistake.
            fits = value * operand <= LARGEST // 2
            small = (value < 10**5) & fits
            op = jnp.where(small, op, 0)
            return _apply(op, value, operand), op

        wanted = below(share[num_operations + 1 :], 2)
        op = jax.lax.scan(step, number[0], (wanted, number[1:]))[1]
        return Chain(number[0], op, number[1:])

    def encode(problem: Chain) -> Symbols:
        return asked(problem, OPERATORS, digits)

    def trace(problem: Chain, shift: Array) -> Symbols:
        value = values(problem, shift)
        before = jnp.concatenate([problem.start[None], value[:-1]])

        def line(left: Array, op: Array, operand: Array, result: Array) -> Symbols:
            return symbols.joined(
                symbols.written("["),
                symbols.number(left, DIGITS),
                operation(op, operand, OPERATORS, digits),
                symbols.written("]"),
                symbols.number(result, DIGITS),
                symbols.written(";"),
            )

        steps = symbols.rows(jax.vmap(line)(before, problem.op, problem.operand, value))
        answer = symbols.number(value[-1], DIGITS)
        return symbols.joined(steps, symbols.written("#"), answer, symbols.written("$"))

    def verify(problem: Chain, tokens: Array, valid: Array) -> Verdict:
        width = 3 * symbols.MAX_DIGITS + 3
        found = symbols.lines(tokens, valid, num_operations + 1, width)

        def read(line: Array, whole: Array) -> symbols.Equation:
            left, op, right, at = _call(symbols.reader(line, whole).literal("["))
            result, at = at.number()
            return symbols.Equation(left, op, right, result, at.end())

        step = jax.vmap(read)(found.tokens[:num_operations], found.whole[:num_operations])
        before = jnp.concatenate([problem.start[None], step.result[:-1]])
        known = jnp.concatenate([jnp.ones(1, bool), step.ok[:-1]])
        given = (step.op == problem.op) & (step.right == problem.operand) & (step.left == before)
        right = _apply(problem.op, before, problem.operand)
        ok = known & step.ok & given & (step.result == right)
        answer, end = symbols.answer_line(found).number()
        truth = values(problem, jnp.zeros(num_operations, int))[-1]
        number = found.number - found.ended
        return judged(ok, number, num_operations, answer, end.end(), truth)

    return traced(num_operations, sample, encode, trace, 9, verify)
