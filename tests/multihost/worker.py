"""One of several processes: runs a core in every mode over all of them, checks it, prints `ok`.

python -m tests.multihost.worker <address> <number of processes> <process id>
"""

import sys

import jax
import numpy as np

from jaxtrain import parallel

NUM_STEPS = 3


def local_slice(batch, batch_size):
    """The part of a global batch that this process would load."""
    size = batch_size // jax.process_count()
    start = jax.process_index() * size
    return jax.tree.map(lambda x: x[start : start + size], batch)


def assert_close(result, expected):
    """Compares the shards of global arrays that this process holds with whole NumPy arrays."""

    def leaf(x, whole):
        assert not x.is_fully_addressable, "results must be global arrays"
        assert x.shape == whole.shape
        for shard in x.addressable_shards:
            np.testing.assert_allclose(shard.data, whole[shard.index], rtol=1e-4, atol=1e-5)

    jax.tree.map(leaf, result, expected)


def run(step, state, batches, key):
    for i, batch in enumerate(batches):
        state, out = step(state, batch, jax.random.fold_in(key, i))
    return state, out


def main(address: str, num_processes: int, process_id: int) -> None:
    jax.distributed.initialize(address, num_processes, process_id)
    # Only now: some rows of the table compute as they are made.
    from tests.contract.cores import CORES
    from tests.contract.row import BATCH_SIZE

    mesh = parallel.make_mesh({"data": -1})
    assert mesh.size == jax.device_count() == num_processes * jax.local_device_count()
    try:
        parallel.make_mesh({"data": 1})
    except ValueError as error:
        assert "leaves some of the 2 processes without a device" in str(error)
    else:
        raise AssertionError("a mesh may not leave a process out")
    row = next(row for row in CORES if row.name == "entropy_minimiser")
    batches, key = [row.batch(i) for i in range(NUM_STEPS)], jax.random.key(0)
    args = row.init_args()
    core = row.build(None)
    expected = jax.tree.map(np.asarray, run(jax.jit(core.update), core.init(*args), batches, key))
    for mode in parallel.MODES:
        core = row.build(parallel.Execution(mode, mesh).axis_name)
        step = parallel.compile_update(core.update, mode=mode, mesh=mesh)
        slices = [local_slice(batch, BATCH_SIZE) for batch in batches]
        assert_close(run(step, core.init(*args), slices, key), expected)
    key = jax.random.key(5)
    placed = parallel.place({"key": key, "count": 3}, mesh)
    assert not placed["key"].is_fully_addressable
    words = jax.random.key_data(placed["key"]).addressable_data(0)
    np.testing.assert_array_equal(words, jax.random.key_data(key))
    # Global arrays are cut and gathered, keys among them.
    keys = jax.random.split(placed["key"], mesh.size)
    cut = parallel.place(keys, mesh, parallel.SHARDED)
    assert cut.addressable_shards[0].data.shape == (1,)
    whole = parallel.place(cut, mesh)
    words = jax.random.key_data(whole).addressable_data(0)
    np.testing.assert_array_equal(words, jax.random.key_data(jax.random.split(key, mesh.size)))
    try:
        parallel.place_batch(np.zeros(3), mesh)
    except ValueError as error:
        assert f"a batch of 6 does not divide over {mesh.size} devices" in str(error)
    else:
        raise AssertionError("a batch that does not divide must be refused")
    print("ok")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
