"""P(True): does a model know of a proposed answer whether it is right?

It is asked to judge attempts in full, bare answers, and bare answers after others of its own have
been told ("brainstorming"). The base model has seen judgements of planted attempts; here it learns
from judgements of its own.
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
from experiments.lm.conversations import FALSE, TRUE, VERDICT, Recipe, answer_text
from experiments.lm.judge_report import (
    Numbers,
    difference,
    draw_reliability,
    of_confidence,
    show,
)
from jaxrl.lm.learners import Examples, finetune
from jaxrl.lm.tasks import symbols
from jaxrl.lm.tasks.symbols import Symbols, joined, only_if, written
from jaxtrain.core import Core
from jaxtrain.host import cli, schedules
from jaxtrain.host.experiment import Finished, Results, Training
from jaxtrain.host.sweep import trials
from jaxtrain.optimizers import adam
from jaxtrain.parallel import AxisName
from jaxtta.self_evaluation.token_judges import p_true

OWN, ACROSS = (0, 1), (2, 2)  # operators
FORMS = ("attempt", "answer", "told")
STRANGE = "told_of_others"  # control: answers to another question are told


def request(
    recipe: Recipe, prompt: Symbols, attempt: Symbols, answer: Array, others: Array, form: Array
) -> Symbols:
    """A question, what is to be judged of it, and the request for a verdict.

    Args:
      recipe: of the conversations.
      prompt: fields `[P]`.
      attempt: in full, fields `[R]`.
      answer: of it, `[]`.
      others: answers to tell, `[N]`.
      form: number of `FORMS`, `[]`.
    """
    listed = [joined(symbols.number(x, recipe.digits), written(",")) for x in others]
    told = joined(written("<"), *listed, written(">"))
    return joined(
        prompt,
        only_if(form == 2, told),
        only_if(form == 0, attempt),
        only_if(form > 0, answer_text(recipe, answer)),
        written(VERDICT),
    )


def row(recipe: Recipe, shuffled: Any, pool: Answers, key: Array) -> Examples:
    """A judgement in one of three forms; only the verdict carries a loss.

    Args:
      recipe: of the conversations.
      shuffled: chance of the verdict on another row.
      pool: to draw from.
      key: of the row.
    """
    which, other, coin, kind, others = jax.random.split(key, 5)
    question, sample = answers.one_sample(pool, which)
    samples = pool.answer.shape[1]
    told = 1 + jax.random.permutation(others, samples - 1)[: recipe.told]
    told = (sample + told) % samples  # others than the one that is judged
    asked = request(
        recipe,
        jax.tree.map(lambda x: x[question], pool.prompt),
        jax.tree.map(lambda x: x[question, sample], pool.attempt),
        pool.answer[question, sample],
        pool.answer[question, told],
        jax.random.randint(kind, (), 0, len(FORMS)),
    )
    swap = jax.random.uniform(coin) < shuffled
    right = jnp.where(
        swap, pool.correct[answers.one_sample(pool, other)], pool.correct[question, sample]
    )
    verdict = symbols.symbol(jnp.where(right, *symbols.ids(TRUE + FALSE)))
    text = joined(asked, verdict)
    mask = jnp.arange(len(text.tokens)) == len(asked.tokens)
    return Examples(text.tokens, text.valid, mask, jnp.ones(()))


def build_core(config: ConfigDict, start: Start, axis_name: AxisName | None = None) -> Core:
    """The learner; numbers of the config may be traced."""
    optimizer = adam(schedules.from_config(config), max_norm=config.optimizer.max_grad_norm)
    core = finetune(start.model, optimizer, axis_name=axis_name)
    size, key = (config.pool.questions, config.pool.samples), jax.random.key(config.pool.seed)
    pool = lambda: answers.drawn(start, start.params(), key, *size, OWN)
    return answers.from_pool(
        core, start.params, pool, functools.partial(row, start.recipe, config.shuffled)
    )


def verdicts(start: Start, params: Any, of: Answers, others: Array, form: Array) -> Array:
    """P(True) of every sample in one form, `[Q, G]`.

    Args:
      start: network and recipe.
      params: of the network.
      of: what is judged.
      others: what is told, `[Q, G, N]`.
      form: number of `FORMS`, `[]`.
    """
    questions, samples = of.answer.shape
    ask = functools.partial(request, start.recipe)
    every = jax.vmap(jax.vmap(ask, (None, 0, 0, 0, None)), (0, 0, 0, 0, None))
    text = every(of.prompt, of.attempt, of.answer, others, form)
    text = jax.tree.map(lambda x: x.reshape(questions * samples, -1), text)
    hidden, _ = start.model.forward(params, text.tokens, text.valid)
    logits = start.model.logits(params, hidden[:, -1])
    options = symbols.ids(TRUE + FALSE)
    return p_true(logits, options[:1], options[1:]).reshape(questions, samples)


def training(config: ConfigDict, setup: cli.Setup) -> Training:
    """Trains the model to judge itself, and has it judge answers to other questions."""
    start = answers.begun_with(config.base)
    size = config.evaluation.num_questions, config.evaluation.num_samples
    told = start.recipe.told
    if (fewest := min(config.pool.samples, size[1])) <= told:
        raise cli.UsageError(
            f"pool.samples and evaluation.num_samples are {fewest} at least, but {told} other "
            f"answers are told beside each; take {told + 1} or more"
        )

    @jax.jit
    def examined(params: Any, key: Array, operators: Array) -> Answers:
        return answers.drawn(start, params, key, *size, operators)

    @jax.jit
    def judged(params: Any, of: Answers, others: Array, form: Array) -> Array:
        return verdicts(start, params, of, others, form)

    def every_form(params: Any, of: Answers) -> dict[str, np.ndarray]:
        """After a sample the samples behind it are told, in a circle."""
        turn = np.arange(size[1])[:, None] + 1 + np.arange(told)
        others = np.asarray(of.answer)[:, turn % size[1]]
        asked = {form: (others, number) for number, form in enumerate(FORMS)}
        asked[STRANGE] = np.roll(others, 1, axis=0), FORMS.index("told")
        return {form: np.asarray(judged(params, of, *x)) for form, x in asked.items()}

    def evaluate(run: Finished) -> Results:
        params, keys = start.params(), jax.random.split(run.key)
        domains = {
            "own": examined(params, keys[0], jnp.asarray(OWN)),
            "across": examined(params, keys[1], jnp.asarray(ACROSS)),
        }
        said_by = lambda params: {name: every_form(params, x) for name, x in domains.items()}
        every = [said_by(state.params) for state in trials(run.state, setup.sweep)]
        before = said_by(params)
        found: dict[str, Numbers] = {}
        tables = {}
        groups = {"base": [before]} | {
            setting: [every[t] for t in members]
            for setting, members in settings_of(setup.sweep, "trained").items()
        }
        for setting, members in groups.items():
            numbers: Numbers = {}
            for name, of in domains.items():
                right = np.asarray(of.correct)
                said = {
                    form: np.stack([x[name][form] for x in members]) for form in (*FORMS, STRANGE)
                }
                right = np.broadcast_to(right, said["answer"].shape)
                for form, confidence in said.items():
                    numbers |= of_confidence(f"{name}_{form}", confidence, right)
                for form in ("told", STRANGE):
                    gain = difference(said[form], said["answer"], right)
                    numbers[f"{name}_auroc_gain_{form}"] = gain
                tables[setting, name] = said["told"], right
            found[setting] = numbers
        if jax.process_index() == 0:
            draw_reliability(tables, run.workdir / "plots" / "reliability.png", "P(True)")
        return {s: {k: v._asdict() for k, v in n.items()} for s, n in found.items()}

    return Training(
        core=lambda config, axis_name: build_core(config, start, axis_name),
        show=("loss",),
        evaluate=evaluate,
        report=show,
    )
