"""Soft actor-critic on continuous control tasks, many seeds in one program.

Trains an agent, then measures the mean return of complete episodes with its likeliest actions.
"""

import functools
from typing import Any

import jax
from jax import Array
from ml_collections import ConfigDict

from experiments.rl import environments
from jaxrl.envs import Environment
from jaxrl.networks import ACTIVATIONS
from jaxrl.rollout import episode
from jaxrl.soft_actor_critic import SoftNetwork, acting, soft_actor_critic, soft_mlp
from jaxtrain.core import Core
from jaxtrain.host import cli, experiment, report, schedules
from jaxtrain.host.config import UsageError
from jaxtrain.host.experiment import Finished, Results, Training
from jaxtrain.optimizers import adam
from jaxtrain.parallel import AxisName

SWEEPABLE = ("optimizer.learning_rate", "loss.gamma", "loss.tau")


def build_core(
    config: ConfigDict, env: Environment, network: SoftNetwork, axis_name: AxisName | None = None
) -> Core:
    """The learner; numbers of the config may be traced."""
    rate = schedules.from_config(config)
    return soft_actor_critic(
        env,
        network,
        adam(rate, steps_per_update=config.replay.num_updates),
        num_workers=config.batch_size,
        num_steps=config.rollout.num_steps,
        random_steps=config.rollout.random_steps,
        axis_name=axis_name,
        **config.replay,
        **config.loss,
    )


def build(config: ConfigDict, setup: cli.Setup) -> Training:
    """Trains, evaluates and draws learning curves; the final numbers are one per trial."""
    env = environments.make(config.env)
    try:
        network = soft_mlp(
            env.action, tuple(config.network.widths), ACTIVATIONS[config.network.activation]
        )
    except ValueError as error:
        raise UsageError(f"env={config.env}: {error}") from error
    number, max_steps = config.evaluation.num_episodes, config.evaluation.max_steps

    def returns(state: Any, key: Array) -> Array:
        act = acting(network, state.params, greedy=True)
        play = lambda k: episode(env, env.params, act, k, max_steps)[0]
        return jax.vmap(play)(jax.random.split(key, number)).mean()

    evaluate_all = jax.jit(returns if setup.sweep is None else jax.vmap(returns, (0, None)))

    def watch(state: Any, step: int, key: Array) -> Results:
        return {"return": jax.device_get(evaluate_all(state, key))}

    def draw(run: Finished, results: Results) -> None:
        experiment.show(results, digits=1)
        groups = report.group(report.read_trials(run.workdir))
        report.learning_curves(groups, "episode_return", run.workdir / "plots/episode_return.png")

    return Training(
        core=lambda config, axis_name: build_core(config, env, network, axis_name),
        show=("episode_return", "critic_loss", "alpha"),
        watch=watch,
        watched=("return",),
        evaluate=lambda run: watch(run.state, -1, run.key),
        report=draw,
    )


def validate(config: ConfigDict) -> None:
    """Raises UsageError for settings that do not go together."""
    schedules.check_own_batches(config)


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
