"""Networks trained on the sequence: their steps, and gradients through them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtta import in_context as icl
from tests.jaxtta.in_context.learners import B, C, N, T, dense, logits_of, made, sequences


@pytest.mark.parametrize("name", ["maml", "online"])
def test_gradient_learner_takes_one_step_per_example(name):
    learner, params = made(name)
    x, y = sequences(num=1)
    got = logits_of(name)(params, x, y)
    weights = jax.tree.map(lambda w: w[0], learner.start(params, 1).state[0])

    def forward(weights, x):
        hidden = jax.nn.relu(x @ weights["Dense_0"]["kernel"] + weights["Dense_0"]["bias"])
        return hidden @ weights["head"]["kernel"] + weights["head"]["bias"]

    loss = lambda w, x, y: -jax.nn.log_softmax(forward(w, x))[y]
    moments = jax.tree.map(lambda w: (jnp.zeros_like(w), jnp.zeros_like(w)), weights)
    for t in range(T):
        np.testing.assert_allclose(got[0, t], forward(weights, x[0, t]), atol=1e-4)
        grads = jax.grad(loss)(weights, x[0, t], y[0, t])
        if name == "maml":
            weights = jax.tree.map(lambda w, g: w - 0.5 * g, weights, grads)
            continue

        def adam(w, g, state, t=t):
            m, v = 0.9 * state[0] + 0.1 * g, 0.999 * state[1] + 0.001 * g**2
            root = jnp.sqrt(v / (1 - 0.999 ** (t + 1))) + 1e-8
            return w - 0.1 * m / (1 - 0.9 ** (t + 1)) / root, (m, v)

        pairs = jax.tree.map(adam, weights, grads, moments)
        is_pair = lambda node: isinstance(node, tuple) and not isinstance(node[0], tuple)
        weights = jax.tree.map(lambda pair: pair[0], pairs, is_leaf=is_pair)
        moments = jax.tree.map(lambda pair: pair[1], pairs, is_leaf=is_pair)


def test_mlp_is_two_hidden_layers_on_the_input_alone():
    _, params = made("mlp")
    x, y = sequences()
    hidden, layers = np.asarray(x), jax.tree.map(np.asarray, params)
    for name in ("Dense_0", "Dense_1"):
        hidden = np.maximum(dense(hidden, layers[name]), 0)
    found = logits_of("mlp")(params, x, y)
    np.testing.assert_allclose(found, dense(hidden, layers["head"]), atol=1e-5)


def test_online_learner_starts_every_sequence_afresh_and_has_nothing_to_train():
    learner, params = made("online")
    assert not jax.tree.leaves(params)
    kernel = learner.start(params, 3).state[0]["head"]["kernel"]
    assert (kernel[0] != kernel[1]).any() and (kernel[1] != kernel[2]).any()
    maml, weights = made("maml")
    for kernel in maml.start(weights, 2).state[0]["head"]["kernel"]:
        np.testing.assert_array_equal(kernel, weights["head"]["kernel"])


def test_maml_gradient_reaches_the_initial_weights_through_all_steps():
    """Against finite differences of the loss at the last position, with Adam inside."""
    learner = icl.gradient_learner(
        N, C, optax.adam(0.05, eps_root=1e-8), width=4, learned_init=True
    )
    params = jax.jit(learner.init)(jax.random.key(0))
    x, y = sequences()

    @jax.jit
    def loss(params):
        return -jax.nn.log_softmax(learner.logits(params, x, y)[:, -1])[
            jnp.arange(B), y[:, -1]
        ].mean()

    grads = jax.jit(jax.grad(loss))(params)
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads))
    direction = jax.tree.map(lambda w: jax.random.normal(jax.random.key(w.size), w.shape), params)
    move = lambda size: jax.tree.map(lambda w, d: w + size * d, params, direction)
    slope = (loss(move(1e-3)) - loss(move(-1e-3))) / 2e-3
    inner = sum(jax.tree.leaves(jax.tree.map(lambda g, d: (g * d).sum(), grads, direction)))
    np.testing.assert_allclose(inner, slope, rtol=0.05)
