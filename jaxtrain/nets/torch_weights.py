"""Weights of PyTorch classifiers as our parameter trees: names to names, layouts to layouts.

Pure mappings from a dict of arrays, such as `dict(numpy.load("weights.npz"))` or
`safetensors.numpy.load_file("weights.safetensors")`; reading files is the caller's business.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxtrain import trees

# Name of one of our modules, such as "stage1/block0/norm1", to the name of theirs.
Naming = Callable[[str], str]

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_STATISTICS = {"mean": "running_mean", "var": "running_var"}


def _renamed(rules: list[tuple[str, str]]) -> Naming:
    def naming(name: str) -> str:
        for pattern, theirs in rules:
            name = re.sub(pattern, theirs, name)
        return name.replace("/", ".")

    return naming


# One entry per code base; a name is rewritten by the rules from top to bottom.
CIFAR_RESNET = _renamed(
    [
        (r"^conv$", "conv1"),
        (r"^norm$", "bn1"),
        (r"^head$", "linear"),
        (r"^stage(\d)/block(\d+)/", r"layer\1/\2/"),
        (r"/norm", "/bn"),
    ]
)
"""akamaster/pytorch_resnet_cifar10: `layer1.0.bn1`, `linear`."""

TORCHVISION_RESNET = _renamed(
    [
        (r"^conv$", "conv1"),
        (r"^norm$", "bn1"),
        (r"^head$", "fc"),
        (r"^stage(\d)/block(\d+)/", r"layer\1/\2/"),
        (r"/conv_shortcut$", "/downsample/0"),
        (r"/norm_shortcut$", "/downsample/1"),
        (r"/norm", "/bn"),
    ]
)
"""torchvision's ResNet-18 and ResNet-50."""

WIDE_RESNET = _renamed(
    [
        (r"^conv$", "conv1"),
        (r"^norm_last$", "bn1"),
        (r"^head$", "fc"),
        (r"^stage(\d)/block(\d+)/", r"block\1/layer/\2/"),
        (r"/conv_shortcut$", "/convShortcut"),
        (r"/norm", "/bn"),
    ]
)
"""Wide ResNets of RobustBench: `block1.layer.0.bn1`, `convShortcut`."""

RESNET26_GN = _renamed(
    [
        (r"^conv$", "conv1"),
        (r"^norm_last$", "bn"),
        (r"^head$", "fc"),
        (r"^stage(\d)/block(\d+)/", r"layer\1/\2/"),
        (r"/norm", "/bn"),
    ]
)
"""ResNet-26 of yueatsprograms/ttt_cifar_release."""

RESNEXT29 = _renamed(
    [
        (r"^conv$", "conv_1_3x3"),
        (r"^norm$", "bn_1"),
        (r"^head$", "classifier"),
        (r"^stage(\d)/block(\d+)/", r"stage_\1/\2/"),
        (r"/conv_shortcut$", "/downsample/0"),
        (r"/norm_shortcut$", "/downsample/1"),
        (r"/conv1$", "/conv_reduce"),
        (r"/conv2$", "/conv_conv"),
        (r"/conv3$", "/conv_expand"),
        (r"/norm1$", "/bn_reduce"),
        (r"/norm2$", "/bn"),
        (r"/norm3$", "/bn_expand"),
    ]
)
"""ResNeXt-29 of AugMix as RobustBench names it."""

TIMM_VIT = _renamed(
    [
        (r"^patches$", "patch_embed/proj"),
        (r"^token$", "cls_token"),
        (r"^positions$", "pos_embed"),
        (r"^norm_last$", "norm"),
        (r"^block(\d+)/", r"blocks/\1/"),
        (r"/attention/", "/attn/"),
        (r"/fc(\d)$", r"/mlp/fc\1"),
    ]
)
"""timm's vision transformers."""


def _theirs(name: str, naming: Naming, leaves: Mapping[str, str]) -> str:
    module, _, leaf = name.rpartition("/")
    if leaf not in leaves:  # a bare parameter, such as a class token
        return naming(name)
    return f"{naming(module)}.{leaves[leaf]}"


def _relaid(array: np.ndarray, ndim: int) -> np.ndarray:
    """(out, in, h, w) -> (h, w, in, out) and (out, in) -> (in, out)."""
    if array.ndim == ndim == 4:
        return array.transpose(2, 3, 1, 0)
    return array.T if array.ndim == ndim == 2 else array


def _without_prefix(arrays: Mapping[str, ArrayLike], wanted: set[str]) -> dict[str, np.ndarray]:
    """The arrays, less counters and less what all names begin with but no wanted one does."""
    given = {
        re.sub(r"^(module\.|model\.)+", "", name): np.asarray(x)
        for name, x in arrays.items()
        if not name.endswith("num_batches_tracked")
    }
    first = lambda names: {name.partition(".")[0] for name in names if "." in name}
    while (
        len(first(given)) == 1
        and all("." in name for name in given)
        and not (first(given) & first(wanted))
    ):
        given = {name.partition(".")[2]: x for name, x in given.items()}
    return given


def import_torch(
    arrays: Mapping[str, ArrayLike],
    params: Any,
    model_state: Any,
    naming: Naming,
) -> tuple[Any, Any]:
    """Builds parameters and batch statistics from a PyTorch `state_dict`.

    Args:
      arrays: names to arrays; counters (`num_batches_tracked`), prefixes `module.` and `model.` and
        one that all names share (`backbone.`) are ignored.
      params: expected parameters, arrays or `ShapeDtypeStruct`s (`jax.eval_shape` of the model's
        `init`).
      model_state: expected model state, `{"batch_stats": ...}` or empty.
      naming: which code base the names are from, for example `CIFAR_RESNET`.

    Returns:
      `(params, model_state)` of the expected shapes and types.

    Raises:
      ValueError: arrays are missing, left over, or of the wrong shape; all are listed.
    """
    kinds = [(params, _LEAVES), (dict(model_state).get("batch_stats", {}), _STATISTICS)]
    wanted = {
        _theirs(name, naming, leaves) for tree, leaves in kinds for name in trees.path_names(tree)
    }
    given = _without_prefix(arrays, wanted)
    faults: list[str] = []
    used: set[str] = set()

    def tree(expected: Any, leaves: Mapping[str, str]) -> Any:
        found = []
        for name, x in zip(trees.path_names(expected), jax.tree.leaves(expected), strict=True):
            theirs = _theirs(name, naming, leaves)
            used.add(theirs)
            if theirs not in given:
                faults.append(f"{theirs} is missing")
                continue
            array = _relaid(given[theirs], x.ndim)
            if array.shape != x.shape:
                faults.append(f"{theirs} has shape {array.shape}, expected {x.shape}")
            else:
                found.append(jnp.asarray(array, x.dtype))
        return None if faults else jax.tree.unflatten(jax.tree.structure(expected), found)

    new_params = tree(params, _LEAVES)
    stats = dict(model_state)
    if "batch_stats" in stats:
        stats["batch_stats"] = tree(stats["batch_stats"], _STATISTICS)
    faults += [f"{name} has no place in this network" for name in sorted(given.keys() - used)]
    if faults:
        shown = "\n  ".join(faults[:20] + (["..."] if len(faults) > 20 else []))
        raise ValueError(
            "the weights do not fit the network; choose its depth, width and number of classes to "
            f"match, and the naming of the code base they are from:\n  {shown}"
        )
    return new_params, stats
