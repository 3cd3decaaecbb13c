"""Actor-critic learning: PPO, DPO and A2C, with and without memory, many seeds in one program.

Trains an agent (or, with --sweep="seed=0:8", eight of them), then measures the mean return of
complete episodes with the trained policy and frozen statistics.
"""

import functools
from typing import Any

import jax
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from experiments.rl import environments, in_trials
from jaxrl import drift, memory
from jaxrl.actor_critic import a2c, acting, ppo
from jaxrl.envs import Environment
from jaxrl.envs.trials import TrialState
from jaxrl.memory import MemoryNetwork, remembering
from jaxrl.memory_networks import CELLS, agent, context, recurrent
from jaxrl.memory_ppo import memory_ppo
from jaxrl.networks import ACTIVATIONS, Network, mlp
from jaxrl.rollout import Act, episode
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


def build_network(config: ConfigDict, env: Environment) -> Network | MemoryNetwork:
    """The agent's network."""
    net = config.network
    layers = tuple(net.widths), ACTIVATIONS[net.activation]
    if net.memory == "none":
        return mlp(env.action, *layers)
    if net.memory == "transformer":
        kept = context(net.size, **net.transformer)
    else:
        kept = recurrent(CELLS[net.memory](net.size))
    return agent(env.action, kept, *layers)


def build_core(
    config: ConfigDict,
    env: Environment,
    network: Network | MemoryNetwork,
    axis_name: AxisName | None = None,
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
        scale_rewards=config.scale_rewards,
        axis_name=axis_name,
    )
    if not one_pass:
        shared |= dict(
            num_epochs=rollouts.num_epochs,
            num_minibatches=rollouts.num_minibatches,
            drift=drift.dpo() if config.method == "dpo" else drift.ppo(loss.clip),
            value_clip=loss.clip,
        )
    if isinstance(network, MemoryNetwork):
        return memory_ppo(env, network, optimizer, segment=rollouts.segment or None, **shared)
    shared["normalise_observations"] = config.normalise_observations
    return (a2c if one_pass else ppo)(env, network, optimizer, **shared)


def playing(
    env: Environment, network: Network | MemoryNetwork, state: Any, greedy: bool
) -> tuple[Environment, Act]:
    """A trained agent, and the environment as it sees it."""
    if isinstance(network, MemoryNetwork):
        act = memory.acting(network, state.params, greedy=greedy)
        return remembering(env, network.start), act
    return env, acting(network, state.params, state.observation_moments, greedy=greedy)


def mean_return(
    env: Environment,
    network: Network | MemoryNetwork,
    state: Any,
    key: Array,
    *,
    num_episodes: int,
    max_steps: int,
    greedy: bool,
) -> Array:
    """Mean return of complete episodes of one trained agent, `[]`."""
    env, act = playing(env, network, state, greedy)
    play = lambda k: episode(env, env.params, act, k, max_steps)[0]
    return jax.vmap(play)(jax.random.split(key, num_episodes)).mean()


def build(config: ConfigDict, setup: cli.Setup) -> Training:
    """Trains, evaluates and draws learning curves; the final numbers are one per trial."""
    env = environments.make(config.env)
    network = build_network(config, env)
    options = config.evaluation.to_dict()
    solved_at, in_trial = options.pop("solved_at"), options.pop("episodes_of_trial")

    start = jax.eval_shape(env.reset, jax.random.key(0), env.params)[1]
    if in_trial and not isinstance(start, TrialState):
        raise UsageError(
            f"evaluation.episodes_of_trial={in_trial}, but env={config.env} is no trial; leave it 0"
        )

    def returns(state: Any, key: Array) -> Array:
        return mean_return(env, network, state, key, **options)

    def by_episode(state: Any, key: Array) -> Array:
        player = playing(env, network, state, options["greedy"])
        numbers = options["num_episodes"], options["max_steps"], in_trial
        return in_trials.mean_returns(*player, key, *numbers)

    each = (lambda f: f) if setup.sweep is None else (lambda f: jax.vmap(f, (0, None)))
    evaluate_all = jax.jit(each(returns))

    def watch(state: Any, step: int, key: Array) -> Results:
        return {"return": jax.device_get(evaluate_all(state, key))}

    def evaluate(run: Finished) -> Results:
        final = watch(run.state, -1, run.key)
        if solved_at:
            final["solved"] = (np.asarray(final["return"]) >= solved_at) * 1.0
        if in_trial:
            curves = np.asarray(jax.jit(each(by_episode))(run.state, run.key))
            final |= in_trials.first_and_last(curves)
            if jax.process_index() == 0:
                in_trials.figure(curves, run.workdir / "plots" / "by_episode.png")
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
    remembers = config.network.memory != "none"
    if remembers and (config.method == "a2c" or config.normalise_observations):
        raise UsageError(
            f"network.memory={config.network.memory} goes with method=ppo or dpo and without "
            "normalise_observations"
        )
    if remembers and not config.network.widths:
        raise UsageError("network.widths is empty, but a memory has a layer before it")
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
