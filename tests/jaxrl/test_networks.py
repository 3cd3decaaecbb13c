"""Networks of actor-critic agents: how their weights start."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.extend.core import jaxprs_in_params

from jaxrl import envs
from jaxrl.networks import mlp, orthogonal

OBSERVATION = jnp.zeros(4)
NETWORK = mlp(envs.cart_pole().action, (8, 6))


def test_weights_are_orthogonal_with_their_gains():
    params = NETWORK.init(jax.random.key(0), OBSERVATION)
    gains = {"actor": (2**0.5, 2**0.5, 0.01), "critic": (2**0.5, 2**0.5, 1.0)}
    for name, expected in gains.items():
        for i, gain in enumerate(expected):
            layer = params[name][f"Dense_{i}"]
            singular = np.linalg.svd(layer["kernel"], compute_uv=False)
            np.testing.assert_allclose(singular, gain, rtol=1e-5)
            assert (layer["bias"] == 0).all()


def test_a_continuous_policy_starts_with_a_deviation_of_1():
    network = mlp(envs.Box((2,), -1.0, 1.0), (8,))
    params = network.init(jax.random.key(0), OBSERVATION)
    policy = network.policy(params, OBSERVATION)
    np.testing.assert_array_equal(jnp.exp(policy.log_std), [1, 1])
    assert policy.mean.shape == (2,)


def decompositions(jaxpr):
    """Shapes of the matrices of all QR decompositions of a program."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "qr":
            found.append(equation.invars[0].aval.shape)
        for inner in jaxprs_in_params(equation.params):
            found += decompositions(inner)
    return found


def test_a_population_starts_one_matrix_after_the_other():
    """Batches of QR decompositions side by side can wait for each other forever."""
    keys = jax.random.split(jax.random.key(0), (3, 2))
    start = lambda k: NETWORK.init(k, OBSERVATION)
    population = jax.vmap(jax.vmap(start))
    shapes = decompositions(jax.make_jaxpr(population)(keys).jaxpr)
    assert len(shapes) == 6 and all(len(shape) == 2 for shape in shapes)
    plain = lambda k: nn.initializers.orthogonal(1.0)(k, (4, 8))  # control
    assert decompositions(jax.make_jaxpr(jax.vmap(jax.vmap(plain)))(keys).jaxpr) == [(3, 2, 8, 4)]

    found = jax.jit(population)(keys)
    for i in range(3):
        for j in range(2):
            jax.tree.map(
                lambda a, b, at=(i, j): np.testing.assert_allclose(a[at], b, atol=1e-6),
                found,
                start(keys[i, j]),
            )


def test_orthogonal_is_that_of_flax():
    for shape in ((4, 8), (8, 4), (5, 5)):
        for gain in (0.01, 2**0.5):
            np.testing.assert_array_equal(
                orthogonal(gain)(jax.random.key(1), shape),
                nn.initializers.orthogonal(gain)(jax.random.key(1), shape),
            )


def test_hidden_units_are_those_asked_for():
    """With relu a network of non-negative weights doubles with its input; with tanh it does not."""
    params = jax.tree.map(jnp.abs, NETWORK.init(jax.random.key(0), OBSERVATION))
    x = jnp.ones(4)
    for activation, linear in ((jax.nn.relu, True), (jnp.tanh, False)):
        value = mlp(envs.cart_pole().action, (8, 6), activation).value
        once, twice = value(params, x), value(params, 2 * x)
        assert bool(abs(twice - 2 * once) < 1e-4 * once) == linear


def test_several_critics_are_networks_of_their_own():
    network = mlp(envs.Discrete(2), (4,), num_critics=3)
    params, observation = network.init(jax.random.key(0), OBSERVATION), jnp.arange(4.0)
    found = network.value(params, observation)
    assert found.shape == (3,) and len(set(found.tolist())) == 3
    for number in range(3):
        of_one = jax.tree.map(lambda x, n=number: x[n], params["critic"])
        one = mlp(envs.Discrete(2), (4,)).value({"critic": of_one}, observation)
        np.testing.assert_allclose(found[number], one, rtol=1e-6)
