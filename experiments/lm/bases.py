"""The base models: small trained models that systems begin with, as files.

    base = load_base("small")
    base.model, base.params, base.recipe

`python -m experiments.lm_base` makes them and leaves `base.npz` in its work folder; three are
in the folder `trained` beside this file, in float16.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.lm.conversations import Recipe
from jaxtrain import trees
from jaxtrain.host import arrays
from jaxtrain.host.config import UsageError
from jaxtrain.lm.decoder import Config, Decoder, decoder

FOLDER = Path(__file__).parent / "trained"


class Base(NamedTuple):
    """A trained model.

    Attributes:
      model: the network.
      params: its parameters, float32.
      recipe: of the conversations it was trained on.
    """

    model: Decoder
    params: Any
    recipe: Recipe


def recipe_of(config: ConfigDict) -> Recipe:
    """The recipe of a config of `lm_base`."""
    return Recipe(**config.recipe)


def save_base(path: str | Path, params: Any, network: Config, recipe: Recipe) -> None:
    """Writes a base model, in float16.

    Args:
      path: `.npz` file.
      params: of `decoder(network)`.
      network: its structure.
      recipe: of the conversations it was trained on.
    """
    about = {"network": vars(network), "recipe": recipe._asdict()}
    said = np.frombuffer(json.dumps(about).encode(), np.uint8)
    leaves = (np.asarray(x, np.float16) for x in jax.tree.leaves(params))
    named = dict(zip(trees.path_names(params), leaves, strict=True))
    arrays.write(path, {"about": said, **named})


def load_base(name: str) -> Base:
    """Reads a base model.

    Args:
      name: `tiny` (0.03M parameters), `small` or `careful` (0.13M), or a file that `lm_base` wrote.

    Raises:
      UsageError: no such model, or a file that holds something else.
    """
    known = sorted(path.stem for path in FOLDER.glob("*.npz"))
    path = FOLDER / f"{name}.npz" if name in known else Path(name)
    if path.suffix != ".npz":
        raise UsageError(
            f"there is no base model {name!r}; take {', '.join(known)}, or the base.npz of a run "
            "of experiments.lm_base"
        )
    held = arrays.read(path, finite=True)
    with arrays.one_sentence(path, "base model"):
        about = json.loads(held.pop("about").tobytes())
        model = decoder(Config(**about["network"]))
        lists = about["recipe"].items()
        recipe = Recipe(**{k: tuple(x) if isinstance(x, list) else x for k, x in lists})
        like = jax.eval_shape(model.init, jax.random.key(0))
        shapes = {name: shape for name, (shape, _) in trees.describe(like).items()}
        if shapes != {name: x.shape for name, x in held.items()}:
            raise ValueError("its arrays are not those of its network")
        leaves = [jnp.asarray(held[name], jnp.float32) for name in shapes]
    return Base(model, jax.tree.unflatten(jax.tree.structure(like), leaves), recipe)
