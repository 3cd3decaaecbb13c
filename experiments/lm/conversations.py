"""Texts from which small models learn to reason, to reconsider and to judge: planted abilities.

A conversation is a question of chained arithmetic, `jaxrl.lm.tasks.chained`, and attempts at it.

    3+4*5?3+4=7;7*5=5;#5$                     an attempt
    3+4*5?3+4=8;8~3+4=7;7*5=5;#5$             cut short by a request to reconsider, begun anew
    3+4*5?3+4=8;8*5=0;#0$!3+4=7;7*5=5;#5$     reconsidered when it was done
    3+4*5?3+4=8;8*5=0;#0$&f                   judged
    3+4*5?<5,0,5,>#5$&t                       a proposed answer judged after others were told
    3+4.*5?3+4=8;8*5=0;#0$.#0$                fillers, which change nothing

Every operation such as `*7` belongs to one of ten kinds, each with a chance to be got wrong, always
in the same way: a model of these texts knows some, wavers at some and is mistaken about others. A
line that stood in the attempts before is kept or put right with chances that depend on the request:
that a model can correct itself is planted here, and nothing that search or training makes of it
says where such an ability comes from.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrl.lm.learners import Examples
from jaxrl.lm.tasks import symbols
from jaxrl.lm.tasks.chained import OPERATORS, Chain, operation
from jaxrl.lm.tasks.symbols import END, Symbols, joined, only_if, written
from jaxrl.lm.tasks.task import below

RECONSIDER, DOUBT, TRUST = INSTRUCTIONS = "~!:"  # neutral, doubt-raising, confidence-raising
FILLER, VERDICT, TRUE, FALSE = ".&tf"


class Recipe(NamedTuple):
    """What conversations are like.

    Attributes:
      modulus: of all numbers.
      depths: numbers of steps that questions have, each as often; K is the largest.
      error_rates: of the kinds of operations, at a first attempt.
      kept: chance that a right line stays right when it is written again, per request of
        `INSTRUCTIONS`.
      fixed: chance that a wrong line is put right then.
      requests: how often each request is made, per request; they sum to 1.
      attempts: most attempts at a question.
      cut: share of the attempts but the last that are cut short.
      filler: share of the attempts with a filler in them, and of those with one behind.
      judged: share of the finished attempts that are judged.
      voted: share of the conversations that are one judgement of a proposed answer.
      told: other answers that are told before it, in half of them.
    """

    modulus: int
    depths: tuple[int, ...]
    error_rates: tuple[float, ...]
    kept: tuple[float, ...]
    fixed: tuple[float, ...]
    requests: tuple[float, ...]
    attempts: int
    cut: float
    filler: float
    judged: float
    voted: float
    told: int

    @property
    def digits(self) -> int:
        return len(str(self.modulus - 1))

    @property
    def room(self) -> int:
        """Most tokens of an attempt."""
        return max(self.depths) * (3 * self.digits + 3) + self.digits + 2


class Question(NamedTuple):
    """The first `depth` operations of a chain of K.

    Attributes:
      chain: fields `[K]`.
      depth: `[]`, int.
      answer: the right one, `[]`, int.
    """

    chain: Chain
    depth: Array
    answer: Array


class Lines(NamedTuple):
    """The lines of an attempt.

    Attributes:
      left: what each begins with, `[K]`, int.
      result: what each ends with, `[K]`, int.
      known: whether it stands in the text, `[K]`, bool.
    """

    left: Array
    result: Array
    known: Array


def nothing(recipe: Recipe) -> Lines:
    """Before the first attempt."""
    zeros = jnp.zeros(max(recipe.depths), jnp.int32)
    return Lines(zeros, zeros, zeros > 0)


def ask(recipe: Recipe, key: Array) -> Question:
    """Draws a question."""
    longest = max(recipe.depths)
    share = jax.random.uniform(key, (2 * longest + 2,))
    value = below(share[: longest + 1], recipe.modulus)
    chain = Chain(value[0], below(share[longest + 1 : -1], len(OPERATORS)), value[1:])
    depth = jnp.asarray(recipe.depths)[below(share[-1], len(recipe.depths))]
    question = Question(chain, depth, chain.start)
    right = thought(recipe, question, nothing(recipe), 0, -jnp.ones(longest))
    return question._replace(answer=right.result[-1])


def _asked(question: Question) -> Array:
    return jnp.arange(len(question.chain.op)) < question.depth


def prompt(recipe: Recipe, question: Question) -> Symbols:
    """`3+4*5?`, as `chained(depth, modulus).encode` writes it, with the rest of K steps empty."""
    chain, digits = question.chain, recipe.digits
    one = lambda op, operand, here: only_if(here, operation(op, operand, OPERATORS, digits))
    rest = symbols.rows(jax.vmap(one)(chain.op, chain.operand, _asked(question)))
    return joined(symbols.number(chain.start, digits), rest, written("?"))


def error_rate(recipe: Recipe, op: Array, operand: Array) -> Array:
    """Chance to get an operation wrong at a first attempt, `[]`."""
    return jnp.asarray(recipe.error_rates)[(3 * operand + 4 * op) % len(recipe.error_rates)]


def thought(
    recipe: Recipe, question: Question, before: Lines, request: Array | int, uniform: Array
) -> Lines:
    """The lines of an attempt.

    Args:
      recipe: says how often what goes wrong.
      question: to answer.
      before: lines that stand in the text; one with the same beginning is kept or changed, others
        are new.
      request: number of the request, without meaning for new lines, `[]`.
      uniform: a number in [0, 1) per line, `[K]`; negative ones make every line right.

    Returns:
      The lines, the results of those beyond the question's depth equal to the answer.
    """
    kept, fixed = jnp.asarray(recipe.kept)[request], jnp.asarray(recipe.fixed)[request]

    def line(value: Array, x: tuple[Array, ...]) -> tuple[Array, tuple[Array, Array]]:
        op, operand, here, old_left, old_result, known, uniform = x
        right = jnp.stack([value + operand, value - operand, value * operand])[op] % recipe.modulus
        other = 1 + (value + 2 * operand + op) % (recipe.modulus - 1)
        again = jnp.where(old_result == right, kept, fixed)
        new = 1 - error_rate(recipe, op, operand)
        chance = jnp.where(known & (old_left == value), again, new)
        result = jnp.where(uniform < chance, right, (right + other) % recipe.modulus)
        result = jnp.where(here, result, value)
        return result, (value, result)

    chain = question.chain
    each = (chain.op, chain.operand, _asked(question), *before, uniform)
    _, (left, result) = jax.lax.scan(line, chain.start, each)
    return Lines(left, result, _asked(question))


def answer_text(recipe: Recipe, answer: Array) -> Symbols:
    """An answer, `#5$`."""
    return joined(written("#"), symbols.number(answer, recipe.digits), written("$"))


def text_of(recipe: Recipe, question: Question, lines: Lines) -> Symbols:
    """An attempt as text, `[room]`: K lines, of which only those asked for are there."""

    def line(left: Array, op: Array, operand: Array, result: Array, here: Array) -> Symbols:
        digits = recipe.digits
        left, right = symbols.number(left, digits), operation(op, operand, OPERATORS, digits)
        result = symbols.number(result, digits)
        return only_if(here, joined(left, right, written("="), result, written(";")))

    chain, here = question.chain, _asked(question)
    steps = jax.vmap(line)(lines.left, chain.op, chain.operand, lines.result, here)
    return joined(symbols.rows(steps), answer_text(recipe, lines.result[-1]))


class Part(NamedTuple):
    """A stretch of a conversation.

    Attributes:
      text: fields `[W]`.
      own: which tokens a model should learn to write, `[W]`, bool.
    """

    text: Symbols
    own: Array


def _given(text: Symbols) -> Part:
    return Part(text, jnp.zeros(len(text.tokens), bool))


def _learned(text: Symbols) -> Part:
    return Part(text, text.valid)


def _verdict(right: Array, here: Array) -> list[Part]:
    verdict = jnp.where(right, *symbols.ids(TRUE + FALSE))
    return [
        _given(only_if(here, written(VERDICT))),
        _learned(only_if(here, symbols.symbol(verdict))),
    ]


def _one(parts: list[Part]) -> Part:
    texts, own = zip(*parts, strict=True)
    return Part(joined(*texts), jnp.concatenate(own))


def attempt(
    recipe: Recipe, question: Question, before: Lines, number: Array, count: Array, uniform: Array
) -> tuple[Lines, Part]:
    """One attempt, with the request before it and what comes behind it.

    Args:
      recipe: says how often what happens.
      question: to answer.
      before: lines that stand in the text.
      number: of the attempt, from 0, `[]`.
      count: how many there are, `[]`; an attempt beyond is empty.
      uniform: numbers in [0, 1), `[6 + K]`.

    Returns:
      The lines that stand in the text after it, and its text.
    """
    request = jnp.searchsorted(jnp.cumsum(jnp.asarray(recipe.requests)), uniform[0])
    request = jnp.minimum(request, len(INSTRUCTIONS) - 1)
    lines = thought(recipe, question, before, request, uniform[6:])
    whole = text_of(recipe, question, lines)
    there, length = number < count, whole.valid.sum()
    is_cut = (uniform[1] < recipe.cut) & (number < count - 1)
    size = jnp.where(is_cut, below(uniform[2], length), length)
    shown = whole.valid & (jnp.cumsum(whole.valid) <= size)
    finished = there & ~is_cut
    slot, place = jnp.arange(recipe.room + 1), below(uniform[3], recipe.room)
    is_filler, source = slot == place, slot - (slot > place)
    mixed = Symbols(
        jnp.where(is_filler, symbols.ids(FILLER)[0], whole.tokens[source]),
        jnp.where(is_filler, uniform[4] < recipe.filler, shown[source]) & there,
    )
    again, answer = finished & (uniform[4] > 1 - recipe.filler), lines.result[-1]
    token = symbols.symbol(jnp.asarray(symbols.ids(INSTRUCTIONS))[request])
    text = _one(
        [
            _given(only_if(there & (number > 0), token)),
            Part(mixed, mixed.valid & ~is_filler),
            _given(only_if(again, written(FILLER))),
            _learned(only_if(again, answer_text(recipe, answer))),
            *_verdict(answer == question.answer, finished & (uniform[5] < recipe.judged)),
        ]
    )
    complete = (shown == whole.valid)[: recipe.room - recipe.digits - 2]
    stands = complete.reshape(len(lines.left), -1).all(1) & _asked(question) & there
    after = jax.tree.map(lambda x, y: jnp.where(stands, x, y), lines, before)
    return after, text


def vote(recipe: Recipe, question: Question, key: Array) -> Part:
    """A proposed answer and whether it is right, perhaps after answers of other attempts."""
    draws = jax.random.uniform(key, (recipe.told + 2, len(question.chain.op)))
    think = lambda uniform: thought(recipe, question, nothing(recipe), 0, uniform).result[-1]
    answer, *others = jax.vmap(think)(draws[1:])
    listed = [joined(symbols.number(x, recipe.digits), written(",")) for x in others]
    shown = only_if(draws[0, 0] < 0.5, joined(written("<"), *listed, written(">")))
    proposed = [_given(shown), _given(answer_text(recipe, answer))]
    return _one([*proposed, *_verdict(answer == question.answer, jnp.asarray(True))])


def conversation(recipe: Recipe, key: Array) -> Part:
    """A whole conversation."""
    ask_key, vote_key, draw_key = jax.random.split(key, 3)
    question = ask(recipe, ask_key)
    voted = vote(recipe, question, vote_key)
    kind, *_ = draws = jax.random.uniform(draw_key, (1 + recipe.attempts, 6 + max(recipe.depths)))
    is_vote = kind[0] < recipe.voted
    count = jnp.where(is_vote, 0, 1 + below(kind[1], recipe.attempts))
    one = lambda before, x: attempt(recipe, question, before, x[0], count, x[1])
    _, attempts = jax.lax.scan(one, nothing(recipe), (jnp.arange(recipe.attempts), draws[1:]))
    text = symbols.rows(attempts.text)
    return _one(
        [
            _given(prompt(recipe, question)),
            Part(only_if(is_vote, voted.text), voted.own & is_vote),
            Part(text, attempts.own.reshape(-1)),
        ]
    )


def packed(recipe: Recipe, key: Array, number: int, slots: int) -> Examples:
    """A row of several conversations without gaps, cut off at its end.

    Args:
      recipe: of the conversations.
      key: of the row.
      number: conversations to draw.
      slots: S; what a few short conversations leave is empty.

    Returns:
      Fields `[S]`, the weight `[]`.
    """
    keys = jax.random.split(key, number)
    text, own = jax.vmap(lambda key: conversation(recipe, key))(keys)
    numbers = jnp.where(text.valid, 1 + jnp.arange(number)[:, None], 0)
    place = jnp.where(text.valid, jnp.cumsum(text.valid).reshape(text.valid.shape) - 1, slots)
    take = lambda x: jnp.zeros(slots, x.dtype).at[place].set(x, mode="drop")
    return Examples(take(text.tokens), take(numbers), take(own), jnp.ones(()))


def last_attempt(tokens: Array, valid: Array) -> Array:
    """Slots of the last attempt that has an end, without fillers.

    Args:
      tokens: of a response, `[S]`.
      valid: `[S]`, bool.

    Returns:
      `[S]`, bool, as `verify` of a task takes them; none if no attempt was finished.
    """
    ends = valid & (tokens == END)
    border = ends | (valid & jnp.isin(tokens, symbols.ids(INSTRUCTIONS)))
    number = jnp.cumsum(border) - border
    last = jnp.max(jnp.where(ends, number, -1))
    return valid & (number == last) & (tokens != symbols.ids(FILLER)[0])


def answered(recipe: Recipe, tokens: Array, valid: Array) -> Array:
    """The answer of the last attempt that has an end, `[]`, int; -1 if there is none.

    Args:
      recipe: of the conversations.
      tokens: of a response, `[S]`.
      valid: `[S]`, bool.
    """
    attempts = last_attempt(tokens, valid)
    found = symbols.lines(tokens, attempts, max(recipe.depths) + 1, recipe.room)
    value, end = symbols.answer_line(found).number()
    return jnp.where(end.end(), value, -1)
