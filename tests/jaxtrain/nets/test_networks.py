"""Networks against published sizes, NumPy forward passes and published accuracies."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxtrain import nets, trees
from jaxtrain.nets import torch_weights as torch
from jaxtrain.nets.norm import BATCH
from jaxtrain.nets.resnet import IMAGENET_MEAN, IMAGENET_STD
from tests.jaxtrain.nets import numpy_nets
from tests.shared_data import DATA

needs_weights = pytest.mark.skipif(
    not (DATA / "weights").is_dir(), reason="needs the pretrained weights beside the checkout"
)
CIFAR, IMAGENET = (1, 32, 32, 3), (1, 224, 224, 3)


def abstract(module, shape=CIFAR):
    model = nets.from_linen(module)
    example = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), example)


@pytest.mark.parametrize(
    "module, shape, count",
    [
        (nets.cifar_resnet(20), CIFAR, 269_722),
        (nets.cifar_resnet(32), CIFAR, 464_154),
        (nets.cifar_resnet(56), CIFAR, 853_018),
        (nets.wide_resnet(28, 10), CIFAR, 36_479_194),
        (nets.wide_resnet(16, 2), CIFAR, 691_674),
        (nets.resnext29(8, 64), CIFAR, 34_426_698),
        (nets.resnet18(), IMAGENET, 11_689_512),
        (nets.resnet50(), IMAGENET, 25_557_032),
        (nets.vit_small(), IMAGENET, 22_050_664),
        (nets.vit_base(), IMAGENET, 86_567_656),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, nn.Module) else None,
)
def test_published_parameter_counts(module, shape, count):
    assert trees.size(abstract(module, shape)[0]) == count


def state_dict(params, model_state, naming, seed=0):
    """Random weights under PyTorch's names, in PyTorch's layouts, float64."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, x in zip(trees.path_names(params), jax.tree.leaves(params), strict=True):
        theirs = torch._theirs(name, naming, torch._LEAVES)
        shape = x.shape
        if len(shape) == 4:
            shape = (shape[3], shape[2], shape[0], shape[1])
        value = rng.normal(size=shape[::-1] if len(shape) == 2 else shape)
        fan_in = np.prod(value.shape[1:]) if value.ndim > 1 else 1
        found[theirs] = value / np.sqrt(fan_in) if value.ndim in (2, 4) else 1 + 0.3 * value
    for name, x in zip(trees.path_names(model_state), jax.tree.leaves(model_state), strict=True):
        name = name.removeprefix("batch_stats/")
        theirs = torch._theirs(name, naming, torch._STATISTICS)
        draw = rng.normal if name.endswith("mean") else functools.partial(rng.uniform, 0.5, 2.0)
        found[theirs] = draw(size=x.shape)
    return found


def forward(module, arrays, naming, images, norm=nets.SOURCE):
    params, model_state = abstract(module, images.shape)
    params, model_state = nets.import_torch(arrays, params, model_state, naming)
    apply = jax.jit(functools.partial(nets.classifier(module), norm=norm))
    return apply(params, model_state, images)[0]


def standardised(images, module):
    normal = (images.astype(np.float64) - np.array(module.mean)) / np.array(module.std)
    return normal.transpose(0, 3, 1, 2)


