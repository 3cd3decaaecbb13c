"""The rule network against its equations in NumPy, and what may influence what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.meta.learned_rule import RuleInputs, recurrent_rule
from jaxtrain import trees

T, M, WIDTH = 7, 3, 5
RNG = np.random.default_rng(0)


def random_inputs():
    y, following = (jax.nn.softmax(jnp.asarray(RNG.normal(size=(T, M)))) for _ in range(2))
    done = jnp.arange(T) == 3
    return RuleInputs(
        jnp.asarray(RNG.normal(size=T)), done, jnp.asarray(RNG.uniform(size=T)), y, following
    )


INPUTS = jax.tree.map(lambda x: x if x.dtype == bool else x.astype(jnp.float32), random_inputs())


def make(**options):
    rule = recurrent_rule(M, width=WIDTH, embed_width=4, **options)
    eta = rule.init(jax.random.key(0))
    # Biases start at zero and would hide mistakes.
    noise = lambda x: x + 0.3 * jnp.asarray(RNG.normal(size=x.shape), jnp.float32)
    return rule, jax.tree.map(noise, eta)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_hand(eta, inputs, times, gamma=None):
    """The equations, one step after the other, from the last to the first."""
    eta = jax.tree.map(np.float64, eta)
    dense = lambda layer, x: x @ layer["kernel"] + layer.get("bias", 0.0)
    phi = lambda y: dense(
        eta["embed"]["layers_2"], np.maximum(dense(eta["embed"]["layers_0"], y), 0)
    )[0]
    h, pi_hat, y_hat = np.zeros(WIDTH), np.zeros(T), np.zeros((T, M))
    for t in reversed(range(T)):
        d = bool(inputs.done[t])
        x = [inputs.reward[t], float(d), inputs.probability[t], phi(inputs.prediction[t])]
        x += [0.0 if d else phi(inputs.next_prediction[t]), *times]
        x = np.array(x + ([] if gamma is None else [gamma]), float)
        h = np.zeros(WIDTH) if d else h
        c = eta["cell"]
        reset = sigmoid(dense(c["ir"], x) + dense(c["hr"], h))
        update = sigmoid(dense(c["iz"], x) + dense(c["hz"], h))
        new = np.tanh(dense(c["in"], x) + reset * dense(c["hn"], h))
        h = (1 - update) * new + update * h
        out = np.maximum(h, 0)
        pi_hat[t] = dense(eta["pi_hat"], out)[0]
        logits = dense(eta["y_hat"], out)
        y_hat[t] = np.exp(logits) / np.exp(logits).sum()
    return pi_hat, y_hat


@pytest.mark.parametrize(
    ("options", "times", "gamma"),
    [
        ({}, [], None),
        ({"temporal": True}, [30 / 120, np.log(120)], None),
        ({"temporal": True, "raw_time_inputs": True}, [30, 120], None),
        ({"gamma_input": 0.9}, [], 0.9),
    ],
)
def test_rule_follows_its_equations(options, times, gamma):
    rule, eta = make(**options)
    found = jax.jit(rule.apply)(eta, INPUTS, 30, 120)
    pi_hat, y_hat = by_hand(eta, INPUTS, times, gamma)
    np.testing.assert_allclose(found.pi_hat, pi_hat, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.y_hat, y_hat, rtol=1e-4, atol=1e-4)


def changed(step):
    """Everything at a step replaced, except whether the episode ended there."""
    new = jax.tree.map(
        lambda x: x if x.dtype == bool else x.at[step].set(jnp.roll(x[step], 1) + 0.1), INPUTS
    )
    return new._replace(done=INPUTS.done)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_only_later_steps_of_the_same_episode_matter(cell):
    rule, eta = make(cell=cell)
    apply = jax.jit(rule.apply)
    before = apply(eta, INPUTS, 0, 1)
    for step, influenced in ((2, [0, 1, 2]), (3, [0, 1, 2, 3]), (6, [4, 5, 6])):
        after = apply(eta, changed(step), 0, 1)
        differs = np.abs(after.pi_hat - before.pi_hat) > 1e-7
        assert np.flatnonzero(differs).tolist() == influenced
        differs = np.abs(after.y_hat - before.y_hat).max(-1) > 1e-7
        assert np.flatnonzero(differs).tolist() == influenced


@pytest.mark.parametrize("temporal", [False, True])
def test_nothing_before_a_step_or_beyond_an_end_matters(temporal):
    """Whole stretches replaced, the ends of episodes in them too; the control reaches across."""
    rule, eta = make(temporal=temporal)
    apply = jax.jit(rule.apply)

    def said(first, last):
        where = (jnp.arange(T) >= first) & (jnp.arange(T) < last)
        replace = lambda x: jnp.where(where.reshape(T, *(1,) * (x.ndim - 1)), jnp.roll(x, 1, 0), x)
        new = jax.tree.map(replace, INPUTS)._replace(done=INPUTS.done ^ where)
        return apply(eta, new, 3, 40)

    before = apply(eta, INPUTS, 3, 40)
    for (first, last), untouched in (((0, 2), slice(2, T)), ((4, T), slice(0, 4))):
        jax.tree.map(
            lambda a, b, kept=untouched: np.testing.assert_array_equal(a[kept], b[kept]),
            said(first, last),
            before,
        )
    assert np.abs(said(5, T).pi_hat[4] - before.pi_hat[4]) > 1e-4


def test_temporal_rule_without_its_time_columns_is_the_plain_one():
    rule, eta = make(temporal=True)
    plain, _ = make()
    kernels = {n: eta["cell"][n]["kernel"] for n in ("ir", "iz", "in")}
    blind, short = (jax.tree.map(lambda x: x, eta) for _ in range(2))
    for name, kernel in kernels.items():
        blind["cell"][name] = eta["cell"][name] | {"kernel": kernel.at[5:].set(0.0)}
        short["cell"][name] = eta["cell"][name] | {"kernel": kernel[:5]}
    expected = plain.apply(short, INPUTS, 0, 1)
    found = rule.apply(blind, INPUTS, 3, 40)
    np.testing.assert_allclose(found.pi_hat, expected.pi_hat, rtol=1e-5)
    other = rule.apply(eta, INPUTS, 3, 40)  # control
    assert np.abs(other.pi_hat - expected.pi_hat).max() > 0.01


def test_zero_parameters_say_nothing():
    rule, eta = make(temporal=True)
    said = rule.apply(jax.tree.map(jnp.zeros_like, eta), INPUTS, 3, 40)
    assert (said.pi_hat == 0).all()
    np.testing.assert_allclose(said.y_hat, 1 / M, rtol=1e-6)


def test_no_gradient_through_the_inputs():
    rule, eta = make()
    loss = lambda reward: rule.apply(eta, INPUTS._replace(reward=reward), 0, 1).pi_hat.sum()
    assert (jax.grad(loss)(INPUTS.reward) == 0).all()


@pytest.mark.parametrize(("temporal", "expected"), [(False, 203_946), (True, 205_482)])
def test_published_parameter_counts(temporal, expected):
    rule = recurrent_rule(temporal=temporal)
    assert trees.size(jax.eval_shape(rule.init, jax.random.key(0))) == expected


def test_unknown_cell_is_refused():
    with pytest.raises(ValueError, match="gru or lstm"):
        recurrent_rule(cell="rnn")


def test_a_lifetime_of_0_is_finite_and_that_of_1_otherwise():
    rule, eta = make(temporal=True)
    said = lambda lifetime: jax.vmap(lambda n: rule.apply(eta, INPUTS, 0, n))(jnp.array(lifetime))
    found = said([0, 1])
    assert all(np.isfinite(x).all() for x in found)
    np.testing.assert_array_equal(found.pi_hat[0], found.pi_hat[1])
