"""Iterative-deepening sampling on questions of chained arithmetic, against plain samples and votes.

Every rule answers the same questions with the same seeds. A rule is the budgets after which a
request to reconsider is inserted, `jaxtta.search.budget`, and what is inserted.
"""

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.lm import conversations
from experiments.lm.bases import Base
from experiments.lm.conversations import FILLER, RECONSIDER
from jaxrl.lm.tasks import symbols
from jaxtrain.host import report
from jaxtrain.host.bootstrap import resampled
from jaxtrain.host.proportions import Interval, percent
from jaxtrain.lm.sampling import continue_until, start
from jaxtta.search.budget import geometric_budgets, iterative_deepening
from jaxtta.search.selection import majority, subset_curve

VANILLA, ONCE = "plain samples", "once, at the end"


class Rule(NamedTuple):
    """When to reconsider.

    Attributes:
      budgets: of tokens; () for a plain sample.
      trigger: what is inserted.
      factor: by which the budgets grow; 0 if they do not.
    """

    budgets: tuple[int, ...] = ()
    trigger: str = ""
    factor: float = 0.0


class Samples(NamedTuple):
    """What a rule made of S seeds, Q questions and N samples.

    Attributes:
      answer: `[S, Q, N]`, int; -1 for none.
      tokens: sampled and inserted ones, `[S, Q, N]`.
      sampled: without those that were inserted, `[S, Q, N]`.
      triggers: how many, `[S, Q, N]`.
    """

    answer: Any
    tokens: Any
    sampled: Any
    triggers: Any


def rules(cap: int, first: int, factors: tuple[float, ...]) -> dict[str, Rule]:
    """Name -> rule: none, one at the end, constant intervals, growing budgets, and the control."""
    constant = lambda every: Rule((*range(every, cap, every), cap), RECONSIDER)
    growing = {
        f"budgets x {factor:g}": Rule(
            tuple(geometric_budgets(cap, factor, first)), RECONSIDER, factor
        )
        for factor in factors
    }
    main = next(iter(growing.values()))
    return {
        VANILLA: Rule(),
        ONCE: Rule((cap,), RECONSIDER),
        **{f"every {every} tokens": constant(every) for every in (first, 2 * first)},
        **growing,
        f"filler, x {main.factor:g}": main._replace(trigger=FILLER),
    }


def sample(
    base: Base, depths: tuple[int, ...], rule: Rule, key: Array, size: tuple[int, int, int]
) -> tuple[Samples, Array, Array]:
    """Answers questions by one rule; for `jax.jit`.

    Args:
      base: a model and the conversations that it knows.
      depths: steps of the questions, each as often.
      rule: when to reconsider.
      key: of the questions and of the seeds.
      size: S seeds, Q questions, N samples.

    Returns:
      The samples, the right answers `[Q]` and the steps of the questions `[Q]`.
    """
    seeds, num_questions, num_samples = size
    recipe = base.recipe._replace(depths=depths)
    of_recipe = lambda function: jax.vmap(functools.partial(function, recipe))
    ask_key, row_key = jax.random.split(key)
    questions = of_recipe(conversations.ask)(jax.random.split(ask_key, num_questions))
    prompts = of_recipe(conversations.prompt)(questions)
    by_seed = jax.vmap(functools.partial(jax.random.fold_in, row_key))(jnp.arange(seeds))
    keys = jax.vmap(lambda key: jax.random.split(key, num_questions * num_samples))(by_seed)
    spread = lambda x: jnp.tile(jnp.repeat(x, num_samples, axis=0), (seeds, 1))
    tokens, valid = map(spread, prompts)
    end = jnp.arange(base.model.config.vocabulary) == symbols.END
    cap = rule.budgets[-1] if rule.budgets else recipe.room
    room = 2 * cap + len(rule.budgets) * len(rule.trigger) if rule.budgets else cap
    decoding = start(base.model, base.params, tokens, valid, keys.reshape(-1), room)
    if rule.budgets:
        trigger = jnp.asarray(symbols.ids(rule.trigger))
        made = iterative_deepening(base.model, base.params, decoding, trigger, rule.budgets, end)
        decoding, triggers, sampled = made
    else:
        decoding = continue_until(base.model, base.params, decoding, cap, end, end=end)
        sampled = decoding.generated.sum(1)
        triggers = jnp.zeros_like(sampled)
    behind = jnp.arange(decoding.valid.shape[1])[None] >= tokens.shape[1]
    answer = of_recipe(conversations.answered)(decoding.tokens, decoding.valid & behind)
    numbers = answer, sampled + len(rule.trigger) * triggers, sampled, triggers
    return (
        Samples(*(x.reshape(size) for x in numbers)),
        questions.answer,
        questions.depth,
    )


def most_triggers(rule: Rule, sampled: Any) -> Any:
    """1 + ceil(log_factor(sampled / first budget)), what geometric budgets allow, `[...]`, int."""
    levels = np.log(np.maximum(sampled, 1) / rule.budgets[0]) / math.log(rule.factor)
    return 1 + np.maximum(np.ceil(levels - 1e-6), 0).astype(int)


