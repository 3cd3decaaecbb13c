"""Trials: several episodes of one task that is drawn at their start and never shown.

To an agent with memory a trial is one long episode, in which it can find out what the task is and
use it in the episodes that follow: reinforcement learning in context.

    env = trials(bandit(5, max_steps=1), lambda key: sample_bandit(key, 5, 1), num_episodes=20)

`bandit_trials` and `goal_trials` are such environments.

References:
  Duan et al., RL^2: Fast Reinforcement Learning via Slow Reinforcement Learning, arXiv 1611.02779.
  Wang et al., Learning to Reinforcement Learn, arXiv 1611.05763.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrl.envs.bandit import bandit, sample_bandit
from jaxrl.envs.environment import Discrete, Environment, Step, step_and_reset
from jaxrl.envs.grid_world import GridShape, Level, grid_world


class TrialState(NamedTuple):
    """The task (params of the environment), its state, and the episodes that are over, `[]`."""

    task: Any
    state: Any
    episode: Array


def trials(
    env: Environment,
    sample: Callable[[Array], Any],
    *,
    num_episodes: int,
    tells: bool = True,
    encode: Callable[[Any], Array] = jnp.ravel,
) -> Environment:
    """An environment whose episodes are trials.

    The observation is one vector: that of the environment, the last action (its one-hot if it is
    one of several), the last reward, and 1 if an episode has just ended; zeros at first. A trial
    terminates with its last episode; values and returns reach across the episodes before.

    Args:
      env: what the tasks are of.
      sample: `key -> params` of the environment, a task.
      num_episodes: of a trial.
      tells: whether the observation holds the last action and reward; if not, there are zeros.
      encode: `observation -> [D]`.

    Raises:
      ValueError: no episode.
    """
    if num_episodes < 1:
        raise ValueError(f"num_episodes is {num_episodes}; it must be at least 1.")

    def told(action: Array) -> Array:
        if isinstance(env.action, Discrete):
            return jax.nn.one_hot(action, env.action.num_actions)
        return action.reshape(-1).astype(jnp.float32)

    def reset(key: Array, params: Any) -> tuple[Array, TrialState]:
        key_task, key_reset = jax.random.split(key)
        task = sample(key_task)
        observation, state = env.reset(key_reset, task)
        shape = () if isinstance(env.action, Discrete) else env.action.shape
        nothing = jnp.zeros(told(jnp.zeros(shape, jnp.int32)).size + 2)
        seen = jnp.concatenate([encode(observation), nothing])
        return seen, TrialState(task, state, jnp.int32(0))

    def step(key: Array, before: TrialState, action: Array, params: Any) -> Step:
        key_step, key_reset = jax.random.split(key)
        one = step_and_reset(env, key_step, key_reset, before.state, action, before.task)
        ended = one.terminated | one.truncated
        past = tells * jnp.append(told(action), one.reward)
        seen = jnp.concatenate([encode(one.observation), past, ended[None].astype(jnp.float32)])
        after = TrialState(before.task, one.state, before.episode + ended)
        over = after.episode >= num_episodes
        return Step(seen, after, one.reward, over, jnp.zeros_like(over), {})

    return Environment(reset, step, env.action, ())


def bandit_trials(num_arms: int = 5, num_pulls: int = 20, tells: bool = True) -> Environment:
    """Bernoulli bandits whose means are drawn from U(0, 1); an episode is one pull.

    Pulls at random are right half of the time.
    """
    sample = lambda key: sample_bandit(key, num_arms, 1)
    return trials(bandit(num_arms, max_steps=1), sample, num_episodes=num_pulls, tells=tells)


def goal_trials(
    size: int = 4, max_steps: int = 12, num_episodes: int = 4, tells: bool = True
) -> Environment:
    """A grid without walls, and a goal in a cell that the agent does not see.

    An episode begins in the first cell and ends at the goal, with reward 1, or after `max_steps`
    steps; the goal is anywhere else and stays for the trial. The agent sees its cell.

    Args:
      size: of the grid, at least 2.
      max_steps: of an episode.
      num_episodes: of a trial.
      tells: of `trials`.

    Raises:
      ValueError: a grid of one cell.
    """
    if size < 2:
        raise ValueError(f"size is {size}; it must be at least 2.")
    cells = size**2

    def sample(key: Array) -> Level:
        one = jnp.ones(1)
        return Level(
            size=jnp.int32(size),
            walls=jnp.zeros(cells, bool),
            start=jnp.int32(0),
            object_cell=jax.random.randint(key, (1,), 1, cells),
            object_type=jnp.zeros(1, jnp.int32),
            object_used=jnp.ones(1, bool),
            reward=one,
            p_terminate=one,
            p_respawn=0 * one,
            random_cells=jnp.zeros((), bool),
            max_steps=jnp.int32(max_steps),
        )

    world = grid_world(GridShape(size, max_objects=1, num_types=1))
    encode = lambda observation: jax.nn.one_hot(observation.index % cells, cells)
    return trials(world, sample, num_episodes=num_episodes, tells=tells, encode=encode)


def returns_by_episode(reward_t: Array, ended_t: Array, num_episodes: int) -> Array:
    """Return of each episode of the first trial in a rollout from its start, `[num_episodes]`.

    Args:
      reward_t: `[T]`.
      ended_t: whether an episode ended with the step, the last entry of the observation after it
        (before any reset), `[T]`.
      num_episodes: of a trial.
    """
    ended = ended_t.astype(jnp.int32)
    return jnp.zeros(num_episodes).at[jnp.cumsum(ended) - ended].add(reward_t, mode="drop")
