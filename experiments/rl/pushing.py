"""SLIM on the pusher: skills from three rewards, with a critic of each or one of their sum.

Parts of `experiments.control`.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from jaxrl.actor_critic import acting, ppo
from jaxrl.control.slim import several, with_skill
from jaxrl.envs import Environment
from jaxrl.envs.pusher import FURTHEST, TOUCH, bumps, pusher, seen
from jaxrl.networks import Network, mlp
from jaxrl.rollout import Transition, new_worker, rollout
from jaxtrain.core import Core
from jaxtrain.host import cli, experiment, schedules
from jaxtrain.host.experiment import Finished, Results, Training
from jaxtrain.host.report import figure_style, save_figure
from jaxtrain.optimizers import adam
from jaxtrain.parallel import AxisName

CELLS = 20  # of the area of the disc, along each side
NEAR = 0.3  # distance from touching the disc at which nearness has fallen by three fourths


def near_and_safe(steps: Transition) -> Array:
    """The rewards besides that of the skill, `[..., 2]`: 1 where the point touches the disc and
    less with the distance; -1 where it runs into a wall."""
    gap = jnp.linalg.norm(seen(steps.next_observation).way, axis=-1) - TOUCH
    near = 1 - jnp.tanh(gap / NEAR)
    return jnp.stack([near, -1.0 * bumps(steps.observation, steps.action)], -1)


def build_core(
    config: ConfigDict, env: Environment, network: Network, axis_name: AxisName | None = None
) -> Core:
    """The learner; numbers of the config may be traced."""
    options, rollouts = config.skills, config.rollout
    scales = options.scale_skill, options.scale_near, options.scale_safe
    is_summed = options.critics == "one"
    rewards = several(
        lambda observation: seen(observation).disc,
        near_and_safe,
        adam(options.learning_rate),
        sizes=(2, options.width, options.size),
        scales=scales,
        summed=is_summed,
        axis_name=axis_name,
    )
    return ppo(
        env,
        network,
        adam(schedules.from_config(config)),
        num_workers=config.batch_size,
        num_steps=rollouts.num_steps,
        num_epochs=rollouts.num_epochs,
        num_minibatches=rollouts.num_minibatches,
        gamma=options.gamma,
        value_clip=None,
        entropy_coef=config.entropy_coef,
        scale_rewards=True,
        relabel=rewards,
        reward_weights=None if is_summed else jnp.ones(len(scales)),
        axis_name=axis_name,
    )


def covered(discs: Array) -> Array:
    """Share of the cells of the area of the disc that hold one of its places `[N, 2]`, `[]`."""
    cells = jnp.floor((discs + FURTHEST) / (2 * FURTHEST) * CELLS).astype(jnp.int32)
    row, column = jnp.clip(cells, 0, CELLS - 1).T
    return jnp.zeros((CELLS, CELLS)).at[row, column].set(1.0).mean()


def played(
    env: Environment, network: Network, number: int, state: Any, key: Array
) -> dict[str, Array]:
    """Episodes of a trained policy with random skills: what they come to, and the ways of discs."""
    act = acting(network, state.params)
    max_steps = int(env.params.max_steps)

    def one(key: Array) -> tuple[Array, Array]:
        key_start, key_steps = jax.random.split(key)
        worker = new_worker(env, env.params, key_start)
        _, steps = rollout(env, env.params, act, key_steps, worker, max_steps)
        discs = jnp.concatenate([steps.observation, steps.next_observation[-1:]])
        return seen(discs).disc, bumps(steps.observation, steps.action)

    discs, bumped = jax.vmap(one)(jax.random.split(key, number))
    ends = discs[:, -1]
    return {
        "coverage": covered(discs.reshape(-1, 2)),
        "moved": jnp.linalg.norm(ends - discs[:, 0], axis=-1).mean(),
        "bumps": bumped.sum(1).mean(),
        "discs": discs,
    }


def build(config: ConfigDict, setup: cli.Setup) -> Training:
    """Trains, and measures where random skills bring the disc."""
    options = config.skills
    env = with_skill(pusher(), options.size)
    number = 1 if options.critics == "one" else 3
    network = mlp(env.action, (options.network_width,) * 2, num_critics=number)
    one = functools.partial(played, env, network, config.evaluation.num_episodes)
    measure = jax.jit(one if setup.sweep is None else jax.vmap(one, (0, None)))

    def numbers(state: Any, key: Array) -> tuple[Results, np.ndarray]:
        found = jax.device_get(measure(state, key))
        return found, found.pop("discs")

    def watch(state: Any, step: int, key: Array) -> Results:
        return numbers(state, key)[0]

    def evaluate(run: Finished) -> Results:
        found, discs = numbers(run.state, run.key)
        if jax.process_index() == 0:
            ways = discs.reshape(-1, *discs.shape[-3:])[0]
            figure(ways, run.workdir / "plots" / "skills.png")
        return found

    return Training(
        core=lambda config, axis_name: build_core(config, env, network, axis_name),
        show=("skill_reward", "episode_return"),
        watch=watch,
        watched=("coverage", "moved", "bumps"),
        evaluate=evaluate,
        report=lambda run, results: experiment.show(results, digits=3),
    )


def figure(ways: np.ndarray, file: Path, number: int = 64) -> None:
    """Ways of the disc in some episodes `[N, T, 2]`, each with another skill."""
    with figure_style():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(3.2, 3.2))
        for way in ways[:number]:
            axes.plot(*way.T, linewidth=0.8)
            axes.plot(*way[-1], ".", color="black", markersize=3)
        axes.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal", xticks=(), yticks=())
        save_figure(figure, file)
