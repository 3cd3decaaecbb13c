"""Confidence against critique: what a request to reconsider does to right and to wrong answers.

Confidence (CL) is the share of right first answers that stay right, critique (CS) that of wrong
ones that become right. Confidence-and-critique tuning (CCT) trains on second attempts only: after a
right first one it is to be kept, after a wrong one to be put right.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from experiments.lm import abilities, answers
from experiments.lm.abilities import NAMES, Exam
from experiments.lm.answers import Answers, Start
from experiments.lm.by_setting import settings_of
from experiments.lm.conversations import RECONSIDER, Recipe, text_of
from experiments.lm.judge_report import Numbers, draw_plane, of_revision, show
from jaxrl.lm.learners import Examples, finetune
from jaxrl.lm.tasks.symbols import joined, only_if, written
from jaxtrain.core import Core
from jaxtrain.host import cli, schedules
from jaxtrain.host.experiment import Finished, Results, Training
from jaxtrain.host.sweep import trials
from jaxtrain.optimizers import adam
from jaxtrain.parallel import AxisName


def row(recipe: Recipe, kept: Any, plain: Any, pool: Answers, key: Array) -> Examples:
    """A question, a first attempt of the model's own, a request and the right attempt.

    Args:
      recipe: of the conversations.
      kept: chance that the first attempt is right already.
      plain: chance that there is neither a first attempt nor a request.
      pool: to draw from.
      key: of the row.
    """
    which, coins = jax.random.split(key)
    coin = jax.random.uniform(coins, (2,))
    is_plain, wants_right = coin[0] < plain, coin[1] < kept
    fits = (is_plain | (pool.correct == wants_right)).reshape(-1)
    number = jax.random.categorical(which, jnp.where(fits, 0.0, -jnp.inf))
    question, sample = number // pool.correct.shape[1], number % pool.correct.shape[1]
    asked = jax.tree.map(lambda x: x[question], pool.question)
    before = joined(
        jax.tree.map(lambda x: x[question], pool.prompt),
        only_if(~is_plain, jax.tree.map(lambda x: x[question, sample], pool.attempt)),
        only_if(~is_plain, written(RECONSIDER)),
    )
    text = joined(before, text_of(recipe, asked, answers.solved(recipe, asked)))
    mask = text.valid & (jnp.arange(len(text.tokens)) >= len(before.tokens))
    return Examples(text.tokens, text.valid, mask, jnp.ones(()))


def build_core(config: ConfigDict, start: Start, axis_name: AxisName | None = None) -> Core:
    """The learner; numbers of the config may be traced."""
    optimizer = adam(schedules.from_config(config), max_norm=config.optimizer.max_grad_norm)
    core = finetune(start.model, optimizer, axis_name=axis_name)
    size, key = (config.pool.questions, config.pool.samples), jax.random.key(config.pool.seed)
    pool = lambda: answers.drawn(start, start.params(), key, *size)
    of_pool = functools.partial(row, start.recipe, config.kept, config.plain)
    return answers.from_pool(core, start.params, pool, of_pool)


def measured(exams: list[Exam]) -> Numbers:
    """Numbers of one exam per seed, which all hold the same questions."""
    first = np.stack([exam.first for exam in exams])
    found: Numbers = {}
    for i, name in enumerate(NAMES.values()):
        found |= of_revision(name, first, np.stack([exam.second[..., i] for exam in exams]))
    return found | of_revision("copied", first, first)


def training(config: ConfigDict, setup: cli.Setup) -> Training:
    """Trains on second attempts, and asks for them in three ways before and after."""
    start = answers.begun_with(config.base)
    size = config.evaluation.num_questions, config.evaluation.num_samples
    ask = lambda params, key: abilities.examine(start.model, start.recipe, params, key, *size)
    examine = jax.jit(ask)

    def evaluate(run: Finished) -> Results:
        states = trials(run.state, setup.sweep)
        exams = [jax.device_get(examine(state.params, run.key)) for state in states]
        before = jax.device_get(examine(start.params(), run.key))
        found = {"base": measured([before])} | {
            setting: measured([exams[t] for t in members])
            for setting, members in settings_of(setup.sweep, "trained").items()
        }
        if jax.process_index() == 0:
            draw_plane(found, list(NAMES.values()), run.workdir / "plots" / "plane.png")
        return {s: {k: v._asdict() for k, v in n.items()} for s, n in found.items()}

    return Training(
        core=lambda config, axis_name: build_core(config, start, axis_name),
        show=("loss",),
        evaluate=evaluate,
        report=show,
    )
