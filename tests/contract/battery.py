"""What every core must satisfy. Each check takes a `Prepared` row and raises if it fails.

Tolerances: `CLOSE` where the same program is rounded differently (eager, vectorised, several
devices); equality of bits where the same program runs on the same numbers.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import HostCore, StepOutput, parallel, trees
from jaxtrain.host.checkpoint import Checkpoints
from tests.contract.row import Row

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


class Prepared(NamedTuple):
    """A row with its one-device core, compiled once for all checks; a `HostCore` as it is.

    Attributes:
      row: the row.
      core: what it builds for one device.
      init: the compiled `core.init`. What it returns is committed to the device, as is what a
        checkpoint gives back, so that one compiled update serves both.
      state: the state after it.
      donating: the compiled update, which takes over the state it is given.
      update: the same program on a copy of the state.
      traces: one entry for every time the update was traced.
    """

    row: Row
    core: Any
    init: Any
    state: Any
    donating: Any
    update: Any
    traces: list[None]


def prepare(row: Row) -> Prepared:
    core, traces = row.build(None), []
    if isinstance(core, HostCore):
        state = core.init(*row.init_args())
        return Prepared(row, core, core.init, state, core.update, core.update, traces)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    init = jax.jit(core.init, out_shardings=here)
    state = init(*row.init_args())

    def counted(state: Any, batch: Any, key: jax.Array) -> Any:
        traces.append(None)
        return core.update(state, batch, key)

    donating = jax.jit(counted, donate_argnums=0)
    update = lambda state, batch, key: donating(copied(state), batch, key)
    return Prepared(row, core, init, state, donating, update, traces)


def copied(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.device_put(x, may_alias=False), tree)


def raw(tree: Any) -> Any:
    """The tree as NumPy arrays, keys as their words."""

    def leaf(x: Any) -> np.ndarray:
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x)

    return jax.tree.map(leaf, tree)


def assert_close(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), raw(actual), raw(expected))


def assert_same_bits(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, raw(actual), raw(expected))


def stack(trees: list[Any]) -> Any:
    """By NumPy, which compiles nothing; keys by JAX."""

    def leaf(*leaves: Any) -> Any:
        is_key = jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key)
        return (jnp if is_key else np).stack(leaves)

    return jax.tree.map(leaf, *trees)


def types(tree: Any) -> Any:
    return jax.tree.map(lambda x: (jnp.shape(x), getattr(x, "dtype", type(x))), tree)


def run(update: Any, state: Any, batches: list[Any], key: jax.Array, start: int = 0) -> Any:
    """Updates `start, start + 1, ...` with keys as the training loop derives them."""
    outs = []
    for i, batch in enumerate(batches, start):
        state, out = update(state, batch, jax.random.fold_in(key, i))
        outs.append(out)
    return state, outs


# --- 1 and 2: what comes back ---------------------------------------------------------------------


def check_structure(p: Prepared) -> None:
    def init(*args: Any) -> Any:
        state = p.core.init(*args)
        assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(state))
        return state

    jax.eval_shape(init, *p.row.init_args())
    state, _ = p.update(p.state, p.row.batch(0), jax.random.key(0))
    assert jax.tree.structure(state) == jax.tree.structure(p.state)
    assert types(state) == types(p.state)


def check_metrics(p: Prepared) -> None:
    _, outs = run(p.update, p.state, [p.row.batch(i) for i in range(2)], jax.random.key(0))
    for out in outs:
        assert out.metrics, "a core reports at least one metric"
        for name, value in out.metrics.items():
            assert value.shape == () and value.dtype == jnp.float32, name
            assert math.isfinite(value), name


def check_order(p: Prepared) -> None:
    batch, key = p.row.batch(0), jax.random.key(0)
    size = {x.shape[0] for x in jax.tree.leaves(batch)}.pop()
    order = np.random.default_rng(0).permutation(size)
    _, straight = p.update(p.state, batch, key)
    _, permuted = p.update(p.state, jax.tree.map(lambda x: x[order], batch), key)
    assert all(x.shape[0] == size for x in jax.tree.leaves(straight.outputs))
    assert_close(permuted.outputs, jax.tree.map(lambda x: x[order], straight.outputs))
    assert_close(permuted.metrics, straight.metrics)


# --- 3 and 4: transformations ---------------------------------------------------------------------


def check_eager(p: Prepared) -> None:
    batch, key = p.row.batch(0), jax.random.key(0)
    assert_close(p.core.update(p.state, batch, key), p.update(p.state, batch, key))


def check_scan_of_vmap(p: Prepared) -> None:
    """Three updates of two states at once are those of a Python loop over each of them.

    Both states have been updated before: Adam's first step has one size for all parameters, and
    rounding would decide which of several equal logits is the largest.
    """
    batches, keys = [p.row.batch(i) for i in range(3)], [jax.random.key(0), jax.random.key(1)]
    first, _ = p.update(p.state, batches[2], keys[0])
    states = [first, p.update(first, batches[1], keys[1])[0]]
    apart = [run(p.update, *start) for start in zip(states, [batches] * 2, keys, strict=True)]
    ends, outs = zip(*apart, strict=True)

    def together(states: Any, given: Any) -> Any:
        return jax.vmap(p.core.update, (0, None, 0))(states, *given)

    keys_of_steps = stack([stack([jax.random.fold_in(k, i) for k in keys]) for i in range(3)])
    found = jax.jit(lambda states, xs: jax.lax.scan(together, states, xs))(
        stack(states), (stack(batches), keys_of_steps)
    )
    assert_close(found, (stack(ends), stack([stack(pair) for pair in zip(*outs, strict=True)])))


def check_trace_and_donation(p: Prepared) -> None:
    args, key = p.row.init_args(), jax.random.key(0)
    before = raw(args)
    init = p.init.trace(*args).jaxpr.jaxpr
    given = {id(x) for x in (*init.invars, *init.constvars)}
    assert not given & {id(x) for x in init.outvars}, "init gives away what it was given"
    batches = [p.row.batch(i) for i in range(3)]
    state = p.init(*args)
    handed_over = jax.tree.leaves(state)
    assert_same_bits(run(p.donating, state, batches, key), run(p.update, p.state, batches, key))
    assert len(p.traces) == 1, "the update was traced again for its own state"
    assert all(x.is_deleted() for x in handed_over), "the state was not donated"
    assert_same_bits(raw(args), before)


# --- 5: randomness --------------------------------------------------------------------------------


def check_keys(p: Prepared) -> None:
    batch, key = p.row.batch(0), jax.random.key(0)
    with jax.debug_key_reuse(True):
        if isinstance(p.core, HostCore):
            p.core.update(p.state, batch, key)
        else:
            jax.jit(lambda *args: p.core.update(*args)).lower(p.state, batch, key)
    first, again = p.update(p.state, batch, key), p.update(p.state, batch, key)
    assert_same_bits(first, again)
    other = p.update(p.state, batch, jax.random.key(1))
    differs = any(
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(raw(first)), jax.tree.leaves(raw(other)), strict=True)
    )
    assert differs == p.row.random, "the row's claim about randomness is wrong"


# --- 6: devices -----------------------------------------------------------------------------------


def check_devices(p: Prepared, mode: parallel.Mode) -> None:
    """An execution mode over all visible devices equals one device; needs at least two."""
    mesh = parallel.make_mesh({"data": -1})
    assert mesh.size > 1
    core = p.row.build(parallel.Execution(mode, mesh).axis_name)
    step = parallel.compile_update(core.update, mode=mode, mesh=mesh)
    batches, key = [p.row.batch(i) for i in range(3)], jax.random.key(0)
    state = core.init(*p.row.init_args())
    assert_close(run(step, state, batches, key), run(p.update, p.state, batches, key))


def check_traced_per_device(p: Prepared) -> None:
    """What one shard computes is replicated or sharded as it says; needs no devices.

    Tracing for two of them finds a state, a metric or a loop that differs from shard to shard
    without a reduction, which is most of what the modes over eight devices can find.
    """
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.sharding.AbstractMesh((2,), ("data",), axis_types=auto)
    whole, sharded = parallel.REPLICATED, parallel.SHARDED
    mapped = jax.shard_map(
        p.row.build("data").update,
        mesh=mesh,
        in_specs=(whole, sharded, whole),
        out_specs=(whole, StepOutput(whole, sharded)),
    )
    found, _ = jax.eval_shape(mapped, p.state, p.row.batch(0), jax.random.key(0))
    assert trees.describe(found) == trees.describe(p.state)


def check_unchecked_shard_map(p: Prepared) -> None:
    mesh, whole, sharded = parallel.make_mesh({"data": -1}), parallel.REPLICATED, parallel.SHARDED
    assert mesh.size > 1
    core = p.row.build("data")
    step = jax.jit(
        jax.shard_map(
            core.update,
            mesh=mesh,
            in_specs=(whole, sharded, whole),
            out_specs=(whole, StepOutput(whole, sharded)),
            check_vma=False,
        )
    )
    batches, key = [p.row.batch(i) for i in range(3)], jax.random.key(0)
    state = core.init(*p.row.init_args())  # that of `p` is committed to one device
    assert_close(run(step, state, batches, key), run(p.update, p.state, batches, key))


# --- 7: resume ------------------------------------------------------------------------------------


def check_resume(p: Prepared, folder: Path) -> None:
    batches, key = [p.row.batch(i) for i in range(4)], jax.random.key(0)
    halfway, _ = run(p.update, p.state, batches[:2], key)
    with Checkpoints(folder, every=1) as checkpoints:
        checkpoints.maybe_save(2, halfway, {}, {})
    with Checkpoints(folder, every=1) as checkpoints:
        restored = checkpoints.restore_or(p.init(*p.row.init_args()))
    assert restored.step == 2
    assert_same_bits(restored.tree, halfway)
    resumed, outs = run(p.update, restored.tree, batches[2:], key, start=2)
    state, all_outs = run(p.update, p.state, batches, key)
    assert_same_bits((resumed, outs), (state, all_outs[2:]))


# --- 8: programs ----------------------------------------------------------------------------------

LARGE = 2**20  # bytes


def constants(traced: Any) -> list[np.ndarray]:
    """Arrays that a traced function closes over, those of functions it calls included."""
    found: dict[int, Any] = {}

    def walk(x: Any) -> None:
        if isinstance(x, jax.extend.core.ClosedJaxpr):
            found.update({id(c): c for c in x.consts if np.size(c) > 1})
            walk(x.jaxpr)
        elif isinstance(x, jax.extend.core.Jaxpr):
            for equation in x.eqns:
                walk([v.val for v in equation.invars if isinstance(v, jax.extend.core.Literal)])
                walk(list(equation.params.values()))
        elif isinstance(x, list | tuple):
            for part in x:
                walk(part)
        elif isinstance(x, np.ndarray | jax.Array) and x.size > 1:
            found[id(x)] = x

    walk(traced.jaxpr)
    return list(found.values())


def check_closures(p: Prepared) -> None:
    """Neither function closes over a megabyte: what is large is in the state or in the batch."""
    traced = {
        "update": p.donating.trace(p.state, p.row.batch(0), jax.random.key(0)),
        "init": p.init.trace(*p.row.init_args()),
    }
    for name, function in traced.items():
        closed_over = constants(function)
        size = sum(x.nbytes for x in closed_over)
        assert size <= LARGE, (
            f"{name} closes over {size} bytes, arrays {[x.shape for x in closed_over]}; let the "
            "state hold them (jaxtrain.Held, jaxtrain.holding)"
        )


# --- 9: numbers that are not finite ---------------------------------------------------------------

BAD = 5  # the row that is spoiled


def check_nonfinite(p: Prepared) -> None:
    """A NaN pixel is counted and nothing else: its row might as well be masked.

    Of adapters and trainings of `jaxtta.images`. The programs are those of the other checks.
    """
    batch, key = p.row.batch(0), jax.random.key(0)
    spoiled = {**batch, "inputs": batch["inputs"].copy()}
    spoiled["inputs"][BAD, 0, 1, 2] = np.nan
    state, out = raw(p.update(p.state, spoiled, key))
    finite = lambda tree: all(np.isfinite(x).all() for x in jax.tree.leaves(tree))
    assert finite(state) and finite(out.metrics)
    assert out.metrics["num_nonfinite"] == 1
    if "mask" not in batch:
        return
    assert finite(out.outputs) and not out.outputs.selected[BAD]
    masked = batch["mask"].copy()
    masked[BAD] = False
    state_masked, out_masked = raw(p.update(p.state, {**batch, "mask": masked}, key))
    assert out_masked.metrics.pop("num_nonfinite") == 0
    assert out.metrics.pop("num_nonfinite") == 1
    good = lambda tree: jax.tree.map(lambda x: x[masked], tree)
    assert_close((state, good(out.outputs)), (state_masked, good(out_masked.outputs)))
    assert_close(out.metrics, out_masked.metrics)
    inputs = np.full_like(batch["inputs"], np.inf)
    state, out = raw(p.update(p.state, {**batch, "inputs": inputs}, key))
    # Counters may count the batch.
    numbers = lambda tree: [x for x in jax.tree.leaves(tree) if x.dtype.kind == "f"]
    assert_same_bits(numbers(state), numbers(raw(p.state)))
    assert out.metrics["num_nonfinite"] == len(inputs) and not out.outputs.selected.any()
    assert not out.metrics.get("did_update", 0)


def check_left_out_classes(p: Prepared) -> None:
    """Logits of -inf for a class that the task leaves out: it has probability 0, nothing is NaN."""
    params, model_state, *known = p.row.init_args()
    allowed = np.array(model_state["allowed"])
    allowed[1] = False
    state = p.init(params, {**model_state, "allowed": allowed}, *known)
    for i in range(2):
        state, out = p.update(state, p.row.batch(i), jax.random.fold_in(jax.random.key(0), i))
        out = raw(out)
        assert out.metrics["num_nonfinite"] == 0
        if "did_update" in out.metrics:
            assert out.metrics["did_update"] == (out.metrics["num_selected"] > 0)
        for x in jax.tree.leaves(raw((state, out.metrics))):
            assert np.isfinite(x).all()
        logits = np.asarray(out.outputs.logits)
        assert np.isfinite(np.delete(logits, 1, -1)).all() and not np.isnan(logits).any()
        assert (logits.argmax(-1) != 1).all()


# --- 10: errors -----------------------------------------------------------------------------------


def check_error(p: Prepared) -> None:
    with pytest.raises(ValueError, match=p.row.error):
        p.row.misuse(p.core, p.state)
