"""Reductions and execution on one device; tests/multidevice has the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxtrain import StepOutput, parallel
from jaxtrain.parallel import Execution, compile_update, make_mesh, masked_mean, value_and_grad


def test_masked_mean_is_the_mean_of_the_selected():
    values = np.array([[1.0, 2.0], [3.0, np.nan]], np.float32)
    mask = np.array([[True, False], [True, False]])
    assert masked_mean(values, mask) == 2.0
    weights = np.array([[1.0, 2.0], [1.0, 0.0]], np.float32)
    assert masked_mean(values, weights) == (1 + 2 * 2 + 3) / 4


def test_masked_mean_of_nothing_is_zero_with_a_zero_gradient():
    grad = jax.grad(lambda x: masked_mean(x, jnp.zeros(3, bool)))
    assert masked_mean(jnp.full(3, jnp.inf), jnp.zeros(3, bool)) == 0.0
    np.testing.assert_array_equal(grad(jnp.ones(3)), np.zeros(3))


def test_masked_mean_keeps_float32_sums_of_low_precision_values():
    values = jnp.full(1000, 1.01, jnp.bfloat16)
    mean = masked_mean(values, jnp.ones(1000, bool))
    assert mean.dtype == jnp.float32
    np.testing.assert_allclose(mean, float(values[0]), rtol=1e-6)


def test_masked_mean_refuses_unequal_shapes():
    with pytest.raises(ValueError, match=r"shape \(2, 3\) and a mask of shape \(3,\)"):
        masked_mean(jnp.ones((2, 3)), jnp.ones(3))


def test_without_an_axis_everything_is_plain():
    tree = {"a": jnp.arange(3.0)}
    for reduce in (parallel.psum, parallel.pmean, parallel.pmax, parallel.mark_varying):
        assert reduce(tree, None) is tree
    assert parallel.axis_size(None) == 1
    key = jax.random.key(0)
    assert parallel.fold_in_axis(key, None) is key
    fun = lambda x, y: ((x * y).sum(), {"y": y.sum()})
    ours = value_and_grad(fun, has_aux=True, argnums=(0, 1))(jnp.ones(2), jnp.arange(2.0))
    theirs = jax.value_and_grad(fun, (0, 1), has_aux=True)(jnp.ones(2), jnp.arange(2.0))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_pmean_refuses_integers_in_every_mode():
    with pytest.raises(TypeError, match=r"'count'.*dtype int32.*use psum"):
        parallel.pmean({"count": jnp.arange(3)}, None)


def test_value_and_grad_refuses_aux_per_example():
    fun = value_and_grad(lambda x: (x.sum(), {"x": x}), has_aux=True)
    with pytest.raises(TypeError, match=r"'x'.*shape \(2,\).*local_value_and_grad"):
        fun(jnp.ones(2))


@pytest.mark.parametrize("mode", parallel.MODES)
def test_one_device_runs_every_mode(mode):
    execution = Execution(mode, make_mesh({"data": 1}))

    def update(state, batch):
        mean = parallel.pmean(batch.mean(), execution.axis_name)
        return state + mean, StepOutput({"mean": mean}, 2 * batch)

    state, out = compile_update(update, mode=mode, mesh=execution.mesh)(1.0, np.arange(4.0))
    assert state == 2.5 and out.metrics["mean"] == 1.5
    np.testing.assert_array_equal(out.outputs, [0, 2, 4, 6])


@pytest.mark.parametrize("shape", [{}, {"data": 0}, {"data": -2}, {"data": -1, "seed": -1}])
def test_impossible_meshes(shape):
    with pytest.raises(ValueError, match="impossible: give every axis a size of at least 1"):
        make_mesh(shape)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "pjit"}, "unknown execution mode 'pjit'; choose one of jit, pmap, shard_map"),
        ({"batch_spec": P("model")}, "sharded over axis 'model' but the mesh has axes"),
        ({"mode": "pmap", "state_spec": P("data")}, "keeps the state replicated"),
        ({"mode": "shard_map", "state_spec": P("data")}, "keeps the state replicated"),
        ({"mode": "pmap", "mesh": {"data": 1, "seed": 1}}, "needs a mesh with one axis"),
        ({"mode": "pmap", "batch_spec": P()}, "needs a mesh with one axis"),
    ],
)
def test_impossible_executions(options, message):
    options = {"mode": "jit", "mesh": {"data": 1}} | options
    options["mesh"] = make_mesh(options["mesh"])
    with pytest.raises(ValueError, match=message):
        compile_update(lambda state, batch: (state, StepOutput({})), **options)
