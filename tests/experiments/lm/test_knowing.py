"""What P(IK) learns from: questions and attempts with labels at the ends of lines."""

import jax
import numpy as np
import pytest

from experiments.lm import knowing
from jaxrl.lm.tasks import symbols
from tests.experiments.lm.answering import pool, prompts


@pytest.mark.parametrize("shuffled", [0.0, 1.0])
def test_labels_are_shares_of_right_answers_after_the_last_token(shuffled):
    of = pool()
    draw = jax.jit(jax.vmap(lambda key: knowing.row(shuffled, of, key)))
    found = draw(jax.random.split(jax.random.key(3), 64))
    share, same = dict(zip(prompts(), np.asarray(of.correct).mean(1), strict=True)), []
    for tokens, valid, mask, label in zip(*found, strict=True):
        (last,) = np.flatnonzero(mask)
        assert last == np.flatnonzero(valid).max()
        same.append(np.isclose(label[last], share[symbols.text(tokens, valid)]))
    assert np.mean(same) == 1 if shuffled == 0 else np.mean(same) < 0.7
