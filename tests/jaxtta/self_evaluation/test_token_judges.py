"""Verdicts of tokens and of a head against probabilities by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.lm import heads
from jaxtta.self_evaluation import token_judges

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(5, 3, 8)).astype(np.float32)
PROBS = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)


def test_verdicts_are_shares_of_designated_tokens():
    found = token_judges.p_true(jnp.array(LOGITS), [2, 5], [7])
    expected = (PROBS[..., 2] + PROBS[..., 5]) / (PROBS[..., 2] + PROBS[..., 5] + PROBS[..., 7])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    mass = token_judges.token_mass(jnp.log(jnp.array(PROBS)), [2, 5])
    np.testing.assert_allclose(mass, PROBS[..., 2] + PROBS[..., 5], rtol=1e-5)
    share = token_judges.token_share(jnp.array(LOGITS) - 500, [1], [1, 3])  # no underflow
    np.testing.assert_allclose(share, PROBS[..., 1] / (PROBS[..., 1] + PROBS[..., 3]), rtol=2e-4)


def test_the_answer_among_options():
    found = token_judges.token_choice(jnp.array(LOGITS), [6, 0, 3])
    assert (found == PROBS[..., [6, 0, 3]].argmax(-1)).all()


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"ids \[4\] are chosen"):
        token_judges.token_share(jnp.array(LOGITS), [4], [1, 2])
    with pytest.raises(ValueError, match="one twice"):
        token_judges.p_true(jnp.array(LOGITS), [1], [2, 1])


@pytest.mark.parametrize("foreign", [-1, 8])
def test_ids_that_are_none_are_refused(foreign):
    """JAX would take the last token in their place."""
    logits = jnp.array(LOGITS)
    for call in (
        lambda: token_judges.token_mass(logits, [1, foreign]),
        lambda: token_judges.token_choice(logits, [foreign, 2]),
        lambda: token_judges.p_true(logits, [1], [foreign]),
    ):
        with pytest.raises(ValueError, match=rf"ids \[{foreign}\] are not among the 8 tokens"):
            call()
    for call in (
        lambda: token_judges.token_mass(logits, []),
        lambda: token_judges.token_choice(logits, ()),
        lambda: token_judges.p_true(logits, [], [2]),
    ):
        with pytest.raises(ValueError, match="a list of ids is empty"):
            call()
    with pytest.raises(ValueError, match="one twice"):
        token_judges.token_mass(logits, [3, 3])


def test_what_is_known_is_read_off_a_head():
    hidden, head = LOGITS[..., :3], heads.Head(jnp.array([1.0, -2.0, 0.5]), jnp.array(0.3))
    expected = 1 / (1 + np.exp(-(hidden @ [1.0, -2.0, 0.5] + 0.3)))
    np.testing.assert_allclose(token_judges.p_ik(head, jnp.array(hidden)), expected, rtol=1e-5)
