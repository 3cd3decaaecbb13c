"""Weight files: round trips and the authors' training states."""

import flax.serialization
import jax
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState

from experiments.lpn import weights
from jaxtrain.host import arrays
from jaxtrain.host.config import UsageError
from jaxtta.lpn import Block, Config
from jaxtta.lpn.import_weights import from_flat, to_flat

CONFIG = Config(4, 4, 2, Block(1, 1, 4, 1.0), Block(1, 1, 4, 1.0))


def same(a, b):
    assert set(a) == set(b)
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name])


@pytest.fixture(scope="module")
def flat():
    """Parameters of `CONFIG` as NumPy arrays, each leaf different."""
    sizes = {
        "encoder/colors_embed/embedding": (10, 4),
        "encoder/channels_embed/embedding": (2, 4),
        "encoder/cls_token/embedding": (1, 4),
        "encoder/Dense_0/kernel": (4, 2),
        "encoder/Dense_1/kernel": (4, 2),
        "decoder/colors_embed/embedding": (10, 4),
        "decoder/input_output_embed/embedding": (2, 4),
        "decoder/context_embed/kernel": (2, 4),
        "decoder/shape_row_logits_proj/kernel": (4, 4),
        "decoder/shape_col_logits_proj/kernel": (4, 4),
        "decoder/grid_logits_proj/kernel": (4, 10),
    }
    for part in ("encoder", "decoder"):
        for table in ("pos_row", "pos_col", "grid_shapes_row", "grid_shapes_col"):
            sizes[f"{part}/{table}_embed/embedding"] = (4, 4)
        layer = f"{part}/TransformerLayer_0"
        for name in ("query", "key", "value"):
            sizes[f"{layer}/MultiHeadAttention_0/{name}/kernel"] = (4, 1, 4)
        sizes[f"{layer}/MultiHeadAttention_0/out/kernel"] = (1, 4, 4)
        sizes[f"{layer}/MlpBlock_0/Dense_0/kernel"] = (4, 4)
        sizes[f"{layer}/MlpBlock_0/Dense_1/kernel"] = (4, 4)
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_files_keep_every_leaf(flat, suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    # Exported arrays may be strided views.
    views = {name: np.asarray(x.T.copy()).T for name, x in flat.items()}
    arrays.write(path, views)
    same(weights.read(path), flat)
    same(to_flat(from_flat(CONFIG, weights.read(path))), flat)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]

    arrays.write(path, {f"params/{name}": x for name, x in flat.items()})
    same(weights.read(path), flat)


@pytest.mark.parametrize("devices", [0, 2])
def test_training_state_of_the_authors(flat, devices, tmp_path):
    params = from_flat(CONFIG, flat)
    state = TrainState.create(apply_fn=None, params=params, tx=optax.adamw(1e-3))
    if devices:
        state = jax.tree.map(lambda x: np.stack([x] * devices), state)
    path = tmp_path / "state.msgpack"
    path.write_bytes(flax.serialization.to_bytes(state))
    read = weights.read(path)
    assert read["encoder/cls_token/embedding"].shape == ((devices,) if devices else ()) + (1, 4)
    same(to_flat(from_flat(CONFIG, read)), flat)


def test_weights_that_are_no_numbers_are_refused(flat, tmp_path):
    table = np.array([[np.nan, 0, np.inf, 1]], np.float32)
    arrays.write(tmp_path / "bad.npz", flat | {"encoder/cls_token/embedding": table})
    with pytest.raises(UsageError, match="2 of the 4 values of encoder/cls_token.* not finite"):
        weights.read(tmp_path / "bad.npz")
