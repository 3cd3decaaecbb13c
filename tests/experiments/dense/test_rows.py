"""Rows of the table: what they are made of, and steps in random directions."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.dense import rows
from jaxtrain.host.config import load
from jaxtrain.nets import Segmenter, classifier
from tests.jaxtta.dense.test_teacher import ARGS, CORE, DECAY, NOW

NETWORK = classifier(Segmenter(num_classes=6, width=4, multipliers=(1,)))


def test_rows_are_those_of_the_config_in_its_order():
    config, _ = load("configs/tta_dense.py:small,num_steps=10,fst.num_steps=2")
    found = rows.chosen(config, NETWORK)
    assert tuple(found) == tuple(config.rows)
    steps = {name: row.num_steps for name, row in found.items()}
    assert steps.pop("source") == steps.pop("batch_norm") == 0
    assert steps.pop("longer_teacher") == 30 and set(steps.values()) == {10}
    cost = {name: row.passes for name, row in found.items() if row.with_source}
    teachers = {"mean_teacher": 1, "faster_teacher": 1, "longer_teacher": 1}
    assert cost == teachers | {"fst_d1": 2, "fst_d": 3, "fst_w": 3, "random_future": 3}
    assert [name for name, row in found.items() if row.ahead] == ["fst_w"]


def test_random_steps_are_as_long_as_true_ones():
    core = rows.at_random(CORE, DECAY)
    state = core.init(*ARGS)
    for i in range(2):
        batch = jax.tree.map(jnp.asarray, NOW[i])
        key = jax.random.key(i)
        true, _ = CORE.update(state, batch, key)
        after, _ = core.update(state, batch, key)
        other, _ = core.update(state, batch, jax.random.key(9))
        w, way, found = state.params["w"], true.params["w"], after.params["w"]
        np.testing.assert_allclose(jnp.linalg.norm(found - w), jnp.linalg.norm(way - w), rtol=1e-5)
        assert abs(found - way).max() > 1e-3 and abs(found - other.params["w"]).max() > 1e-3
        share = min(1 - 1 / (i + 1), DECAY)
        teacher = share * state.memory.teacher["w"] + (1 - share) * found
        np.testing.assert_allclose(after.memory.teacher["w"], teacher, rtol=1e-5)
        state = after
