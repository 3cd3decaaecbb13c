"""AutoLRS: its parts against NumPy and SciPy, the controller against a plain Python loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain import Core, StepOutput
from jaxtrain.schedules.autolrs import autolrs, replay, repositioned
from jaxtrain.schedules.autolrs_models import DIVERGED, fit_exponential, gp_posterior, lcb_next
from jaxtrain.schedules.autolrs_phases import AutoLRSConfig, phase_of

CONFIG = AutoLRSConfig(1e-3, 1e-1, tau0=20, tau_max=40, k=3, ratio=10, val_points=2, warmup_steps=3)


# --- Phases ---------------------------------------------------------------------------------------


def procedure(config, stages):
    """(stage, probe, step, length, position) of every update, written as the paper's loops."""
    position, tau = config.warmup_steps, config.tau0
    for i in range(config.warmup_steps):
        yield -1, config.k, i, config.warmup_steps, i
    for stage in range(stages):
        short = tau // config.ratio
        for probe in range(config.k):
            for i in range(short):
                yield stage, probe, i, short, position + i
        for i in range(tau):
            yield stage, config.k, i, tau, position + i
        position += tau
        if short < config.tau_max / config.ratio:
            tau *= 2


@pytest.mark.parametrize("xp", [jnp, np])
@pytest.mark.parametrize(
    "config", [CONFIG, AutoLRSConfig(1e-3, 1e-1, tau0=10, tau_max=10, k=1), AutoLRSConfig(1, 2)]
)
def test_phases_equal_the_loops_of_the_paper(config, xp):
    expected = np.array(list(procedure(config, 5 if config.tau0 < 1000 else 6)))
    found = phase_of(config, xp.arange(len(expected)), xp)
    np.testing.assert_array_equal(np.stack(found, axis=1), expected)
    if config.tau0 == 1000:  # the published stages
        stages = expected[expected[:, 1] == config.k]
        assert np.bincount(stages[:, 0]).tolist() == [1000, 2000, 4000, 8000, 8000, 8000]


def test_searching_costs_as_much_as_training():
    config = AutoLRSConfig(1e-3, 1e-1)
    probes = np.array([probe for _, probe, *_ in procedure(config, 4)])
    assert (probes < config.k).sum() == (probes == config.k).sum()


# --- Forecast -------------------------------------------------------------------------------------


def series(rng, rate, noise, n=100):
    a, floor = rng.uniform(0.5, 2.0), rng.uniform(0.5, 1.0)
    x = np.arange(1, n + 1) / n
    return a * np.exp(-rate * x) + floor + noise * a * rng.normal(size=n), a, floor


fit = jax.jit(jax.vmap(functools.partial(fit_exponential, horizon=10.0)))


@pytest.mark.parametrize("rate", [0.7, 2.0, 20.0])
def test_exact_exponentials_are_found(rate):
    y, a, floor = series(np.random.default_rng(0), rate, 0.0)
    found = fit_exponential(y, 10.0)
    np.testing.assert_allclose([found.a, -found.b, found.c], [a, rate, floor], rtol=0.02)
    np.testing.assert_allclose(found.forecast, a * np.exp(-10 * rate) + floor, rtol=0.01)
    assert found.ok


@pytest.mark.parametrize(("rate", "noise"), [(5, 0.02), (5, 0.1), (2, 0.02), (2, 0.1), (1, 0.02)])
def test_forecast_error_under_noise(rate, noise):
    rng = np.random.default_rng(1)
    drawn = [series(rng, rate, noise) for _ in range(100)]
    found = fit(jnp.asarray([y for y, _, _ in drawn]))
    a, floor = (np.array([row[i] for row in drawn]) for i in (1, 2))
    error = np.abs(np.asarray(found.forecast) - a * np.exp(-10 * rate) - floor) / a
    assert np.median(error) < 0.1
    assert np.mean(found.ok) > 0.9


def test_slow_rising_and_negative_curves_are_flagged():
    rng = np.random.default_rng(2)
    x = np.arange(1, 101) / 100
    slow = np.exp(-0.1 * x) + 1
    rising = 2 - np.exp(-2 * x)
    below_zero = np.exp(-0.6 * x) - 0.5  # positive so far, heading below zero
    bad = jnp.asarray([slow, rising, below_zero])
    found = fit(bad)
    assert not found.ok.any()
    np.testing.assert_allclose(found.forecast, bad[:, -10:].mean(1), rtol=1e-5)
    negative = fit(jnp.asarray([below_zero - 1]))  # a loss that may be negative
    assert negative.ok.all()
    y, a, floor = series(rng, 3.0, 0.02)
    spiked = y.copy()
    spiked[[5, 20, 33]] += 5 * a
    clean, with_drops, without = (
        fit_exponential(*args, **kw).forecast
        for args, kw in [((y, 10.0), {}), ((spiked, 10.0), {}), ((spiked, 10.0), {"rounds": 0})]
    )
    assert abs(with_drops - clean) < 0.05 * a < abs(without - clean)


