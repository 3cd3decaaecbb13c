"""References that do not learn in context: an MLP without memory, and small networks trained by
gradient steps on the sequence itself (online learner, MAML).

References:
  Finn, Abbeel and Levine, Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, ICML
  2017, arXiv 1703.03400. Settings: google/learned_optimization, research/data_driven/models.py.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array

from jaxtrain import trees
from jaxtta.in_context.learner import Learner, Memory, Params, check, empty, from_step


class _MLP(nn.Module):
    """`num_layers` linear layers with ReLU between them."""

    width: int
    num_layers: int
    num_classes: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for _ in range(self.num_layers - 1):
            x = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(self.num_classes, name="head")(x)


def mlp(num_inputs: int, num_classes: int, *, width: int = 256) -> Learner:
    """Two hidden ReLU layers on x alone: no context and no state. It fits as many tasks as its
    weights can hold, which is the capacity line of the map of regimes."""
    network = _MLP(width, 3, num_classes)

    def apply(params: Params, x: Array) -> Any:
        return network.apply({"params": params}, x)

    def step(params: Params, memory: Memory, x: Array, y: Array) -> tuple[Memory, Array]:
        return Memory((), y.astype(jnp.int32), memory.position + 1), apply(params, x)

    def logits(params: Params, x: Array, y: Array) -> Array:
        check(learner, x, y)
        return apply(params, x)

    learner = from_step(
        lambda key: network.init(key, jnp.zeros((1, num_inputs)))["params"],
        lambda params, batch_size: empty((), batch_size),
        step,
        state_size=0,
        num_inputs=num_inputs,
        num_classes=num_classes,
    )._replace(logits=logits)
    return learner


def gradient_learner(
    num_inputs: int,
    num_classes: int,
    optimizer: optax.GradientTransformation,
    *,
    width: int = 128,
    num_layers: int = 2,
    learned_init: bool = False,
    seed: int = 0,
) -> Learner:
    """A network trained online: it predicts each example, then takes one step on it.

    With `learned_init` this is MAML: the initial weights are the meta-parameters, and
    meta-training differentiates through all steps. Without, every sequence of a batch starts from
    fresh random weights and there is nothing to meta-train.

    The state is the weights and what the optimiser keeps.

    Args:
      num_inputs: N.
      num_classes: C.
      optimizer: of the inner steps; the official default is Adam at 1e-3. To differentiate through
        Adam its `eps_root` must be positive, because the derivative of a square root at 0 is not
        finite and a ReLU that is off has a gradient of exactly 0.
      width: of the hidden layers.
      num_layers: linear layers; 2 means one hidden layer.
      learned_init: whether the initial weights are meta-parameters.
      seed: of the fresh weights.
    """
    network = _MLP(width, num_layers, num_classes)

    def fresh(key: Array) -> Params:
        return network.init(key, jnp.zeros((num_inputs,)))["params"]

    def loss(weights: Params, x: Array, y: Array) -> tuple[Array, Array]:
        logits: Any = network.apply({"params": weights}, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y), logits

    def start(params: Params, batch_size: int) -> Memory:
        if learned_init:
            copy = lambda w: jnp.broadcast_to(w, (batch_size, *w.shape))
            weights = jax.tree.map(copy, params)
        else:
            weights = jax.vmap(fresh)(jax.random.split(jax.random.key(seed), batch_size))
        return empty((weights, jax.vmap(optimizer.init)(weights)), batch_size)

    def step(params: Params, memory: Memory, x: Array, y: Array) -> tuple[Memory, Array]:
        def one(weights: Params, opt_state: Any, x: Array, y: Array) -> Any:
            grads, logits = jax.grad(loss, has_aux=True)(weights, x, y)
            updates, opt_state = optimizer.update(grads, opt_state, weights)
            return (optax.apply_updates(weights, updates), opt_state), logits

        weights, opt_state = memory.state
        state, logits = jax.vmap(one)(weights, opt_state, x, y)
        return Memory(state, y.astype(jnp.int32), memory.position + 1), logits

    example = jax.eval_shape(lambda: fresh(jax.random.key(0)))
    return from_step(
        fresh if learned_init else lambda key: {},
        start,
        step,
        state_size=trees.size(example) + trees.size(jax.eval_shape(optimizer.init, example)),
        num_inputs=num_inputs,
        num_classes=num_classes,
    )
