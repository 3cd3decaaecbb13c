"""Base models for the language-model commands: small decoders trained on conversations with planted
mistakes and a planted ability to correct them, and an exam of what they can do.

Leaves the weights, the network and the recipe of the conversations in `base.npz`, which
`experiments.lm.bases.load_base` reads; of a sweep over seeds one file per trial.
"""

import functools
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from optax import ScalarOrSchedule

from experiments.lm import abilities
from experiments.lm.bases import load_base, recipe_of, save_base
from experiments.lm.conversations import Recipe, packed
from jaxrl.lm.learners import finetune
from jaxtrain import trees
from jaxtrain.core import Core
from jaxtrain.host import cli, experiment, report, schedules
from jaxtrain.host.checkpoint import load_params
from jaxtrain.host.config import UsageError
from jaxtrain.host.data import Generated
from jaxtrain.host.experiment import Finished, Results, Training
from jaxtrain.host.sweep import trials
from jaxtrain.lm.decoder import Config, Decoder, decoder
from jaxtrain.optimizers import adam
from jaxtrain.parallel import AxisName
from jaxtrain.schedules.autolrs import autolrs

SWEEPABLE = ("optimizer.learning_rate", "optimizer.max_grad_norm")


def build_core(config: ConfigDict, model: Decoder, axis_name: AxisName | None = None) -> Core:
    """The learner; numbers of the config may be traced."""

    def at(rate: ScalarOrSchedule) -> Core:
        optimizer = adam(rate, max_norm=config.optimizer.max_grad_norm)
        core = finetune(model, optimizer, axis_name=axis_name)
        return Core(lambda key: core.init(model.init(key)), core.update)

    search = schedules.autolrs_config(config)
    return at(schedules.from_config(config)) if search is None else autolrs(at, search)


def data_of(config: ConfigDict, recipe: Recipe) -> Generated:
    """Rows of conversations, each from its place."""
    row = functools.partial(packed, recipe, **config.row)
    one = lambda key, place: row(jax.random.fold_in(key, place))
    return Generated(lambda key, places: jax.vmap(one, (None, 0))(key, places), config.batch_size)


def build(config: ConfigDict, setup: cli.Setup) -> Training:
    """Trains, saves the models, examines them and draws what they can do."""
    network, recipe = Config(**config.model), recipe_of(config)
    model, options = decoder(network), config.evaluation.to_dict()
    examine = jax.jit(functools.partial(abilities.examine, model, recipe, **options))

    def params_of(run: Finished) -> list[Any]:
        return [state.params for state in trials(run.state, setup.sweep)]

    def save(run: Finished) -> None:
        found = jax.device_get(params_of(run))
        for number, params in enumerate(found):
            name = "base.npz" if setup.sweep is None else f"base_{number}.npz"
            if jax.process_index() == 0:
                save_base(run.workdir / name, params, network, recipe)

    def evaluate(run: Finished) -> Results:
        exams = [jax.device_get(examine(params, run.key)) for params in params_of(run)]
        found = abilities.measured(exams)
        if jax.process_index() == 0:
            print(abilities.shown(found))
            abilities.draw(found, run.workdir / "plots" / "abilities.png")
        size = sum(x.size for x in jax.tree.leaves(jax.eval_shape(model.init, run.key)))
        return {"num_parameters": size, **{name: x._asdict() for name, x in found.items()}}

    def draw(run: Finished, results: Results) -> None:
        groups = report.group(report.read_trials(run.workdir))
        report.learning_curves(groups, "loss", run.workdir / "plots" / "loss.png")

    return Training(
        core=lambda config, axis_name: build_core(config, model, axis_name),
        data=data_of(config, recipe),
        show=("loss", "learning_rate"),
        save=save,
        evaluate=evaluate,
        report=draw,
        read_params=read_params,
    )


def read_params(path: str, like: Any) -> Any:
    """Parameters to begin with: of a base model, or of a run."""
    if not path.endswith(".npz"):
        return load_params(path, like)
    params = load_base(path).params
    if trees.describe(params) != trees.describe(like):
        raise UsageError(f"init_from={path!r} is a base model of another network than model")
    return params


def validate(config: ConfigDict) -> None:
    """Raises UsageError for settings that do not go together."""
    if schedules.autolrs_config(config) is None:
        schedules.from_config(config)
    recipe = recipe_of(config)
    if not np.isclose(sum(recipe.requests), 1):
        raise UsageError(f"recipe.requests={recipe.requests} must sum to 1")
    for name in ("kept", "fixed", "requests"):
        if len(config.recipe[name]) != len(abilities.NAMES):
            raise UsageError(
                f"recipe.{name}={config.recipe[name]} must hold a number for each request: "
                f"{', '.join(abilities.NAMES.values())}"
            )
    network = Config(**config.model)
    if network.vocabulary < (known := len(abilities.symbols.ALPHABET)):
        raise UsageError(
            f"model.vocabulary={network.vocabulary} must be at least {known}, the symbols of the "
            "tasks"
        )


main = functools.partial(
    cli.main,
    build,
    sweepable=SWEEPABLE,
    validate=validate,
    flags=(experiment.MODE,),
    evaluates=experiment.evaluates,
    may_change=("evaluation",),
)

if __name__ == "__main__":
    main()
