"""Soft actor-critic and SRL on continuous control tasks, many seeds in one program.

Trains an agent, then measures the mean return of complete episodes with its likeliest actions, and
what is left of it when the agent decides only every few steps.
"""

import functools
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from experiments.rl import environments, held
from jaxrl.control.held_actions import holding, nothing_held
from jaxrl.control.srl import (
    SequenceNetwork,
    acting_in_sequences,
    sequence_mlp,
    sequenced,
    srl,
)
from jaxrl.envs import Environment
from jaxrl.memory import remembering
from jaxrl.networks import ACTIVATIONS
from jaxrl.rollout import Act, episode
from jaxrl.soft_actor_critic import SoftNetwork, acting, box_of, soft_actor_critic, soft_mlp
from jaxtrain.core import Core
from jaxtrain.host import cli, experiment, report, schedules
from jaxtrain.host.config import UsageError
from jaxtrain.host.experiment import Finished, Results, Training
from jaxtrain.optimizers import adam
from jaxtrain.parallel import AxisName

SWEEPABLE = ("optimizer.learning_rate", "loss.gamma", "loss.tau")


def stays(params: Any, observation: Array, action: Array) -> Array:
    """The model of a world in which nothing changes, a control."""
    return observation


def build_network(config: ConfigDict, env: Environment) -> SoftNetwork | SequenceNetwork:
    """The agent's networks.

    Raises:
      ValueError: the environment has no continuous actions.
    """
    layers, activation = tuple(config.network.widths), ACTIVATIONS[config.network.activation]
    if config.method == "sac":
        return soft_mlp(env.action, layers, activation)
    parts = config.sequence
    network = sequence_mlp(env.action, layers, parts.size, tuple(parts.model_widths), activation)
    return network if parts.model == "learned" else network._replace(model=stays)


def build_core(
    config: ConfigDict,
    env: Environment,
    network: SoftNetwork | SequenceNetwork,
    axis_name: AxisName | None = None,
) -> Core:
    """The learner; numbers of the config may be traced."""
    rate = schedules.from_config(config)
    optimizer = adam(rate, steps_per_update=config.replay.num_updates)
    options = dict(
        num_workers=config.batch_size,
        num_steps=config.rollout.num_steps,
        random_steps=config.rollout.random_steps,
        axis_name=axis_name,
        **config.replay,
        **config.loss,
    )
    if isinstance(network, SequenceNetwork):
        return srl(env, network, optimizer, length=config.sequence.length, **options)
    return soft_actor_critic(env, network, optimizer, **options)


def playing(
    env: Environment, network: SoftNetwork | SequenceNetwork, params: Any, length: ArrayLike
) -> tuple[Environment, Act]:
    """A trained agent that looks every `length` steps, and the environment as it sees it."""
    if isinstance(network, SequenceNetwork):
        return sequenced(env, network), acting_in_sequences(network, params, length, greedy=True)
    act = acting(network, params, greedy=True)
    return remembering(env, nothing_held(box_of(env.action))), holding(act, length)


def build(config: ConfigDict, setup: cli.Setup) -> Training:
    """Trains, evaluates and draws learning curves; the final numbers are one per trial."""
    env = environments.make(config.env)
    try:
        network = build_network(config, env)
    except ValueError as error:
        raise UsageError(f"env={config.env}: {error}") from error
    number, max_steps = config.evaluation.num_episodes, config.evaluation.max_steps
    lengths = tuple(config.evaluation.held.lengths)
    scale = dict(config.evaluation.held.score) if lengths else {}

    def mean_return(state: Any, key: Array, length: ArrayLike) -> Array:
        seen, act = playing(env, network, state.params, length)
        play = lambda k: episode(seen, seen.params, act, k, max_steps)[0]
        return jax.vmap(play)(jax.random.split(key, number)).mean()

    def by_length(state: Any, key: Array) -> Array:
        return held.returns_by_length(functools.partial(mean_return, state, key), lengths)

    each = (lambda f: f) if setup.sweep is None else (lambda f: jax.vmap(f, (0, None)))
    evaluate_all = jax.jit(each(lambda state, key: mean_return(state, key, 1)))

    def watch(state: Any, step: int, key: Array) -> Results:
        return {"return": jax.device_get(evaluate_all(state, key))}

    def evaluate(run: Finished) -> Results:
        final = watch(run.state, -1, run.key)
        if lengths:
            curves = np.asarray(jax.jit(each(by_length))(run.state, run.key))
            final |= held.summary(curves, lengths, **scale)
            if jax.process_index() == 0:
                held.figure({config.method: curves}, lengths, run.workdir / "plots" / "held.png")
        return final

    def draw(run: Finished, results: Results) -> None:
        experiment.show(results, digits=1)
        groups = report.group(report.read_trials(run.workdir))
        report.learning_curves(groups, "episode_return", run.workdir / "plots/episode_return.png")

    return Training(
        core=lambda config, axis_name: build_core(config, env, network, axis_name),
        show=("episode_return", "critic_loss", "alpha"),
        watch=watch,
        watched=("return",),
        evaluate=evaluate,
        report=draw,
    )


def validate(config: ConfigDict) -> None:
    """Raises UsageError for settings that do not go together."""
    schedules.check_own_batches(config)
    lengths = tuple(config.evaluation.held.lengths)
    if lengths and (len(lengths) < 2 or lengths != tuple(sorted(set(lengths)))):
        raise UsageError(
            f"evaluation.held.lengths={lengths} must be two or more numbers that increase, or none"
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
