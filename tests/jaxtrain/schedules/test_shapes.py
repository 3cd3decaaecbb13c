"""Schedules against plain Python, Optax and closed forms; borders exact to the step."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain import schedules as s

W, C, PEAK, CONST, END = 5, 10, 1.0, 0.25, 0.1
ANNEAL = 30, 8
INFINITE = dict(peak=PEAK, const=CONST, end=END, warmup_steps=W, cooldown_steps=C)


def values(schedule, stop=60):
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(stop)))


def infinite_python(n, kind, anneal_start=math.inf, anneal_steps=1):
    """The formulas of the paper with branches, in double precision."""

    def rate(n):
        if n < W:
            return PEAK * (n + 1) / W
        if n >= W + C:
            return CONST
        u = (n - W) / C
        if kind == "cosine":
            return CONST + (PEAK - CONST) / 2 * (1 + math.cos(math.pi * u))
        if kind == "linear":
            return PEAK - (PEAK - CONST) * u
        h = lambda u: 1 / math.sqrt(1 + 10 * u) - 1
        return PEAK + (CONST - PEAK) * h(u) / h(1)

    if n < anneal_start:
        return rate(n)
    start = rate(anneal_start)
    return start * (END / start) ** min((n - anneal_start) / anneal_steps, 1)


# --- Infinite -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cosine", "inverse_sqrt", "linear"])
def test_infinite_equals_the_branching_formula(kind):
    schedule = s.infinite_schedule(PEAK, CONST, END, W, C, *ANNEAL, cooldown=kind)
    expected = [infinite_python(n, kind, *ANNEAL) for n in range(60)]
    np.testing.assert_allclose(values(schedule), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["cosine", "inverse_sqrt", "linear"])
def test_infinite_borders_and_monotone_phases(kind):
    rates = values(s.infinite_schedule(PEAK, CONST, END, W, C, *ANNEAL, cooldown=kind))
    places = [0, W - 1, W, W + C, 30, 38, 59]
    np.testing.assert_allclose(rates[places], [1 / W, 1, 1, 0.25, 0.25, 0.1, 0.1], rtol=1e-6)
    assert (np.diff(rates[:W]) > 0).all() and (np.diff(rates[W : W + C + 1]) < 0).all()
    assert (rates[W + C : 31] == np.float32(CONST)).all() and (np.diff(rates[30:39]) < 0).all()


def test_annealing_during_cooldown_starts_from_the_current_rate():
    start = W + 4
    schedule = s.infinite_schedule(PEAK, CONST, END, W, C, start, 8)
    expected = [infinite_python(n, "cosine", start, 8) for n in range(40)]
    np.testing.assert_allclose(values(schedule, 40), expected, atol=1e-6)
    assert values(schedule)[start] > CONST + 0.1, "starting from const would jump"


@pytest.mark.parametrize("start", [0, 1, 2])
def test_annealing_during_warmup_never_raises_the_rate(start):
    rates = values(s.infinite_schedule(PEAK, CONST, END, 20, C, start, 8))
    assert np.isfinite(rates).all() and (np.diff(rates[start:]) <= 0).all()


def test_anneal_start_peaks_and_lengths_may_be_traced():
    rate = lambda n, start, peak, warmup: s.infinite_lr(
        n, start, **(INFINITE | {"peak": peak, "warmup_steps": warmup}), anneal_steps=8
    )
    starts, peaks = jnp.array([30, s.NEVER]), jnp.array([1.0, 2.0])
    traced = jax.jit(jax.vmap(jax.vmap(rate, (None, 0, None, None)), (0, None, None, None)))
    found = traced(jnp.arange(60), starts, peaks[0], W)
    np.testing.assert_allclose(
        found[:, 0], [infinite_python(n, "cosine", *ANNEAL) for n in range(60)], atol=1e-6
    )
    np.testing.assert_allclose(
        found[:, 1], [infinite_python(n, "cosine") for n in range(60)], atol=1e-6
    )
    by_peak = jax.vmap(rate, (None, None, 0, None))(W - 1, s.NEVER, peaks, W)
    np.testing.assert_allclose(by_peak, peaks)


def test_no_warmup_and_no_cooldown():
    rates = values(s.infinite_schedule(PEAK, PEAK, END, 0, 0, *ANNEAL))
    assert (rates[:31] == 1).all()
    np.testing.assert_allclose(rates[38:], END, rtol=1e-6)


def test_large_steps_keep_their_phase():
    start = 2**24 + 1  # float32 would round it down
    rates = [s.infinite_lr(start + i, start, **INFINITE, anneal_steps=4) for i in range(5)]
    np.testing.assert_allclose(rates, CONST * (END / CONST) ** (np.arange(5) / 4), rtol=1e-6)


def test_a_fresh_optimiser_resumes_the_constant_rate():
    rates = values(s.infinite_schedule(PEAK, CONST, END, W, C, offset=W + C))
    assert (rates == np.float32(CONST)).all()
    assert values(s.infinite_schedule(PEAK, CONST, END, W, C))[0] != np.float32(CONST)  # without


DOORS = {
    "infinite_schedule": s.infinite_schedule,
    "annealable": lambda **options: s.annealable(**{"anneal_steps": 8} | options),
    "infinite_lr": lambda **options: s.infinite_lr(0, **options),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(end=0.0), "0 < end <= const <= peak"),
        (dict(end=0.5), "0 < end <= const <= peak"),
        (dict(const=2.0), "0 < end <= const <= peak"),
        (dict(peak=-1.0), "peak is -1.0"),
        (dict(const=float("nan")), "const is nan"),
        (dict(warmup_steps=-1), "warmup_steps is -1"),
        (dict(cooldown_steps=2.5), "cooldown_steps is 2.5"),
        (dict(cooldown_steps=0), "would jump"),
        (dict(cooldown="cosin"), "the shapes are"),
        (dict(anneal_steps=0, anneal_start=30), "at least 1"),
    ],
)
def test_every_door_to_the_infinite_schedule_refuses(door, change, sentence):
    if door == "annealable":
        change = {name: value for name, value in change.items() if name != "anneal_start"}
    with pytest.raises(ValueError, match=sentence) as error:
        DOORS[door](**(INFINITE | change))
    assert "\n" not in str(error.value)


def test_an_annealing_without_a_length_is_refused():
    """It would fall to the end rate in one update."""
    with pytest.raises(ValueError, match="together"):
        s.infinite_schedule(**INFINITE, anneal_start=30)
    with pytest.raises(ValueError, match="anneal_steps"):
        s.annealable(**INFINITE)
    for start in (30, jnp.int32(30)):
        with pytest.raises(ValueError, match="needs anneal_steps"):
            s.infinite_lr(0, start, **INFINITE)
    assert s.infinite_lr(W + C, **INFINITE) == np.float32(CONST)
    with pytest.raises(ValueError, match="offset is -1"):
        s.annealable(**INFINITE, anneal_steps=8, offset=-1)


def optimizer():
    schedule = s.annealable(**INFINITE, anneal_steps=4)
    return s.scheduled(optax.sgd, schedule)


def rates_of(state, steps, tx, **extra):
    def body(state, _):
        _, state = tx.update(jnp.ones(()), state, jnp.ones(()), **extra)
        return state, s.applied_rate(state)["learning_rate"]

    return jax.lax.scan(body, state, None, length=steps)


def test_annealing_on_a_branch_leaves_the_main_line_at_the_constant_rate():
    tx = optimizer()
    state, _ = rates_of(tx.init(jnp.ones(())), 20, tx)
    before = jax.tree.map(np.asarray, state)
    branch, rates = rates_of(s.start_anneal(state), 6, tx)
    np.testing.assert_allclose(
        rates, CONST * (END / CONST) ** (np.minimum(np.arange(6), 4) / 4), rtol=1e-6
    )
    jax.tree.map(np.testing.assert_array_equal, state, before)
    _, rates = rates_of(state, 6, tx)
    np.testing.assert_allclose(rates, CONST)
    _, told = rates_of(state, 6, tx, anneal_start=22)
    np.testing.assert_allclose(told[:3], CONST)
    assert told[3] < CONST
    # Going on from the annealed state would not: that is why the other checkpoint is kept.
    assert rates_of(branch, 6, tx)[1].max() < CONST


def test_branch_anneal_runs_a_core():
    tx = optimizer()

    def update(state, batch, key):
        grads = state[0] - batch
        updates, inner = tx.update(grads, state[1], state[0])
        return (state[0] + updates, inner), s.applied_rate(inner)

    params = jnp.ones(())
    state, _ = jax.lax.scan(
        lambda st, x: update(st, x, None), (params, tx.init(params)), jnp.zeros(20)
    )
    keys = jax.random.split(jax.random.key(0), 4)
    annealed, out = jax.jit(s.branch_anneal, static_argnums=0)(update, state, jnp.zeros(4), keys)
    expected = CONST * (END / CONST) ** (np.arange(4) / 4)
    np.testing.assert_allclose(out["learning_rate"], expected, rtol=1e-6)
    np.testing.assert_allclose(annealed[0], state[0] * np.prod(1 - expected), rtol=1e-5)
    with pytest.raises(ValueError, match="no annealable schedule"):
        s.start_anneal(optax.adam(1e-3).init(params))


# --- The others -----------------------------------------------------------------------------------


def test_linear_is_optax_polynomial_and_ends_at_zero():
    rates = values(s.warmup_linear(2.0, 50, 10), 60)
    np.testing.assert_allclose(rates[:10], 2 * np.arange(1, 11) / 10, rtol=1e-6)
    np.testing.assert_allclose(
        rates[9:], values(optax.linear_schedule(2.0, 0.0, 40), 51), atol=1e-6
    )
    assert rates[48] > 0 and (rates[49:] == 0).all()
    plain = values(s.warmup_linear(1.0, 50), 50)
    np.testing.assert_allclose(plain, 1 - np.arange(1, 51) / 50, atol=1e-6)
    cubed = values(s.warmup_linear(1.0, 50, power=3.0), 50)
    np.testing.assert_allclose(cubed, plain**3, atol=1e-6)


def test_wsd_borders():
    rates = values(s.wsd(2.0, 50, 10, 20), 60)
    expected = [2 * min(1, (t + 1) / 10) * min(1, max(0, (50 - t) / 20)) for t in range(60)]
    np.testing.assert_allclose(rates, expected, atol=1e-6)
    assert rates[30] == 2 and rates[31] < 2 and rates[49] > 0 and rates[50] == 0
    root = values(s.wsd(2.0, 50, 10, 20, "sqrt"), 60)
    np.testing.assert_allclose(root[40], 2 * (1 - math.sqrt(0.5)), rtol=1e-6)
    assert (values(s.wsd(2.0, 50), 50) == 2).all()  # neither warm-up nor decay


def test_inverse_sqrt_borders():
    expected = [2 * min((t + 1) / 10, math.sqrt(10 / (t + 1))) for t in range(60)]
    np.testing.assert_allclose(values(s.inverse_sqrt(2.0, 10)), expected, rtol=1e-6)
    assert values(s.inverse_sqrt(2.0, 10))[9] == 2


def test_cosine_is_that_of_optax_after_its_warmup_with_a_traced_peak():
    rates = lambda peak: jax.vmap(s.warmup_cosine(peak, 50, 10, 0.1))(jnp.arange(60))
    ours = jax.jit(jax.vmap(rates))(jnp.array([0.5, 2.0]))
    for rates, peak in zip(ours, (0.5, 2.0), strict=True):
        theirs = optax.warmup_cosine_decay_schedule(0.0, peak, 10, 50, 0.1 * peak)
        np.testing.assert_allclose(rates[10:], values(theirs)[10:], rtol=1e-5)
        np.testing.assert_allclose(rates[:10], peak * np.arange(1, 11) / 10, rtol=1e-6)


def test_repeated_cosine_is_sgdr_after_each_warmup():
    cycle = dict(init_value=0.0, peak_value=2.0, warmup_steps=4, decay_steps=20, end_value=0.2)
    theirs, rates = optax.sgdr_schedule([cycle] * 3), values(s.repeated_cosine(2.0, 20, 4, 0.1))
    decaying = np.arange(60) % 20 >= 4
    np.testing.assert_allclose(rates[decaying], values(theirs)[decaying], rtol=1e-5)
    np.testing.assert_allclose(rates[~decaying], np.tile([0.5, 1, 1.5, 2], 3), rtol=1e-6)


def test_warmup_constant_is_the_published_default():
    np.testing.assert_array_equal(
        values(s.warmup_constant(4e-4, 9)), values(optax.linear_schedule(4e-4 / 100, 4e-4, 9))
    )
    assert (values(s.warmup_constant(4e-4, 0)) == np.float32(4e-4)).all()


def test_table_looks_up_stretches_and_keeps_its_ends():
    table = [0.0, 1.0, 0.5, 0.0]
    np.testing.assert_allclose(values(s.table_schedule(table, 2.0), 6), [0, 2, 1, 0, 0, 0])
    stretched = values(s.table_schedule(table, 1.0, 7), 7)
    np.testing.assert_allclose(stretched, [0, 0.5, 1, 0.75, 0.5, 0.25, 0], atol=1e-6)
    np.testing.assert_allclose(values(s.table_schedule(stretched, 1.0, 4), 4), table, atol=1e-6)


@pytest.mark.parametrize("name", s.SCHEDULES)
def test_every_named_schedule_works_traced_scanned_and_as_optimiser(name):
    ramp = np.linspace(2.0, 1.0, 40).tolist()
    arguments = {"table": "(values=(0.2, 1, 0))", "refined": f"(norms={ramp})"}.get(name, "")

    def rates(peak):
        schedule = s.make_schedule(name + arguments, peak, 40, warmup_steps=4)
        tx = s.scheduled(optax.adam, schedule)
        state = tx.init(jnp.ones(3))
        body = lambda st, t: (
            tx.update(jnp.ones(3), st, jnp.ones(3))[1],
            (schedule(t), s.applied_rate(st)["learning_rate"]),
        )
        return jax.lax.scan(body, state, jnp.arange(40))[1]

    scheduled, applied = jax.jit(jax.vmap(rates))(jnp.array([1.0, 3.0]))
    loop = [float(s.make_schedule(name + arguments, 3.0, 40, warmup_steps=4)(t)) for t in range(40)]
    np.testing.assert_allclose(scheduled[1], loop, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(scheduled[1], 3 * scheduled[0], rtol=1e-5)
    # The state before update t holds the rate of update t - 1.
    np.testing.assert_allclose(applied[:, 1:], scheduled[:, :-1], rtol=1e-6)
    assert scheduled.min() >= 0 and 0 < scheduled.max()


def test_arguments_override_the_optimisers_warmup_and_may_be_fractions():
    given = values(s.make_schedule("linear(warmup=0.5)", 1.0, 40, warmup_steps=4), 40)
    np.testing.assert_array_equal(given, values(s.warmup_linear(1.0, 40, 20), 40))
    steps = values(s.make_schedule("wsd(decay=10, shape='sqrt')", 1.0, 40, warmup_steps=4), 40)
    np.testing.assert_array_equal(steps, values(s.wsd(1.0, 40, 4, 10, "sqrt"), 40))
    infinite = s.make_schedule("infinite(warmup=0.05)", 1.0, 100)
    np.testing.assert_array_equal(
        values(infinite, 100), values(s.infinite_schedule(1.0, 0.25, 0.1, 5, 25, 80, 20), 100)
    )


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd", "inverse_sqrt", "infinite"])
def test_warmups_begin_with_a_rate_and_end_with_the_peak(name):
    rates = values(s.make_schedule(f"{name}(warmup=5)", 2.0, 40), 40)
    np.testing.assert_allclose(rates[:5], 2 * np.arange(1, 6) / 5, rtol=1e-6)


def test_a_share_of_1_is_the_whole_run_and_1_is_one_update():
    whole = values(s.make_schedule("linear(warmup=1.0)", 1.0, 40), 40)
    np.testing.assert_allclose(whole, np.arange(1, 41) / 40, rtol=1e-6)
    one = values(s.make_schedule("linear(warmup=1)", 1.0, 40), 40)
    np.testing.assert_array_equal(one, values(s.warmup_linear(1.0, 40, 1), 40))
    assert one[0] == 1


def test_files_are_read_by_the_given_function():
    schedule = s.make_schedule("table(values='a')", 2.0, 3, read={"a": [1.0, 0.5, 0.0]}.get)
    np.testing.assert_allclose(values(schedule, 3), [2, 1, 0])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("linaer", "unknown schedule 'linaer'; the schedules are constant, "),
        ("wsd(0.2)", "is not a schedule"),
        ("wsd(decay=x)", "is not a schedule"),
        ("import os", "is not a schedule"),
        ("wsd(length=3)", "no argument 'length'; its arguments are warmup, decay, shape"),
        ("constant(warmup=3)", "no argument 'warmup'; it takes none"),
        ("wsd(decay=35)", "longer than the run of 40 steps"),
        ("linear(warmup=41)", "longer than the run of 40 steps"),
        ("cosine(warmup=40)", "leave some for the decay"),
        ("infinite(cooldown=30, anneal=10)", "longer than the run of 40 steps"),
        ("infinite(end=0.5)", "0 < end <= const <= peak"),
        ("cosine(end=-0.1)", "end is -0.1"),
        ("cosine(end=1.5)", "end is 1.5"),
        ("cosine(warmup=1.0)", "leave some for the decay"),
        ("repeated_cosine(period=0)", "period is 0"),
        ("linear(power=-1)", "power is -1"),
        ("linear(warmup=2.5)", "duration is 2.5"),
        ("infinite(shape='cosin')", "the shapes are"),
        ("wsd(decay=-3)", "is -3"),
        ("wsd(shape='step')", "the decays are"),
        ("wsd(decay='long')", "cannot use"),
        ("table", "needs values"),
        ("table(values=[])", r"shape \[T\]"),
        ("table(values=[1, -1])", "not negative"),
        ("table(values='file.npy')", "list of numbers here"),
        ("refined(norms=[0.0, 0.0, 1.0])", "only 1 of 3"),
        ("refined(norms=[1.0, 1.0], ends='copy')", "mirror and official"),
    ],
)
def test_make_schedule_refuses_in_one_sentence(text, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        s.make_schedule(text, 1.0, 40, warmup_steps=6)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["constant", "linear", "cosine", "wsd", "inverse_sqrt", "infinite"]
)
@pytest.mark.parametrize("rate", [-1e-3, float("nan"), float("inf")])
def test_impossible_rates_are_refused(name, rate):
    with pytest.raises(ValueError, match="must be finite and not negative"):
        s.make_schedule(name, rate, 40)


def test_a_table_needs_steps_to_be_stretched_to():
    with pytest.raises(ValueError, match="total_steps is 0"):
        s.table_schedule([1.0, 0.5], total_steps=0)


def test_the_applied_rate_needs_an_optimiser_that_keeps_it():
    assert s.applied_rate(optax.adam(1e-3).init(jnp.ones(2))) == {}
