"""A pool of questions with attempts that nobody has to sample and a small model, for tests of
judges."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lm import conversations
from experiments.lm.answers import Answers
from jaxrl.lm.tasks import symbols
from jaxtrain.lm.decoder import Config, decoder

MODEL = decoder(Config(len(symbols.ALPHABET), 8, 1, 1, 1, 8, 8))
RECIPE = conversations.Recipe(
    modulus=10,
    depths=(1, 2),
    error_rates=(0.5,),
    kept=(0.9, 0.9, 0.9),
    fixed=(0.5, 0.5, 0.5),
    requests=(0.6, 0.2, 0.2),
    attempts=2,
    cut=0.4,
    filler=0.1,
    judged=0.3,
    voted=0.15,
    told=3,
)
QUESTIONS, SAMPLES = 8, 4


@functools.cache
def pool():
    """Attempts whose lines are wrong half of the time."""

    @jax.jit
    def made():
        keys = jax.random.split(jax.random.key(0), QUESTIONS)
        questions = jax.vmap(functools.partial(conversations.ask, RECIPE))(keys)
        uniform = jax.random.uniform(jax.random.key(1), (QUESTIONS, SAMPLES, 2))

        def attempt(question, uniform):
            lines = conversations.thought(
                RECIPE, question, conversations.nothing(RECIPE), 0, uniform
            )
            return conversations.text_of(RECIPE, question, lines), lines.result[-1]

        attempts, answers = jax.vmap(jax.vmap(attempt, (None, 0)))(questions, uniform)
        prompts = jax.vmap(functools.partial(conversations.prompt, RECIPE))(questions)
        right = answers == questions.answer[:, None]
        return Answers(questions, prompts, attempts, answers, right)

    found = jax.tree.map(jnp.asarray, made())
    assert 0 < np.asarray(found.correct).mean() < 1
    return found


def prompts():
    of = pool().prompt
    return [symbols.text(*row) for row in zip(of.tokens, of.valid, strict=True)]


@functools.cache
def weights():
    return jax.jit(MODEL.init)(jax.random.key(0))


def read(texts):
    """What the model makes of texts that begin in the first slot, at their last symbol, `[N, D]`,
    and its logits there."""
    length = np.array([len(text) for text in texts])
    tokens = np.zeros((len(texts), length.max()), np.int32)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = symbols.ids(text)
    valid = np.arange(tokens.shape[1]) < length[:, None]

    @jax.jit
    def states(params, tokens, valid):
        hidden, _ = MODEL.forward(params, tokens, valid)
        return hidden, MODEL.logits(params, hidden)

    last = np.arange(len(texts)), length - 1
    return [np.asarray(x)[last] for x in states(weights(), tokens, valid)]


def truth(prompt):
    """What a question comes to, worked off from left to right."""
    value = int(prompt[0])
    for op, operand in zip(prompt[1:-1:2], prompt[2::2], strict=True):
        value = {"+": value + int(operand), "-": value - int(operand), "*": value * int(operand)}[
            op
        ]
        value %= 10
    return value
