"""The gradient of a kernel that all devices share, on eight devices."""

from tests.jaxtrain.nets.test_convolution import (
    test_gradient_of_a_shared_kernel_is_summed_over_devices as test_shared_kernel,
)

__all__ = ["test_shared_kernel"]
