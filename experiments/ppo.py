"""Actor-critic learning: PPO, DPO and A2C, many seeds in one program.

Trains an agent (or, with --sweep="seed=0:8", eight of them), then measures the mean return of
complete episodes with the trained policy and frozen statistics.
"""

import functools
from typing import Any

import jax
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from experiments.rl import environments
from jaxrl import drift
from jaxrl.actor_critic import a2c, acting, ppo
from jaxrl.envs import Environment
from jaxrl.networks import ACTIVATIONS, Network, mlp
from jaxrl.rollout import episode
from jaxtrain.core import Core
from jaxtrain.host import cli, experiment, report, schedules
from jaxtrain.host.config import UsageError
from jaxtrain.host.experiment import Finished, Results, Training
from jaxtrain.optimizers import adam
from jaxtrain.parallel import AxisName

SWEEPABLE = (
    "optimizer.learning_rate",
    "optimizer.max_grad_norm",
    "loss.gamma",
    "loss.gae_lambda",
    "loss.clip",
    "loss.entropy_coef",
    "loss.value_coef",
)


def build_core(
    config: ConfigDict, env: Environment, network: Network, axis_name: AxisName | None = None
) -> Core:
    """The learner; numbers of the config may be traced."""
    rollouts, loss = config.rollout, config.loss
    one_pass = config.method == "a2c"
    per_update = 1 if one_pass else rollouts.num_epochs * rollouts.num_minibatches
    optimizer = adam(
        schedules.from_config(config),
        steps_per_update=per_update,
        max_norm=config.optimizer.max_grad_norm,
        eps=config.optimizer.eps,
    )
    shared = dict(
        num_workers=config.batch_size,
        num_steps=rollouts.num_steps,
        gamma=loss.gamma,
        lambda_=loss.gae_lambda,
        entropy_coef=loss.entropy_coef,
        value_coef=loss.value_coef,
        bootstrap_on_truncation=loss.bootstrap_on_truncation,
        normalise_observations=config.normalise_observations,
        scale_rewards=config.scale_rewards,
        axis_name=axis_name,
    )
    if one_pass:
        return a2c(env, network, optimizer, **shared)
    return ppo(
        env,
        network,
        optimizer,
        num_epochs=rollouts.num_epochs,
        num_minibatches=rollouts.num_minibatches,
        drift=drift.dpo() if config.method == "dpo" else drift.ppo(loss.clip),
        value_clip=loss.clip,
        **shared,
    )


def mean_return(
    env: Environment,
    network: Network,
    state: Any,
    key: Array,
    *,
    num_episodes: int,
    max_steps: int,
    greedy: bool,
) -> Array:
    """Mean return of complete episodes of one trained agent, `[]`."""
    act = acting(network, state.params, state.observation_moments, greedy=greedy)
    play = lambda k: episode(env, env.params, act, k, max_steps)[0]
    return jax.vmap(play)(jax.random.split(key, num_episodes)).mean()


def build(config: ConfigDict, setup: cli.Setup) -> Training:
    """Trains, evaluates and draws learning curves; the final numbers are one per trial."""
    env = environments.make(config.env)
    activation = ACTIVATIONS[config.network.activation]
    network = mlp(env.action, tuple(config.network.widths), activation)
    options = config.evaluation.to_dict()
    solved_at = options.pop("solved_at")

    def returns(state: Any, key: Array) -> Array:
        return mean_return(env, network, state, key, **options)

    evaluate_all = jax.jit(returns if setup.sweep is None else jax.vmap(returns, (0, None)))

    def watch(state: Any, step: int, key: Array) -> Results:
        return {"return": jax.device_get(evaluate_all(state, key))}

    def evaluate(run: Finished) -> Results:
        final = watch(run.state, -1, run.key)
        if solved_at:
            final["solved"] = (np.asarray(final["return"]) >= solved_at) * 1.0
        return final

    def draw(run: Finished, results: Results) -> None:
        experiment.show(results, digits=1)
        groups = report.group(report.read_trials(run.workdir))
        report.learning_curves(groups, "episode_return", run.workdir / "plots/episode_return.png")

    return Training(
        core=lambda config, axis_name: build_core(config, env, network, axis_name),
        show=("episode_return", "loss"),
        watch=watch,
        watched=("return",),
        evaluate=evaluate,
        report=draw,
    )


def validate(config: ConfigDict) -> None:
    """Raises UsageError for settings that do not go together."""
    samples = config.batch_size * config.rollout.num_steps
    if config.method != "a2c" and samples % config.rollout.num_minibatches:
        raise UsageError(
            f"rollout.num_minibatches={config.rollout.num_minibatches} does not divide the "
            f"{samples} samples of an update (batch_size x rollout.num_steps)"
        )
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
