"""Laws of sharpening, exact on policies whose every sequence is counted."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.lm.tasks import tables

V, L = 4, 6
POLICY = jax.jit(functools.partial(tables.random_policy, vocabulary=V, length=L))(jax.random.key(0))
BASE = jax.jit(tables.log_probs)(POLICY)
P = np.exp(np.asarray(BASE, np.float64))


def test_every_sequence_has_the_product_of_its_tokens():
    for number, sequence in enumerate(itertools.islice(itertools.product(range(V), repeat=L), 999)):
        prefix, expected = 0, 0.0
        for table, token in zip(POLICY, sequence, strict=True):
            expected += float(np.asarray(table)[prefix, token])
            prefix = prefix * V + token
        assert abs(float(np.asarray(BASE)[number]) - expected) < 1e-5
    assert abs(P.sum() - 1) < 1e-5 and len(P) == V**L
    assert tables.tokens_of(jnp.array([0, 27]), V, L).tolist() == [[0] * 6, [0, 0, 0, 1, 2, 3]]


def test_prompts_share_a_policy_and_nothing_else():
    """The tables of a prompt are rows of the whole; logits need not be normalised."""
    whole = tables.random_policy(jax.random.key(5), 3, 2, num_prompts=4)
    every = np.asarray(tables.log_probs(whole)).reshape(4, 9)
    np.testing.assert_allclose(np.exp(every).sum(1), 1, rtol=1e-5)
    own = tuple(table.reshape(4, 3**t, 3)[2] for t, table in enumerate(whole))
    np.testing.assert_allclose(tables.log_probs(own), every[2], rtol=1e-5)
    shifted = tuple(table + jnp.arange(len(table))[:, None] for table in whole)
    one = jax.jit(jax.vmap(lambda number: tables.log_prob_of(shifted, number)))
    np.testing.assert_allclose(one(jnp.arange(36)), every.reshape(-1), rtol=1e-4, atol=1e-5)
    keys = jax.random.split(jax.random.key(6), 50)
    drawn = jax.jit(jax.vmap(lambda key: tables.draw(key, whole, 2)))(keys)
    alone = jax.jit(jax.vmap(lambda key: tables.draw(key, own)))(keys)
    assert (drawn == 18 + alone).all()


def test_draws_have_the_probabilities_of_the_table():
    small = POLICY[:2]
    draws = jax.jit(jax.vmap(lambda k: tables.draw(k, small)))(
        jax.random.split(jax.random.key(1), 4000)
    )
    p = np.exp(np.asarray(tables.log_probs(small)))
    share = np.bincount(draws, minlength=V**2) / 4000
    assert (np.abs(share - p) < 4.5 * np.sqrt(p * (1 - p) / 4000)).all()


def test_best_of_n_is_counted_over_all_pools():
    log_prob = jnp.log(jnp.array([0.2, 0.5, 0.2, 0.1]))
    p = np.exp(np.asarray(log_prob, np.float64))
    for n in (1, 2, 4):
        expected = np.zeros(4)
        for pool in itertools.product(range(4), repeat=n):
            best = min(pool, key=lambda y: (-p[y], y))
            expected[best] += math.prod(p[y] for y in pool)
        np.testing.assert_allclose(tables.best_of(log_prob, n), expected, atol=1e-6)


def test_the_coverage_law():
    """Samples until y* is found with chance 1 - delta grow as 1 / p, whatever else there is."""
    best, p = int(P.argmax()), P.max()
    for n in (1, 10, 100, 1000):
        found = jax.jit(tables.best_of)(BASE, n)
        np.testing.assert_allclose(found[best], 1 - (1 - p) ** n, rtol=1e-4)
        np.testing.assert_allclose(found.sum(), 1, rtol=1e-4)
    for delta in (0.5, 0.1, 0.01):
        needed = float(tables.samples_needed(BASE, delta))
        np.testing.assert_allclose((1 - p) ** needed, delta, rtol=1e-4)
        assert needed <= math.log(1 / delta) / p < needed + math.log(1 / delta)


def test_adaptive_sharpening_stops_as_it_is_counted():
    """By simulation of the rule itself, draw after draw."""
    base = tables.log_probs(POLICY[:3])
    p = np.exp(np.asarray(base, np.float64))
    mu, longest = 1.0, 60
    k = np.arange(1, longest + 1)
    exact = np.asarray(tables.still_drawing(base, mu, jnp.array(k)))
    rng = np.random.default_rng(0)
    seen = np.maximum.accumulate(p[rng.choice(len(p), (3000, longest), p=p / p.sum())], axis=1)
    going = np.logical_and.accumulate(seen < mu / k, axis=1).mean(0)
    assert (np.abs(going - exact) < 4.5 * np.sqrt(exact * (1 - exact) / 3000) + 1e-9).all()
    assert exact[0] == 1 and exact[-1] < 0.12


def test_the_optimum_of_sharpening_by_reward_is_a_power():
    """No gradient there, none of 50 other policies is better, all pairs regress to 0."""
    beta = 0.7
    optimum = tables.power(BASE, 1 + 1 / beta)
    np.testing.assert_allclose(
        np.exp(optimum), P ** (1 + 1 / beta) / (P ** (1 + 1 / beta)).sum(), atol=1e-5
    )
    objective = jax.jit(
        lambda logits: tables.sharpening_objective(jax.nn.log_softmax(logits), BASE, beta)
    )
    slope = jax.jit(jax.grad(objective))(optimum)
    assert jnp.abs(slope).max() < 1e-5 < jnp.abs(jax.grad(objective)(BASE)).max()
    best = objective(optimum)
    for key in jax.random.split(jax.random.key(2), 50):
        assert objective(optimum + 0.3 * jax.random.normal(key, BASE.shape)) < best
    pairs = jnp.arange(100), jnp.arange(100, 200)
    at = lambda x: (x[pairs[0]], x[pairs[1]])
    assert tables.sharpening_loss(at(optimum), at(BASE), beta).max() < 1e-6
    assert tables.sharpening_loss(at(BASE), at(BASE), beta).max() > 1
