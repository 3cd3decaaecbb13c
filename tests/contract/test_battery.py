"""The battery itself: each check must fail for a core that breaks its rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import Core, HostCore, StepOutput
from tests.contract import battery
from tests.contract.row import Row

CALLS = []


def make_row(update, init=jnp.copy, random=False, kind=Core):
    return Row(
        name="broken",
        build=lambda axis_name: kind(init, update),
        init_args=lambda: (jnp.zeros(3),),
        batch=lambda i: {"inputs": np.arange(8, dtype=np.float32) + i},
        misuse=lambda core, state: core.update(state, {}, jax.random.key(0)),
        error="needs inputs",
        random=random,
    )


def good(state, batch, key):
    if "inputs" not in batch:
        raise ValueError("the core needs inputs.")
    mean = batch["inputs"].mean()
    return state + mean, StepOutput({"loss": mean}, 2 * batch["inputs"])


def changes_the_dtype(state, batch, key):
    return (state + 1).astype(jnp.bfloat16), good(state, batch, key)[1]


def reports_an_integer(state, batch, key):
    return state, StepOutput({"count": jnp.int32(1)})


def divides_by_zero(state, batch, key):
    return state, StepOutput({"loss": 0.0 / state[0]})


def sorts_its_outputs(state, batch, key):
    return state, StepOutput({"loss": state[0]}, -jnp.sort(-batch["inputs"] * 2))


def remembers_calls(state, batch, key):
    CALLS.append(1)
    return state + len(CALLS), good(state, batch, key)[1]


@jax.custom_batching.custom_vmap
def twice(x):
    return 2 * x


@twice.def_vmap
def _(axis_size, in_batched, x):
    return 2 * x[::-1], in_batched[0]


def swaps_what_is_vectorised(state, batch, key):
    return twice(state) + batch["inputs"].mean(), good(state, batch, key)[1]


def uses_a_key_twice(state, batch, key):
    noise = jax.random.normal(key, (3,)) + jax.random.uniform(key, (3,))
    return state + noise, good(state, batch, key)[1]


def draws_noise(state, batch, key):
    return state + jax.random.normal(key, (3,)), good(state, batch, key)[1]


def counts_in_numpy(state, batch, key):
    return np.asarray(state, np.float64), good(state, batch, key)[1]


MEGABYTES = np.arange(2**19, dtype=np.float32)


def closes_over_megabytes(state, batch, key):
    return state + jnp.asarray(MEGABYTES)[0], good(state, batch, key)[1]


@jax.jit
def of_megabytes(place):
    return jnp.asarray(MEGABYTES)[place]


def calls_what_closes_over_megabytes(state, batch, key):
    step = lambda x, i: (x + of_megabytes(i), None)
    return jax.lax.scan(step, state, jnp.arange(2))[0], good(state, batch, key)[1]


def asks_python(state, batch, key):
    return (state + 1 if batch["inputs"][0] > 0 else state), good(state, batch, key)[1]


@pytest.mark.parametrize(
    ("check", "row"),
    [
        (battery.check_structure, make_row(changes_the_dtype)),
        (battery.check_structure, make_row(good, init=lambda x: 0.5)),
        (battery.check_structure, make_row(counts_in_numpy, kind=HostCore)),
        (battery.check_metrics, make_row(reports_an_integer)),
        (battery.check_metrics, make_row(divides_by_zero)),
        (battery.check_order, make_row(sorts_its_outputs)),
        (battery.check_eager, make_row(remembers_calls)),
        (battery.check_scan_of_vmap, make_row(remembers_calls)),
        (battery.check_scan_of_vmap, make_row(swaps_what_is_vectorised)),
        (battery.check_trace_and_donation, make_row(good, init=lambda x: x)),
        (battery.check_trace_and_donation, make_row(good, init=lambda x: 0.5 * jnp.asarray(1.0))),
        (battery.check_keys, make_row(uses_a_key_twice, random=True)),
        (battery.check_keys, make_row(uses_a_key_twice, random=True, kind=HostCore)),
        (battery.check_keys, make_row(draws_noise, random=False)),
        (battery.check_keys, make_row(good, random=True)),
        (battery.check_resume, make_row(remembers_calls, kind=HostCore)),
        (battery.check_closures, make_row(closes_over_megabytes)),
        (battery.check_closures, make_row(calls_what_closes_over_megabytes)),
        (battery.check_closures, make_row(good, init=lambda x: x + jnp.asarray(MEGABYTES)[0])),
        (battery.check_error, make_row(lambda state, batch, key: (state, StepOutput({})))),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_a_broken_core_is_caught(check, row, tmp_path):
    kinds = (AssertionError, jax.errors.KeyReuseError, pytest.fail.Exception)
    with pytest.raises(kinds):
        folder = [tmp_path / "checkpoints"] if check is battery.check_resume else []
        check(battery.prepare(row), *folder)


def test_a_core_that_needs_python_values_cannot_be_compiled():
    with pytest.raises(jax.errors.TracerBoolConversionError):
        battery.check_structure(battery.prepare(make_row(asks_python)))
    battery.check_structure(battery.prepare(make_row(asks_python, kind=HostCore)))


@pytest.mark.parametrize(
    "check",
    [
        battery.check_structure,
        battery.check_metrics,
        battery.check_order,
        battery.check_eager,
        battery.check_scan_of_vmap,
        battery.check_trace_and_donation,
        battery.check_keys,
        battery.check_closures,
        battery.check_error,
    ],
    ids=lambda check: check.__name__,
)
def test_the_good_core_passes(check):
    check(battery.prepare(make_row(good)))


def test_the_key_checker_still_refuses_fresh_keys_scanned_under_vmap():
    """Why some rows are exempt; when this fails, remove their exceptions."""

    def walk(key):
        draw = lambda total, key: (total + jax.random.normal(key), None)
        return jax.lax.scan(draw, 0.0, jax.random.split(key, 2))[0]

    keys = jax.random.split(jax.random.key(0), 2)
    with jax.debug_key_reuse(True):
        jax.jit(walk).lower(keys[0])
        with pytest.raises(jax.errors.KeyReuseError):
            jax.jit(jax.vmap(walk)).lower(keys)


def test_a_core_that_does_not_reduce_over_devices_is_caught():
    with pytest.raises(ValueError, match="replicat|out_specs|varying"):
        battery.check_traced_per_device(battery.prepare(make_row(good)))

    def reduced(state, batch, key):
        mean = jax.lax.pmean(batch["inputs"].mean(), "data")
        return state + mean, StepOutput({"loss": mean}, 2 * batch["inputs"])

    row = make_row(good)._replace(
        build=lambda axis_name: Core(jnp.copy, reduced if axis_name else good)
    )
    battery.check_traced_per_device(battery.prepare(row))
