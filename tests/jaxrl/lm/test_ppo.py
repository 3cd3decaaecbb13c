"""PPO for language models: one step against loops over tokens and a gradient written out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl.lm.policy_gradient import Divergence
from jaxrl.lm.ppo import ppo
from jaxrl.lm.samples import sampled
from jaxrl.lm.tasks import symbols
from jaxrl.lm.turns import said
from jaxtrain.lm.decoder import Config, decoder, score
from jaxtrain.lm.heads import Head
from tests.jaxrl.lm.letters import LETTERS

MODEL = decoder(Config(len(symbols.ALPHABET), 8, 1, 1, 1, 8, 8))
PLACES, KEY = np.arange(6), jax.random.key(1)
GAMMA, LAMBDA, BETA = 0.9, 0.7, 0.05


def reward(problem, verdict, tokens, valid):
    return jnp.where(valid, tokens % 2, 0).sum() / 4


GIVEN = dict(group_size=1, room=4, reward=reward, instructions=[said("!")])


@functools.cache
def stepped():
    """A step from a critic that is not zero, and from a reference that is not the policy."""
    core = ppo(
        MODEL,
        LETTERS,
        optax.sgd(0.3),
        gamma=GAMMA,
        lambda_=LAMBDA,
        value_weight=0.5,
        divergence=Divergence(BETA, "k1", "reward", 0.5),
        **GIVEN,
    )
    params, reference = (jax.jit(MODEL.init)(jax.random.key(i)) for i in (0, 1))
    state = core.init(params)
    assert not state.params[1].weight.any() and state.params[1].weight.shape == (8,)
    head = Head(jnp.linspace(-1, 1, 8), jnp.float32(0.2))
    state = state._replace(params=(params, head), reference=reference)
    return state, *jax.jit(core.update)(state, PLACES, KEY)


def advantages_by_hand(text, rewards, values, logp, reference):
    """Generalised advantages of one row, over its own tokens."""
    slots = np.flatnonzero(text.mask)
    paid = -BETA * (logp - reference)[slots]
    for turn in (0, 1):
        paid[np.flatnonzero(text.turn[slots] == turn)[-1]] += rewards[turn]
    value = np.append(values[slots], 0.0)
    found, after = np.zeros(len(values)), 0.0
    for t in reversed(range(len(slots))):
        after = paid[t] + GAMMA * value[t + 1] - value[t] + GAMMA * LAMBDA * after
        found[slots[t]] = after
    return found


def test_a_step_is_that_of_advantages_token_by_token():
    before, after, out = stepped()
    take = jax.jit(functools.partial(sampled, MODEL, LETTERS, **GIVEN))
    samples = jax.tree.map(np.asarray, take(before.params[0], PLACES, KEY))
    text, mask = samples.text, samples.text.mask

    @jax.jit
    def read(params):
        """Log-probability of every token and the value before it, by the slots before them."""
        hidden, _ = MODEL.forward(params[0], text.tokens, text.valid)
        value = hidden @ params[1].weight + params[1].bias
        slot = np.where(text.valid, np.arange(mask.shape[1]), -1)
        last = np.maximum.accumulate(slot, 1)[:, :-1]
        value = jnp.take_along_axis(value, jnp.maximum(jnp.asarray(last), 0), 1)
        logp = score(MODEL, params[0], text.tokens, text.valid, mask).logp
        return logp, jnp.pad(value, ((0, 0), (1, 0)))

    logp, values = map(np.asarray, read(before.params))
    reference, _ = map(np.asarray, read((before.reference, before.params[1])))
    row = lambda i: jax.tree.map(lambda x: x[i], text)
    advantage = np.stack(
        [
            advantages_by_hand(row(i), samples.reward[i, 0], values[i], logp[i], reference[i])
            for i in range(len(mask))
        ]
    )
    assert (np.abs(advantage) > 0).any(1).all() and (text.turn[mask] == 1).any()

    def loss(params):
        now, value = read(params)
        error = 0.5 * (value - values - advantage) ** 2
        each = jnp.where(mask, -advantage * now + 0.5 * error, 0)
        return each.sum() / mask.sum()

    slope = jax.jit(jax.grad(loss))(before.params)
    expected = jax.tree.map(lambda p, g: p - 0.3 * g, before.params, slope)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=2e-5)
    jax.tree.map(close, after.params, expected)
    mean = jax.tree.map(lambda r, p: (r + p) / 2, before.reference, after.params[0])
    jax.tree.map(close, after.reference, mean)
    np.testing.assert_allclose(out.outputs, samples.reward.sum(-1), rtol=1e-6)
    assert out.metrics["largest_mismatch"] < 1e-4 and out.metrics["value_loss"] > 0


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"group_size": 0}, "take a group_size of 1 or more"),
        ({"divergence": Divergence(0.1, place="")}, "no place ''"),
        ({"num_steps": 0}, "learns nothing"),
        ({"num_steps": 2, "clip": None}, "needs `clip`"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(changed, sentence):
    with pytest.raises(ValueError, match=sentence):
        ppo(MODEL, LETTERS, optax.sgd(1.0), room=4, **changed)
