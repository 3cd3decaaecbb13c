"""A generation of TA-LPG gives the numbers of one device on eight."""

import jax
import numpy as np
import pytest

from jaxrl.envs import FAMILIES, grid_world, sample_level, sample_lifetime
from jaxrl.meta import lifetime
from jaxrl.meta.evolution import decaying_adam, evolution
from jaxrl.meta.learned_objective import fitness_of_lives
from jaxrl.meta.learned_rule import recurrent_rule
from jaxtrain import parallel
from jaxtrain.optimizers import sgd

pytestmark = pytest.mark.ci  # mostly compilation

NUM_PAIRS = 16
FAMILY = FAMILIES["debug"]


def build(axis_name):
    rule = recurrent_rule(2, width=3, embed_width=2, temporal=True)
    body = lifetime.tabular(FAMILY.shape.num_states)
    optimizers = lifetime.Optimizers(sgd(40.0, max_norm=0.5), sgd(4.0, max_norm=0.5))
    setting = lifetime.Setting(
        grid_world(FAMILY.shape), rule, body, optimizers, num_workers=2, num_steps=3
    )

    def life(key):
        key_level, key_length = jax.random.split(key)
        level = sample_level(FAMILY, key_level)
        return level, sample_lifetime(FAMILY._replace(lifetime=(1, 4)), key_length)

    fitness = fitness_of_lives(setting, life, max_steps=10, num_episodes=4, num_buckets=2)
    optimizer = decaying_adam(0.01)
    return evolution(rule.init, fitness, optimizer, num_pairs=NUM_PAIRS, axis_name=axis_name)


@pytest.mark.parametrize("mode", parallel.MODES)
def test_generation_equals_one_device(mode):
    places, key = np.arange(NUM_PAIRS, dtype=np.int32), jax.random.key(1)
    core = build(None)
    state = jax.jit(core.init)(jax.random.key(0))
    expected, reported = jax.jit(core.update)(state, places, key)
    mesh = parallel.make_mesh({"data": -1})
    assert mesh.size == 8
    sharded = build(parallel.Execution(mode, mesh).axis_name)
    step = parallel.compile_update(sharded.update, mode=mode, mesh=mesh, donate=False)
    found, out = step(state, places, key)
    np.testing.assert_allclose(out.outputs, reported.outputs, rtol=1e-4, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        found.params,
        expected.params,
    )
    assert np.abs(np.diff(reported.outputs, axis=1)).max() > 0
