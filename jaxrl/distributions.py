"""Action distributions of one state, unbatched; pytrees, so callers `vmap` over them."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Categorical(NamedTuple):
    """A choice among A actions.

    Attributes:
      logits: unnormalised log-probabilities in nats, `[A]`.
    """

    logits: Array

    def sample(self, key: Array) -> Array:
        """An action, `[]`, int32."""
        return jax.random.categorical(key, self.logits)

    def mode(self) -> Array:
        """The likeliest action, `[]`."""
        return jnp.argmax(self.logits, axis=-1)

    def log_prob(self, action: Array) -> Array:
        """log pi(action), `[]`, nats."""
        return jax.nn.log_softmax(self.logits)[action]

    def entropy(self) -> Array:
        """`[]`, nats."""
        log_p = jax.nn.log_softmax(self.logits)
        return -jnp.sum(jnp.exp(log_p) * log_p)


class DiagonalNormal(NamedTuple):
    """Independent normal distributions, one per entry of the action.

    Attributes:
      mean: `[D]`.
      log_std: natural logarithm of the standard deviation, `[D]`.
    """

    mean: Array
    log_std: Array

    def sample(self, key: Array) -> Array:
        """An action, `[D]`."""
        return self.mean + jnp.exp(self.log_std) * jax.random.normal(key, self.mean.shape)

    def mode(self) -> Array:
        """The likeliest action, `[D]`."""
        return self.mean

    def log_prob(self, action: Array) -> Array:
        """Log-density, `[]`, nats."""
        z = (action - self.mean) * jnp.exp(-self.log_std)
        return -jnp.sum(0.5 * z**2 + self.log_std + 0.5 * math.log(2 * math.pi))

    def entropy(self) -> Array:
        """`[]`, nats."""
        return jnp.sum(self.log_std + 0.5 * math.log(2 * math.pi * math.e))


class SquashedNormal(NamedTuple):
    """Independent normal distributions put through tanh into a box.

    Attributes:
      mean: before tanh, `[D]`.
      log_std: natural logarithm of the standard deviation before tanh, `[D]`.
      low, high: the bounds of every entry, low below high.
    """

    mean: Array
    log_std: Array
    low: Array | float
    high: Array | float

    def at(self, noise: Array) -> tuple[Array, Array]:
        """The action `[D]` of standard normal `noise` `[D]`, and its log-density `[]` in nats.

        With u = mean + std noise and half the box's width h, the action is low + h (1 + tanh u) and
        log pi = sum( log N(noise) - log std - log h - log(1 - tanh(u)^2) ), whose last term is
        2 (log 2 - u - softplus(-2 u)) without a difference of two numbers near 1.
        """
        u = self.mean + jnp.exp(self.log_std) * noise
        half = (self.high - self.low) / 2
        normal = -0.5 * noise**2 - 0.5 * math.log(2 * math.pi) - self.log_std
        stretch = jnp.log(half) + 2 * (math.log(2) - u - jax.nn.softplus(-2 * u))
        return self.low + half * (1 + jnp.tanh(u)), jnp.sum(normal - stretch)

    def sample(self, key: Array) -> Array:
        """An action, `[D]`."""
        return self.at(jax.random.normal(key, self.mean.shape))[0]

    def mode(self) -> Array:
        """The action of noise 0, `[D]`."""
        return self.at(jnp.zeros_like(self.mean))[0]

    def log_prob(self, action: Array) -> Array:
        """Log-density, `[]`, nats; actions are taken from the bounds by a millionth of the box."""
        inside = 2 * (action - self.low) / (self.high - self.low) - 1
        u = jnp.arctanh(jnp.clip(inside, -1 + 2e-6, 1 - 2e-6))
        return self.at((u - self.mean) / jnp.exp(self.log_std))[1]


Distribution = Categorical | DiagonalNormal
