"""The segmentation network against a NumPy forward pass, and its losses against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.nets import classifier
from jaxtrain.nets.norm import BATCH, SOURCE
from jaxtrain.nets.segmenter import Segmenter, labelled_cross_entropy, per_pixel
from jaxtta import check_apply
from tests.jaxtrain.nets import numpy_nets

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
NETWORK = Segmenter(num_classes=3, width=4, multipliers=(1, 2), patch=2, mean=MEAN, std=STD)
X = np.random.default_rng(0).random((3, 8, 12, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def variables():
    """Random numbers in the place of all parameters and statistics."""
    shapes = jax.eval_shape(NETWORK.init, jax.random.key(0), jnp.asarray(X))
    rng = np.random.default_rng(1)
    draw = lambda x: rng.normal(0, 0.4, x.shape).astype(np.float32)
    found = jax.tree.map(draw, shapes)
    positive = lambda path, x: np.abs(x) + 0.5 if "var" in jax.tree_util.keystr(path) else x
    found = jax.tree_util.tree_map_with_path(positive, found)
    return found["params"], {"batch_stats": found["batch_stats"]}


def in_numpy(params, stats, x, batch):
    """Channels first, as `numpy_nets` has them."""

    def norm(x, place, name):
        of = lambda tree: tree[place[0]][name] if place else tree[name]
        own, held = of(params), of(stats)
        weights = {"n.weight": own["scale"], "n.bias": own["bias"]}
        weights |= {"n.running_mean": held["mean"], "n.running_var": held["var"]}
        return numpy_nets.relu(numpy_nets.batch_norm(x, weights, "n", batch))

    def conv(x, kernel):
        kernel = np.moveaxis(np.asarray(kernel, np.float64), (3, 2), (0, 1))
        return numpy_nets.conv(x, kernel, 1, kernel.shape[-1] // 2)

    def block(x, name):
        own = params[name]
        active = norm(x, (name,), "norm1")
        y = norm(conv(active, own["conv1"]["kernel"]), (name,), "norm2")
        y = conv(y, own["conv2"]["kernel"])
        if "conv_shortcut" in own:
            x = conv(active, own["conv_shortcut"]["kernel"])
        return x + y

    x = (x.astype(np.float64) - MEAN) / STD
    b, h, w, c = x.shape
    x = (
        x.reshape(b, h // 2, 2, w // 2, 2, c)
        .transpose(0, 2, 4, 5, 1, 3)
        .reshape(b, 4 * c, h // 2, w // 2)
    )
    x = kept = block(conv(x, params["conv_in"]["kernel"]), "down0_0")
    x = x.reshape(b, 4, h // 4, 2, w // 4, 2).mean((3, 5))
    x = block(x, "down1_0").repeat(2, 2).repeat(2, 3)
    x = block(np.concatenate([x, kept], 1), "up0_0")
    x = norm(x, (), "norm_last")
    head = params["head"]
    x = np.einsum("bchw,ck->bhwk", x, head["kernel"]) + head["bias"]
    x = x.reshape(b, h // 2, w // 2, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h, w, 3)


@pytest.mark.parametrize("norm", [SOURCE, BATCH], ids=["stored", "batch"])
def test_equals_numpy(variables, norm):
    params, stats = variables
    apply = jax.jit(lambda params, stats, x: classifier(NETWORK)(params, stats, x, norm=norm)[0])
    found = apply(params, stats, X)
    expected = in_numpy(params, stats["batch_stats"], X, norm is BATCH)
    np.testing.assert_allclose(found.logits, expected, rtol=1e-4, atol=1e-4)
    assert found.features.shape == (3, 4, 6, 4)


def test_it_can_be_adapted(variables):
    found = check_apply(classifier(NETWORK), *jax.tree.map(jnp.asarray, variables), jnp.asarray(X))
    assert found[:3] == (3, 4, True)
    assert found.num_adapted == 2 * (4 + 4 + 4 + 8 + 12 + 4 + 4)


def test_sides_are_named():
    with pytest.raises(ValueError, match="8 x 10 pixels must have sides divisible by 4"):
        jax.eval_shape(NETWORK.init, jax.random.key(0), jnp.zeros((1, 8, 10, 3)))


def test_a_loss_of_rows_becomes_one_of_images():
    first = per_pixel(lambda z, y: (z[..., 0] - y) ** 2)
    z, y = np.random.default_rng(0).random((2, 3, 2, 5, 4))
    expected = [np.mean((z[i, ..., 0] - y[i, ..., 1]) ** 2) for i in range(3)]
    np.testing.assert_allclose(first(jnp.asarray(z), jnp.asarray(y[..., 1])), expected, rtol=1e-5)
    rows = jnp.asarray(z[:, 0, 0])
    np.testing.assert_array_equal(first(rows, rows[:, 1]), (rows[:, 0] - rows[:, 1]) ** 2)


def test_pixels_without_a_label_have_no_loss():
    rng = np.random.default_rng(0)
    logits, weights = rng.normal(size=(2, 3, 4, 5)), rng.random((2, 3, 4))
    labels = rng.integers(-1, 5, (2, 3, 4))
    total, number = 0.0, 0
    for place in zip(*np.nonzero(labels >= 0), strict=True):
        z = logits[place]
        total += weights[place] * (np.log(np.exp(z).sum()) - z[labels[place]])
        number += 1
    assert 0 < number < labels.size
    found = labelled_cross_entropy(*map(jnp.asarray, (logits, labels, weights)))
    np.testing.assert_allclose(found, total / number, rtol=1e-5)
    assert labelled_cross_entropy(jnp.asarray(logits), jnp.full((2, 3, 4), -1)) == 0
