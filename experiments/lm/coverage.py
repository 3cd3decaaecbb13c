"""Direct coverage optimisation: train for the chance that N samples hold the answer.

Learned from a few answers to each of few problems, of which not all are right. Cross-entropy, which
is N = 1, puts all mass on what it has seen: one sample is right more often, many samples less.

`table`: every problem has a law of answers, of which some are seen; a policy is a table, so that
chances of unseen answers are exact. `decoder`: a language model answers sums, and the chance that
it gives the right answer to sums it has not seen is exact as well, being one score.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from experiments.lm.by_setting import bootstrap, over_trials, settings_of, shown, table, values_of
from experiments.lm.demonstrations import decoder_of, example
from jaxrl.lm.learners import Examples, finetune
from jaxrl.lm.objectives import LARGEST_PROBABILITY, coverage_loss
from jaxrl.lm.tasks import symbols
from jaxrl.lm.tasks.chained import chained
from jaxtrain.core import Core, Model, StepOutput, supervised
from jaxtrain.host import cli, report, schedules
from jaxtrain.host.experiment import Finished, Results, Training
from jaxtrain.lm.decoder import score
from jaxtrain.optimizers import adam
from jaxtrain.parallel import AxisName


class Split(NamedTuple):
    """Data of one trial.

    Attributes:
      train: examples, every leaf `[examples, ...]`.
      test: what the test needs.
    """

    train: Any
    test: Any


class OwnData(NamedTuple):
    """State of a core that learns from data of its own."""

    state: Any
    data: Split


class Learner(NamedTuple):
    """A policy and what is to be learned.

    Attributes:
      core: `(config, axis_name) -> Core` with the state `OwnData`; numbers may be traced.
      answers: `OwnData -> (chances, weights)`, both `[problems, answers]`: of every answer under
        the policy, and of being asked for. Problems without any weight are not in the test.
    """

    core: Callable[[ConfigDict, AxisName | None], Core]
    answers: Callable[[OwnData], tuple[Array, Array]]


def on_own_data(
    core: Core, begin: Callable[[Array, Split], Any], draw: Callable[[Array], Split]
) -> Core:
    """Learns from a data set that its key draws; a place of the batch is a row, drawn each time."""

    def init(key: Array) -> OwnData:
        key_data, key_begin = jax.random.split(key)
        data = draw(key_data)
        return OwnData(begin(key_begin, data), data)

    def update(state: OwnData, places: Array, key: Array) -> tuple[OwnData, StepOutput]:
        size = len(jax.tree.leaves(state.data.train)[0])
        row = lambda place: jax.random.randint(jax.random.fold_in(key, place), (), 0, size)
        rows = jax.vmap(row)(places)
        batch = jax.tree.map(lambda x: x[rows], state.data.train)
        inner, out = core.update(state.state, batch, key)
        return state._replace(state=inner), out

    return Core(init, update)


def of_table(options: ConfigDict) -> Learner:
    """A table of log-odds, `[problems, answers]`, that begins as uniform."""
    shape, seen, surprise = (options.problems, options.answers), options.labels, options.scale

    def draw(key: Array) -> Split:
        key_law, key_seen = jax.random.split(key)
        law = jax.nn.log_softmax(surprise * jax.random.normal(key_law, shape))
        label = jax.random.categorical(key_seen, law[:, None], shape=(shape[0], seen))
        item = jnp.broadcast_to(jnp.arange(shape[0])[:, None], label.shape)
        return Split({"inputs": item.reshape(-1), "labels": label.reshape(-1)}, jnp.exp(law))

    model = Model(
        lambda key, inputs: (jnp.zeros(shape), ()),
        lambda params, state, inputs, **_: (jax.nn.log_softmax(params[inputs]), state),
    )

    def build(config: ConfigDict, axis_name: AxisName | None) -> Core:
        def loss(log_probs: Array, batch: Any) -> tuple[Array, dict[str, Array]]:
            chosen = jnp.take_along_axis(log_probs, batch["labels"][:, None], 1)
            each = coverage_loss(chosen, jnp.ones_like(chosen, bool), config.dco.num_samples)
            return each.mean(), {}

        core = supervised(model, loss, adam(schedules.from_config(config)), axis_name=axis_name)
        return on_own_data(core, lambda key, data: core.init(key, data.train), draw)

    return Learner(build, lambda own: (jax.nn.softmax(own.state.params), own.data.test))


def of_decoder(options: ConfigDict, network: ConfigDict) -> Learner:
    """A language model that answers `3+4*5?` by `#0$` at once, and learns from some wrong answers.

    Problems of the test are none of those that it learns from.
    """
    model, modulus = decoder_of(network), options.modulus
    task, digits = chained(options.depth, modulus), len(str(modulus - 1))
    number, tested, wrong_share = options.problems, options.test_problems, options.wrong

    def written(answer: Array) -> symbols.Symbols:
        given = symbols.number(answer, digits)
        return symbols.joined(symbols.written("#"), given, symbols.written("$"))

    def truth(problem: Any) -> Array:
        trace = task.solve(problem)
        return task.verify(problem, *trace).answer_id

    def draw(key: Array) -> Split:
        keys = jax.random.split(key, 3)
        problems = task.sample(keys[0], number + tested)
        prompts = jax.vmap(task.encode)(problems)
        answer = jax.vmap(truth)(problems)
        shift = jax.random.randint(keys[1], answer.shape, 1, modulus)
        wrong = jax.random.bernoulli(keys[2], wrong_share, answer.shape)
        wrong &= jnp.arange(len(answer)) < number
        answer = jnp.where(wrong, (answer + shift) % modulus, answer)
        rows = jax.vmap(example)(prompts, jax.vmap(written)(answer))
        same = (prompts.tokens[number:, None] == prompts.tokens[None, :number]).all(-1).any(1)
        train, test = (jax.tree.map(x, rows) for x in (lambda x: x[:number], lambda x: x[number:]))
        return Split(train, test._replace(weight=1.0 - same))

    def build(config: ConfigDict, axis_name: AxisName | None) -> Core:
        optimizer = adam(schedules.from_config(config), max_norm=1.0)
        core = finetune(model, optimizer, num_samples=config.dco.num_samples, axis_name=axis_name)
        return on_own_data(core, lambda key, data: core.init(model.init(key)), draw)

    def answers(own: OwnData) -> tuple[Array, Array]:
        test: Examples = own.data.test
        log_prob = score(model, own.state.params, *test[:3]).logp.sum(-1)
        return jnp.exp(log_prob)[:, None], test.weight[:, None]

    return Learner(build, answers)


def coverage(chances: Array, weights: Array, sizes: tuple[int, ...]) -> Array:
    """How probable it is that k samples hold the answer, `[sizes, problems]`.

    Args:
      chances: of the answers under the policy, `[problems, answers]`.
      weights: of the answers in the problem, which sum to 1, or to 0 where it is not in the test.
      sizes: values of k.

    Returns:
      NaN for problems that are not in the test.
    """
    missed = jnp.log1p(-jnp.minimum(chances, LARGEST_PROBABILITY))
    of_size = lambda k: (weights * -jnp.expm1(k * missed)).sum(1)
    tested = weights.any(1)
    return jnp.stack([jnp.where(tested, of_size(k), jnp.nan) for k in sizes])


def training(config: ConfigDict, setup: cli.Setup) -> Training:
    """Learns, and measures coverage along the way and at the end, problem by problem."""
    options, sizes = config.dco, config.dco.sizes
    learner = of_table(options) if options.policy == "table" else of_decoder(options, config.model)
    axes, num_samples = setup.sweep, options.num_samples
    measure = over_trials(
        lambda own, config, key: coverage(*learner.answers(own), sizes), config, axes
    )

    def numbers(found: np.ndarray) -> Results:
        means = np.nanmean(found, axis=-1)
        return {f"pass_at_{k}": means[..., i] for i, k in enumerate(sizes)}

    def watch(state: Any, step: int, key: Array) -> Results:
        return numbers(jax.device_get(measure(state, key)))

    def evaluate(run: Finished) -> Results:
        found = jax.device_get(measure(run.state, run.key))
        if jax.process_index() == 0:
            by_trial = found if axes is not None else found[None]
            trained = values_of(axes, "dco.num_samples", num_samples)
            show(by_trial, settings_of(axes), sizes)
            draw(by_trial, trained, sizes, run)
        return numbers(found)

    return Training(
        core=learner.core,
        show=("loss",),
        watch=watch,
        watched=tuple(f"pass_at_{k}" for k in sizes),
        evaluate=evaluate,
    )


def show(found: np.ndarray, trials: dict[str, list[int]], sizes: tuple[int, ...]) -> None:
    """Prints coverage of every setting: mean and 95 % interval over problems and seeds.

    Args:
      found: `[trials, sizes, problems]`.
      trials: setting -> its trials.
      sizes: numbers of samples.
    """
    rows = {}
    for name, chosen in trials.items():
        cells = bootstrap(np.moveaxis(found[chosen], 0, 1))
        rows[name] = [shown(cell) for cell in map(lambda *x: x, *cells)]
    print(table("chance that k samples hold the answer", [f"k={k}" for k in sizes], rows))


def draw(found: np.ndarray, trained: np.ndarray, sizes: tuple[int, ...], run: Finished) -> None:
    """Coverage along training for one sample and for many, and at the end against both N."""
    curves = report.read_metrics(run.workdir)
    values = np.unique(trained)
    with report.figure_style():
        figure = report.new_figure(11, 3.6)
        panels = figure.subplots(1, 3)
        for axes, k in zip(panels, (sizes[0], sizes[-1]), strict=False):
            curve = curves[f"eval/pass_at_{k}"]
            for n in values:
                report.draw_band(
                    axes, curve.steps, curve.values[:, trained == n], label=f"trained for N={n:g}"
                )
            axes.set(xlabel="update", title=f"right within {k} sample{'s' if k > 1 else ''}")
        panels[0].legend(fontsize=7)
        for n in values:
            cells = bootstrap(np.moveaxis(found[trained == n], 0, 1))
            report.draw_interval(panels[2], sizes, cells, label=f"N={n:g}")
        panels[2].set(xscale="log", xlabel="samples k at test time", title="after training")
        figure.tight_layout()
        report.save_figure(figure, run.workdir / "plots" / "coverage.png")