def test_only_the_given_points_count():
    y, _, _ = series(np.random.default_rng(3), 2.0, 0.05, n=60)
    padded = np.concatenate([y, np.full(40, 1e6)])
    some, whole = fit_exponential(padded, 10.0, jnp.int32(60)), fit_exponential(y, 10.0)
    np.testing.assert_allclose(some.forecast, whole.forecast, rtol=1e-4)


def test_fit_is_the_least_squares_one_of_scipy():
    from scipy.optimize import curve_fit

    y, a, floor = series(np.random.default_rng(4), 2.0, 0.05)
    x = np.arange(1, 101) / 100
    best, _ = curve_fit(lambda x, a, b, c: a * np.exp(b * x) + c, x, y, p0=(a, -2.0, floor))
    found = fit_exponential(y, 10.0, rounds=0)
    np.testing.assert_allclose([found.a, found.b, found.c], best, rtol=0.02)


# --- Gaussian process -----------------------------------------------------------------------------


def test_posterior_equals_the_formulas():
    rng = np.random.default_rng(0)
    x, y, query = rng.uniform(-3, 0, 6), rng.normal(size=6), np.linspace(-3, 0, 7)

    def k(a, b):
        d = np.sqrt(5) * np.abs(a[:, None] - b[None]) / 0.7
        return (1 + d + d**2 / 3) * np.exp(-d)

    inverse = np.linalg.inv(k(x, x) + 0.01 * np.eye(6))
    mean = k(query, x) @ inverse @ y
    std = np.sqrt(1 - np.einsum("qi,ij,qj->q", k(query, x), inverse, k(query, x)))
    as32 = lambda v: jnp.asarray(v, jnp.float32)
    found = gp_posterior(as32(x), as32(y), as32(query), 0.7, 0.01)
    np.testing.assert_allclose(found, (mean, std), atol=1e-3)
    padded = jnp.append(as32(x), jnp.zeros(2)), jnp.append(as32(y), jnp.full(2, 9.0))
    masked = gp_posterior(*padded, as32(query), 0.7, 0.01, jnp.arange(8) < 6)
    np.testing.assert_allclose(masked, found, atol=1e-5)


def test_exploration_goes_to_the_gap_and_exploitation_to_the_minimum():
    grid = jnp.linspace(-4.0, 0.0, 256)
    x, y = jnp.array([-4.0, -3.6, -0.8, 0.0]), jnp.array([1.0, 0.0, 1.0, 2.0])
    known = jnp.ones(4, bool)
    assert -2.5 < lcb_next(x, y, known, grid, 1e6) < -1.9
    assert abs(lcb_next(x, y, known, grid, 0.0) + 3.6) < 0.3
    asked = jnp.array([grid[50], grid[51], 0.0, 0.0])
    again = lcb_next(asked, y, jnp.arange(4) < 2, grid, 0.0)
    assert not np.isin(again, asked[:2]), "no candidate twice"
    worst = lcb_next(x, y.at[3].set(DIVERGED), known, grid, 0.0)
    assert abs(worst + 3.6) < 0.3, "a candidate that diverged must not hide the others"


# --- The controller -------------------------------------------------------------------------------

CURVATURE = jnp.array([1.0, 0.3, 0.1])


def quadratic(rate, noise=0.3, start=3.0):
    """Noisy quadratic with momentum; the batch is a number that moves the gradient."""
    tx = optax.sgd(rate, momentum=0.5)

    def init(key):
        params = jnp.full(3, start)
        return {"params": params, "opt": tx.init(params)}

    def update(state, batch, key):
        x = state["params"]
        grads = CURVATURE * x + noise * (jax.random.normal(key, (3,)) + batch)
        updates, opt = tx.update(grads, state["opt"])
        loss = 0.5 * (CURVATURE * x**2).sum()
        return {"params": x + updates, "opt": opt}, StepOutput({"loss": loss})

    return Core(init, update)


