"""What is trained before deployment is saved: a later start of the run takes it as it is."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.images.labelled import Images
from experiments.images import methods
from experiments.images.diffusion import Denoiser
from experiments.images.known import Known, in_batches, scaled
from experiments.images.source import Source
from jaxtrain.host.config import load
from jaxtrain.nets import Classified
from jaxtrain.nets.norm import SOURCE

CONFIG, _ = load("configs/tta_images.py:debug,source.imbalance=4.0,clean.batch_size=8")


def network(params, model_state, x, *, norm=SOURCE, mask=None):
    """Two layers on the mean colour, and one stored number."""
    hidden = jnp.tanh(x.mean((1, 2)) @ params["stage"]["kernel"])
    after = model_state if norm.momentum is None else {"seen": model_state["seen"] + 1}
    return Classified(
        hidden @ params["head"]["kernel"] + params["head"]["bias"][None], hidden
    ), after


def known(folder, shift):
    """Of a source model whose output is shifted; with a diffusion model that draws noise."""
    params = {
        "stage": {"kernel": jax.random.normal(jax.random.key(0), (3, 4))},
        "head": {"kernel": jax.random.normal(jax.random.key(1), (4, 10))},
    }
    params["head"]["bias"] = shift * jnp.arange(10.0)
    found = Known(CONFIG, Source(network, params, {"seen": jnp.zeros(())}, 10), folder)
    draws_noise = types.SimpleNamespace(apply=lambda variables, x, times, labels: 0 * x)
    found.denoiser = Denoiser(draws_noise, {})
    found.projection = lambda params, images, keys: images
    return found


def made(name):
    return lambda given: (
        methods.method(name)(given._source, given, **CONFIG.method[name].to_dict()).args
    )


def tuned(given):
    settings = CONFIG.method.sda.to_dict()
    del settings["combination"]
    return given.tuned(**settings)


# Folder -> what is trained there.
MADE = {
    "posterior": lambda given: given.posterior,
    "head-4-8": lambda given: given.head_adapter(num_steps=4, batch_size=8),
    "warm-up-": lambda given: made("rmt")(given)[2].warm,
    "vida-stage-1-4-": made("vida"),
    "tuning-synthetic-16-8-": tuned,
}


LONGER = ("posterior", "head-4-8", "vida-stage-1-4-")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.ci] * (n in LONGER)) for n in MADE]
)
def test_a_training_that_is_done_is_not_done_again(tmp_path, name):
    first = MADE[name](known(tmp_path, 0.0))
    folders = sorted(path.name for path in tmp_path.iterdir())
    assert folders[-1].startswith(name) and len(folders) == 1 + name.startswith("tuning")
    fresh = MADE[name](known(None, 0.1))
    same = jax.tree.map(lambda a, b: bool((a == b).all()), fresh, first)
    assert not all(jax.tree.leaves(same)), "the source must matter"
    again = MADE[name](known(tmp_path, 0.1))
    jax.tree.map(np.testing.assert_array_equal, again, first)
    assert sorted(path.name for path in tmp_path.iterdir()) == folders


def test_batches_keep_their_order_and_the_rest_is_left_out():
    pixels = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1) * np.uint8(51)
    found = in_batches(Images(pixels, np.arange(5), ""), 2)
    assert found.labels.tolist() == [[0, 1], [2, 3]]
    np.testing.assert_array_equal(found.images[..., 0, 0, 0], [[0, 51], [102, 153]])
    np.testing.assert_allclose(scaled(found).images[..., 0, 0, 0], [[0, 0.2], [0.4, 0.6]])
    assert in_batches(Images(pixels, np.arange(5), ""), 8).labels.tolist() == [[0, 1, 2, 3, 4]]
