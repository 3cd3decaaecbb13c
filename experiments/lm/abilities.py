"""What a base model can do: how often it is right, what it makes of a request, how it judges."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.lm import conversations
from experiments.lm.conversations import INSTRUCTIONS, Recipe
from jaxrl.lm.tasks import symbols
from jaxtrain.host import report
from jaxtrain.host.bootstrap import resampled
from jaxtrain.host.proportions import Interval
from jaxtrain.lm.decoder import Decoder
from jaxtrain.lm.logits import Options
from jaxtrain.lm.sampling import Decoding, continue_until, force, fork, start
from jaxtta.self_evaluation.calibration import auroc
from jaxtta.self_evaluation.token_judges import p_true

NAMES = dict(zip(INSTRUCTIONS, ("neutral", "doubt", "trust"), strict=True))


class Exam(NamedTuple):
    """What a model answered to Q questions.

    Attributes:
      depth: steps of each question, `[Q]`.
      greedy: whether the most probable answer is right, `[Q]`.
      first: whether samples are, `[Q, G]`.
      second: whether the answers after each request are, `[Q, G, requests]`.
      judged: how probable the model calls its samples right, `[Q, G]`.
    """

    depth: Any
    greedy: Any
    first: Any
    second: Any
    judged: Any


def examine(
    model: Decoder, recipe: Recipe, params: Any, key: Array, num_questions: int, num_samples: int
) -> Exam:
    """Asks questions, and after every answer once more in all ways; for `jax.jit`.

    Args:
      model: a language model.
      recipe: of the conversations that it knows.
      params: its parameters.
      key: of questions and samples.
      num_questions: Q.
      num_samples: G, at temperature 1; the greedy answer comes besides.
    """
    ask_key, row_key = jax.random.split(key)
    ask = functools.partial(conversations.ask, recipe)
    questions = jax.vmap(ask)(jax.random.split(ask_key, num_questions))
    prompts = jax.vmap(functools.partial(conversations.prompt, recipe))(questions)
    each = num_samples + 1
    spread = lambda x: jnp.repeat(x, each, axis=0)
    rows, width = each * num_questions, prompts.tokens.shape[1]
    heat = jnp.tile(jnp.arange(each) > 0, num_questions).astype(jnp.float32)
    end = jnp.arange(model.config.vocabulary) == symbols.END

    def told(decoding: Decoding, token: Array) -> Decoding:
        block = jnp.broadcast_to(token, (len(decoding.done), 1))
        return force(model, params, decoding, block, jnp.ones_like(block))

    def right(decoding: Decoding, truth: Array) -> Array:
        response = decoding.valid & (jnp.arange(decoding.valid.shape[1])[None] >= width)
        read = functools.partial(conversations.answered, recipe)
        return jax.vmap(read)(decoding.tokens, response) == truth

    keys = jax.random.split(row_key, rows)
    given = jax.tree.map(spread, prompts)
    decoding = start(model, params, given.tokens, given.valid, keys, 2 * recipe.room + 1)
    decoding = continue_until(model, params, decoding, recipe.room, end, Options(heat))
    first = right(decoding, spread(questions.answer))
    asked = told(decoding, jnp.asarray(symbols.ids(conversations.VERDICT)))
    options = symbols.ids(conversations.TRUE + conversations.FALSE)
    judged = p_true(model.logits(params, asked.hidden), options[:1], options[1:])

    several = len(INSTRUCTIONS)
    again = fork(decoding, jnp.repeat(jnp.arange(rows), several))
    requests = jnp.tile(jnp.asarray(symbols.ids(INSTRUCTIONS)), rows)
    again = told(again, requests[:, None])
    hot = Options(jnp.repeat(heat, several))
    again = continue_until(model, params, again, recipe.room, end, hot)
    second = right(again, jnp.repeat(spread(questions.answer), several))
    by_question = lambda x: x.reshape(num_questions, each, *x.shape[1:])
    first, judged = by_question(first), by_question(judged)
    second = by_question(second.reshape(rows, several))
    return Exam(questions.depth, first[:, 0], first[:, 1:], second[:, 1:], judged[:, 1:])


def measured(exams: Sequence[Exam]) -> dict[str, Interval]:
    """Numbers of one exam per seed, which all hold the same questions, over seeds and questions."""
    exam = Exam(*(np.stack(x) for x in zip(*exams, strict=True)))
    samples = exam.first.shape[-1]
    found = {
        "accuracy": resampled(exam.first.mean(-1)),
        "accuracy_greedy": resampled(exam.greedy),
    }
    for depth in np.unique(exam.depth):
        asked = exam.depth == depth
        found[f"accuracy_{depth}_steps"] = resampled(exam.first.mean(-1) * asked, asked)
    first = exam.first.sum(-1)
    for i, name in enumerate(NAMES.values()):
        second = exam.second[..., i]
        kept, fixed = (second & exam.first).sum(-1), (second & ~exam.first).sum(-1)
        found[f"kept_{name}"] = resampled(kept, first)
        found[f"fixed_{name}"] = resampled(fixed, samples - first)
    one_kind = exam.first.all() or not exam.first.any()
    value = np.nan if one_kind else auroc(exam.judged.reshape(-1), exam.first.reshape(-1))
    return found | {"judgement_auroc": Interval(value, np.nan, np.nan)}


def shown(found: dict[str, Interval], digits: int = 3) -> str:
    """A table."""
    one = lambda x: f"{x.value:.{digits}f}"
    ends = lambda x: "" if np.isnan(x.low) else f"[{x.low:.{digits}f}, {x.high:.{digits}f}]"
    rows = [["", "value", "95 % interval over questions and seeds"]]
    return report.grid(rows + [[name, one(x), ends(x)] for name, x in found.items()])


def draw(found: dict[str, Interval], path: Path) -> None:
    """Accuracy by number of steps, and what the requests do to right and to wrong answers."""
    steps = {int(name.split("_")[1]): x for name, x in found.items() if name.endswith("_steps")}
    with report.figure_style():
        figure = report.new_figure(9.6, 3.6)
        left, right = figure.subplots(1, 2)
        ends: Callable[[list[Interval]], Any] = lambda xs: [
            [100 * (x.value - x.low) for x in xs],
            [100 * (x.high - x.value) for x in xs],
        ]
        values = list(steps.values())
        heights = [100 * x.value for x in values]
        left.errorbar(list(steps), heights, yerr=ends(values), marker="o", capsize=3)
        left.set(xlabel="steps of the question", ylabel="right at temperature 1 (%)", ylim=(0, 100))
        left.set_xticks(list(steps))
        for i, name in enumerate(NAMES.values()):
            kept, fixed = found[f"kept_{name}"], found[f"fixed_{name}"]
            right.errorbar(
                100 * kept.value,
                100 * fixed.value,
                xerr=ends([kept]),
                yerr=ends([fixed]),
                marker="o",
                capsize=3,
                linestyle="",
                color=report.COLORS[i],
                label=f"request: {name}",
            )
        right.set(xlabel="right answers kept (%)", ylabel="wrong answers put right (%)")
        right.legend()
        figure.tight_layout()
        report.save_figure(figure, path)
