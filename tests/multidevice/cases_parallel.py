"""Reductions, meshes and execution modes on eight devices, against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxtrain import StepOutput, parallel
from jaxtrain.parallel import Execution, compile_update, make_mesh, value_and_grad

NUM_DEVICES = 8
RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(32, 3)).astype(np.float32)
TARGETS = RNG.normal(size=32).astype(np.float32)
# Devices hold different numbers of selected examples; the first holds none.
MASK = np.array([False] * 4 + [True, False, True, True] * 7)
WEIGHTS = np.array([0.5, -1.0, 2.0], np.float32)
BATCH = {"inputs": INPUTS, "targets": TARGETS, "mask": MASK}


@pytest.fixture(scope="module")
def mesh():
    assert jax.device_count() == NUM_DEVICES
    return make_mesh({"data": -1})


def on_every_device(fun, mesh, kind):
    """`fun(w, batch)` per shard, returning something replicated, mapped in the given way."""
    if kind == "pmap":
        mapped = jax.pmap(fun, axis_name="data", in_axes=(None, 0), out_axes=None)
    elif kind == "vmap":
        mapped = jax.vmap(fun, in_axes=(None, 0), out_axes=None, axis_name="data")
    else:
        return jax.jit(
            jax.shard_map(
                fun,
                mesh=mesh,
                in_specs=(P(), P("data")),
                out_specs=P(),
                check_vma=kind == "shard_map",
            )
        )
    return lambda w, batch: mapped(
        w, jax.tree.map(lambda x: x.reshape(NUM_DEVICES, -1, *x.shape[1:]), batch)
    )


KINDS = ("pmap", "vmap", "shard_map", "unchecked")


@pytest.mark.parametrize("kind", KINDS)
def test_gather_gives_every_device_all_rows_in_order(mesh, kind):
    rows = {"inputs": INPUTS, "mask": MASK, "place": np.arange(32, dtype=np.int32)}
    gathered = on_every_device(lambda w, batch: parallel.gather(batch, "data"), mesh, kind)
    jax.tree.map(np.testing.assert_array_equal, gathered(WEIGHTS, rows), rows)
    assert parallel.gather(rows, None) is rows


def mean_loss(w, batch):
    return ((batch["inputs"] @ w - batch["targets"]) ** 2).mean()


def mean_gradient(mask=None):
    """Loss and gradient of the (selected) mean squared error in NumPy."""
    mask = np.ones(len(INPUTS), bool) if mask is None else mask
    x, y = INPUTS[mask].astype(np.float64), TARGETS[mask]
    error = x @ WEIGHTS - y
    return (error**2).mean(), 2 * error @ x / len(x)


@pytest.mark.parametrize("kind", KINDS)
def test_value_and_grad_is_that_of_the_whole_batch(mesh, kind):
    fun = value_and_grad(mean_loss, "data")
    value, grad = on_every_device(fun, mesh, kind)(WEIGHTS, BATCH)
    expected_value, expected_grad = mean_gradient()
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_all_devices_share_counts_once(mesh, kind):
    shared = lambda w, batch: parallel.pmean(mean_loss(w, batch), "data")
    value, grad = on_every_device(value_and_grad(shared, "data"), mesh, kind)(WEIGHTS, BATCH)
    expected_value, expected_grad = mean_gradient()
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "factor"), [("pmap", 1), ("vmap", 1), ("unchecked", 1), ("shard_map", NUM_DEVICES)]
)
def test_control_averaging_by_hand_is_wrong_in_checked_shard_map(mesh, kind, factor):
    def by_hand(w, batch):
        return jax.lax.pmean(jax.grad(mean_loss)(w, batch), "data")

    grad = on_every_device(by_hand, mesh, kind)(WEIGHTS, BATCH)
    np.testing.assert_allclose(grad, factor * mean_gradient()[1], rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_masked_mean_inside_and_outside_a_loss(mesh, kind):
    def loss(w, batch):
        squares = (batch["inputs"] @ w - batch["targets"]) ** 2
        selected = parallel.masked_mean(squares, batch["mask"], "data")
        # The second term differs per shard, the first does not: both must count once.
        return selected + 0.1 * squares.mean(), {"selected": selected}

    def fun(w, batch):
        (value, aux), grad = value_and_grad(loss, "data", has_aux=True)(w, batch)
        outside = parallel.masked_mean(batch["targets"], batch["mask"], "data")
        return value, aux["selected"], grad, outside

    value, selected, grad, outside = on_every_device(fun, mesh, kind)(WEIGHTS, BATCH)
    masked, whole = mean_gradient(MASK), mean_gradient()
    np.testing.assert_allclose(value, masked[0] + 0.1 * whole[0], rtol=1e-5)
    np.testing.assert_allclose(selected, masked[0], rtol=1e-5)
    np.testing.assert_allclose(grad, masked[1] + 0.1 * whole[1], rtol=1e-5)
    np.testing.assert_allclose(outside, TARGETS[MASK].mean(), rtol=1e-5)


def test_control_the_mean_of_means_is_another_number():
    means = [
        t[m].mean() if m.any() else 0.0
        for t, m in zip(np.split(TARGETS, 8), np.split(MASK, 8), strict=True)
    ]
    assert abs(np.mean(means) - TARGETS[MASK].mean()) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_over_the_axis_are_differentiated(mesh, kind):
    def loss(w, batch):
        z = batch["inputs"] @ w
        mean = parallel.pmean(z.mean(), "data")
        variance = parallel.pmean(((z - mean) ** 2).mean(), "data")
        return (((z - mean) / jnp.sqrt(variance + 1.0) - batch["targets"]) ** 2).mean()

    def whole(w):
        z = INPUTS @ w
        normal = (z - z.mean()) / jnp.sqrt(z.var() + 1.0)
        return ((normal - TARGETS) ** 2).mean()

    value, grad = on_every_device(value_and_grad(loss, "data"), mesh, kind)(WEIGHTS, BATCH)
    expected_value, expected_grad = jax.value_and_grad(whole)(WEIGHTS)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_accumulated_gradient_is_that_of_the_big_batch(mesh, kind):
    def fun(w, batch):
        grad_fn = parallel.local_value_and_grad(mean_loss, "data")
        num = batch["targets"].shape[0]

        def add(i, total):
            micro = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, i, 1), batch)
            return jax.tree.map(jnp.add, total, grad_fn(w, micro))

        zeros = parallel.mark_varying((jnp.zeros(()), jnp.zeros_like(w)), "data")
        total = jax.lax.fori_loop(0, num, add, zeros)
        return parallel.pmean(jax.tree.map(lambda x: x / num, total), "data")

    value, grad = on_every_device(fun, mesh, kind)(WEIGHTS, BATCH)
    expected_value, expected_grad = mean_gradient()
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-5)


def test_a_loop_carry_that_is_not_marked_is_refused(mesh):
    def fun(w, batch):
        grad_fn = parallel.local_value_and_grad(mean_loss, "data")
        total = jax.lax.fori_loop(0, 2, lambda i, g: g + grad_fn(w, batch)[1], jnp.zeros_like(w))
        return parallel.pmean(total, "data")

    with pytest.raises(TypeError, match="carry"):
        on_every_device(fun, mesh, "shard_map")(WEIGHTS, BATCH)


def test_two_axes_and_a_vmap_inside():
    mesh = make_mesh({"replica": 2, "data": -1})
    axes = ("replica", "data")
    fun = jax.vmap(value_and_grad(mean_loss, axes), in_axes=(0, None))
    step = jax.jit(jax.shard_map(fun, mesh=mesh, in_specs=(P(), P(axes)), out_specs=P()))
    value, grad = step(np.stack([WEIGHTS, WEIGHTS]), BATCH)
    np.testing.assert_allclose(value, [mean_gradient()[0]] * 2, rtol=1e-5)
    np.testing.assert_allclose(grad, [mean_gradient()[1]] * 2, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_psum_pmax_axis_size_and_keys(mesh, kind):
    def fun(w, batch):
        largest = parallel.pmax(batch["targets"].max(), "data")
        total = parallel.psum(batch["targets"].sum(), "data")
        noise = jax.random.normal(parallel.fold_in_axis(jax.random.key(0), "data"))
        place = jax.nn.one_hot(jax.lax.axis_index("data"), NUM_DEVICES)
        return largest, total / parallel.axis_size("data"), parallel.psum(noise * place, "data")

    largest, share, noise = on_every_device(fun, mesh, kind)(WEIGHTS, BATCH)
    assert largest == TARGETS.max()
    np.testing.assert_allclose(share, TARGETS.sum() / NUM_DEVICES, rtol=1e-5)
    assert len(np.unique(noise)) == NUM_DEVICES


# --- compile_update -------------------------------------------------------------------------------


def descent(axis_name, traces=None):
    """Gradient descent on the squared error, with noise that all shards share."""

    def update(state, batch, key):
        if traces is not None:
            traces.append(axis_name)
        value, grad = value_and_grad(mean_loss, axis_name)(state["w"], batch)
        state = {"w": state["w"] - 0.1 * grad + 0.01 * jax.random.normal(key, (3,))}
        return state, StepOutput({"loss": value}, {"prediction": batch["inputs"] @ state["w"]})

    return update


@pytest.mark.parametrize("mode", parallel.MODES)
def test_modes_take_and_return_the_same_arrays(mesh, mode):
    traces = []
    update = descent(Execution(mode, mesh).axis_name, traces)
    step = compile_update(update, mode=mode, mesh=mesh)
    state, reference = {"w": jnp.asarray(WEIGHTS)}, {"w": WEIGHTS}
    for i in range(3):
        key = jax.random.fold_in(jax.random.key(0), i)
        state, out = step(state, BATCH, key)
        reference, expected = descent(None)(reference, BATCH, key)
        np.testing.assert_allclose(state["w"], reference["w"], rtol=1e-5)
        np.testing.assert_allclose(out.metrics["loss"], expected.metrics["loss"], rtol=1e-5)
        np.testing.assert_allclose(
            out.outputs["prediction"], expected.outputs["prediction"], rtol=1e-4, atol=1e-6
        )
    assert len(traces) == 1
    assert state["w"].shape == (3,) and state["w"].sharding.is_fully_replicated
    assert out.metrics["loss"].shape == ()
    assert out.outputs["prediction"].sharding.is_equivalent_to(NamedSharding(mesh, P("data")), 1)


@pytest.mark.parametrize("mode", parallel.MODES)
def test_donation(mesh, mode):
    update = descent(Execution(mode, mesh).axis_name)
    for donate in (True, False):
        step = compile_update(update, mode=mode, mesh=mesh, donate=donate)
        state = parallel.place({"w": WEIGHTS}, mesh)
        step(state, BATCH, jax.random.key(0))
        assert state["w"].is_deleted() == donate


@pytest.mark.parametrize("mode", parallel.MODES)
def test_a_chunk_of_updates_with_traced_bounds(mesh, mode):
    update = descent(Execution(mode, mesh).axis_name)

    def chunk(state, batch, key, start, stop):
        def body(i, carry):
            state, losses = carry
            state, out = update(state, batch, jax.random.fold_in(key, i))
            return state, losses.at[i - start].set(out.metrics["loss"])

        state, losses = jax.lax.fori_loop(start, stop, body, (state, jnp.zeros(4)))
        return state, StepOutput({"loss": losses})

    step = compile_update(chunk, mode=mode, mesh=mesh)
    state, losses = {"w": WEIGHTS}, []
    for start, stop in ((0, 4), (4, 5)):
        state, out = step(state, BATCH, jax.random.key(0), start, stop)
        losses += list(np.asarray(out.metrics["loss"][: stop - start]))
    reference, expected = {"w": WEIGHTS}, []
    for i in range(5):
        key = jax.random.fold_in(jax.random.key(0), i)
        reference, out = descent(None)(reference, BATCH, key)
        expected.append(out.metrics["loss"])
    np.testing.assert_allclose(state["w"], reference["w"], rtol=1e-5)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.parametrize("mode", parallel.MODES)
def test_a_core_that_makes_its_own_data_has_an_empty_batch(mesh, mode):
    axis_name = Execution(mode, mesh).axis_name

    def update(state, batch, key):
        assert batch == ()
        return state + 1, StepOutput({"size": parallel.axis_size(axis_name) * jnp.ones(())})

    step = compile_update(update, mode=mode, mesh=mesh)
    state, out = step(jnp.zeros(()), (), jax.random.key(0))
    assert state == 1
    assert out.metrics["size"] == (1 if mode == "jit" else NUM_DEVICES)


def test_unreduced_metrics_are_refused_by_checked_shard_map(mesh):
    def update(state, batch):
        return state, StepOutput({"loss": batch.mean()})

    step = compile_update(update, mode="shard_map", mesh=mesh)
    with pytest.raises(ValueError, match="replicat"):
        step(jnp.zeros(()), TARGETS)


def test_sharded_state_in_jit_mode():
    mesh = make_mesh({"seed": 4, "data": 2})

    def update(state, batch, key):
        return jax.vmap(descent(None), in_axes=(0, None, None))(state, batch, key)

    step = compile_update(
        lambda *args: (lambda s, o: (s, StepOutput(o.metrics)))(*update(*args)),
        mode="jit",
        mesh=mesh,
        state_spec={"w": P("seed")},
    )
    trials = np.stack([WEIGHTS * (i + 1) for i in range(8)])
    state, out = step({"w": trials}, BATCH, jax.random.key(0))
    assert state["w"].sharding.spec == P("seed")
    assert out.metrics["loss"].shape == (8,)
    for i in range(8):
        single, expected = descent(None)({"w": trials[i]}, BATCH, jax.random.key(0))
        np.testing.assert_allclose(state["w"][i], single["w"], rtol=1e-4)
        np.testing.assert_allclose(out.metrics["loss"][i], expected.metrics["loss"], rtol=1e-4)


def test_arrays_on_another_mesh_are_moved(mesh):
    small = make_mesh({"data": 2})
    step = compile_update(descent(None), mode="jit", mesh=small)
    state = parallel.place({"w": WEIGHTS}, mesh)
    state, _ = step(state, parallel.place_batch(BATCH, mesh), jax.random.key(0))
    assert state["w"].sharding.mesh.size == 2


def test_meshes(mesh):
    assert dict(mesh.shape) == {"data": 8} and mesh.axis_types == (AxisType.Auto,)
    assert dict(make_mesh({"data": -1, "seed": 2}).shape) == {"data": 4, "seed": 2}
    assert make_mesh({"data": 3}).devices.tolist() == jax.devices()[:3]
    assert make_mesh({"data": -1}, jax.devices()[4:]).size == 4
    with pytest.raises(ValueError, match=r"'data': 16.*needs 16 devices but there are 8"):
        make_mesh({"data": 16})
    with pytest.raises(ValueError, match="a multiple of 3 devices but there are 8"):
        make_mesh({"data": -1, "seed": 3})


def test_a_batch_that_does_not_divide_names_both_numbers(mesh):
    step = compile_update(descent(None), mode="jit", mesh=mesh)
    batch = jax.tree.map(lambda x: x[:12], BATCH)
    with pytest.raises(ValueError, match=r"batch of 12 does not divide over 8 devices"):
        step({"w": WEIGHTS}, batch, jax.random.key(0))
    with pytest.raises(ValueError, match=r"batch leaf .*'scale'.* is a scalar"):
        step({"w": WEIGHTS}, BATCH | {"scale": 1.0}, jax.random.key(0))
