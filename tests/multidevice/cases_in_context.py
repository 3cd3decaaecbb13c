"""Tasks and sequences drawn on eight devices are those drawn on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import parallel
from jaxtta import in_context as icl

pytestmark = pytest.mark.ci  # mostly compilation

N, C, BATCH = 6, 3, 16


def sample():
    rng = np.random.default_rng(0)
    data = icl.Data(
        jnp.asarray(rng.normal(size=(20, N)), jnp.float32), jnp.arange(20, dtype=jnp.int32) % C
    )
    return icl.sampler(
        data,
        jax.random.key(0),
        icl.Projection(N, N),
        C,
        length=4,
        batch_size=BATCH,
        num_tasks=2**20,
        sequences_per_task=2,
        bias=0.5,
    )


@pytest.mark.parametrize("mode", ["jit", "shard_map"])
def test_sharded_sequences_are_the_same(mode):
    draw, key, index = sample(), jax.random.key(1), jnp.arange(BATCH)
    alone = jax.jit(draw)(key, index)
    mesh = parallel.make_mesh({"data": -1})
    assert mesh.size == 8
    function = draw
    if mode == "shard_map":
        specs = dict(in_specs=(parallel.REPLICATED, parallel.SHARDED), out_specs=parallel.SHARDED)
        function = jax.shard_map(draw, mesh=mesh, **specs)
    together = jax.jit(function)(key, parallel.place_batch(index, mesh))
    np.testing.assert_allclose(together.x, alone.x, atol=1e-5)
    np.testing.assert_array_equal(together.y, alone.y)


def test_a_task_is_the_same_on_every_device():
    mesh = parallel.make_mesh({"data": -1})
    task = lambda k: icl.sample_task(jax.random.key(0), k, icl.Projection(N, N), C)
    indices = jnp.full(8, 2**31 + 5, jnp.uint32)
    many = jax.jit(jax.vmap(task))(parallel.place_batch(indices, mesh))
    for device in range(8):
        np.testing.assert_allclose(many.projection[device], task(indices[0]).projection, rtol=1e-5)
        np.testing.assert_array_equal(many.permutation[device], many.permutation[0])
