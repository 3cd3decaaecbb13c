"""A base model's own answers to questions: what it is to judge, and what it learns to judge from.

Judges learn from a pool of questions that the base model has answered several times each. The pool
is made once, lies in the state of the learner and is shared by all trials of a sweep, which draw
their batches from it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from experiments.lm import conversations
from experiments.lm.bases import load_base, recipe_of
from experiments.lm.conversations import Question, Recipe
from jaxrl.lm.learners import LearnerState
from jaxrl.lm.tasks import symbols
from jaxrl.lm.tasks.symbols import Symbols, joined, only_if
from jaxrl.lm.turns import converse
from jaxtrain.core import Core, Held, StepOutput
from jaxtrain.host import config as configs
from jaxtrain.lm.decoder import Config, Decoder, decoder

UNTRAINED = "untrained:"
EVERYTHING = (0, 1, 2)  # numbers of the operators + - *


class Start(NamedTuple):
    """What a system begins with.

    Attributes:
      model: the network.
      recipe: of the conversations that it knows.
      params: makes its parameters.
    """

    model: Decoder
    recipe: Recipe
    params: Callable[[], Any]


def begun_with(name: str) -> Start:
    """A base model.

    Args:
      name: for `load_base`; or `untrained:` and a variant of configs/lm_base.py, whose network has
        learned nothing: for plans and trials of the program.

    Raises:
      UsageError: there is no such base model or variant.
    """
    if name.startswith(UNTRAINED):
        given: ConfigDict
        given, _ = configs.load(f"configs/lm_base.py:{name.removeprefix(UNTRAINED)}")
        model = decoder(Config(**given.model))
        return Start(model, recipe_of(given), lambda: model.init(jax.random.key(0)))
    base = load_base(name)
    return Start(base.model, base.recipe, lambda: base.params)


class Answers(NamedTuple):
    """Questions and what a model answered, G times each.

    Attributes:
      question: fields `[Q, ...]`.
      prompt: fields `[Q, P]`, with the hint.
      attempt: what it wrote, fields `[Q, G, R]`.
      answer: `[Q, G]`, int, 0 where there is none.
      correct: `[Q, G]`, bool.
    """

    question: Question
    prompt: Symbols
    attempt: Symbols
    answer: Array
    correct: Array


def ask(recipe: Recipe, operators: Sequence[int] | Array, key: Array) -> Question:
    """A question with these operators only."""
    question = conversations.ask(recipe, key)
    op = jnp.asarray(operators)[question.chain.op % len(operators)]
    question = question._replace(chain=question.chain._replace(op=op))
    return question._replace(answer=solved(recipe, question).result[-1])


def solved(recipe: Recipe, question: Question) -> conversations.Lines:
    """The lines of the right attempt."""
    no_mistake = -jnp.ones(max(recipe.depths))
    return conversations.thought(recipe, question, conversations.nothing(recipe), 0, no_mistake)


def hint(
    recipe: Recipe, question: Question, most: int, number: Array | int, wrong: Array | bool
) -> Symbols:
    """The first lines of the right attempt, the last of them perhaps with a wrong result.

    Args:
      recipe: of the conversations.
      question: that is asked.
      most: lines that there is room for.
      number: of lines, `[]`; no more are told than the attempt has.
      wrong: `[]`.
    """
    lines, number = solved(recipe, question), jnp.minimum(number, question.depth)
    is_last = wrong & (jnp.arange(len(lines.result)) == number - 1)
    result = jnp.where(is_last, (lines.result + 1) % recipe.modulus, lines.result)
    text = conversations.text_of(recipe, question, lines._replace(result=result))
    width = 3 * recipe.digits + 3
    told = jax.tree.map(lambda x: x[: most * width], text)
    return only_if(jnp.arange(most * width) < number * width, told)


def answered(
    start: Start,
    params: Any,
    questions: Question,
    key: Array,
    num_samples: int,
    hints: Symbols | None = None,
) -> Answers:
    """Has a model answer at temperature 1; for `jax.jit`.

    Args:
      start: network and recipe.
      params: of the network.
      questions: fields `[Q, ...]`.
      key: of the samples.
      num_samples: G.
      hints: fields `[Q, W]`, that stand behind the questions.
    """
    recipe, spread = start.recipe, lambda x: jnp.repeat(x, num_samples, axis=0)
    prompt = jax.vmap(functools.partial(conversations.prompt, recipe))(questions)
    if hints is not None:
        prompt = jax.vmap(joined)(prompt, hints)
    rows, width = jax.tree.map(spread, prompt), prompt.tokens.shape[1]
    text = converse(
        start.model,
        params,
        rows,
        jax.random.split(key, len(rows.tokens)),
        length=recipe.room,
        stop=jnp.arange(start.model.config.vocabulary) == symbols.END,
    )
    attempt = Symbols(text.tokens[:, width:], text.valid[:, width:])
    found = jax.vmap(functools.partial(conversations.answered, recipe))(*attempt)
    by_question = lambda x: x.reshape(-1, num_samples, *x.shape[1:])
    attempt, found = jax.tree.map(by_question, (attempt, found))
    correct = found == questions.answer[:, None]
    return Answers(questions, prompt, attempt, jnp.maximum(found, 0), correct)


def drawn(
    start: Start,
    params: Any,
    key: Array,
    num_questions: int,
    num_samples: int,
    operators: Sequence[int] | Array = EVERYTHING,
) -> Answers:
    """Draws questions and has a model answer them."""
    ask_key, sample_key = jax.random.split(key)
    one = functools.partial(ask, start.recipe, operators)
    questions = jax.vmap(one)(jax.random.split(ask_key, num_questions))
    return answered(start, params, questions, sample_key, num_samples)


class PoolState(NamedTuple):
    """State of a learner from a pool.

    Attributes:
      params: of the learner.
      opt_state: of its optimiser.
      pool: `Answers`, which no update changes.
    """

    params: Any
    opt_state: Any
    pool: Held


def from_pool(
    core: Core,
    params: Callable[[], Any],
    pool: Callable[[], Answers],
    row: Callable[[Answers, Array], Any],
) -> Core:
    """A learner whose batches are drawn from a pool of answers.

    Args:
      core: learns from batches; its state is a `LearnerState`.
      params: it begins with.
      pool: makes the answers, the same in all trials.
      row: `(pool, key) -> a row of a batch`.

    Returns:
      A core with `init(key)`, whose batches are places `[B]`.
    """

    def init(key: Array) -> PoolState:
        learner = core.init(params())
        return PoolState(learner.params, learner.opt_state, Held(pool()))

    def update(state: PoolState, places: Array, key: Array) -> tuple[PoolState, StepOutput]:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, places)
        batch = jax.vmap(row, (None, 0))(state.pool.arrays, keys)
        learner, out = core.update(LearnerState(state.params, state.opt_state), batch, key)
        return PoolState(learner.params, learner.opt_state, state.pool), StepOutput(out.metrics)

    return Core(init, update)


def one_sample(pool: Answers, key: Array) -> tuple[Array, Array]:
    """Numbers of a question and of a sample of it."""
    questions, samples = pool.correct.shape
    number = jax.random.randint(key, (), 0, questions * samples)
    return number // samples, number % samples
