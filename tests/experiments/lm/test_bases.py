"""Files of base models: what is written is read, and what is something else is refused."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.lm.bases import FOLDER, load_base, recipe_of, save_base
from jaxtrain.host import arrays
from jaxtrain.host.config import UsageError, load
from jaxtrain.lm.decoder import Config, decoder
from tests.experiments.lm.test_conversations import RECIPE

NETWORK = Config(61, 8, 1, 2, 1, 4, 8, rotary_base=500.0)
SHIPPED = {path.stem for path in FOLDER.glob("*.npz")}


@pytest.fixture
def params():
    like = jax.eval_shape(decoder(NETWORK).init, jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), like)


def test_a_base_comes_back(tmp_path, params):
    file = tmp_path / "base.npz"
    save_base(file, params, NETWORK, RECIPE)
    base = load_base(str(file))
    assert base.recipe == RECIPE and base.model.config == NETWORK
    for saved, read in zip(jax.tree.leaves(params), jax.tree.leaves(base.params), strict=True):
        np.testing.assert_array_equal(np.float16(saved), np.asarray(read))
        assert read.dtype == np.float32


def test_what_is_no_base_is_refused(tmp_path, params):
    with pytest.raises(UsageError, match="no base model 'huge'; take"):
        load_base("huge")
    with pytest.raises(UsageError, match="does not exist"):
        load_base(str(tmp_path / "none.npz"))
    other = tmp_path / "other.npz"
    arrays.write(other, {"x": np.ones(3)})
    with pytest.raises(UsageError, match="no base model"):
        load_base(str(other))
    save_base(other, params, dataclasses.replace(NETWORK, width=16), RECIPE)
    with pytest.raises(UsageError, match="not those of its network"):
        load_base(str(other))


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_shipped_bases_are_those_of_the_config(name):
    base, (config, _) = load_base(name), load(f"configs/lm_base.py:{name}")
    assert base.recipe == recipe_of(config)
    assert base.model.config == Config(**config.model)


def test_three_bases_are_shipped():
    assert SHIPPED == {"careful", "small", "tiny"}
    sizes = [sum(x.size for x in jax.tree.leaves(load_base(name).params)) for name in SHIPPED]
    assert sorted(round(size / 1e6, 2) for size in sizes) == [0.03, 0.13, 0.13]
