"""Policy gradient on sampled groups: what is paid for, ratios, the reference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl.lm import objectives
from jaxrl.lm.advantages import turn_returns, with_progress
from jaxrl.lm.policy_gradient import (
    Divergence,
    charged,
    check_progress,
    policy_gradient,
    token_losses,
    watched_progress,
)
from jaxrl.lm.samples import sampled, turn_by_turn
from jaxrl.lm.tasks import symbols
from jaxrl.lm.tasks.chained import chained
from jaxrl.lm.turns import said, unless
from jaxtrain.lm.decoder import Config, decoder, score
from jaxtrain.lm.logits import Options, Scores
from jaxtrain.lm.sequences import Text
from tests.jaxrl.lm.letters import LETTERS

MODEL = decoder(Config(len(symbols.ALPHABET), 8, 1, 1, 1, 8, 8))
KEY = jax.random.key(1)


@functools.cache
def rewarded():
    """Ten updates that are paid for the symbol `a`, drawn from a truncated distribution.

    The whole part of a reward is the problem's, the same for all of its responses.
    """

    def share(problem, verdict, tokens, valid):
        return problem.start + jnp.where(valid, tokens == symbols.LETTER, 0).sum() / 16

    core = policy_gradient(
        MODEL,
        chained(1),
        optax.adam(0.1),
        group_size=8,
        room=8,
        reward=share,
        divergence=Divergence(1e-3, decay=0.5),
        skip_equal=True,
        options=Options(top_p=0.8),
    )
    state = core.init(jax.jit(MODEL.init)(jax.random.key(0)))
    update, metrics, states = jax.jit(core.update), [], [state]
    for i in range(10):
        state, out = update(state, np.arange(16), jax.random.fold_in(KEY, i))
        paid = np.asarray(out.outputs) % 1
        metrics.append({k: float(v) for k, v in out.metrics.items()} | {"paid": paid.mean()})
        states.append(state)
    return metrics, states, out


def test_what_is_paid_for_is_written_more_often():
    metrics, _, out = rewarded()
    paid = [m["paid"] for m in metrics]
    assert paid[-1] > 4 * paid[0] and paid[-1] > 0.1
    of_problem = np.floor(out.outputs)
    assert (of_problem == of_problem[:, :1]).all() and len(np.unique(of_problem)) > 3
    assert out.outputs.shape == (16, 8) and 0 <= metrics[0]["equal_groups"] < 1
    assert metrics[0]["entropy"] > metrics[-1]["entropy"]
    assert metrics[0]["correct"] < 0.1 and 1 <= metrics[0]["length"] <= 8


def test_fresh_samples_have_ratio_1_and_no_divergence():
    """Under top-p too, where the whole vocabulary would give the mass that was kept."""
    metrics, states, _ = rewarded()
    assert all(m["largest_mismatch"] < 1e-4 for m in metrics)
    assert abs(metrics[0]["divergence"]) < 1e-5 < abs(metrics[5]["divergence"])


def test_the_reference_is_an_average_of_the_parameters():
    _, states, _ = rewarded()
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, states[0].reference, states[0].params)
    for before, after in zip(states, states[1:], strict=False):
        mean = jax.tree.map(lambda r, p: 0.5 * r + 0.5 * p, before.reference, after.params)
        jax.tree.map(close, after.reference, mean)


def test_a_run_that_cannot_learn_is_stopped_with_a_sentence():
    check_progress([], [])
    check_progress([1.0, 1.0, 0.9, 1.0, 1.0], [0.0, 0.5, 1e-5])
    with pytest.raises(RuntimeError, match="last 3 updates all responses to a prompt had one"):
        check_progress([0.2, 1.0, 1.0, 1.0], [0.0])
    for apart in (0.02, float("nan")):
        with pytest.raises(RuntimeError, match="sampler and the learner are not the same"):
            check_progress([0.2], [0.0, apart])


def test_the_metrics_of_a_loop_stop_it_too():
    """Over windows of any length; of a sweep no trial may learn, or any may disagree."""
    some, none = np.array([[1.0, 0.5]]), np.array([[1.0, 1.0]])
    close, apart = np.array([[1e-6, 1e-5]]), np.array([[1e-6, 0.02]])
    window = lambda groups, gap: {"equal_groups": groups, "largest_mismatch": gap}
    check = watched_progress()
    for groups in (none, none, some, none, none):
        check(window(groups, close))
    with pytest.raises(RuntimeError, match="last 3 updates"):
        check(window(none, close))
    with pytest.raises(RuntimeError, match="last 3 updates"):
        watched_progress()(window(np.array([0.1, 1, 1, 1, 0.2]), np.zeros(5)))
    watched_progress()({"largest_mismatch": close})
    check = watched_progress()
    for groups in (none, none, none):
        check({"equal_groups_4": groups, "equal_groups_8": some, "largest_mismatch_4": close})
    with pytest.raises(RuntimeError, match="0.02 apart"):
        check({"largest_mismatch_4": close, "largest_mismatch_8": apart})
    with pytest.raises(RuntimeError, match="0.02 apart"):
        watched_progress()(window(some, apart))
    with pytest.raises(RuntimeError, match="0.02 apart"):
        watched_progress()({"largest_mismatch": np.array([0.02, 0.0])})


RNG = np.random.default_rng(0)
LOGP, OLD, REFERENCE = -RNG.uniform(0.1, 3, (3, 2, 4)).astype(np.float32)
ADVANTAGE = RNG.normal(size=(2, 4)).astype(np.float32)
MASK = np.array([[True, True, False, True], [False, True, True, False]])
BY_HAND = {
    "k1": lambda u: -u,
    "k2": lambda u: u**2 / 2,
    "k3": lambda u: np.exp(u) - u - 1,
}


@pytest.mark.parametrize("place", ["reward", "loss"])
@pytest.mark.parametrize("estimate", BY_HAND)
def test_every_estimate_costs_in_the_reward_or_in_the_loss(estimate, place):
    divergence = Divergence(0.3, estimate, place)
    text = Text(*[None] * 2, MASK, *[None] * 2, OLD, OLD)
    given = dict(entropy_weight=0.2, divergence=divergence, reference=REFERENCE, clip=(0.1, 0.4))
    entropy = np.full((2, 4), 1.5, np.float32)

    def each(logp):
        return token_losses(Scores(logp, logp + 0.2, entropy), text, MASK, ADVANTAGE, **given)

    rho = np.exp(LOGP + 0.2 - OLD)
    cost = 0.3 * BY_HAND[estimate](REFERENCE - LOGP)
    expected = -np.minimum(rho * ADVANTAGE, np.clip(rho, 0.9, 1.4) * ADVANTAGE) - 0.3
    expected += cost if place == "loss" else 0
    np.testing.assert_allclose(np.where(MASK, each(LOGP), 0), np.where(MASK, expected, 0), 1e-4)
    slope = jax.grad(lambda x: objectives.aggregate(each(x), MASK, "token_mean"))(LOGP)
    assert (slope[~MASK] == 0).all() and np.isfinite(slope).all()
    np.testing.assert_allclose(
        charged(divergence, BY_HAND[estimate](REFERENCE - LOGP)), cost if place == "reward" else 0
    )


def test_each_turn_is_compared_with_that_turn_of_its_group():
    """One step against its gradient written out: credit between turns, groups without signal.

    Rows that begin with an even token have no second turn, whose empty answer would be paid most.
    """
    G, places = 4, np.arange(6)

    def reward(problem, verdict, tokens, valid):
        paid = jnp.where(valid, tokens % 2, 0).sum() + jnp.where(valid.any(), 0, 50)
        return jnp.where(problem < 4, 1.0, paid)

    def is_over(problem, text):
        first = jnp.argmax(text.generated, axis=1)[:, None]
        even = jnp.take_along_axis(text.tokens, first, axis=1)[:, 0] % 2 == 0
        return even & (problem >= 4)

    again = [unless(is_over, said("!"))]
    given = dict(group_size=G, room=3, reward=reward, instructions=again)
    params = jax.jit(MODEL.init)(jax.random.key(0))
    credit = lambda reward, taken: turn_returns(with_progress(reward, taken, 0.25), 0.5)
    core = policy_gradient(
        MODEL,
        LETTERS,
        optax.sgd(0.3),
        credit=credit,
        baseline="centred",
        skip_equal=True,
        **given,
    )
    state, out = jax.jit(core.update)(core.init(params), places, KEY)
    found = jax.jit(functools.partial(sampled, MODEL, LETTERS, **given))(params, places, KEY)
    text, advantage = found.text, np.zeros(found.text.tokens.shape, np.float32)
    counts, paid = np.zeros_like(advantage), []
    for row in range(len(advantage)):
        rows = slice(row // G * G, row // G * G + G)
        own = np.where(text.mask[rows], text.turn[rows], -1)
        turns = [(own == k).any(1) for k in (0, 1)]
        first, second = np.where(turns, np.asarray(found.reward[row // G]).T, 0)
        second = second + np.where(turns[1], 0.25 * (second - first), 0)
        value = first + 0.5 * second, second
        for slot in np.flatnonzero(text.mask[row]):
            turn = int(text.turn[row, slot])
            compared = value[turn][turns[turn]]
            advantage[row, slot] = value[turn][row % G] - compared.mean()
            counts[row, slot] = len(set(compared)) > 1
        paid.append([tuple(found.reward[row // G][turns[k], k].tolist()) for k in (0, 1)])
    assert set(np.unique(text.turn[np.asarray(text.mask)])) == {0, 1} and 0 < counts.mean()
    assert {len(second) for _, second in paid} >= {2, G}
    equal = [all(len(set(turn)) <= 1 for turn in group) for group in paid[::G]]
    assert 0 < sum(equal) < len(equal)
    np.testing.assert_allclose(out.metrics["equal_groups"], np.mean(equal), rtol=1e-6)
    np.testing.assert_allclose(out.outputs, np.asarray(found.reward).sum(-1), rtol=1e-6)

    @jax.jit
    @jax.grad
    def slope(params):
        logp = score(MODEL, params, text.tokens, text.valid, text.mask).logp
        return -(counts * advantage * logp).sum() / counts.sum()

    expected = jax.tree.map(lambda p, g: p - 0.3 * g, params, slope(params))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), state.params, expected)


def test_clipped_steps_on_the_same_samples_by_hand():
    """Two steps with the entropy and a reference in the loss, a mean over responses."""
    given = dict(group_size=2, room=4, reward=lambda problem, verdict, tokens, valid: valid.sum())
    core = policy_gradient(
        MODEL,
        LETTERS,
        optax.sgd(0.5),
        aggregation="sequence_mean",
        clip=(0.05, 0.1),
        divergence=Divergence(0.3, "k3", "loss"),
        entropy_weight=0.2,
        num_steps=2,
        **given,
    )
    params, places = jax.jit(MODEL.init)(jax.random.key(0)), np.arange(6)
    reference = jax.tree.map(lambda x: 1.5 * x, params)
    state, out = jax.jit(core.update)(core.init(params)._replace(reference=reference), places, KEY)
    found = jax.jit(functools.partial(sampled, MODEL, LETTERS, **given))(params, places, KEY)
    text, mask = found.text, np.asarray(found.text.mask)
    earned = np.asarray(found.reward, np.float32)[..., 0]
    advantage = (earned - earned[:, ::-1]).reshape(-1, 1)
    assert 0 < (advantage > 0).mean() < 0.5

    @jax.jit
    def read(params):
        now = score(MODEL, params, text.tokens, text.valid, text.mask)
        return [jnp.where(mask, x, 0) for x in (now.logp, now.entropy)]

    old, about = np.where(mask, text.logp, 0), read(reference)[0]

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        logp, entropy = read(params)
        ratio, apart = jnp.exp(logp - old), about - logp
        gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.95, 1.1) * advantage)
        each = -gain - 0.2 * entropy + 0.3 * (jnp.exp(apart) - apart - 1)
        return (jnp.where(mask, each, 0).sum(1) / mask.sum(1)).mean()

    down = lambda params, slope: jax.tree.map(lambda p, g: p - 0.5 * g, params, slope)
    value, slope = loss(params)
    once = down(params, slope)
    ratio = np.exp(np.asarray(read(once)[0]) - old)
    assert ((ratio > 1.1) & (advantage > 0)).any() and ((ratio < 0.95) & (advantage < 0)).any()
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    jax.tree.map(close, state.params, down(once, loss(once)[1]))
    apart = np.asarray(about - old)[mask]
    expected = {
        "loss": value,
        "gradient_norm": np.sqrt(sum(np.square(x).sum() for x in jax.tree.leaves(slope))),
        "entropy": np.asarray(read(params)[1])[mask].mean(),
        "divergence": (np.exp(apart) - apart - 1).mean(),
        "reward": earned.mean(),
        "length": mask.sum(1).mean(),
    }
    jax.tree.map(close, {name: out.metrics[name] for name in expected}, expected)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"group_size": 1}, "group_size of 2"),
        ({"tries": 0}, "take 1 or more"),
        ({"divergence": Divergence(0.1, place="both")}, "no place 'both'"),
        ({"num_steps": 0}, "learns nothing"),
        ({"num_steps": 2}, "needs `clip`"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(changed, sentence):
    with pytest.raises(ValueError, match=sentence):
        policy_gradient(MODEL, chained(1), optax.sgd(1.0), **dict(group_size=2, room=4) | changed)


def test_a_model_without_the_symbols_of_the_task_is_named():
    small = decoder(Config(20, 8, 1, 1, 1, 8, 8))
    core = policy_gradient(small, chained(1), optax.sgd(1.0), group_size=2, room=4)
    state = jax.eval_shape(lambda: core.init(small.init(jax.random.key(0))))
    with pytest.raises(ValueError, match="symbols and the model knows 20; give it a larger"):
        jax.eval_shape(core.update, state, jnp.arange(1), jax.random.key(1))


def test_what_is_earned_is_credited_before_the_divergence_is_charged():
    """Rounding keeps whole rewards as they are, and would change what a divergence leaves."""
    params, ends = MODEL.init(jax.random.key(0)), []
    away = jax.tree.map(lambda x: 1.5 * x, params)
    for credit in (turn_by_turn, lambda reward, taken: jnp.round(reward)):
        core = policy_gradient(
            MODEL,
            LETTERS,
            optax.sgd(0.1),
            group_size=2,
            room=3,
            divergence=Divergence(0.3),
            credit=credit,
        )
        state = core.init(params)._replace(reference=away)
        ends.append(jax.jit(core.update)(state, np.arange(4), KEY)[0].params)
    jax.tree.map(np.testing.assert_array_equal, *ends)
    assert any(
        (x != y).any() for x, y in zip(*map(jax.tree.leaves, (ends[0], params)), strict=True)
    )
