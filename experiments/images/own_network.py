"""Networks of the user's: `model.name=module:function`.

The function takes the number of classes and returns a Linen module, which is trained here or gets
the weights of a file, or the three things that methods take, `(apply_fn, params, model_state)`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from experiments.data.images import loader
from jaxtrain import nets, trees
from jaxtrain.host import arrays
from jaxtrain.host.config import UsageError
from jaxtrain.host.extras import import_function
from jaxtrain.nets import ClassifierFn
from jaxtta import check_apply, selection
from jaxtta.check_apply import check_answer

CALLED = "it is called with the number of classes and returns a Flax Linen module, or (apply_fn, "
CALLED += "params, model_state)"


def is_own(name: str) -> bool:
    """Whether `model.name` names a function of the user's."""
    return ":" in name


def made(name: str, num_classes: int, size: int) -> nn.Module | tuple[ClassifierFn, Any, Any]:
    """What the user's function returns; a module is tried on shapes of images `[2, size, size, 3]`.

    Raises:
      UsageError: no such function, or it returns something else or fails.
    """
    function = import_function(name, "model.name")
    try:
        found = function(num_classes)
        if isinstance(found, nn.Module):
            images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
            shapes = jax.eval_shape(nets.from_linen(found).init, jax.random.key(0), images)
            check_answer(jax.eval_shape(nets.classifier(found), *shapes, images), 2, num_classes)
    except Exception as error:  # Whatever the user's code raises.
        raise UsageError(
            f"model.name={name!r} raised {type(error).__name__}: {error} It is no network here; "
            f"{CALLED}"
        ) from error
    if isinstance(found, nn.Module) or (isinstance(found, tuple) and len(found) == 3):
        return found
    raise UsageError(f"model.name={name!r} returned a {type(found).__name__}; {CALLED}")


def stored_weights(module: nn.Module, group: ConfigDict, data_dir: str, size: int) -> Any:
    """Parameters and state of a module from the file `model.weights`, by their names in Flax.

    The names are `params/conv/kernel`, `batch_stats/norm/mean` and so on, as a msgpack file of
    `flax.serialization` has them.

    Raises:
      UsageError: no such file, or it is of another network.
    """
    path = loader.find(group.weights, data_dir)
    if path is None:
        raise UsageError(
            f"model.weights={group.weights!r} was not found; give a msgpack, npz or safetensors "
            f"file of the variables of {group.name}, or model.weights='' to train it first"
        )
    example = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    params, state = jax.eval_shape(nets.from_linen(module).init, jax.random.key(0), example)
    expected = {"params": params, **state}
    given, wanted = arrays.read(path), trees.describe(expected)
    shapes = {name: (x.shape, str(x.dtype)) for name, x in given.items()}
    if wrong := [n for n in {**wanted, **shapes} if shapes.get(n) != wanted.get(n)]:
        raise UsageError(
            f"{path.name} does not fit {group.name}: {wrong[0]!r} is "
            f"{shapes.get(wrong[0], 'missing')}, expected {wanted.get(wrong[0], 'none')}"
        )
    leaves = [jnp.asarray(given[name]) for name in wanted]
    found = jax.tree.unflatten(jax.tree.structure(expected), leaves)
    return found.pop("params"), found


def check_own(
    config: ConfigDict, network: ClassifierFn, weights: Any, images: np.ndarray, needed: list[str]
) -> None:
    """Tries the network out on a few test images.

    Args:
      config: of the run.
      network, weights: of the user's.
      images: test images, uint8.
      needed: methods of the run that need batch statistics.

    Raises:
      UsageError: what `jaxtta.check_apply` finds missing, or a method that would be the source.
    """
    name, select = config.model.name, selection.norm_layers(weights[0])
    inputs = jnp.asarray(images[:4] / np.float32(255))
    options = dict(num_classes=config.model.num_classes, select=select)
    try:
        found = check_apply(network, *weights, inputs, **options)
    except ValueError as error:
        raise UsageError(f"model.name={name!r}: {error}") from error
    if needed and not found.has_statistics:
        raise UsageError(
            f"methods holds {', '.join(needed)}, which choose the statistics of batch norm, but "
            f"{name} has none: they would be the source model"
        )
