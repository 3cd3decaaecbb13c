"""FLOPs, bytes and memory counted from a program, against counts by hand."""

import jax
import jax.numpy as jnp
import pytest

from jaxtrain.host import costs
from jaxtrain.loops import at_most


def flops(fun, *args):
    return costs.matmul_flops(jax.make_jaxpr(fun)(*args))


def test_flops_of_products_by_hand():
    a, b = jnp.ones((5, 7)), jnp.ones((7, 3))
    product = 2 * 5 * 7 * 3
    assert flops(jnp.matmul, a, b) == product
    assert flops(lambda a, b: (a + 1) @ b * 2, a, b) == product  # only products count
    assert flops(jax.vmap(jnp.matmul, (0, None)), jnp.ones((4, 5, 7)), b) == 4 * product
    # The gradient with respect to both arguments: forward and two products of the same size.
    assert flops(jax.grad(lambda a, b: (a @ b).sum() ** 2, (0, 1)), a, b) == 3 * product
    assert flops(jax.jit(jax.checkpoint(jnp.matmul)), a, b) == product
    assert flops(
        lambda q, k: jnp.einsum("bhqd,bhkd->bhqk", q, k), *[jnp.ones((2, 3, 4, 5))] * 2
    ) == (2 * 2 * 3 * 4 * 4 * 5)


def test_flops_of_loops_and_branches():
    x = jnp.ones((4, 4))
    product = 2 * 4**3

    def scanned(x):
        return jax.lax.scan(lambda c, _: (c @ x, None), x, None, length=6)[0]

    assert flops(scanned, x) == 6 * product
    # The compiler's own count takes the body once, which is why this function exists.
    compiled = jax.jit(scanned).lower(x).compile().cost_analysis()["flops"]
    assert compiled < 3 * product
    assert flops(lambda n: jax.lax.fori_loop(0, n, lambda _, c: c @ c, x), 3) == product
    branches = [lambda x: x, lambda x: x @ x @ x, lambda x: x @ x]
    assert flops(lambda i: jax.lax.switch(i, branches, x), 0) == 2 * product


def test_flops_of_a_convolution():
    images, kernel = jnp.ones((2, 9, 9, 3)), jnp.ones((3, 3, 3, 8))
    convolve = lambda x, k: jax.lax.conv_general_dilated(  # noqa: E731
        x, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert flops(convolve, images, kernel) == 2 * (2 * 7 * 7 * 8) * (3 * 3 * 3)


def test_flops_of_a_shard_map_are_those_of_all_devices():
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.sharding.AbstractMesh((4,), ("data",), axis_types=auto)
    spec = jax.sharding.PartitionSpec
    fun = jax.shard_map(
        lambda x, w: x @ w, mesh=mesh, in_specs=(spec("data"), spec()), out_specs=spec("data")
    )
    x, w = jax.ShapeDtypeStruct((8, 5), jnp.float32), jax.ShapeDtypeStruct((5, 3), jnp.float32)
    assert flops(fun, x, w) == 2 * 8 * 5 * 3


def test_bytes_are_those_of_operands_and_results_by_type():
    a, b = jnp.ones((5, 7), jnp.bfloat16), jnp.ones((7, 3), jnp.bfloat16)
    product = lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32)  # noqa: E731
    found = costs.cost(jax.make_jaxpr(lambda a, b: product(a + 1, b) * 2)(a, b))
    assert found.flops == {"bfloat16": 2 * 5 * 7 * 3}
    assert found.bytes == 2 * (5 * 7 + 7 * 3) + 4 * 5 * 3


def test_a_loop_counts_as_often_as_it_may_run_or_does_run():
    x = jnp.ones((4, 4))
    product, moved = 2 * 4**3, 3 * 4 * 16

    def grouped(n, x):
        with at_most("groups", 8):
            x = jax.lax.fori_loop(0, n, lambda _, c: c @ c, x)
        return jax.lax.fori_loop(0, n, lambda _, c: c @ c, x)  # without a name

    program = jax.make_jaxpr(grouped)(3, x)
    found = costs.cost(program)
    assert found.loops == (
        costs.Loop("groups", 8, 8, product, moved),
        costs.Loop("", 1, 1, product, moved),
    )
    assert found.total_flops == 9 * product and found.bytes == 9 * moved
    typical = costs.cost(program, {"groups": 2.5})
    assert typical.total_flops == 3.5 * product and typical.loops[0].passes == 2.5
    mapped = costs.cost(jax.make_jaxpr(jax.vmap(grouped, (0, None)))(jnp.arange(2), x))
    assert mapped.loops[0][:3] == ("groups", 8, 8)


def test_memory_alive_at_once():
    x = jnp.ones((16, 16))
    one = x.nbytes
    # The argument and one product at a time; the last product is the result.
    assert costs.peak_bytes(jax.make_jaxpr(lambda x: x @ x @ x @ x)(x)) == 3 * one
    # Both products are needed at the end.
    assert costs.peak_bytes(jax.make_jaxpr(lambda x: (x @ x, x @ x @ x))(x)) == 4 * one
    # Element-wise results are fused into the product.
    assert costs.peak_bytes(jax.make_jaxpr(lambda x: (jnp.exp(x) + 1) @ x)(x)) == 2 * one
    # A gradient keeps what the backward pass needs; a checkpoint keeps less.
    layers = lambda f: lambda x: jax.lax.fori_loop(0, 8, lambda _, c: f(c), x).sum()  # noqa: E731
    layer = lambda c: jnp.tanh(jnp.tanh(c @ c) @ c) @ c  # noqa: E731
    kept = costs.peak_bytes(jax.make_jaxpr(jax.grad(layers(layer)))(x))
    less = costs.peak_bytes(jax.make_jaxpr(jax.grad(layers(jax.checkpoint(layer))))(x))
    assert kept > 24 * one and less < kept / 1.8


@pytest.mark.parametrize("width", [64, 256])
def test_memory_is_near_what_the_compiler_plans(width):
    def loss(w, x):
        for _ in range(4):
            x = jax.nn.gelu(x @ w)
        return (x**2).sum()

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((width, width), (512, width))]
    traced = jax.jit(jax.grad(loss)).trace(*shapes)
    memory = traced.lower().compile().memory_analysis()
    real = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    assert 0.5 < costs.peak_bytes(traced.jaxpr) / real < 2
