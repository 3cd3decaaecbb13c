"""SLIM: skills from several rewards at once, each with a critic of its own.

A policy is told a skill z and earns by what it does with an object: by moving it along z in a space
that is learned with it, by being near it, and by keeping away from walls. Added up, the reward with
the largest numbers is the one that is learned. Here each has its critic, advantages are normalised
one by one, and their sum is what the policy follows.

    env = with_skill(pusher(), size=2)
    rewards =several(object_of, others, optimizer, skill_size=2, scales=(1.0, 1.0, 1.0))
    network = mlp(env.action, (64, 64), num_critics=3)
    core = ppo(env, network, adam(1e-3), relabel=rewards, reward_weights=jnp.ones(3))

References:
  Emukpere, Wu, Perez and Renders, SLIM: Skill Learning with Multiple Critics, 2024, arXiv
  2402.00823. There is no public code: a critic per reward, advantages normalised before they are
  summed and what the rewards are for are the paper's, the formulas of the rewards are ours.
  Park et al., Lipschitz-constrained Unsupervised Skill Discovery, ICLR 2022, arXiv 2202.00914: the
  reward of a skill, and the bound on its space.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxrl.actor_critic_state import Relabel
from jaxrl.envs.environment import Environment, Step
from jaxrl.rollout import Transition
from jaxtrain.parallel import AxisName, pmean, value_and_grad

Layers = list[tuple[Array, Array]]  # weights [in, out] and biases [out] of each


def with_skill(env: Environment, size: int) -> Environment:
    """The same task with a skill z, drawn anew for every episode, behind the observation.

    Args:
      env: its observations are vectors `[S]`.
      size: of z, which is uniform on the sphere.

    Returns:
      An environment with observations `[S + size]`.
    """

    def reset(key: Array, params: Any) -> tuple[Array, Any]:
        key_skill, key = jax.random.split(key)
        skill = jax.random.normal(key_skill, (size,))
        skill = skill / jnp.linalg.norm(skill)
        observation, state = env.reset(key, params)
        return jnp.concatenate([observation, skill]), (state, skill)

    def step(key: Array, state: Any, action: Any, params: Any) -> Step:
        inner, skill = state
        found = env.step(key, inner, action, params)
        observation = jnp.concatenate([found.observation, skill])
        return found._replace(observation=observation, state=(found.state, skill))

    return env._replace(reset=reset, step=step)


# --- The space of skills --------------------------------------------------------------------------


def spectral_norm(weights: Array, num_steps: int = 12) -> Array:
    """Largest singular value of `[in, out]`, from below, by iteration of its powers."""
    right = jnp.ones(weights.shape[1])
    for _ in range(num_steps):
        left = weights @ right
        left = left / (jnp.linalg.norm(left) + 1e-12)
        right = left @ weights
        right = right / (jnp.linalg.norm(right) + 1e-12)
    left, right = jax.lax.stop_gradient((left, right))
    return left @ weights @ right


def new_space(key: Array, widths: Sequence[int]) -> Layers:
    """Layers of the given widths, of which the first is that of what they see."""
    keys = jax.random.split(key, len(widths) - 1)
    pairs = zip(keys, widths[:-1], widths[1:], strict=True)
    return [(jax.random.normal(k, (n, m)) / n**0.5, jnp.zeros(m)) for k, n, m in pairs]


def place_in(space: Layers, x: Array) -> Array:
    """phi(x), `[K]`, of `[F]`: of two places never further apart than what is seen of them."""
    for number, (weights, bias) in enumerate(space):
        x = (jax.nn.relu(x) if number else x) @ (weights / spectral_norm(weights)) + bias
    return x


def skill_reward(space: Layers, before: Array, after: Array, skill: Array) -> Array:
    """< phi(s') - phi(s), z >, `[]`."""
    return (place_in(space, after) - place_in(space, before)) @ skill


# --- The rewards ----------------------------------------------------------------------------------


def several(
    object_of: Callable[[Array], Array],
    others: Callable[[Transition], Array],
    optimizer: optax.GradientTransformation,
    *,
    sizes: Sequence[int],
    scales: Sequence[ArrayLike],
    num_updates: int = 4,
    summed: bool = False,
    axis_name: AxisName | None = None,
) -> Relabel:
    """The reward of the skill and others besides, `[w, T, M]`; the space learns after each rollout.

    Args:
      object_of: what the space of skills sees of an observation `[S]`, `[F]`.
      others: the other rewards of steps `[...]`, `[..., M - 1]`.
      optimizer: of the space, any Optax transformation.
      sizes: of the layers of the space: F, hidden ones, and K, of the skill, which is the end of
        the observation.
      scales: what the rewards are multiplied with, M numbers, that of the skill first.
      num_updates: steps of the optimiser per rollout.
      summed: their sum `[w, T]` instead, for one critic.
      axis_name: mapped device axis, None for global arrays.

    Returns:
      What `ppo` takes as `relabel`; it reports `skill_reward`, mean of a step and not scaled.
    """

    def parts(steps: Transition) -> tuple[Array, Array, Array]:
        skill = steps.observation[..., -sizes[-1] :]
        return object_of(steps.observation), object_of(steps.next_observation), skill

    def init(key: Array) -> Any:
        space = new_space(key, sizes)
        return space, optimizer.init(space)

    def apply(aux: Any, steps: Transition, key: Array) -> tuple[Array, Any, dict[str, Array]]:
        given = parts(steps)
        rewards_in = lambda space: jax.vmap(
            jax.vmap(lambda before, after, skill: skill_reward(space, before, after, skill))
        )(*given)

        def learn(carry: Any, _: None) -> tuple[Any, None]:
            space, opt_state = carry
            loss = lambda space: -rewards_in(space).mean()
            _, grads = value_and_grad(loss, axis_name)(space)
            updates, opt_state = optimizer.update(grads, opt_state, space)
            return (optax.apply_updates(space, updates), opt_state), None

        earned = rewards_in(aux[0])
        rewards = jnp.concatenate([earned[..., None], others(steps)], -1)
        rewards = rewards * jnp.asarray(scales)[None, None]
        aux, _ = jax.lax.scan(learn, aux, None, num_updates)
        told = {"skill_reward": pmean(earned.mean(), axis_name)}
        return rewards.sum(-1) if summed else rewards, aux, told

    return Relabel(init, apply)
