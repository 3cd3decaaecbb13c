"""A task whose programs are small: a digit asks for as many tokens, `3?`."""

import jax
import jax.numpy as jnp

from jaxrl.lm.tasks import symbols
from jaxrl.lm.tasks.task import Task, each, judged


def encode(problem):
    return symbols.joined(symbols.number(problem, 1), symbols.written("?"))


def solve(problem):
    return symbols.written("aaa$")


def verify(problem, tokens, valid):
    """The answer is how many tokens there are."""
    number = valid.sum()
    no_steps = jnp.zeros(1, bool)
    return judged(no_steps, jnp.int32(0), 0, number, number > 0, problem)


LETTERS = Task(
    1,
    each(lambda key: jax.random.randint(key, (), 0, 10)),
    encode,
    solve,
    lambda key, problem: (solve(problem), jnp.int32(0)),
    verify,
)