def draw(key, _):
    return 0.1 * jax.random.normal(key)


def run(core, steps, key=0, state=None):
    update = jax.jit(core.update)
    state = core.init(jax.random.key(key)) if state is None else state
    rows = []
    for i in range(steps):
        state, out = update(state, jnp.zeros(()), jax.random.key(100 + i))
        rows.append(out.metrics)
    return state, {name: np.array([row[name] for row in rows]) for name in rows[0]}


def by_hand(config, stages, key=0):
    """The paper's loops around the plain core, with Python's own snapshots."""
    key_init, key_run = jax.random.split(jax.random.key(key))
    grid = jnp.linspace(np.log10(config.min_lr), np.log10(config.max_lr), 256)
    step = jax.jit(lambda state, batch, key, rate: quadratic(rate).update(state, batch, key))
    ask, forecast = jax.jit(lcb_next), jax.jit(fit_exponential)
    state, chosen, losses_seen = quadratic(0.0).init(key_init), [], []

    def advance(state, rate, first, steps):
        losses = []
        for p in range(first, first + steps):
            key_update, key_data = (
                jax.random.fold_in(jax.random.fold_in(key_run, n), p) for n in (0, 1)
            )
            state, out = step(state, draw(key_data, None), key_update, rate)
            losses.append(float(out.metrics["loss"]))
        losses_seen.extend(losses)
        return state, losses

    position, tau = 0, config.tau0
    for p in range(config.warmup_steps):
        state, _ = advance(state, config.warmup_lr * (p + 1) / config.warmup_steps, p, 1)
        position += 1
    for stage in range(stages):
        short, candidates, forecasts = tau // config.ratio, [], []
        for probe in range(config.k):
            if probe == 0:
                key_first = jax.random.fold_in(jax.random.fold_in(key_run, 2), stage)
                candidate = jax.random.choice(key_first, grid)
            else:
                pad = jnp.zeros(config.k - probe)
                tried = (jnp.append(jnp.stack(x), pad) for x in (candidates, forecasts))
                candidate = ask(*tried, jnp.arange(config.k) < probe, grid, config.kappa0)
            candidates.append(candidate)
            _, losses = advance(state, 10.0**candidate, position, short)
            forecasts.append(forecast(jnp.array(losses), config.ratio).forecast)
        best = 10.0 ** candidates[int(np.argmin(forecasts))]
        chosen.append(float(best))
        state, _ = advance(state, best, position, tau)
        position += tau
        tau *= 2 if short < config.tau_max / config.ratio else 1
    return state, chosen, losses_seen


def test_the_controller_equals_the_loops_of_the_paper():
    config = CONFIG._replace(warmup_lr=0.02)
    expected, chosen, losses = by_hand(config, 2)
    state, metrics = run(autolrs(quadratic, config, draw), len(losses))
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-4)
    np.testing.assert_allclose(state.rates[:2], chosen, rtol=1e-5)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), state.inner, expected
    )
    assert state.rates[2] == 0 and not state.searching
    # Every update of a candidate and of a stage runs at its own rate, the first one included.
    rates, phases = metrics["learning_rate"], list(procedure(config, 2))
    for stage in range(2):
        for probe in range(config.k + 1):
            mine = [i for i, p in enumerate(phases) if p[:2] == (stage, probe)]
            assert len(set(rates[mine])) == 1
            if probe == config.k:
                np.testing.assert_allclose(rates[mine[0]], chosen[stage], rtol=1e-5)


def test_candidates_leave_the_snapshot_alone_and_see_the_same_batches():
    config = CONFIG._replace(warmup_steps=0)
    core = autolrs(quadratic, config, draw)
    start = core.init(jax.random.key(0))
    searched, metrics = run(core, config.k * 2)
    jax.tree.map(np.testing.assert_array_equal, searched.snapshot, start.inner)
    jax.tree.map(np.testing.assert_array_equal, searched.trained, start.inner)
    losses = metrics["loss"].reshape(config.k, 2)
    assert (losses[:, 0] == losses[0, 0]).all() and len(set(losses[:, 1])) == config.k
    # The stage begins with the batches of the candidates.
    _, metrics = run(core, 2, state=searched)
    assert metrics["loss"][0] == losses[0, 0]


