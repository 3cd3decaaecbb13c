"""Policy gradient on sampled groups: what is paid for, ratios, the reference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrl.lm.policy_gradient import Divergence, check_progress, policy_gradient
from jaxrl.lm.tasks import symbols
from jaxrl.lm.tasks.chained import chained
from jaxtrain.lm.decoder import Config, decoder
from jaxtrain.lm.logits import Options

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


def test_a_group_of_one_is_refused():
    with pytest.raises(ValueError, match="group_size of 2"):
        policy_gradient(MODEL, chained(1), optax.sgd(1.0), group_size=1, room=4)
