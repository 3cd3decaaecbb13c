"""The gradient of the U-Net, split over eight devices."""

from tests.jaxtrain.nets.test_unet import (
    test_gradient_is_that_of_the_whole_batch_on_any_number_of_devices as test_gradient,
)

__all__ = ["test_gradient"]
