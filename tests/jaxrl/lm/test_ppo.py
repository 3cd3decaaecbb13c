"""PPO for language models: two steps against loops over tokens and gradients written out."""

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
LOW, HIGH, NEAR, RATE = 0.02, 0.04, 0.05, 0.3


def reward(problem, verdict, tokens, valid):
    return jnp.where(valid, tokens % 2, 0).sum() / 4


GIVEN = dict(group_size=1, room=4, reward=reward, instructions=[said("!")])


@functools.cache
def stepped():
    """Steps from a critic that is not zero, and from a reference that is not the policy."""
    core = ppo(
        MODEL,
        LETTERS,
        optax.sgd(RATE),
        gamma=GAMMA,
        lambda_=LAMBDA,
        value_weight=0.5,
        value_clip=NEAR,
        clip=(LOW, HIGH),
        entropy_weight=0.1,
        num_steps=2,
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


def test_clipped_steps_are_those_of_advantages_token_by_token():
    before, after, out = stepped()
    take = jax.jit(functools.partial(sampled, MODEL, LETTERS, **GIVEN))
    samples = jax.tree.map(np.asarray, take(before.params[0], PLACES, KEY))
    text, mask = samples.text, samples.text.mask

    @jax.jit
    def read(params):
        """Log-probability of every token, the value before it, by the slots before them, and the
        entropy."""
        hidden, _ = MODEL.forward(params[0], text.tokens, text.valid)
        value = hidden @ params[1].weight + params[1].bias
        slot = np.where(text.valid, np.arange(mask.shape[1]), -1)
        last = np.maximum.accumulate(slot, 1)[:, :-1]
        value = jnp.take_along_axis(value, jnp.maximum(jnp.asarray(last), 0), 1)
        now = score(MODEL, params[0], text.tokens, text.valid, mask)
        return now.logp, jnp.pad(value, ((0, 0), (1, 0))), now.entropy

    logp, values, _ = map(np.asarray, read(before.params))
    reference, *_ = map(np.asarray, read((before.reference, before.params[1])))
    row = lambda i: jax.tree.map(lambda x: x[i], text)
    advantage = np.stack(
        [
            advantages_by_hand(row(i), samples.reward[i, 0], values[i], logp[i], reference[i])
            for i in range(len(mask))
        ]
    )
    assert (np.abs(advantage) > 0).any(1).all() and (text.turn[mask] == 1).any()

    @jax.jit
    @jax.grad
    def slope(params):
        now, value, entropy = read(params)
        ratio, target = jnp.exp(jnp.where(mask, now - logp, 0)), values + advantage
        gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - LOW, 1 + HIGH) * advantage)
        near = values + jnp.clip(value - values, -NEAR, NEAR)
        error = 0.5 * jnp.maximum((value - target) ** 2, (near - target) ** 2)
        each = jnp.where(mask, -gain + 0.5 * error - 0.1 * entropy, 0)
        return each.sum() / mask.sum()

    down = lambda params: jax.tree.map(lambda p, g: p - RATE * g, params, slope(params))
    once = down(before.params)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=2e-5)
    jax.tree.map(close, after.params, down(once))
    now, value, _ = map(np.asarray, read(once))
    ratio, moved, up = np.exp(now - logp)[mask], (value - values)[mask], advantage[mask] > 0
    assert (up & (ratio > 1 + HIGH)).any() and (~up & (ratio < 1 - LOW)).any()
    assert (up & (moved > NEAR)).any()
    mean = jax.tree.map(lambda r, p: (r + p) / 2, before.reference, after.params[0])
    jax.tree.map(close, after.reference, mean)
    np.testing.assert_allclose(out.outputs, samples.reward.sum(-1), rtol=1e-6)
    assert out.metrics["largest_mismatch"] < 1e-4
    close(out.metrics["value_loss"], (advantage[mask] ** 2).mean() / 2)


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
