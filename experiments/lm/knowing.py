"""P(IK): does a model know, before it answers, whether it will be right?

A head on the last token of the question learns how often the base model's samples are right. In its
own domain it has learned sums and differences; across are products. Hints are the first lines of
the right attempt behind the question, or wrong ones; half of what it learns from has some.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from experiments.lm import answers
from experiments.lm.answers import Answers, Start
from experiments.lm.by_setting import settings_of
from experiments.lm.judge_report import (
    Numbers,
    draw_hints,
    draw_reliability,
    of_confidence,
    show,
)
from jaxrl.lm.learners import Labelled, judge
from jaxrl.lm.tasks.symbols import Symbols
from jaxrl.lm.tasks.task import below
from jaxtrain.core import Core
from jaxtrain.host import cli, schedules
from jaxtrain.host.bootstrap import resampled
from jaxtrain.host.experiment import Finished, Results, Training
from jaxtrain.host.sweep import trials
from jaxtrain.optimizers import adam
from jaxtrain.parallel import AxisName
from jaxtta.self_evaluation.token_judges import p_ik

OWN, ACROSS = (0, 1), (2, 2)  # operators


def row(shuffled: Any, pool: Answers, key: Array) -> Labelled:
    """A question, perhaps with a hint, judged after its last token.

    Args:
      shuffled: chance of the label of another row.
      pool: to draw from.
      key: of the row.
    """
    which, coin = jax.random.split(key)
    question, stranger = jax.random.randint(which, (2,), 0, len(pool.correct))
    text = jax.tree.map(lambda x: x[question], pool.prompt)
    slot = jnp.arange(len(text.tokens))
    mask = slot == jnp.where(text.valid, slot, -1).max()
    swap = jax.random.uniform(coin) < shuffled
    label = pool.correct[jnp.where(swap, stranger, question)].mean()
    return Labelled(text.tokens, text.valid, mask, jnp.where(mask, label, 0))


def hinted(
    start: Start, params: Any, key: Array, num_questions: int, num_samples: int, most: int
) -> Answers:
    """Answers to questions of its own domain; half of them come with right or wrong lines."""
    ask_key, hint_key, sample_key = jax.random.split(key, 3)
    ask = functools.partial(answers.ask, start.recipe, OWN)
    questions = jax.vmap(ask)(jax.random.split(ask_key, num_questions))
    share = jax.random.uniform(hint_key, (3, num_questions))
    number = jnp.where(share[0] < 0.5, 0, 1 + below(share[1], most))
    tell = lambda question, n, wrong: answers.hint(start.recipe, question, most, n, wrong)
    lines = jax.vmap(tell)(questions, number, share[2] < 0.5)
    return answers.answered(start, params, questions, sample_key, num_samples, lines)


def build_core(config: ConfigDict, start: Start, axis_name: AxisName | None = None) -> Core:
    """The learner; numbers of the config may be traced."""
    optimizer = adam(schedules.from_config(config), max_norm=config.optimizer.max_grad_norm)
    core = judge(start.model, optimizer, axis_name=axis_name)
    size, key = (config.pool.questions, config.pool.samples), jax.random.key(config.pool.seed)
    pool = lambda: hinted(start, start.params(), key, *size, config.hints)
    return answers.from_pool(core, start.params, pool, functools.partial(row, config.shuffled))


def known(start: Start, params: Any, text: Symbols) -> Array:
    """P(IK) after the last token of every text `[Q, S]`, `[Q]`."""
    model_params, head = params
    hidden, _ = start.model.forward(model_params, text.tokens, text.valid)
    slot = jnp.arange(text.valid.shape[1])[None]
    last = jnp.where(text.valid, slot, -1).argmax(axis=1)[:, None, None]
    return p_ik(head, jnp.take_along_axis(hidden, last, axis=1)[:, 0].astype(jnp.float32))


def training(config: ConfigDict, setup: cli.Setup) -> Training:
    """Trains the head with the model, asks it of other questions, and gives it hints."""
    start = answers.begun_with(config.base)
    size = config.evaluation.num_questions, config.evaluation.num_samples
    recipe, number = start.recipe, config.hints
    if not (deep := tuple(depth for depth in recipe.depths if depth > number)):
        raise cli.UsageError(
            f"hints={number} lines leave nothing of {max(recipe.depths)} steps to be answered"
        )
    long = recipe._replace(depths=deep)
    hints = [(0, False)] + [(n, w) for w in (False, True) for n in range(1, number + 1)]

    @jax.jit
    def examined(params: Any, key: Array, operators: Array) -> Answers:
        return answers.drawn(start, params, key, *size, operators)

    @jax.jit
    def helped(params: Any, key: Array) -> Answers:
        """Long questions, each with every hint."""
        ask_key, sample_key = jax.random.split(key)
        ask = functools.partial(answers.ask, long, OWN)
        asked = jax.vmap(ask)(jax.random.split(ask_key, size[0]))
        asked = jax.tree.map(lambda x: jnp.tile(x, (len(hints), *[1] * (x.ndim - 1))), asked)
        told = jnp.repeat(jnp.asarray([n for n, _ in hints]), size[0])
        wrong = jnp.repeat(jnp.asarray([w for _, w in hints]), size[0])
        tell = lambda question, n, w: answers.hint(recipe, question, number, n, w)
        lines = jax.vmap(tell)(asked, told, wrong)
        return answers.answered(start, params, asked, sample_key, size[1], lines)

    judged = jax.jit(functools.partial(known, start))

    def evaluate(run: Finished) -> Results:
        params, keys = start.params(), jax.random.split(run.key, 3)
        domains = {
            "own": examined(params, keys[0], jnp.asarray(OWN)),
            "across": examined(params, keys[1], jnp.asarray(ACROSS)),
            "hints": helped(params, keys[2]),
        }
        every = [
            {name: np.asarray(judged(state.params, x.prompt)) for name, x in domains.items()}
            for state in trials(run.state, setup.sweep)
        ]
        correct = {name: np.asarray(x.correct) for name, x in domains.items()}
        actual = correct.pop("hints").mean(-1).reshape(len(hints), -1)
        found: dict[str, Numbers] = {}
        tables = {}
        for setting, members in settings_of(setup.sweep, "trained").items():
            numbers: Numbers = {}
            for name, right in correct.items():
                said = np.stack([every[t][name] for t in members])
                said = np.broadcast_to(said[..., None], (len(members), *right.shape))
                numbers |= of_confidence(name, said, right)
                tables[setting, name] = said, np.broadcast_to(right, said.shape)
            by_hint = [every[t]["hints"].reshape(len(hints), -1) for t in members]
            known_after = np.stack(by_hint, axis=1)  # [hints, seeds, Q]
            for (n, wrong), said in zip(hints, known_after, strict=True):
                kind = "wrong" if wrong else "right"
                numbers[f"known_after_{n}_{kind}_lines"] = resampled(said)
            for n in range(1, number + 1):
                rise = known_after[n] - known_after[n - 1]
                fall = known_after[number + n] - known_after[0]
                numbers[f"rise_by_right_line_{n}"] = resampled(rise)
                numbers[f"against_none_{n}_wrong_lines"] = resampled(fall)
            found[setting] = numbers
        for (n, wrong), right in zip(hints, actual, strict=True):
            kind = "wrong" if wrong else "right"
            for numbers in found.values():
                numbers[f"right_after_{n}_{kind}_lines"] = resampled(right[None])
        if jax.process_index() == 0:
            plots = run.workdir / "plots"
            draw_reliability(tables, plots / "reliability.png", "P(IK)")
            draw_hints(found, number, plots / "hints.png")
        return {s: {k: v._asdict() for k, v in n.items()} for s, n in found.items()}

    return Training(
        core=lambda config, axis_name: build_core(config, start, axis_name),
        show=("loss", "accuracy"),
        evaluate=evaluate,
        report=show,
    )
