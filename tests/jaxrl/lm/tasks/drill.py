"""What every task is put through, beside a verifier that reads text with regular expressions.

A verifier in Python is `(prompt, response) -> (correct, answer_id, step_ok)` on strings.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.lm.tasks import symbols
from jaxrl.lm.tasks.task import Task

N, ROOM = 60, 6  # problems, and slots more than a solution has
KEY = jax.random.key(7)


class Texts(NamedTuple):
    prompts: list[str]
    solutions: list[str]
    corrupted: list[str]
    places: np.ndarray
    problems: object
    slots: int


def texts(task: Task, seed: int = 0) -> Texts:
    @jax.jit
    def make(key):
        problems = task.sample(key, N)
        keys = jax.random.split(jax.random.fold_in(key, 1), N)
        wrong, place = jax.vmap(task.corrupt)(keys, problems)
        return (
            problems,
            jax.vmap(task.encode)(problems),
            jax.vmap(task.solve)(problems),
            wrong,
            place,
        )

    problems, *made = make(jax.random.key(seed))
    prompts, solutions, wrong, places = jax.tree.map(np.asarray, made)
    characters = lambda x: [symbols.text(t, v) for t, v in zip(*x, strict=True)]
    slots = solutions.tokens.shape[1] + ROOM
    made = map(characters, (prompts, solutions, wrong))
    return Texts(*made, np.asarray(places), problems, slots)


def slotted(responses: list[str], slots: int, rng: np.random.Generator):
    """Tokens at random places of their rows, so that gaps are everywhere."""
    tokens = rng.integers(0, len(symbols.ALPHABET), (len(responses), slots))
    valid = np.zeros((len(responses), slots), bool)
    for row, response in enumerate(responses):
        places = np.sort(rng.choice(slots, len(response), replace=False))
        tokens[row, places], valid[row, places] = symbols.ids(response), True
    return jnp.array(tokens), jnp.array(valid)


def damaged(response: str, rng: np.random.Generator, slots: int) -> str:
    """One to three symbols changed, lost, added or doubled; or nonsense."""
    if rng.random() < 0.1:
        return "".join(rng.choice(list(symbols.ALPHABET), rng.integers(0, slots)))
    text = list(response)
    near = sorted(set(response)) + list(";#$")
    for _ in range(rng.integers(1, 4)):
        at, kind = rng.integers(len(text)) if text else 0, rng.integers(4)
        if kind == 0 and text:
            text[at] = rng.choice(near)
        elif kind == 1 and text:
            del text[at]
        elif kind == 2:
            text.insert(at, rng.choice(near))
        elif text:
            text.insert(at, text[at])
    return "".join(text)[:slots]


def check(
    task: Task, verify: Callable, repeats: int = 5, more: Callable[[str], str] | None = None
) -> None:
    """Solutions are right, corruptions are wrong where they say, and both verifiers agree on all.

    Every problem has its solution, a corruption, the solution of another problem, a damaged
    corruption, and damaged solutions; and what `more` makes of its prompt. Raises AssertionError.
    """
    made, rng = texts(task), np.random.default_rng(0)
    judge = jax.jit(jax.vmap(task.verify))
    kinds = {
        "solution": made.solutions,
        "corrupted": made.corrupted,
        "of another problem": made.solutions[1:] + made.solutions[:1],
        "a step short": [";".join([*x.split(";")[:-2], x.split(";")[-1]]) for x in made.solutions],
        "damaged corruption": [damaged(x, rng, made.slots) for x in made.corrupted],
        **{
            f"damaged {i}": [damaged(x, rng, made.slots) for x in made.solutions]
            for i in range(repeats)
        },
    }
    if more:
        kinds["more"] = list(map(more, made.prompts))
    right = 0
    for kind, responses in kinds.items():
        verdict = judge(made.problems, *slotted(responses, made.slots, rng))
        verdict = jax.tree.map(np.asarray, verdict)
        assert verdict.step_ok.shape == (N, task.num_steps) and verdict.correct.shape == (N,)
        for i, (prompt, response) in enumerate(zip(made.prompts, responses, strict=True)):
            correct, answer, step_ok = verify(prompt, response)
            found = (
                bool(verdict.correct[i]),
                int(verdict.answer_id[i]),
                verdict.step_ok[i].tolist(),
            )
            expected = (bool(correct), answer, [bool(x) for x in step_ok])
            assert found == expected, (kind, prompt, response, found, expected)
            wrong = [k for k, ok in enumerate(step_ok) if not ok]
            assert int(verdict.first_error[i]) == (wrong[0] if wrong else -1)
        if kind == "solution":
            assert verdict.correct.all() and (verdict.first_error == -1).all()
        elif kind == "corrupted":
            assert (verdict.first_error == made.places).all()
            assert len(set(made.places)) > 1 or task.num_steps == 1
        elif kind.startswith("damaged"):
            right += int(verdict.correct.sum())
    assert 0 < right < N * (repeats + 1)


def cut(response: str, num_steps: int, width: int) -> tuple[list[str], str]:
    """The lines of steps and the last line, None where there is none."""
    ended = "$" in response
    lines = response.split("$")[0].split(";")
    if not ended:
        lines = lines[:-1]
    steps = [line if len(line) <= width else "too long" for line in lines[: num_steps + ended]]
    last = steps[-1] if ended and len(lines) <= num_steps + 1 else None
    given = len(lines) - ended
    return [*steps, *[""] * num_steps][: min(given, num_steps)], last, given


def steps_right(line_ok: list[bool], given: int, needed: int, num_steps: int) -> list[bool]:
    """What a missing and a superfluous step are."""
    return [(line_ok[k] and k < needed) if k < given else k >= needed for k in range(num_steps)]
