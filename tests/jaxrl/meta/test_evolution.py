"""Evolution strategies against a loop in NumPy with the same noise; shaping; a quadratic."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl.meta.evolution import SHAPINGS, decaying_adam, each, evolution, noise, pair_rank, z_score

PAIRS = 5
# Both limits are reached after three generations.
SIGMA, SIGMA_DECAY, SIGMA_LIMIT = 0.2, 0.8, 0.12
RATE, DECAY, RATE_LIMIT = 0.05, 0.9, 0.04
INDEX = np.arange(PAIRS, dtype=np.int32)
TARGET = {"w": np.array([[1.0, -2.0], [0.5, 3.0]], np.float32), "b": np.float32([0.3, -1.0, 2.0])}


def init_params(key):
    return jax.tree.map(jnp.zeros_like, TARGET)


def fitness(params, key_task, key_run):
    """Negative distance to the target, scaled by the task and with noise of the run."""
    scale = jnp.exp(3 * jax.random.normal(key_task))
    distance = sum(((params[k] - TARGET[k]) ** 2).sum() for k in TARGET)
    return -scale * (distance + 0.1 * jax.random.normal(key_run))


def make(**options):
    optimizer = decaying_adam(RATE, DECAY, RATE_LIMIT)
    decay = {"sigma": SIGMA, "sigma_decay": SIGMA_DECAY, "sigma_limit": SIGMA_LIMIT}
    options = {"num_pairs": PAIRS} | decay | options
    return evolution(init_params, each(fitness), optimizer, **options)


def ranks(values):
    """Ranks from 0; equal values share the mean."""
    return np.array([np.mean([np.sum(values < v), np.sum(values <= v) - 1]) for v in values])


SHAPINGS_BY_HAND = {
    "pair_rank": lambda f: np.array([[a > b, b > a] if a != b else [0.5] * 2 for a, b in f], float),
    "centred_rank": lambda f: (ranks(f.ravel()) / (f.size - 1) - 0.5).reshape(f.shape),
    "z_score": lambda f: (f - f.mean()) / f.std(),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPINGS_BY_HAND)
def test_trajectory_is_that_of_a_loop(name):
    core = make(shape=SHAPINGS[name], share_run_keys=name != "z_score")
    state = core.init(jax.random.key(0))
    mean = {k: np.zeros(np.shape(v)) for k, v in TARGET.items()}
    first = {k: np.zeros(np.shape(v)) for k, v in TARGET.items()}
    second = {k: np.zeros(np.shape(v)) for k, v in TARGET.items()}
    sigma, rate = SIGMA, RATE
    for t in range(6):
        key = jax.random.key(10 + t)
        state, out = jax.jit(core.update)(state, INDEX, key)
        eps, found = [], np.zeros((PAIRS, 2))
        for i in range(PAIRS):
            key_noise, key_task, key_run = jax.random.split(jax.random.fold_in(key, i), 3)
            eps.append(jax.tree.map(np.float64, noise(key_noise, init_params(None))))
            runs = [key_run] * 2 if name != "z_score" else jax.random.split(key_run)
            for member, sign in enumerate((1, -1)):
                candidate = {k: jnp.float32(mean[k] + sign * sigma * eps[i][k]) for k in mean}
                found[i, member] = fitness(candidate, key_task, runs[member])
        np.testing.assert_allclose(out.outputs, found, rtol=1e-4)
        shaped = SHAPINGS_BY_HAND[name](found)
        for k in mean:
            g = np.zeros_like(mean[k])
            for i in range(PAIRS):
                for member, sign in enumerate((1, -1)):
                    g += shaped[i, member] * sign * eps[i][k] / (2 * PAIRS * sigma)
            first[k] = 0.9 * first[k] + 0.1 * g
            second[k] = 0.999 * second[k] + 0.001 * g**2
            m, v = first[k] / (1 - 0.9 ** (t + 1)), second[k] / (1 - 0.999 ** (t + 1))
            mean[k] = mean[k] + rate * m / (np.sqrt(v) + 1e-8)
            np.testing.assert_allclose(state.params[k], mean[k], rtol=1e-3, atol=1e-5)
        sigma, rate = max(sigma * SIGMA_DECAY, SIGMA_LIMIT), max(rate * DECAY, RATE_LIMIT)
        np.testing.assert_allclose(state.sigma, sigma, rtol=1e-6)
        np.testing.assert_allclose(out.metrics["fitness"], found.mean(), rtol=1e-4)
        np.testing.assert_allclose(out.metrics["fitness_std"], found.std(), rtol=1e-3)
    assert (sigma, rate) == (SIGMA_LIMIT, RATE_LIMIT)


def test_gradient_of_pair_rank_by_hand():
    """With plain steps of size 1 mu moves by g itself, whose scale Adam would hide."""
    given = jnp.array([[3.0, 1.0], [-2.0, 5.0], [4.0, 4.0], [jnp.nan, -9.0]])
    evaluate = lambda candidates, pairs: given
    core = evolution(init_params, evaluate, optax.sgd(1.0), num_pairs=4, sigma=SIGMA)
    key = jax.random.key(3)
    after, out = core.update(core.init(key), np.arange(4, dtype=np.int32), key)
    first, second, _, last = (
        noise(jax.random.split(jax.random.fold_in(key, i), 3)[0], init_params(None))
        for i in range(4)
    )
    # First member better, second better, a tie, and a failed first member; pop = 8.
    g = jax.tree.map(lambda a, b, c: (a - b - c) / (8 * SIGMA), first, second, last)
    for k in TARGET:
        np.testing.assert_allclose(after.params[k], g[k], rtol=1e-5)
    np.testing.assert_allclose(out.metrics["grad_norm"], optax.tree.norm(g), rtol=1e-5)
    assert out.metrics["num_failed"] == 1


def test_pair_rank_ignores_the_scale_of_a_task():
    found = jnp.array([[1.0, 2.0], [5.0, -1.0], [3.0, 3.0]])
    scaled = found * jnp.array([[1e6], [1e-6], [1.0]])
    np.testing.assert_array_equal(pair_rank(scaled), [[0, 1], [1, 0], [0.5, 0.5]])
    other = z_score(scaled)
    assert np.abs(other - z_score(found)).max() > 0.1  # control


@pytest.mark.parametrize("name", SHAPINGS)
def test_a_failed_candidate_is_the_worst(name):
    shaped = SHAPINGS[name](jnp.array([[jnp.nan, -5.0], [-1.0, jnp.inf], [2.0, 3.0]]))
    assert np.isfinite(shaped).all()
    assert shaped[0, 0] <= shaped[0, 1] and shaped[1, 1] < shaped[1, 0]
    assert np.isfinite(SHAPINGS[name](jnp.full((2, 2), jnp.nan))).all()


@pytest.mark.parametrize("failed", [range(2 * PAIRS), range(2 * PAIRS - 1), ()])
def test_fitness_of_failed_candidates_is_missing_and_not_0(failed):
    given = jnp.full(2 * PAIRS, 2.5).at[jnp.array(failed, int)].set(-jnp.inf).reshape(PAIRS, 2)
    core = evolution(init_params, lambda *_: given, optax.sgd(1.0), num_pairs=PAIRS)
    state, key = core.init(jax.random.key(0)), jax.random.key(1)
    after, out = core.update(state, INDEX, key)
    assert out.metrics["num_failed"] == len(failed)
    known = len(failed) < 2 * PAIRS
    expected = (2.5, 0.0) if known else (np.nan, np.nan)
    np.testing.assert_array_equal([out.metrics[n] for n in ("fitness", "fitness_std")], expected)
    if not known:
        jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


def test_a_quadratic_is_solved():
    target = jax.random.normal(jax.random.key(5), (20,))
    one = lambda params, key_task, key_run: -((params - target) ** 2).sum()
    core = evolution(
        lambda key: jnp.zeros(20),
        each(one),
        decaying_adam(0.05, 0.99),
        num_pairs=32,
    )

    @jax.jit
    def run(key):
        def generation(state, i):
            return core.update(state, jnp.arange(32), jax.random.fold_in(key, i))[0], None

        return jax.lax.scan(generation, core.init(key), jnp.arange(300))[0].params

    found = run(jax.random.key(0))
    assert jnp.linalg.norm(found - target) < 0.01 * jnp.linalg.norm(target)


def test_pairs_in_portions_are_the_same_pairs():
    state = make().init(jax.random.key(0))
    whole, _ = jax.jit(make().update)(state, INDEX, jax.random.key(1))
    optimizer = decaying_adam(RATE, DECAY, RATE_LIMIT)
    portions = evolution(
        init_params, each(fitness, batch_size=2), optimizer, num_pairs=PAIRS, sigma=SIGMA
    )
    part, _ = jax.jit(portions.update)(state, INDEX, jax.random.key(1))
    for k in TARGET:
        np.testing.assert_allclose(part.params[k], whole.params[k], rtol=1e-5)


def test_one_sum_over_devices_per_generation():
    core = make(axis_name="data")
    state = core.init(jax.random.key(0))
    traced = jax.make_jaxpr(core.update, axis_env=[("data", 1)])(state, INDEX, jax.random.key(1))
    assert str(traced).count("psum") == 1
    core = make(axis_name="data", shape=z_score)  # control: compares all candidates
    traced = jax.make_jaxpr(core.update, axis_env=[("data", 1)])(state, INDEX, jax.random.key(1))
    assert str(traced).count("psum") == 2


@pytest.mark.parametrize("number", [4, 8])
def test_a_batch_of_some_pairs_is_refused(number):
    """Their gradient would be divided by the number of all."""
    core = make()
    state = jax.eval_shape(core.init, jax.random.key(0))
    with pytest.raises(ValueError, match=rf"places of the pairs, arange\(5\), but names {number}"):
        jax.eval_shape(core.update, state, jnp.arange(number), jax.random.key(0))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_pairs": 0}, "num_pairs is 0"),
        ({"sigma": 0.0}, "sigma is 0.0"),
        ({"sigma": float("nan")}, "sigma is nan"),
    ],
)
def test_impossible_settings_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**options)


def test_an_impossible_rate_is_refused():
    with pytest.raises(ValueError, match="learning_rate is -0.1"):
        decaying_adam(-0.1)
