"""Four verifiers: what each says of a right and of a wrong response."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.lm.tasks import verifiers
from jaxrl.lm.tasks.task import Verdict

STEP_OK = jnp.array([[1, 1, 1], [1, 0, 1]], bool)
VERDICTS = Verdict(jnp.array([True, False]), jnp.array([4, 5]), STEP_OK, jnp.array([-1, 1]))
VALID = jnp.arange(6)[None] < jnp.array([[3], [6]])
TRUTH = np.array([[1, 1, 1, 1], [0, 1, 0, 0]])  # the answer, then the prefixes


def judged(verifier, repeats=400):
    """`[repeats, 2, 4]`."""
    keys = jax.random.split(jax.random.key(0), (repeats, 2))
    each = jax.vmap(jax.vmap(verifier), in_axes=(0, None, None))
    answer, steps = jax.jit(each)(keys, VERDICTS, VALID)
    return np.concatenate([np.asarray(answer)[..., None], steps], -1)


def test_the_oracle_knows_and_a_wrong_step_spoils_the_rest():
    assert (judged(verifiers.oracle(), 2) == TRUTH).all()


def test_the_noisy_one_errs_at_its_rate():
    wrong = judged(verifiers.noisy(0.2)) != TRUTH
    assert (np.abs(wrong.mean(0) - 0.2) < 4.5 * np.sqrt(0.16 / 400)).all()
    assert np.abs(np.corrcoef(wrong.reshape(-1, 4).T) - np.eye(4)).max() < 0.2
    assert (judged(verifiers.noisy(0.0), 2) == TRUTH).all()


def test_the_biased_one_prefers_long_wrong_answers():
    found = judged(verifiers.biased(0.5), 1)[0]
    np.testing.assert_allclose(found, TRUTH + 0.5 * np.array([[3], [6]]))
    assert found[1, 0] > found[0, 0]


def test_the_blind_one_knows_nothing():
    found = judged(verifiers.blind())
    assert (np.abs(found.mean(0) - 0.5) < 4.5 / np.sqrt(12 * 400)).all()
    assert len(np.unique(found)) > 3000
