"""Which parameters are adapted, for our networks and for trees of others."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from jaxtrain import nets, trees
from jaxtta import adaptation, selection

OURS = {
    "cifar_resnet": (nets.cifar_resnet(8), 32),
    "cifar_resnet_gn": (nets.cifar_resnet(8, groups=4), 32),
    "wide_resnet": (nets.wide_resnet(10, 1), 32),
    "resnet26_gn": (nets.resnet26_gn(), 32),
    "resnext29": (nets.resnext29(4, 32), 32),
    "resnet18": (nets.resnet18(), 32),
    "resnet50": (nets.resnet50(), 32),
    "vit": (nets.ViT(10, patch=4, width=16, depth=6, num_heads=2), 32),
    "vit_base": (nets.vit_base(), 32),
}


def chosen(select, params):
    """Names of the selected leaves."""
    return set(trees.path_names(trees.partition(params, select)[0]))


@functools.cache
def parameters(name):
    module, size = OURS[name]
    model = nets.from_linen(module)
    example = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), example)[0]


@pytest.mark.parametrize("name", OURS)
def test_our_networks_are_found_by_name_and_by_form(name):
    params = parameters(name)
    named = {n for n in trees.path_names(params) if "norm" in n.rsplit("/", 1)[0].replace("/", " ")}
    assert named and chosen(selection.norm_parameters, params) == named
    assert chosen(selection.norm_layers(params), params) == named


@pytest.mark.parametrize(
    "name, left_out",
    [
        ("cifar_resnet", ["stage3"]),
        ("wide_resnet", ["stage3", "norm_last"]),
        ("resnet18", ["stage4"]),
        ("resnet50", ["stage4"]),
        ("vit", ["block5", "norm_last"]),
        ("vit_base", ["block9", "block10", "block11", "norm_last"]),
    ],
)
def test_shallow_leaves_out_the_last_stage(name, left_out):
    params = parameters(name)
    every = chosen(selection.norm_parameters, params)
    missing = every - chosen(selection.shallow_norm_parameters(params), params)
    assert {n.split("/")[0] for n in missing} == set(left_out)
    assert missing == {n for n in every if n.split("/")[0] in left_out}


def affine(scale="scale", shift="bias", size=4):
    return {scale: jnp.ones(size), shift: jnp.zeros(size)}


class Layer(NamedTuple):
    weight: jax.Array
    bias: jax.Array


DENSE = {"kernel": jnp.ones((4, 4)), "bias": jnp.zeros(4)}
# Tree -> names of the leaves that belong to normalisation layers.
FOREIGN = {
    "linen": (
        {"Conv_0": DENSE, "BatchNorm_0": affine(), "LayerNorm_1": affine()},
        {"BatchNorm_0/scale", "BatchNorm_0/bias", "LayerNorm_1/scale", "LayerNorm_1/bias"},
    ),
    "torch": (
        {"bn1.weight": jnp.ones(4), "bn1.running_mean": jnp.ones(4), "fc.weight": jnp.ones((4, 2))},
        {"bn1.weight"},
    ),
    "torch, only numbered": (
        {
            "downsample.0.weight": jnp.ones((4, 4, 1, 1)),
            "downsample.1.weight": jnp.ones(4),
            "downsample.1.bias": jnp.ones(4),
            "downsample.1.running_mean": jnp.ones(4),
        },
        {"downsample.1.weight", "downsample.1.bias"},
    ),
    "a list": (
        [DENSE, affine("gamma", "beta"), Layer(jnp.ones((4, 4)), jnp.ones(4))],
        {"1/gamma", "1/beta"},
    ),
    "records": (
        {"layers": [Layer(jnp.ones((4, 3)), jnp.ones(4)), Layer(jnp.ones(4), jnp.ones(4))]},
        {"layers/1/weight", "layers/1/bias"},
    ),
    "biases of their own": (
        {"weights": {"a": jnp.ones((4, 4))}, "biases": {"a": jnp.ones(4)}},
        set(),
    ),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_normalisation_layers_of_any_tree(kind):
    tree, expected = FOREIGN[kind]
    assert chosen(selection.norm_layers(tree), tree) == expected


@pytest.mark.parametrize(
    "names, left_out",
    [
        (["bn1", "layer1/0/bn1", "layer4/0/bn1"], ["layer4/0/bn1"]),
        (["bn1", "layer3/1/bn1", "layer4/0/bn1"], ["layer4/0/bn1"]),
        (
            [*(f"ResNetBlock_{i}/BatchNorm_0" for i in range(8)), "bn_init"],
            ["ResNetBlock_6/BatchNorm_0", "ResNetBlock_7/BatchNorm_0"],
        ),
        (
            [*(f"net/blocks/{i}/norm1" for i in range(12)), "net/norm"],
            ["net/blocks/9/norm1", "net/blocks/10/norm1", "net/blocks/11/norm1", "net/norm"],
        ),
        (["BatchNorm_0", "BatchNorm_1"], []),
    ],
)
def test_shallow_finds_stages_of_others(names, left_out):
    tree = {}
    for name in names:
        node = tree
        for part in name.split("/"):
            node = node.setdefault(part, {})
        node.update(affine())
    kept = chosen(selection.shallow_norm_parameters(tree), tree)
    assert {n.rsplit("/", 1)[0] for n in kept} == set(names) - set(left_out)


def test_what_is_not_found_by_name_is_refused_with_what_to_pass():
    tree = [DENSE, affine()]
    with pytest.raises(ValueError, match=r"norm_layers\(params\)"):
        adaptation.split(tree, selection.norm_parameters)
    adapted, frozen = adaptation.split(tree, selection.norm_layers(tree))
    assert trees.path_names(adapted) == ["1/bias", "1/scale"]
    assert len(jax.tree.leaves(frozen)) == 2
