"""Refinement against brute force, closed forms and the theory it comes from."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.schedules import refinement as r

T = 400


def shape_of(norms, mode="adam", **options):
    return r.refine_schedule(np.asarray(norms), mode, **options)


# --- The map --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["sgd", "adam"])
def test_constant_norms_give_linear_decay(mode):
    linear = 1 - np.arange(1, T + 1) / T
    rates = r.schedule_from_weights(r.refined_weights(np.full(T, 7.0), mode))
    np.testing.assert_allclose(rates, linear, atol=1e-12)
    np.testing.assert_allclose(shape_of(np.full(T, 7.0), mode), linear / linear[0], atol=1e-6)


@pytest.mark.parametrize(("mode", "power"), [("sgd", 2), ("adam", 1)])
def test_weights_and_tails_equal_a_loop(mode, power):
    g = np.random.default_rng(0).uniform(0.5, 2.0, 50)
    rates = r.schedule_from_weights(r.refined_weights(g, mode))
    loop = np.array(
        [g[t] ** -power * sum(g[p] ** -power for p in range(t + 1, 50)) for t in range(50)]
    )
    np.testing.assert_allclose(rates / rates.max(), loop / loop.max(), rtol=1e-12)
    assert rates[-1] == 0


@pytest.mark.parametrize("ends", ["mirror", "official"])
def test_smoothing_equals_a_loop_of_medians(ends):
    g = np.random.default_rng(0).exponential(size=100)
    window = 2 * int(0.1 * 100 / 2) + 1
    assert window == 11
    half = window // 2
    before = g[:half][::-1] if ends == "mirror" else np.full(half, g[0])
    mirrored = np.concatenate([before, g, g[::-1][: 2 * window]])
    loop = [np.median(mirrored[i : i + window]) for i in range(100)]
    np.testing.assert_allclose(r.smooth_norms(g, 0.1, ends), loop)
    np.testing.assert_array_equal(r.smooth_norms(g, 0.0, ends), g)


def test_the_ends_are_mirrored_unless_told_otherwise():
    g = np.random.default_rng(0).exponential(size=100)
    np.testing.assert_array_equal(r.smooth_norms(g), r.smooth_norms(g, ends="mirror"))
    np.testing.assert_array_equal(shape_of(g), shape_of(g, ends="mirror"))
    assert np.abs(shape_of(g) - shape_of(g, ends="official")).max() > 1e-3


def test_one_small_first_norm_does_not_make_the_start():
    """Of noisy traces around 1, the official ends let a tenth start at twice the body and more."""
    rng, starts = np.random.default_rng(0), {"mirror": [], "official": []}
    for _ in range(200):
        norms = rng.lognormal(sigma=0.6, size=T)
        for ends, found in starts.items():
            shape = shape_of(norms, ends=ends)
            found.append(shape[0] / np.median(shape[20:60]))
    assert (np.array(starts["official"]) > 2).mean() > 0.08
    assert (np.array(starts["mirror"]) > 2).mean() < 0.01


def test_a_fall_of_the_norms_at_the_start_still_gives_warmup():
    norms = np.r_[np.linspace(8, 1, 60), np.ones(T - 60)]
    shape = shape_of(norms)
    assert shape[0] < 0.2 and 0.1 * T < np.argmax(shape) < 0.2 * T


def test_the_mirror_keeps_a_rise_at_the_end():
    g = np.ones(T)
    g[-15:] = np.linspace(1, 10, 15)  # shorter than half the window of 41
    smooth = r.smooth_norms(g)
    assert smooth[-1] > 3
    from scipy.ndimage import median_filter

    assert median_filter(g, 41, mode="constant", cval=1.0)[-1] == 1  # without it the rise is lost


def test_norms_that_fall_early_give_warmup():
    g = np.where(np.arange(T) < T // 5, 10.0, 1.0)
    shape = shape_of(g)
    assert shape[0] < 0.15 and 0.15 * T < np.argmax(shape) < 0.25 * T
    assert np.argmax(shape_of(g[::-1])) == 0  # the other way round there is none


def test_norms_that_rise_give_a_peak_at_the_start_and_faster_annealing():
    shape, linear = shape_of(np.linspace(1, 5, T)), 1 - np.arange(1, T + 1) / T
    assert np.argmax(shape) < 0.06 * T
    assert (shape[T // 4 : -1] < 0.95 * linear[T // 4 : -1]).all()


def test_scale_does_not_matter():
    g = np.random.default_rng(0).lognormal(size=T) * np.linspace(3, 1, T)
    for mode in ("sgd", "adam"):
        np.testing.assert_allclose(shape_of(g, mode), shape_of(1e6 * g, mode), rtol=1e-5)


def test_the_floor_bounds_the_weights():
    g = np.linspace(2, 1, T)
    g[:40] = 1e-3
    assert shape_of(g, floor=0.5)[100] > 100 * shape_of(g)[100]


# --- The theory -----------------------------------------------------------------------------------


def test_the_sgd_weights_minimise_the_bound():
    rng = np.random.default_rng(0)
    g, distance = rng.uniform(0.5, 3.0, 40), 2.0
    best = distance * g**-2 / np.sqrt((g**-2.0).sum())
    bound = r.last_iterate_bound(distance, best, g)
    np.testing.assert_allclose(bound, distance / np.sqrt((g**-2.0).sum()))
    for _ in range(1000):
        other = best * rng.lognormal(sigma=0.3, size=40)
        assert r.last_iterate_bound(distance, other, g) >= bound
    np.testing.assert_allclose(
        best / best.max(), r.refined_weights(g, "sgd") / r.refined_weights(g, "sgd").max()
    )


def last_gap(rng, rates_of, dim=5, rows=40, steps=100):
    """Gap of the last iterate on least absolute deviations, and the bound for the rates' weights.

    Every row occurs with +e and -e, so `target` is a minimiser whatever the noise.
    """
    a = rng.normal(size=(rows, dim))
    target, e = rng.normal(size=dim), rng.exponential(size=rows)
    f = lambda x: np.mean([np.abs(a @ (x - target) - s * e).mean() for s in (1, -1)])
    bound_g, distance = np.linalg.norm(a, axis=1).max(), np.linalg.norm(target)
    w = rng.uniform(0.1, 1.0, steps) * 2 * distance / (bound_g * np.sqrt(steps))
    gaps = []
    for _ in range(20):
        x = np.zeros(dim)
        for eta in rates_of(w):
            i, s = rng.integers(rows), rng.choice([-1, 1])
            x -= eta * np.sign(a[i] @ (x - target) - s * e[i]) * a[i]
        gaps.append(f(x) - f(target))
    return np.mean(gaps), r.last_iterate_bound(distance, w, bound_g)


def test_the_bound_holds_on_random_non_smooth_problems():
    pairs = [last_gap(np.random.default_rng(i), r.schedule_from_weights) for i in range(20)]
    ratios = np.array([gap / bound for gap, bound in pairs])
    assert ratios.max() < 1
    # Control: rates far too large for the weights break it.
    pairs = [last_gap(np.random.default_rng(i), lambda w: 100 * w) for i in range(5)]
    assert min(gap / bound for gap, bound in pairs) > 1


# --- Guards and errors ----------------------------------------------------------------------------


def test_interpolating_problems_fall_back_to_linear():
    with pytest.warns(UserWarning, match="peak at .* of the run, as on problems"):
        shape = shape_of(np.exp(-np.linspace(0, 12, T)))
    np.testing.assert_allclose(shape, np.linspace(1, 0, T), atol=1e-6)
    healthy = np.exp(-np.linspace(0, 6.5, T)).clip(0.1)  # falls and then stays
    assert np.argmax(shape_of(healthy)) < 0.6 * T


def test_bad_norms_are_replaced_with_a_warning():
    g = np.linspace(1, 3, T)
    broken = g.copy()
    broken[[3, 100]], broken[200], broken[-1] = 0.0, np.nan, np.inf
    with pytest.warns(UserWarning, match="4 of 400 .* first at step 3") as caught:
        shape = shape_of(broken)
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    np.testing.assert_allclose(shape, shape_of(g), atol=0.01)


def test_short_traces_are_linear():
    with pytest.warns(UserWarning, match="too short"):
        np.testing.assert_allclose(shape_of(np.arange(1.0, 6.0)), [1, 0.75, 0.5, 0.25, 0])


@pytest.mark.parametrize(
    ("norms", "options", "sentence"),
    [
        (np.zeros(T), {}, "only 0 of 400"),
        (np.full(T, np.nan), {}, "only 0 of 400"),
        (np.r_[np.ones(100), np.zeros(300)], {}, "only 100 of 400"),
        (-np.ones(T), {}, "norm 0 is negative"),
        (np.ones((3, T)), {}, "shape"),
        (np.ones(0), {}, "shape"),
        (np.ones(T), {"tau": 1.5}, "tau is 1.5"),
        (np.ones(T), {"floor": -1}, "floor is -1"),
        (np.ones(T), {"mode": "lion"}, "the modes are"),
        (np.ones(T), {"ends": "copy"}, "the ends are mirror and official"),
    ],
)
def test_refusals(norms, options, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        r.refine_schedule(norms, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("weights", [[1.0, -1.0], [1.0, np.nan], [0.0, 0.0], [], [[1.0]]])
def test_impossible_weights_are_refused(weights):
    with pytest.raises(ValueError, match="finite and not negative"):
        r.schedule_from_weights(weights)


@pytest.mark.parametrize(("norms", "tau"), [(np.ones((2, 3)), 0.1), (np.ones(9), 1.0)])
def test_the_filter_refuses_what_it_cannot_smooth(norms, tau):
    with pytest.raises(ValueError, match=r"shape \[T\]|tau is 1.0"):
        r.smooth_norms(norms, tau)


def test_weights_refuse_what_cannot_be_inverted():
    with pytest.raises(ValueError, match="positive and finite"):
        r.refined_weights([1.0, 0.0])


# --- The recorder ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ord", ["l1", "l2"])
def test_raw_gradient_norms_are_recorded_and_pass_unchanged(ord):
    recorder = r.record_grad_norms(3, ord)
    tx = optax.chain(recorder, optax.clip_by_global_norm(0.1), optax.adam(1e-2))
    plain = optax.chain(optax.clip_by_global_norm(0.1), optax.adam(1e-2))
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones(4, jnp.bfloat16)}
    rng = np.random.default_rng(0)
    grads = [
        {"a": jnp.asarray(rng.normal(size=(2, 3)), jnp.float32), "b": jnp.ones(4, jnp.bfloat16)}
        for _ in range(5)
    ]
    state, other = tx.init(params), plain.init(params)
    update = jax.jit(tx.update)
    for i, g in enumerate(grads):
        found, state = update(g, state, params)
        expected, other = plain.update(g, other, params)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-2), found, expected)
        if i < 3:
            assert r.recorded_norms(state).shape == (i + 1,)
    with pytest.warns(UserWarning, match="only the first 3 of 5 gradient norms"):
        found = r.recorded_norms(state)
    flat = [np.concatenate([np.ravel(g["a"]), np.ones(4)]) for g in grads[:3]]
    expected = [np.linalg.norm(g, 1 if ord == "l1" else 2) for g in flat]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_recorder_works_under_vmap_and_scan():
    tx = optax.chain(r.record_grad_norms(4), optax.sgd(0.1))

    def run(scale):
        body = lambda state, g: (tx.update(g, state)[1], None)
        return jax.lax.scan(body, tx.init(jnp.ones(2)), scale * jnp.ones((4, 2)))[0]

    norms = r.recorded_norms(jax.vmap(run)(jnp.array([1.0, 3.0])))
    np.testing.assert_allclose(norms, [[2] * 4, [6] * 4])


def test_recorder_errors():
    with pytest.raises(ValueError, match="the norms are l1"):
        r.record_grad_norms(3, "max")
    with pytest.raises(ValueError, match="at least one step"):
        r.record_grad_norms(0)
    with pytest.raises(ValueError, match="chain record_grad_norms"):
        r.recorded_norms(optax.adam(1e-3).init(jnp.ones(2)))
