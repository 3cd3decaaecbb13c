"""Gradients of the convolution equal those that JAX makes, whatever strides and padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from jaxtrain.nets.convolution import conv_general_dilated

NUMBERS = ("NHWC", "HWIO", "NHWC")


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((1, 2), (0, 1))])
@pytest.mark.parametrize(
    ("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (4, 2), (4, 4), (2, 3)]
)
def test_gradients_equal_those_of_jax(kernel, stride, padding):
    x = jax.random.normal(jax.random.key(0), (2, 7, 8, 3))
    w = jax.random.normal(jax.random.key(1), (kernel, kernel, 3, 4))

    def gradients(conv):
        y = lambda x, w: conv(x, w, (stride, stride), padding, dimension_numbers=NUMBERS)
        return jax.jit(jax.grad(lambda x, w: jnp.sum(jnp.sin(y(x, w))), (0, 1)))(x, w)

    for found, expected in zip(
        gradients(conv_general_dilated), gradients(lax.conv_general_dilated), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_gradient_of_the_kernel_is_in_the_fast_form_inside_a_loop():
    """The form is what makes it fast; with JAX's own gradient, the control, it is another one."""
    x, w = jnp.ones((2, 6, 6, 3)), jnp.ones((3, 3, 3, 4))

    def forms(conv):
        y = lambda w: jnp.sum(jnp.sin(conv(x, w, (1, 1), "SAME", dimension_numbers=NUMBERS)))
        body = lambda w, _: (w - jax.grad(y)(w), None)
        text = jax.jit(lambda w: lax.scan(body, w, length=3)[0]).lower(w).compile().as_text()
        lines = [line for line in text.splitlines() if "dim_labels=" in line]
        return {line.split("dim_labels=")[1].split(",")[0] for line in lines}

    if jax.default_backend() != "cpu":
        pytest.skip("about the CPU backend")
    assert forms(conv_general_dilated) == {"b01f_01io->b01f"}
    assert len(forms(lax.conv_general_dilated)) > 1


def test_gradient_of_a_shared_kernel_is_summed_over_devices():
    """With one device here, with eight by `tests/multidevice`."""
    devices = jax.device_count()
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x = jax.random.normal(jax.random.key(0), (2 * devices, 6, 6, 3))
    w = jax.random.normal(jax.random.key(1), (3, 3, 3, 4))

    def gradient(conv):
        def of(x, w):
            y = lambda w: conv(x, w, (1, 1), "SAME", dimension_numbers=NUMBERS)
            return jax.grad(lambda w: jnp.sum(jnp.sin(y(w))))(w)

        return of

    split = jax.shard_map(
        gradient(conv_general_dilated), mesh=mesh, in_specs=(P("data"), P()), out_specs=P()
    )
    np.testing.assert_allclose(split(x, w), gradient(lax.conv_general_dilated)(x, w), atol=1e-4)


@pytest.mark.parametrize(
    ("x", "w", "options"),
    [
        ((2, 6, 7, 4), (3, 3, 2, 6), {"feature_group_count": 2}),
        ((2, 6, 7, 4), (3, 3, 4, 6), {"precision": "highest"}),
        ((2, 6, 7, 4), (3, 3, 4, 6), {"rhs_dilation": (2, 2)}),
        ((2, 6, 7, 4), (3, 3, 4, 6), {"lhs_dilation": (1, 2)}),
        ((2, 4, 6, 7), (6, 4, 3, 3), {"dimension_numbers": ("NCHW", "OIHW", "NCHW")}),
        ((2, 6, 4), (3, 4, 6), {"dimension_numbers": ("NWC", "WIO", "NWC")}),
    ],
    ids=["groups", "precision", "kernel_dilation", "image_dilation", "layout", "one_dimension"],
)
def test_other_convolutions_are_those_of_jax(x, w, options):
    x, w = jax.random.normal(jax.random.key(0), x), jax.random.normal(jax.random.key(1), w)
    options = {"dimension_numbers": NUMBERS, **options}
    padding = ((1, 2), (0, 1))[: x.ndim - 2]

    def values(conv):
        y = lambda x, w: jnp.sin(conv(x, w, (1, 2)[: x.ndim - 2], padding, **options))
        return jax.jit(lambda x, w: (y(x, w), jax.grad(lambda *xw: y(*xw).sum(), (0, 1))(x, w)))

    found, expected = values(conv_general_dilated)(x, w), values(lax.conv_general_dilated)(x, w)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_precision_is_kept():
    def program(precision):
        options = {"dimension_numbers": NUMBERS, "precision": precision}
        conv = lambda x, w: conv_general_dilated(x, w, (1, 1), "SAME", **options)
        return str(jax.make_jaxpr(conv)(jnp.ones((2, 6, 6, 4)), jnp.ones((3, 3, 4, 4))))

    assert "Precision.HIGHEST" in program("highest")
    assert "Precision.HIGHEST" not in program(None)
