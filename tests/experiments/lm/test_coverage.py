"""What coverage is learned from and how it is measured; one sample is cross-entropy bit by bit."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.lm.coverage import Split, coverage, of_decoder, of_table, on_own_data
from jaxrl.lm.learners import Examples, finetune, gradient_step
from jaxrl.lm.objectives import sequence_log_prob
from jaxrl.lm.tasks import symbols
from jaxtrain.core import Core, StepOutput
from jaxtrain.host.config import load
from jaxtrain.lm.decoder import Config, decoder, score


def test_coverage_is_counted_over_all_pools():
    chances, weights = np.array([[0.5, 0.3, 0.2]]), np.array([[0.1, 0.2, 0.7]])
    found = coverage(jnp.array(chances), jnp.array(weights), (1, 3))
    for k, value in zip((1, 3), found[:, 0], strict=True):
        expected = sum(
            weights[0, list(set(pool))].sum() * math.prod(chances[0, list(pool)])
            for pool in itertools.product(range(3), repeat=k)
        )
        np.testing.assert_allclose(value, expected, rtol=1e-5)
    sure = coverage(jnp.array([[1.0]]), jnp.ones((1, 1)), (1, 2))
    np.testing.assert_allclose(sure, 1, rtol=1e-5)
    assert np.isnan(coverage(jnp.ones((1, 2)), jnp.zeros((1, 2)), (1, 2))).all()


def test_every_trial_draws_its_data_once_and_rows_of_it_at_every_place():
    inner = Core(
        lambda: jnp.zeros(()),
        lambda state, batch, key: (state + batch.sum(), StepOutput({}, batch)),
    )
    core = on_own_data(
        inner,
        lambda key, data: jnp.zeros(()),
        lambda key: Split(jax.random.uniform(key, (7,)), ()),
    )
    state = core.init(jax.random.key(0))
    after, out = core.update(state, jnp.arange(40), jax.random.key(1))
    assert (
        set(out.outputs.tolist()) == set(state.data.train.tolist())
        and len(set(out.outputs.tolist())) == 7
    )
    assert (after.data.train == state.data.train).all() and after.state > 0
    assert (core.init(jax.random.key(2)).data.train != state.data.train).all()


def test_labels_of_a_table_follow_the_law_of_the_test():
    config, _ = load("configs/lm_reward.py:dco_exact")
    options = config.dco
    with config.unlocked():
        options.problems, options.answers, options.labels = 2, 3, 4_000
    learner = of_table(options)
    own = learner.core(config, None).init(jax.random.key(0))
    chances, law = learner.answers(own)
    np.testing.assert_allclose(chances, 1 / 3, rtol=1e-5)
    for item in range(2):
        mine = np.asarray(own.data.train["inputs"]) == item
        share = np.bincount(np.asarray(own.data.train["labels"])[mine], minlength=3) / 4_000
        spread = np.sqrt(law[item] * (1 - law[item]) / 4_000)
        assert (np.abs(share - law[item]) < 4.5 * spread).all()


def test_sums_are_wrong_in_training_only():
    config, _ = load("configs/lm_reward.py:debug")
    with config.unlocked():
        config.dco.problems, config.dco.test_problems, config.dco.depth = 200, 100, 1
    learner = of_decoder(config.dco, config.model)
    data = jax.jit(learner.core(config, None).init)(jax.random.key(0)).data

    def texts(rows, mask):
        shown = rows.mask if mask else rows.valid & ~rows.mask
        return [symbols.text(*row) for row in zip(rows.tokens, shown, strict=True)]

    def right(rows):
        sums = [f"#{eval(prompt[:-1]) % 10}$" for prompt in texts(rows, False)]
        return np.array([a == b for a, b in zip(texts(rows, True), sums, strict=True)])

    assert abs(right(data.train).mean() - 0.8) < 4.5 * math.sqrt(0.16 / 200)
    assert right(data.test).all()
    seen = set(texts(data.train, False))
    new = np.array([prompt not in seen for prompt in texts(data.test, False)])
    assert (np.asarray(data.test.weight) == new).all() and 0 < new.sum() < 100


def test_one_sample_is_cross_entropy_bit_by_bit():
    """The control: N = 1 and -log p of whole texts make the same parameters."""
    rng = np.random.default_rng(0)
    model = decoder(Config(5, 4, 1, 1, 1, 2, 4))
    tokens = rng.integers(0, 5, (3, 4))
    batch = Examples(
        tokens, np.ones((3, 4), bool), np.arange(4) >= rng.integers(1, 3, (3, 1)), np.ones(3)
    )
    core, params = finetune(model, optax.adam(0.1), num_samples=1), model.init(jax.random.key(0))

    def cross_entropy(params):
        log_prob = score(model, params, *map(jnp.asarray, batch[:3])).logp
        return -sequence_log_prob(log_prob, batch.mask).mean(), {}

    @jax.jit
    def plain(carry):
        return gradient_step(optax.adam(0.1), cross_entropy, carry, None)[0]

    state = core.init(params)
    carry, update = state[:2], jax.jit(core.update)
    for _ in range(3):
        state, carry = update(state, batch, jax.random.key(0))[0], plain(carry)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(carry[0]), strict=True):
        assert (a == b).all()
