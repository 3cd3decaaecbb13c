"""What an agent gains from episode to episode of a trial: returns in context, and their figure."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array

from jaxrl.envs import Environment
from jaxrl.envs.trials import returns_by_episode
from jaxrl.memory import Remembered
from jaxrl.rollout import Act, Transition, new_worker, rollout
from jaxtrain.host.report import figure_style, save_figure

SHARE = 5  # first and last are a fifth of the episodes


def mean_returns(
    env: Environment, act: Act, key: Array, num_trials: int, max_steps: int, num_episodes: int
) -> Array:
    """Mean return of the first, second, ... episode of a trial, `[num_episodes]`.

    Args:
      env: made by `trials`, as the agent sees it.
      act: the agent.
      key: consumed.
      num_trials: over which is averaged.
      max_steps: of a trial; later ones do not count.
      num_episodes: of a trial.
    """

    def seen(step: Transition) -> Transition:
        after: Any = step.next_observation
        after = after.observation if isinstance(after, Remembered) else after
        return step._replace(observation=(), action=(), extras=(), next_observation=after[-1])

    def one(key: Array) -> Array:
        key_start, key_steps = jax.random.split(key)
        worker = new_worker(env, env.params, key_start)
        _, steps = rollout(env, env.params, act, key_steps, worker, max_steps, seen)
        return returns_by_episode(steps.reward, steps.next_observation, num_episodes)

    return jax.vmap(one)(jax.random.split(key, num_trials)).mean(0)


def first_and_last(curves: np.ndarray) -> dict[str, Any]:
    """`return_first` and `return_last`: means over the first and the last fifth of the episodes,
    one at least, of curves `[..., num_episodes]`."""
    few = max(1, curves.shape[-1] // SHARE)
    return {
        "return_first": curves[..., :few].mean(-1),
        "return_last": curves[..., -few:].mean(-1),
    }


def figure(curves: np.ndarray, file: Path) -> None:
    """Return against the number of the episode, a line per trained agent."""
    with figure_style():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(4.5, 3))
        for curve in curves.reshape(-1, curves.shape[-1]):
            axes.plot(np.arange(1, len(curve) + 1), curve, marker=".")
        axes.set_xlabel("episode of the trial")
        axes.set_ylabel("mean return")
        save_figure(figure, file)