def test_candidates_that_diverge_are_survived():
    config = CONFIG._replace(min_lr=1e-2, max_lr=1e25, k=6, warmup_steps=0, tau0=40)
    core = autolrs(quadratic, config, draw)
    state = core.init(jax.random.key(0))
    update, rows = jax.jit(core.update), []
    for i in range(6 * 4 + 40):
        state, out = update(state, jnp.zeros(()), jax.random.key(100 + i))
        rows.append(out.metrics)
        # In the middle of a candidate too: a run may be saved after any update.
        assert np.isfinite(state.inner["params"]).all()
    metrics = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    assert max(state.forecasts) == DIVERGED > min(state.forecasts)
    assert all(np.isfinite(x).all() for x in metrics.values())
    assert state.rates[0] < 2 and np.isfinite(state.trained["params"]).all()
    floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert all(np.isfinite(x).all() for x in floats)


def test_seeds_are_vectorised():
    core = autolrs(quadratic, CONFIG, draw)
    keys = jnp.stack([jax.random.key(i) for i in range(2)])

    def steps(key):
        body = lambda state, _: core.update(state, jnp.zeros(()), key)
        return jax.lax.scan(body, core.init(key), None, length=40)

    together, _ = jax.jit(jax.vmap(steps))(keys)
    alone = [run(core, 40, key=i)[0] for i in range(2)]
    for i in range(2):
        np.testing.assert_allclose(together.rates[i], alone[i].rates, rtol=1e-4)
        found, expected = together.trained["params"][i], alone[i].trained["params"]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    assert together.rates[0, 0] != together.rates[1, 0]


def test_later_stages_are_judged_by_the_validation_loss():
    config = CONFIG._replace(tau0=40, tau_max=40, warmup_steps=0, val_points=2, k=3)
    calls = lambda state: 100.0 + 0.0 * state["params"].sum()
    plain, _ = run(autolrs(quadratic, config, draw), 80)
    judged, _ = run(autolrs(quadratic, config, draw, calls), 52 + 12)
    assert judged.rates[0] == plain.rates[0], "the first stage uses the training loss"
    # In the second stage two measurements of 100 per candidate, above the first loss of the search.
    assert (judged.losses[:2] == 100).all() and (judged.losses[2:] == 0).all()
    np.testing.assert_allclose(judged.forecasts, 100.0)


def test_a_pipeline_is_asked_for_the_batch_of_the_position():
    class Positions:
        def batch(self, step):
            return step

    asked = [repositioned(Positions(), CONFIG).batch(i) for i in range(50)]
    assert asked == [position for *_, position in procedure(CONFIG, 1)] + [
        position for *_, position in list(procedure(CONFIG, 2))[29:50]
    ]


def test_replay_repeats_what_was_found():
    config = CONFIG._replace(warmup_lr=0.06)
    schedule = replay(config, [0.1, 0.05, 0.02, 0.0])
    rates = [float(schedule(t)) for t in range(3 + 20 + 40 + 40 + 5)]
    expected = [0.02, 0.04, 0.06] + [0.1] * 20 + [0.05] * 40 + [0.02] * 45
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="not chosen"):
        replay(config, np.zeros(4))


@pytest.mark.ci
@pytest.mark.behaviour
def test_rates_fall_on_a_noisy_quadratic_and_are_near_the_best_constant_ones():
    config = AutoLRSConfig(1e-3, 1.0, tau0=100, tau_max=100, k=10)
    chosen = np.array(
        [run(autolrs(quadratic, config, draw), 800, key=i)[0].rates[:4] for i in range(3)]
    )
    # In the first stage speed matters, later the noise does.
    assert (np.median(chosen[:, 0]) > 2 * np.median(chosen[:, 2:])).all()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(min_lr=0.0), "0 < min_lr < max_lr"),
        (dict(min_lr=1.0), "0 < min_lr < max_lr"),
        (dict(max_lr=float("nan")), "0 < min_lr < max_lr"),
        (dict(tau0=25), "multiple of ratio"),
        (dict(k=0), "k of AutoLRS is 0"),
        (dict(warmup_steps=-1), "warmup_steps of AutoLRS is -1"),
    ],
)
def test_impossible_settings_are_named(change, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        autolrs(quadratic, CONFIG._replace(**change))
    assert "\n" not in str(error.value)


def test_a_core_without_loss_is_refused():
    silent = lambda rate: Core(lambda key: jnp.zeros(()), lambda s, b, k: (s, StepOutput({})))
    core = autolrs(silent, CONFIG)
    with pytest.raises(ValueError, match="'loss'"):
        core.update(core.init(jax.random.key(0)), None, jax.random.key(0))
