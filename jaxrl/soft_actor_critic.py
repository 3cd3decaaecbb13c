"""Soft actor-critic: off-policy learning of a policy that is as random as it can afford to be.

`off_policy` acts, remembers and makes gradient steps; this is what the steps go down:

    soft_losses         of critics, policy and temperature, on rows and noise

Each part is differentiated by its own parameters. The losses of a step are taken at the same
parameters, as in the first version of the paper, so that one backward pass serves all.

References:
  Haarnoja et al., Soft Actor-Critic Algorithms and Applications, arXiv 1812.05905.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxrl.distributions import SquashedNormal
from jaxrl.envs.environment import Box, Discrete, Environment
from jaxrl.networks import MLP
from jaxrl.off_policy import Learner, off_policy, towards
from jaxrl.rollout import Act, Transition
from jaxtrain.core import Core

LOG_STD = (-20.0, 2.0)
NO_BOX = "soft actor-critic needs continuous actions, a Box; ppo takes discrete ones."
Values = Callable[[Any, Any, Array], Array]  # (params, observation, action) -> [2]


class SoftNetwork(NamedTuple):
    """A policy and two critics.

    Attributes:
      init: `(key, observation) -> (policy's params, critics' params)`.
      policy: `(policy's params, observation) -> SquashedNormal`, one observation.
      values: `(critics' params, observation, action) -> [2]`.
    """

    init: Callable[[Array, Any], tuple[Any, Any]]
    policy: Callable[[Any, Any], SquashedNormal]
    values: Values


def box_of(action: Any) -> Box:
    """The action space as a box.

    Raises:
      ValueError: it is none.
    """
    if not isinstance(action, Box):
        raise ValueError(NO_BOX)
    return action


def squashed(output: Array, action: Box) -> SquashedNormal:
    """The distribution that `output` `[2 D]`, means and logs of deviations, says."""
    mean, log_std = output.reshape(2, *action.shape)
    return SquashedNormal(mean, jnp.clip(log_std, *LOG_STD), action.low, action.high)


def joined(observation: Array, action: Array) -> Array:
    """Both as one vector."""
    return jnp.concatenate([observation.ravel(), action.ravel()])


def two_critics(
    action: Box, widths: Sequence[int], activation: Callable[[Array], Array]
) -> tuple[Callable[[Array, Any], Any], Values]:
    """Two MLPs of observation and action: `(key, observation) -> params`, and their values."""
    critic = MLP(tuple(widths), 1, activation, 1.0)

    def init(key: Array, observation: Any) -> Any:
        both = joined(observation, jnp.zeros(action.shape))
        make = lambda key: critic.init(key, both)["params"]
        return jax.vmap(make)(jax.random.split(key, 2))

    def values(params: Any, observation: Any, action: Array) -> Array:
        both = joined(observation, action)
        of = lambda params: jnp.asarray(critic.apply({"params": params}, both))[0]
        return jax.vmap(of)(params)

    return init, values


def soft_mlp(
    action: Discrete | Box,
    widths: Sequence[int] = (256, 256),
    activation: Callable[[Array], Array] = jax.nn.relu,
) -> SoftNetwork:
    """MLPs for the policy and for two critics of observation and action.

    Args:
      action: the action space, a `Box`.
      widths: hidden units per layer.
      activation: of the hidden units.

    Raises:
      ValueError: the actions are not those of a box.
    """
    box = box_of(action)
    actor = MLP(tuple(widths), 2 * math.prod(box.shape), activation, 0.01)
    init_critics, values = two_critics(box, widths, activation)

    def init(key: Array, observation: Any) -> tuple[Any, Any]:
        key_actor, key_critics = jax.random.split(key)
        critics = init_critics(key_critics, observation)
        return actor.init(key_actor, observation)["params"], critics

    def policy(params: Any, observation: Any) -> SquashedNormal:
        return squashed(jnp.asarray(actor.apply({"params": params}, observation)), box)

    return SoftNetwork(init, policy, values)


class Params(NamedTuple):
    """What gradients change: policy, critics and the log of the temperature `[]`."""

    actor: Any
    critics: Any
    log_alpha: Array


class Row(NamedTuple):
    """A step as it is remembered; a time limit is no end."""

    observation: Any
    action: Array
    reward: Array
    terminated: Array
    next_observation: Any


def soft_losses(
    params: Params,
    given: tuple[Row, Array],
    *,
    network: SoftNetwork,
    targets: Any,
    gamma: ArrayLike,
    target_entropy: ArrayLike,
) -> tuple[Array, dict[str, Array]]:
    """Sum of the three losses; nothing flows from one part into the parameters of another.

        critics      mean over rows of sum_i ( Q_i(s, a) - y )^2,
                     y = r + gamma (1 - terminated) ( min_i Q'_i(s', a') - alpha log pi(a' | s') )
        policy       mean( alpha log pi(b | s) - min_i Q_i(s, b) )
        temperature  - log alpha mean( log pi(b | s) + target entropy )

    Args:
      params: of policy, critics and temperature.
      given: rows `[m]`, and standard normal noise `[m, 2, ...]` of b and a'.
      network: the functions of the parameters.
      targets: parameters of Q'.
      gamma: discount.
      target_entropy: nats.
    """
    fixed = jax.lax.stop_gradient(params)
    alpha = jnp.exp(fixed.log_alpha)

    def of_row(row: Row, noise: Array) -> dict[str, Array]:
        action, log_prob = network.policy(params.actor, row.observation).at(noise[0])
        following, of_following = network.policy(fixed.actor, row.next_observation).at(noise[1])
        value = (
            network.values(targets, row.next_observation, following).min() - alpha * of_following
        )
        target = row.reward + gamma * jnp.where(row.terminated, 0.0, value)
        error = network.values(params.critics, row.observation, row.action) - target
        score = network.values(fixed.critics, row.observation, action).min()
        short = jax.lax.stop_gradient(log_prob) + target_entropy
        return {
            "critic_loss": (error**2).sum(),
            "actor_loss": alpha * log_prob - score,
            "temperature_loss": -params.log_alpha * short,
            "entropy": -log_prob,
        }

    parts = {name: x.mean() for name, x in jax.vmap(of_row)(*given).items()}
    return parts["critic_loss"] + parts["actor_loss"] + parts["temperature_loss"], parts


def acting(network: SoftNetwork, params: Params, *, greedy: bool = False) -> Act:
    """The policy as `rollout` and `episode` want it: `(key, observation) -> (action, ())`."""

    def act(key: Array, observation: Any) -> tuple[Array, tuple[()]]:
        policy = network.policy(params.actor, observation)
        return policy.mode() if greedy else policy.sample(key), ()

    return act


def or_any(at_random: Array, box: Box, key: Array, action: Array) -> Array:
    """The action, or one drawn evenly from the box; of the action's own key."""
    key = jax.random.fold_in(key, 1)
    other = jax.random.uniform(key, box.shape, minval=box.low, maxval=box.high)
    return jnp.where(at_random, other, action)


def soft_actor_critic(
    env: Environment,
    network: SoftNetwork,
    optimizer: optax.GradientTransformation,
    *,
    gamma: ArrayLike = 0.99,
    tau: ArrayLike = 0.005,
    target_entropy: ArrayLike | None = None,
    **options: Any,
) -> Core:
    """Soft actor-critic with two critics and a temperature that is learned.

    Args:
      env: the environment, with actions in a box.
      network: policy and critics.
      optimizer: of all parameters; it makes num_updates steps per update, and should not clip the
        global norm, which would tie the parts together.
      gamma: discount.
      tau: share of the way that target critics go with each gradient step.
      target_entropy: nats; None: minus the size of an action, whatever the box.
      **options: of `off_policy`: workers, steps, rows and the buffer.

    Returns:
      A core whose batch is worker places `[w]`, int32. Metrics: those of `off_policy`, with the
      three losses, `entropy` and `alpha`.

    Raises:
      ValueError: what `off_policy` refuses, an action space that is no box.
    """
    box = box_of(env.action)
    wanted = -float(math.prod(box.shape)) if target_entropy is None else target_entropy

    def init(key: Array, observation: Any) -> tuple[Params, Any]:
        params = Params(*network.init(key, observation), jnp.float32(0.0))
        return params, params.critics

    def act(params: Params, at_random: Array) -> Act:
        known = acting(network, params)

        def choose(key: Array, observation: Any) -> tuple[Array, tuple[()]]:
            return or_any(at_random, box, key, known(key, observation)[0]), ()

        return choose

    def row(steps: Transition) -> Row:
        return Row(*(getattr(steps, name) for name in Row._fields))

    def example(observation: Any) -> Row:
        nothing = jnp.zeros(box.shape), jnp.float32(0.0), jnp.zeros((), bool)
        return Row(observation, *nothing, observation)

    learner = Learner(
        init=init,
        act=act,
        row=row,
        example=example,
        noise=(2, *box.shape),
        loss=functools.partial(soft_losses, network=network, gamma=gamma, target_entropy=wanted),
        follow=lambda targets, params: towards(tau, targets, params.critics),
        said=lambda params: {"alpha": jnp.exp(params.log_alpha)},
    )
    return off_policy(env, learner, optimizer, **options)
