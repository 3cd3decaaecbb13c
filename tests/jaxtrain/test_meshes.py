"""How batches and states lie on meshes; tests/multidevice runs what is laid out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from jaxtrain import StepOutput, meshes, parallel


def mesh_of(**shape):
    auto = (AxisType.Auto,) * len(shape)
    return AbstractMesh(tuple(shape.values()), tuple(shape), axis_types=auto)


def test_sizes_of_a_mesh():
    assert parallel.mesh_shape({"data": -1, "fsdp": 4}, 8) == {"data": 2, "fsdp": 4}
    assert parallel.mesh_shape({"data": 2, "fsdp": -1}, 8) == {"data": 2, "fsdp": 4}
    # Of 1 it says nothing, and modes that need one axis have one.
    assert parallel.mesh_shape({"data": -1, "fsdp": 1}, 8) == {"data": 8}
    with pytest.raises(ValueError, match="a multiple of 3 devices but there are 8"):
        parallel.mesh_shape({"data": -1, "fsdp": 3}, 8)
    with pytest.raises(ValueError, match="needs 16 devices but there are 8"):
        parallel.mesh_shape({"data": 4, "fsdp": 4}, 8)


def test_a_batch_is_shared_by_all_devices():
    assert parallel.batch_layout(mesh_of(data=2)) == P("data")
    both = mesh_of(data=2, fsdp=4)
    assert parallel.batch_layout(both) == P(("data", "fsdp"))
    assert parallel.num_shards(both) == 8 and parallel.num_shards(mesh_of(seed=3, data=2)) == 2


def test_large_leaves_are_cut_along_the_longest_axis_that_divides():
    large = meshes.SMALLEST_SHARDED
    shapes = {
        "kernel": (large // 64, 64),
        "wide": (64, large // 64),
        "odd": (1001, 16, 4),  # 1,001 does not divide by 4
        "never": (large + 1,),
        "small": (large // 2,),
        "count": (),
    }
    state = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    mesh = mesh_of(data=2, fsdp=4)
    spec = parallel.state_layout(state, mesh)
    cut = {"kernel": P("fsdp"), "wide": P(None, "fsdp"), "odd": P(None, "fsdp")}
    assert spec == cut | {"never": P(), "small": P(), "count": P()}
    size = lambda name: 4 * int(np.prod(shapes[name]))
    expected = sum(size(name) // (4 if name in cut else 1) for name in shapes)
    assert parallel.bytes_per_device(state, mesh, spec) == expected
    assert parallel.bytes_per_device(state, mesh, P()) == sum(map(size, shapes))
    assert parallel.state_layout(state, mesh_of(data=8)) == P()


@pytest.mark.parametrize("mode", ["pmap", "shard_map"])
def test_modes_that_keep_a_state_whole_refuse_to_share_it(mode):
    with pytest.raises(ValueError, match=f"mode '{mode}' keeps the state .* axis 'fsdp'"):
        parallel.compile_update(
            lambda state, batch: (state, StepOutput({})), mode=mode, mesh=mesh_of(data=1, fsdp=2)
        )
