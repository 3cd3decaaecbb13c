"""What an evaluation says about the latent space."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.lpn.evaluation import latent_report
from jaxtta.lpn import Pairs, Posterior


class Fixed:
    """An encoder that answers the given means and N(m, 1)."""

    def __init__(self, mean):
        self.mean = jnp.asarray(mean, jnp.float32)

    def encode(self, params, pairs):
        return Posterior(self.mean, jnp.zeros_like(self.mean))


@pytest.mark.parametrize(
    ("size", "active", "words"),
    [(0.01, 0, "collapsed onto the prior"), (1.0, 1, "KL 0.5 nats"), (100.0, 1, "KL explodes")],
)
def test_report_counts_used_dimensions_and_warns(size, active, words):
    mean = np.zeros((2, 3, 2))
    mean[..., 0] = size
    mean[1, 2] = 1e6  # padding
    mask = np.array([[True, True, True], [True, True, False]])
    report = latent_report(Fixed(mean), None, Pairs(None, None, mask))
    assert report["active_units"] == active and words in report["text"]
    np.testing.assert_allclose(report["kl_per_dimension"], [size**2 / 2, 0.0], rtol=1e-3)
    assert ("WARNING" in report["text"]) == (size != 1.0)
