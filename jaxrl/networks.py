"""Networks of actor-critic agents, as functions. Cores take any record of this shape."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxrl.distributions import Categorical, DiagonalNormal, Distribution
from jaxrl.envs.environment import Box, Discrete

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"tanh": jnp.tanh, "relu": jax.nn.relu}


class Network(NamedTuple):
    """A policy and a value function.

    Attributes:
      init: `(key, observation) -> params`.
      policy: `(params, observation) -> distribution`, one observation.
      value: `(params, observation) -> []`, or `[M]` of M rewards.
    """

    init: Callable[[Array, Any], Any]
    policy: Callable[[Any, Any], Distribution]
    value: Callable[[Any, Any], Array]


def orthogonal(gain: float) -> nn.initializers.Initializer:
    """Flax's `orthogonal`, one matrix after the other under `vmap`.

    On the CPU, jaxlib 0.10 hands a batch of QR decompositions to the threads of the program and
    waits for them; as many at once as there are threads, here those of several layers of a
    population, wait for each other forever.
    """
    initializer = nn.initializers.orthogonal(gain)

    def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        return jax.custom_batching.sequential_vmap(lambda k: initializer(k, shape, dtype))(key)

    return init


class MLP(nn.Module):
    """Dense layers; orthogonal weights (gain sqrt 2, then `output_gain`), zero biases.

    `layer_norm` puts a LayerNorm behind every hidden activation.
    """

    widths: Sequence[int]
    num_outputs: int
    activation: Callable[[Array], Array] = jnp.tanh
    output_gain: float = 1.0
    layer_norm: bool = False

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        x = inputs.reshape(-1)
        for width in self.widths:
            x = self.activation(nn.Dense(width, kernel_init=orthogonal(2**0.5))(x))
            x = nn.LayerNorm()(x) if self.layer_norm else x
        return nn.Dense(self.num_outputs, kernel_init=orthogonal(self.output_gain))(x)


def mlp(
    action: Discrete | Box,
    widths: Sequence[int] = (64, 64),
    activation: Callable[[Array], Array] = jnp.tanh,
    num_critics: int = 1,
) -> Network:
    """Separate MLPs for policy and value; the standard deviation of a continuous policy is a
    parameter that does not depend on the state and starts at 1.

    Args:
      action: the action space.
      widths: hidden units per layer.
      activation: of the hidden units, e.g. `jax.nn.relu`.
      num_critics: M; each is a network of its own, and the value is `[M]` if there are several.
    """
    size = action.num_actions if isinstance(action, Discrete) else math.prod(action.shape)
    actor = MLP(tuple(widths), size, activation, 0.01)
    critic = MLP(tuple(widths), 1, activation, 1.0)

    def one_critic(key: Array, observation: Any) -> Any:
        return critic.init(key, observation)["params"]

    def init(key: Array, observation: Any) -> dict[str, Any]:
        key_actor, key_critic = jax.random.split(key)
        if num_critics > 1:
            keys = jax.random.split(key_critic, num_critics)
            critics = jax.vmap(one_critic, (0, None))(keys, observation)
        else:
            critics = one_critic(key_critic, observation)
        params = {
            "actor": actor.init(key_actor, observation)["params"],
            "critic": critics,
        }
        if isinstance(action, Box):
            params["log_std"] = jnp.zeros(action.shape)
        return params

    def policy(params: Any, observation: Any) -> Distribution:
        output = jnp.asarray(actor.apply({"params": params["actor"]}, observation))
        if isinstance(action, Discrete):
            return Categorical(output)
        return DiagonalNormal(output.reshape(action.shape), params["log_std"])

    def value(params: Any, observation: Any) -> Array:
        of_one = lambda weights: jnp.asarray(critic.apply({"params": weights}, observation))[0]
        return (of_one if num_critics == 1 else jax.vmap(of_one))(params["critic"])

    return Network(init, policy, value)
