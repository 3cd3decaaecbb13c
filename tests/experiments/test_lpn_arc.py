"""Keys of the training core on ARC: of the change of a task, and of its update."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import lpn_arc
from jaxtrain.core import Core
from jaxtrain.host.config import load
from jaxtta.lpn import Grid, Pairs, Tasks


def test_a_task_is_changed_by_its_place_in_the_batch():
    grids = Grid(
        jnp.broadcast_to(jnp.arange(1, 10, dtype=jnp.uint8), (2, 2, 1, 9)),
        jnp.full((2, 2, 1, 2), 3, jnp.int32),
    )
    index = jnp.array([[0, 1], [2, 3]])
    tasks = Tasks(Pairs(grids, grids, jnp.ones((2, 2, 1), bool)), index, jnp.ones((2, 2)))
    change = jax.jit(lpn_arc.augmentation(flip=False))
    key = jax.random.key(0)
    cells = lambda index: np.asarray(
        change(key, (tasks._replace(index=index),))[0].pairs.inputs.cells
    )
    found = cells(index)
    assert len(np.unique(found.reshape(4, 9), axis=0)) == 4
    np.testing.assert_array_equal(cells(index[::-1]), found[::-1])


def test_the_change_and_the_update_have_keys_of_their_own(monkeypatch):
    update = lambda state, batch, key: (batch, key)
    monkeypatch.setattr(lpn_arc, "build_core", lambda *given, **options: Core(None, update))
    monkeypatch.setattr(lpn_arc, "augmentation", lambda flip: lambda key, batch: key)
    config, _ = load("configs/lpn_arc.py:debug,data.augment=true")
    key = jax.random.key(0)
    used = (key, *lpn_arc.core_of(config, None).update(None, None, key))
    assert len({tuple(jax.random.key_data(one).tolist()) for one in used}) == 3