class Curve(NamedTuple):
    """Majority votes of a rule on some questions.

    Attributes:
      votes: how many samples vote, `[C]`.
      tokens: of all of them on average, `[C]`.
      right: share of right votes, `[C, S, Q]`.
    """

    votes: Any
    tokens: Any
    right: Any


def curve(found: Samples, truth: Any, asked: Any) -> Curve:
    """Votes of 1, 2, 4, ... of the samples.

    Args:
      found: the samples.
      truth: right answers, `[Q]`.
      asked: which questions count, `[Q]`, bool.
    """
    answer = found.answer[:, asked]
    seeds, num_questions, num_samples = answer.shape
    votes = [2**i for i in range(num_samples.bit_length()) if 2**i <= num_samples]
    flat = jnp.asarray(answer.reshape(-1, num_samples))
    correct = flat == jnp.tile(jnp.asarray(truth[asked]), seeds)[:, None]
    choose = functools.partial(majority, flat)
    share = subset_curve(jax.random.key(0), choose, correct, votes, 64)
    each = float(found.tokens[:, asked].mean())
    right = np.array(share).reshape(len(votes), seeds, num_questions)
    right[0] = np.asarray(correct).mean(-1).reshape(seeds, num_questions)  # of one, exactly
    return Curve(np.array(votes), each * np.array(votes), right)


def compared(
    found: Mapping[str, Samples], truth: Any, asked: Any
) -> tuple[dict[str, Curve], dict[str, dict[str, Any]]]:
    """All rules on some questions.

    Returns:
      The curves by rule, and numbers by rule: tokens, triggers, `accuracy` of one sample and what
      it has over the vote of plain samples that cost at least as many tokens.
    """
    curves = {name: curve(samples, truth, asked) for name, samples in found.items()}
    plain = curves[VANILLA]
    numbers = {}
    for name, one in curves.items():
        enough = plain.tokens >= one.tokens[0] - 1e-6
        votes = int(np.argmax(enough)) if enough.any() else len(enough) - 1
        numbers[name] = {
            "tokens": one.tokens[0],
            "triggers": float(found[name].triggers[:, asked].mean()),
            "accuracy": resampled(one.right[0]),
            "votes_of_plain_samples": int(plain.votes[votes]),
            "over_plain_samples": resampled(one.right[0] - plain.right[votes]),
        }
    return curves, numbers


def table(title: str, numbers: Mapping[str, Mapping[str, Any]]) -> str:
    """The numbers of `compared` as text, in percent."""
    rows = [[title, "tokens", "triggers", "right (%)", "over plain samples", "their votes"]]
    for name, x in numbers.items():
        over = "" if name == VANILLA else percent(x["over_plain_samples"])
        votes = "" if name == VANILLA else f"{x['votes_of_plain_samples']}"
        shown = [f"{x['tokens']:.1f}", f"{x['triggers']:.2f}", percent(x["accuracy"])]
        rows.append([name, *shown, over, votes])
    return report.grid(rows)


def draw(curves: Mapping[str, Mapping[str, Curve]], path: Path) -> None:
    """Share of right votes against the tokens they cost, a panel per length of the questions."""
    with report.figure_style():
        figure = report.new_figure(4.6 * len(curves) + 2, 3.8)
        panels = np.atleast_1d(figure.subplots(1, len(curves), sharey=True))
        for axes, (title, by_rule) in zip(panels, curves.items(), strict=True):
            for i, (name, one) in enumerate(by_rule.items()):
                ends = [resampled(share) for share in one.right]
                band = [100 * np.array(x) for x in zip(*ends, strict=True)]
                style: dict[str, Any] = dict(color=(*report.COLORS, "#999999")[i % 8])
                style |= dict(linestyle="--") if "filler" in name or name == VANILLA else {}
                report.draw_interval(axes, one.tokens, band, name, **style)
            axes.set_xscale("log", base=2)
            axes.set(xlabel="tokens per question", title=title)
        panels[0].set(ylabel="right by majority vote (%)", ylim=(0, 100))
        panels[-1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        report.save_figure(figure, path)


def differences(
    found: Mapping[str, Samples], truth: Any, asked: Any, factor: float, every: int
) -> dict[str, Interval]:
    """The claim and its control: share of right samples of one rule less that of another.

    Args:
      found: the samples, of the same questions and seeds.
      truth: right answers, `[Q]`.
      asked: which questions count, `[Q]`, bool.
      factor: of the rule with growing budgets, and of the filler.
      every: interval of the rule that it is compared with.
    """
    right = {
        name: (x.answer == truth[None, :, None])[:, asked].mean(-1) for name, x in found.items()
    }
    growing, constant = f"budgets x {factor:g}", f"every {every} tokens"
    pairs = {
        "growing over plain": (growing, VANILLA),
        "growing over constant": (growing, constant),
        "constant over plain": (constant, VANILLA),
        "control: filler over plain": (f"filler, x {factor:g}", VANILLA),
    }
    return {name: resampled(right[a] - right[b]) for name, (a, b) in pairs.items()}