# Small members of each family; the names of the arrays are those of the NumPy functions.
FAMILIES = {
    "wide_resnet": (nets.wide_resnet(10, 2), torch.WIDE_RESNET, numpy_nets.wide_resnet, 32),
    "resnet26_gn": (nets.resnet26_gn(), torch.RESNET26_GN, numpy_nets.resnet26_gn, 32),
    "resnext29": (
        nets.resnext29(4, 8),
        torch.RESNEXT29,
        functools.partial(numpy_nets.resnext29, groups=4),
        16,
    ),
    "resnet50": (
        nets.resnet50(blocks=(1, 1, 1, 1), num_classes=7),
        torch.TORCHVISION_RESNET,
        numpy_nets.resnet50,
        64,
    ),
    "vit": (
        nets.ViT(num_classes=5, patch=8, width=24, depth=2, num_heads=3),
        torch.TIMM_VIT,
        functools.partial(numpy_nets.vit, num_heads=3, patch=8),
        32,
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_family_equals_numpy_from_the_same_state_dict(name):
    module, naming, reference, side = FAMILIES[name]
    images = np.random.default_rng(1).uniform(size=(2, side, side, 3)).astype(np.float32)
    arrays = state_dict(*abstract(module, images.shape), naming)
    found = forward(module, {f"module.{k}": v for k, v in arrays.items()}, naming, images)
    expected = reference(standardised(images, module), arrays)
    np.testing.assert_allclose(
        found.logits, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()
    )
    assert found.features.shape[0] == 2 and found.features.ndim == 2


def cifar_images(number):
    from PIL import Image

    sheet = np.asarray(Image.open(DATA / "cifar10" / "test.webp").convert("RGB"))
    images = sheet.reshape(100, 32, 100, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
    labels = np.load(DATA / "cifar10" / "labels.npz")["test"]
    return images[:number].astype(np.float32) / 255, labels[:number]


@needs_weights
@pytest.mark.parametrize("depth, norm", [(20, nets.SOURCE), (20, BATCH), (32, nets.SOURCE)])
def test_pretrained_logits_equal_numpy(depth, norm):
    images, labels = cifar_images(8)
    arrays = dict(np.load(DATA / "weights" / f"cifar10_resnet{depth}.npz"))
    found = forward(nets.cifar_resnet(depth), arrays, torch.CIFAR_RESNET, images, norm).logits
    wide = {k: v.astype(np.float64) for k, v in arrays.items()}
    module = nets.ResNet(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    expected = numpy_nets.cifar_resnet(standardised(images, module), wide, batch=norm == BATCH)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    if norm == nets.SOURCE:
        assert (expected.argmax(-1) == labels).mean() > 0.8


@pytest.mark.ci
@needs_weights
@pytest.mark.parametrize("depth, correct", [(20, 9173), (32, 9263), (56, 9339)])
def test_published_accuracy(depth, correct):
    images, labels = cifar_images(10_000)
    test_pretrained_logits_equal_numpy(depth, nets.SOURCE)
    module = nets.cifar_resnet(depth)
    arrays = np.load(DATA / "weights" / f"cifar10_resnet{depth}.npz")
    weights = nets.import_torch(dict(arrays), *abstract(module), torch.CIFAR_RESNET)
    apply = jax.jit(lambda x: nets.classifier(module)(*weights, x)[0].logits.argmax(-1))
    found = np.concatenate([apply(x) for x in np.split(images, 20)])
    assert abs(int((found == labels).sum()) - correct) <= 1


def test_missing_and_unknown_arrays_are_listed():
    module = nets.cifar_resnet(8)
    params, model_state = abstract(module)
    arrays = state_dict(params, model_state, torch.CIFAR_RESNET)
    arrays["linear.extra"] = arrays.pop("linear.bias")
    arrays["conv1.weight"] = arrays["conv1.weight"][:, :1]
    with pytest.raises(ValueError) as error:
        nets.import_torch(arrays, params, model_state, torch.CIFAR_RESNET)
    text = str(error.value)
    assert "linear.bias is missing" in text and "linear.extra has no place" in text
    assert "conv1.weight has shape (3, 3, 1, 16), expected (3, 3, 3, 16)" in text


def test_counters_and_parts_that_all_names_share_are_left_out():
    shapes = abstract(nets.cifar_resnet(8))
    arrays = state_dict(*shapes, torch.CIFAR_RESNET)
    expected = nets.import_torch(arrays, *shapes, torch.CIFAR_RESNET)
    named = {f"module.backbone.{name}": x for name, x in arrays.items()}
    named["module.backbone.bn1.num_batches_tracked"] = np.array(7)
    found = nets.import_torch(named, *shapes, torch.CIFAR_RESNET)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    head = {"head": {"bias": jax.ShapeDtypeStruct((3,), jnp.float32)}}
    found, _ = nets.import_torch({"fc.bias": np.arange(3)}, head, {}, torch.TORCHVISION_RESNET)
    np.testing.assert_array_equal(found["head"]["bias"], np.arange(3))


@pytest.mark.parametrize(
    "images, sentence",
    [
        (np.zeros((1, 3, 32, 32), np.float32), "move the channels to the last axis"),
        (np.zeros((1, 32, 32, 3), np.uint8), "divide pixels by 255"),
        (np.zeros((32, 32, 3), np.float32), "takes images"),
    ],
)
def test_wrong_images_are_named(images, sentence):
    module = nets.cifar_resnet(8)
    params, model_state = abstract(module)
    apply = functools.partial(nets.classifier(module), params, model_state)
    with pytest.raises(ValueError, match=sentence):
        jax.eval_shape(apply, images)


def test_no_such_depth():
    with pytest.raises(ValueError, match="depth 21; take 2 \\+ 6 n"):
        nets.cifar_resnet(21)


def test_training_stores_statistics_and_adapting_does_not():
    module = nets.cifar_resnet(8, widths=(2, 2, 2), stem_features=2)
    model = nets.from_linen(module)
    images = np.random.default_rng(0).uniform(size=(4, 8, 8, 3)).astype(np.float32)
    params, model_state = jax.jit(model.init)(jax.random.key(0), images)
    outputs, trained = jax.jit(functools.partial(model.apply, key=None, train=True))(
        params, model_state, images
    )
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(trained), jax.tree.leaves(model_state), strict=True)
    )
    apply = nets.classifier(module)
    adapted, kept = apply(params, model_state, images, norm=BATCH)
    assert kept is model_state
    np.testing.assert_allclose(outputs.logits, adapted.logits, rtol=1e-5, atol=1e-5)


def test_plain_modules_are_classifiers():
    module = nn.Dense(3)
    params = module.init(jax.random.key(0), jnp.ones((2, 4)))["params"]
    found, state = nets.classifier(module)(params, {}, jnp.ones((2, 4)), norm=BATCH)
    assert found.logits.shape == (2, 3) and found.features == () and state == {}


def test_modules_that_drop_out_in_training_do_not_while_they_are_adapted():
    class Dropping(nn.Module):
        @nn.compact
        def __call__(self, x, deterministic):
            return nn.Dropout(0.5)(x, deterministic=deterministic)

    inputs = jnp.ones((2, 4))
    found, _ = nets.classifier(Dropping())({}, {}, inputs)
    np.testing.assert_array_equal(found.logits, inputs)
