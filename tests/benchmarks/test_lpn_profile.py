"""The floor of small latent-program work, against the program product by product."""

import jax
import jax.numpy as jnp

from benchmarks import lpn_profile as profile
from jaxtrain.host import costs


def test_a_training_step_makes_the_products_of_its_floor_and_those_that_are_known():
    """Queries of all tokens in the last encoder block, and what the causal mask forbids."""
    case = profile.training_case("debug,model.encoder.num_layers=2,model.decoder.num_layers=2")
    pairs, width, encoded, written = 32 * 4, 8, 2 * 16 + 5, 16 + 1
    queries = 3 * (encoded - 1) * 2 * width**2
    masked = 3 * 2 * 4 * width * written * (written - 1) // 2
    assert case.program == case.floor + pairs * (queries + masked)


def test_what_no_result_needs_is_not_counted():
    x = jnp.ones((4, 4))

    def function(x):
        unused = x @ x  # noqa: F841
        return jax.lax.scan(lambda c, _: (c @ c, None), x, length=3)[0]

    assert profile.program_of(function, (x,)) == 3 * 2 * 4**3
    (key,) = found = profile.products(profile.traced(function, (x,)))
    assert found[key] == 3 and key[1] == ((4, 4), (4, 4))
    assert costs.matmul_flops(jax.make_jaxpr(function)(x)) == 4 * 2 * 4**3
    assert profile.seconds_alone(found, repeats=1) > 0


def test_a_loop_of_unknown_length_makes_its_products_as_often_as_is_said():
    x = jnp.ones((2, 3))

    def step(c):
        unused = x.T @ c @ x.T  # noqa: F841
        return c @ (x.T @ x)

    function = lambda x: jax.lax.while_loop(lambda c: c.sum() < 9, step, x)
    found = profile.products(profile.traced(function, (x,)), passes=5)
    assert sorted(found.values()) == [5, 5]
    assert profile.program_of(function, (x,), {"": 5}) == 5 * 2 * (3 * 2 * 3 + 2 * 3 * 3)
