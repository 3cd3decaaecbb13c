"""Sharpening: imitate the most probable of N own samples, or regress on their probabilities.

`table`: sequences are counted, so the chance of the best one, which best-of-N finds with chance
1 - (1 - p)^N, and the power of the base that regression comes to are exact. `decoder`: a language
model learns chained sums from traces with mistakes first. If mistakes are made here and there, the
most probable trace is right and sharpening helps; if one mistake is made more often than not, it
hurts.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from experiments.lm.by_setting import over_trials, settings_of, values_of
from experiments.lm.demonstrations import decoder_of, example, imitator
from experiments.lm.self_reward_report import draw_choices, draw_law, show
from jaxrl.lm.learners import Examples, Texts
from jaxrl.lm.samples import sampled
from jaxrl.lm.sharpening import Draw, LogProb, amortise, regress
from jaxrl.lm.tasks import tables
from jaxrl.lm.tasks.chained import chained
from jaxrl.lm.tasks.task import Task, Verdict
from jaxtrain.core import Core
from jaxtrain.host import cli, schedules
from jaxtrain.host.experiment import Finished, Results, Training
from jaxtrain.lm.decoder import score
from jaxtrain.lm.logits import Options
from jaxtrain.optimizers import adam
from jaxtrain.parallel import AxisName
from jaxtta.search.selection import best_at_k, majority, subset_curve

GREEDY = Options(temperature=0.0)


class Policy(NamedTuple):
    """What is sharpened.

    Attributes:
      base: `(config, key) -> params`; numbers of the config may be traced.
      draw: samples with their log-probabilities, as `jaxrl.lm.sharpening` wants them.
      log_prob: of responses.
      measure: `(state, config, key) -> name -> values [problems]` of one trial.
    """

    base: Callable[[ConfigDict, Array], Any]
    draw: Draw
    log_prob: LogProb
    measure: Callable[[Any, ConfigDict, Array], dict[str, Array]]


def of_table(options: ConfigDict) -> Policy:
    """Tables of the next of a few tokens, one policy for all prompts."""
    vocabulary, length, prompts = options.vocabulary, options.length, options.prompts
    scale, pool, objective = options.scale, options.pool, options.objective

    def base(config: ConfigDict, key: Array) -> tables.Policy:
        return tables.random_policy(key, vocabulary, length, scale, prompts)

    def of_numbers(params: tables.Policy, numbers: Array) -> Array:
        return jax.vmap(functools.partial(tables.log_prob_of, params))(numbers)

    def draw(params: tables.Policy, places: Array, key: Array) -> tuple[Array, Array]:
        def at(place: Array) -> Array:
            key_prompt, key_draws = jax.random.split(jax.random.fold_in(key, place))
            prompt = jax.random.randint(key_prompt, (), 0, prompts)
            one = lambda key: tables.draw(key, params, prompt)
            return jax.vmap(one)(jax.random.split(key_draws, pool))

        numbers = jax.vmap(at)(places)
        return numbers, jax.vmap(functools.partial(of_numbers, params))(numbers)

    def measure(state: Any, config: ConfigDict, key: Array) -> dict[str, Array]:
        every = lambda params: tables.log_probs(jax.tree.map(jax.nn.log_softmax, params))
        now, was = (every(x).reshape(prompts, -1) for x in (state.params, state.reference))
        if objective == "best":
            goal = jax.vmap(tables.best_of, (0, None))(was, config.sharpening.num_samples)
        else:
            goal = jnp.exp(jax.vmap(tables.power, (0, None))(was, 1 + 1 / config.sharpening.beta))
        at_best = lambda chances: jnp.take_along_axis(chances, was.argmax(1)[:, None], 1)[:, 0]
        return {
            "best": at_best(jnp.exp(now)),
            "best_by_law": at_best(goal),
            "best_before": at_best(jnp.exp(was)),
            "distance": jnp.abs(jnp.exp(now) - goal).sum(1) / 2,
            "distance_before": jnp.abs(jnp.exp(was) - goal).sum(1) / 2,
        }

    return Policy(base, draw, of_numbers, measure)


def demonstrated(options: ConfigDict, task: Task, key: Array) -> Examples:
    """A trace, wrong with the chance `mistakes`, and of these with `systematic` in one way only."""
    key_problem, key_wrong, key_same, key_which = jax.random.split(key, 4)
    problem = jax.tree.map(lambda x: x[0], task.sample(key_problem, 1))
    wrong = jax.random.bernoulli(key_wrong, options.mistakes)
    same = jax.random.bernoulli(key_same, options.systematic)
    mistake = jnp.where(same, jax.random.key(0), key_which)
    traces = task.corrupt(mistake, problem)[0], task.solve(problem)
    trace = jax.tree.map(functools.partial(jnp.where, wrong), *traces)
    return example(task.encode(problem), trace)


def of_decoder(options: ConfigDict, network: ConfigDict) -> Policy:
    """A language model whose base imitates traces of chained sums, some of them wrong."""
    model, task = decoder_of(network), chained(options.depth, options.modulus)
    pool, room = options.pool, options.room
    tested, number = options.test_problems, options.test_samples
    sizes = [2**i for i in range(number.bit_length())]

    def base(config: ConfigDict, key: Array) -> Any:
        demonstrate = functools.partial(demonstrated, config.base, task)
        return imitator(model, config.base, demonstrate)(key)

    def draw(params: Any, places: Array, key: Array) -> tuple[Texts, Array]:
        text = sampled(model, task, params, places, key, group_size=pool, room=room).text
        texts = Texts(text.tokens, text.valid, text.mask)
        in_groups = lambda x: x.reshape(len(places), pool, *x.shape[1:])
        return jax.tree.map(in_groups, texts), in_groups(text.logp.sum(-1))

    def log_prob(params: Any, texts: Texts) -> Array:
        return score(model, params, *texts).logp.sum(-1)

    def answer_of(problem: Any, verdict: Verdict, tokens: Array, valid: Array) -> Array:
        return verdict.answer_id

    def measure(state: Any, config: ConfigDict, key: Array) -> dict[str, Array]:
        write = functools.partial(sampled, model, task, room=room, reward=answer_of)
        test: Any = dict(places=jnp.arange(tested), key=key)
        one = lambda params: write(params, group_size=1, options=GREEDY, **test).correct[:, 0, 0]
        before, after = (
            write(params, group_size=number, **test) for params in (state.reference, state.params)
        )
        right, answers = before.correct[..., 0], before.reward[..., 0]
        own = before.text.logp.sum(-1).reshape(right.shape)
        drawing = jax.random.fold_in(key, 2**31 - 1)
        votes = subset_curve(drawing, lambda valid: majority(answers, valid), right, sizes, 20)
        found = {f"own_choice_of_{k}": best_at_k(own, right, k) for k in sizes}
        found |= {f"majority_of_{k}": votes[i] for i, k in enumerate(sizes)}
        found |= {"greedy_before": one(state.reference), "greedy": one(state.params)}
        found |= {"sample_before": right.mean(1), "sample": after.correct.mean((1, 2))}
        return jax.tree.map(lambda x: x.astype(jnp.float32), found)

    return Policy(base, draw, log_prob, measure)


def training(config: ConfigDict, setup: cli.Setup) -> Training:
    """Sharpens a base that each trial makes for itself."""
    options, axes = config.sharpening, setup.sweep
    of_tables = options.policy == "table"
    policy = of_table(options) if of_tables else of_decoder(options, config.model)
    best_of = options.objective == "best"
    number = options.num_samples if best_of else 0

    def build(config: ConfigDict, axis_name: AxisName | None) -> Core:
        step, optimizer = config.sharpening, adam(schedules.from_config(config))
        shared: Any = dict(optimizer=optimizer, axis_name=axis_name)
        if best_of:
            core = amortise(policy.draw, policy.log_prob, num_samples=step.num_samples, **shared)
        else:
            core = regress(policy.draw, policy.log_prob, beta=step.beta, **shared)
        return Core(lambda key: core.init(policy.base(config, key)), core.update)

    measure = over_trials(policy.measure, config, axes)

    def evaluate(run: Finished) -> Results:
        found = {name: np.asarray(x) for name, x in measure(run.state, run.key).items()}
        if jax.process_index() == 0:
            by_trial = {n: x if axes is not None else x[None] for n, x in found.items()}
            path = run.workdir / "plots" / "sharpening.png"
            show(by_trial, settings_of(axes))
            if not of_tables:
                draw_choices(by_trial, settings_of(axes), path)
            elif best_of:
                draw_law(by_trial, values_of(axes, "sharpening.num_samples", number), path)
        return {name: values.mean(-1) for name, values in found.items()}

    return Training(core=build, show=("loss", "own_log_prob"), evaluate=evaluate)
