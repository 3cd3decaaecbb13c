"""The diffusion model's averaged parameters, and the images that a source model is tuned on."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from experiments.data.images.labelled import Images
from experiments.images import diffusion
from jaxtrain.host.config import UsageError, load


class Constant(nn.Module):
    """Says one learned number, 0 at first, about every pixel."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, x, times, labels=None):
        return 0 * x + self.param("number", nn.initializers.zeros, ())


@pytest.mark.parametrize("decay", [0.75, 1.0])
def test_the_averaged_parameters_are_used(decay):
    """A step of Adam moves a number by the rate, and the average by 1 - decay of that."""
    data = Images(np.full((4, 2, 2, 3), 200, np.uint8), np.arange(4) % 3, "")
    settings = dict(num_steps=1, batch_size=4, learning_rate=0.5, drop_labels=0.1)
    found = diffusion.trained(Constant(), data, jax.random.key(0), ema_decay=decay, **settings)
    np.testing.assert_allclose(abs(found.params["number"]), 0.5 * (1 - decay), rtol=1e-4)


def test_images_to_tune_on_are_of_all_classes_in_turn_or_those_of_training():
    config, _ = load("configs/tta_images.py:debug")
    found = diffusion.examples(config, 3, images="synthetic", num_images=9, batch_size=4)
    assert found.labels.tolist() == [[0, 1, 2, 0], [1, 2, 0, 1]] and found.pixels == ()
    found = diffusion.examples(config, 10, images="training", num_images=9, batch_size=4)
    assert found.labels.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert found.pixels.shape == (2, 4, 32, 32, 3)
    some, _ = load("configs/tta_images.py:debug,stream.setting=open_set,model.num_classes=6")
    with pytest.raises(UsageError, match="finds 6 known images among the first 8; lower method"):
        diffusion.examples(some, 6, images="training", num_images=9, batch_size=4)
