"""Classifiers of other libraries, adapted by the lines that the documents show."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain import nets, trees
from jaxtrain.nets import torch_weights
from jaxtta import check_apply, images
from jaxtta.selection import norm_layers
from tests.jaxtrain.nets.test_equinox import equinox_network
from tests.jaxtrain.nets.test_flax_norm import PARAMS, STATE, Linen, nnx_network
from tests.jaxtrain.nets.test_networks import abstract, state_dict
from tests.test_docs import examples

X = jnp.asarray(np.random.default_rng(0).uniform(size=(6, 4, 4, 3)), jnp.float32)
BLOCKS = examples("docs/tta_images.md")


def lines(word):
    """The example that holds a word."""
    return next(block for block in BLOCKS if word in block)


def adapted(apply_fn, params, model_state):
    """Names of the parameters that one step of TENT moves."""
    core = images.tent(apply_fn, optax.sgd(0.1), select=norm_layers(params))
    state = core.init(params, model_state)
    after, out = jax.jit(core.update)(state, {"inputs": X}, jax.random.key(0))
    assert np.isfinite(out.outputs.logits).all()
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), after.params, state.params)
    assert all(jax.tree.leaves(moved))
    return trees.path_names(after.params)


@pytest.mark.parametrize("word", ["Flax Linen", "Flax NNX", "one's own, here", "Equinox"])
def test_at_most_ten_lines(word):
    assert len([line for line in lines(word).splitlines() if line.strip()]) <= 10


def test_linen():
    names = {"module": Linen(), "params": PARAMS, "model_state": STATE, "images": X}
    exec(lines("Flax Linen").replace("num_classes=10", "num_classes=4"), names)
    found = adapted(names["apply_fn"], PARAMS, STATE)
    assert found == ["norm1/bias", "norm1/scale", "norm2/bias", "norm2/scale"]


def test_nnx():
    names = {"module": nnx_network(), "images": X}
    exec(lines("Flax NNX"), names)
    found = adapted(names["apply_fn"], names["params"], names["model_state"])
    assert found == ["layers/1/bias", "layers/1/scale", "layers/3/bias", "layers/3/scale"]


def test_a_bare_function():
    names = {}
    exec(lines("one's own, here"), names)
    keys = jax.random.split(jax.random.key(0))
    params = {
        "kernel": jax.random.normal(keys[0], (48, 5)),
        "norm": {"scale": jnp.ones(5), "bias": jnp.zeros(5)},
        "head": jax.random.normal(keys[1], (5, 3)),
    }
    state = {"mean": jnp.zeros(5), "var": jnp.ones(5)}
    assert check_apply(names["apply_fn"], params, state, X) == (3, 5, True, 10)
    assert adapted(names["apply_fn"], params, state) == ["norm/bias", "norm/scale"]


def test_equinox():
    module, state = equinox_network("batch")
    names = {"module": module, "state": state, "images": X}
    exec(lines("Equinox"), names)
    found = adapted(names["apply_fn"], names["params"], names["model_state"])
    assert found == ["layers/1/weight", "layers/1/bias", "layers/3/weight", "layers/3/bias"]


def test_resnet_18_of_torchvision_inside_another_module():
    """Names only: `backbone.` before all of them, `module.` before that."""
    params, state = abstract(nets.resnet18(num_classes=7), (1, 64, 64, 3))
    given = state_dict(params, state, torch_weights.TORCHVISION_RESNET)
    naming = torch_weights.TORCHVISION_RESNET
    plain = nets.import_torch(given, params, state, naming)
    inside = {f"module.backbone.{name}": x for name, x in given.items()}
    jax.tree.map(
        np.testing.assert_array_equal, nets.import_torch(inside, params, state, naming), plain
    )
    del inside["module.backbone.fc.bias"]
    with pytest.raises(ValueError, match="fc.bias is missing"):
        nets.import_torch(inside, params, state, naming)
