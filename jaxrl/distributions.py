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


Distribution = Categorical | DiagonalNormal
