"""Actor-critic learning: PPO, DPO and A2C, many seeds in one program.

Trains an agent (or, with --sweep="seed=0:8", eight of them), then measures the mean return of
complete episodes with the trained policy and frozen statistics.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments.rl import environments
from jaxrl import drift
from jaxrl.actor_critic import a2c, acting, adam, ppo
from jaxrl.envs import Environment
from jaxrl.networks import ACTIVATIONS, Network, mlp
from jaxrl.rollout import episode
from jaxtrain.core import Core
from jaxtrain.host import cli, report, schedules, sweep
from jaxtrain.host.begin import fit, started
from jaxtrain.host.config import UsageError, flatten
from jaxtrain.host.data import Generated
from jaxtrain.parallel import AxisName, compile_update

SWEEPABLE = (
    "optimizer.learning_rate",
    "optimizer.max_grad_norm",
    "loss.gamma",
    "loss.gae_lambda",
    "loss.clip",
    "loss.entropy_coef",
    "loss.value_coef",
)
METHODS = ("ppo", "dpo", "a2c")


def build_core(
    config: ConfigDict,
    env: Environment,
    network: Network,
    hyper: Mapping[str, Any] | None = None,
    axis_name: AxisName | None = None,
) -> Core:
    """The core of one trial; `hyper` replaces numbers of the config by traced ones."""
    numbers = flatten(config) | dict(hyper or {})
    rollouts, loss = config.rollout, config.loss
    one_pass = config.method == "a2c"
    per_update = 1 if one_pass else rollouts.num_epochs * rollouts.num_minibatches
    rates = schedules.from_config(config, numbers["optimizer.learning_rate"])
    optimizer = adam(
        lambda count: rates(count // per_update),  # one rate for all mini-batches of an update
        max_grad_norm=numbers["optimizer.max_grad_norm"],
        eps=config.optimizer.eps,
    )
    shared = dict(
        num_workers=config.batch_size,
        num_steps=rollouts.num_steps,
        gamma=numbers["loss.gamma"],
        lambda_=numbers["loss.gae_lambda"],
        entropy_coef=numbers["loss.entropy_coef"],
        value_coef=numbers["loss.value_coef"],
        bootstrap_on_truncation=loss.bootstrap_on_truncation,
        normalise_observations=config.normalise_observations,
        scale_rewards=config.scale_rewards,
        axis_name=axis_name,
    )
    if one_pass:
        return a2c(env, network, optimizer, **shared)
    clip = numbers["loss.clip"]
    return ppo(
        env,
        network,
        optimizer,
        num_epochs=rollouts.num_epochs,
        num_minibatches=rollouts.num_minibatches,
        drift=drift.dpo() if config.method == "dpo" else drift.ppo(clip),
        value_clip=clip,
        **shared,
    )


def build_network(config: ConfigDict, env: Environment) -> Network:
    """Policy and value function."""
    return mlp(env.action, tuple(config.network.widths), config.network.activation)


def run(config: ConfigDict, context: cli.Context) -> dict[str, Any]:
    """Trains, evaluates, draws learning curves; returns the final numbers, one per trial."""
    env = environments.make(config.env)
    network = build_network(config, env)
    axes = context.sweep
    if axes is None:
        core = build_core(config, env, network, axis_name=context.execution.axis_name)
    else:
        core = sweep.swept(lambda hyper: build_core(config, env, network, hyper), axes)
    data = Generated(lambda key, index: index, config.batch_size)
    key_init, key_run, key_final = jax.random.split(jax.random.key(config.seed), 3)

    def returns(state: Any, key: Array) -> Array:
        keys = jax.random.split(key, config.evaluation.num_episodes)
        act = acting(network, state, greedy=config.evaluation.greedy)
        play = lambda k: episode(env, env.params, act, k, config.evaluation.max_steps)[0]
        return jax.vmap(play)(keys).mean()

    evaluate_all = jax.jit(returns if axes is None else jax.vmap(returns, (0, None)))

    def evaluate(state: Any, step: int, key: Array) -> dict[str, Any]:
        return {"return": jax.device_get(evaluate_all(state, key))}

    with started(lambda: core.init(key_init), config, context) as begun:
        state = fit(begun, core, data, key_run, show=("episode_return", "loss"), evaluate=evaluate)
    final = evaluate(state, config.num_steps, key_final)
    if config.evaluation.solved_at:
        final["solved"] = (np.asarray(final["return"]) >= config.evaluation.solved_at) * 1.0
    if jax.process_index() == 0:
        for name, value in final.items():
            listed = " ".join(f"{v:.1f}" for v in np.atleast_1d(value))
            print(f"{name:<10} mean {np.mean(value):.3f} of {listed}")
        groups = report.group(report.read_trials(context.workdir))
        path = context.workdir / "plots" / "episode_return.png"
        report.learning_curves(groups, "episode_return", path)
    return final


def validate(config: ConfigDict) -> None:
    """Refuses impossible settings before anything is made.

    Raises:
      UsageError: names the setting.
    """
    if config.method not in METHODS:
        raise UsageError(f"method={config.method!r} is unknown; choose {', '.join(METHODS)}")
    if config.network.activation not in ACTIVATIONS:
        raise UsageError(
            f"network.activation={config.network.activation!r} is unknown; choose "
            f"{', '.join(ACTIVATIONS)}"
        )
    samples = config.batch_size * config.rollout.num_steps
    if config.method != "a2c" and samples % config.rollout.num_minibatches:
        raise UsageError(
            f"rollout.num_minibatches={config.rollout.num_minibatches} does not divide the "
            f"{samples} samples of an update (batch_size x rollout.num_steps)"
        )
    if schedules.autolrs_config(config) is not None:
        raise UsageError(
            "optimizer.schedule=autolrs compares losses on the same batches, but an agent makes "
            "its own; choose another schedule"
        )
    schedules.from_config(config)
    package = config.env.partition(":")[0]
    if package not in environments.PACKAGES:
        environments.make(config.env)


def plan(config: ConfigDict, mesh: Mesh) -> tuple[Any, tuple[Any, ...]]:
    """Compiled training step and abstract arguments, for `python -m experiments.plan`."""
    env = environments.make(config.env)
    core = build_core(config, env, build_network(config, env))
    key = jax.random.key(0)
    state = jax.eval_shape(core.init, key)
    batch = jax.ShapeDtypeStruct((config.batch_size,), np.int32)
    return compile_update(core.update, mode="jit", mesh=mesh), (state, batch, key)


if __name__ == "__main__":
    cli.main(run, sweepable=SWEEPABLE, validate=validate, may_change=("evaluation",))
