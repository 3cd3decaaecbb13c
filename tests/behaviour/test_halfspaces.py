"""The tester-learner accepts Gaussian inputs with a small error, and no other inputs.

One program of 140 runs; less than a minute on one CPU core.
"""

import json

import jax
import numpy as np
import pytest

from experiments import halfspaces
from experiments.data.halfspace_samples import MARGINALS, NOISES, draw
from jaxtta.halfspaces import local_spread, mass_ratio

pytestmark = [pytest.mark.behaviour, pytest.mark.slow]


@pytest.fixture(scope="module")
def final(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("halfspaces") / "run"
    halfspaces.main(argv=["--config=configs/halfspaces.py:small", f"--workdir={workdir}"])
    found = json.loads((workdir / "summary.json").read_text())["final"]
    return lambda name, key: np.array(found[name][key]["trials"])


@pytest.mark.parametrize("noise", NOISES)
def test_gaussian_inputs_are_accepted_with_nearly_the_best_error(final, noise):
    name = f"gaussian/{noise}"
    assert final(name, "accepted").mean() >= 0.9
    assert (final(name, "error") <= final(name, "opt") + 0.02).all()


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("marginal", sorted(MARGINALS.keys() - {"gaussian"}))
def test_other_inputs_are_rejected(final, marginal, noise):
    assert not final(f"{marginal}/{noise}", "accepted").any()


def test_where_the_learner_fails_it_is_rejected(final):
    excess = final("trap/massart", "error") - final("trap/massart", "opt")
    assert (excess > 0.1).all()
    np.testing.assert_array_equal(final("trap/massart", "passed band mass"), 0)


@pytest.mark.parametrize(
    ("marginal", "ratio", "low", "high"),
    [
        ("gaussian", 1.0, 0.86, 1.15),
        ("laplace", 1.06, 0.84, 1.16),
        ("cube", 0.98, 0.87, 1.2),
        ("scaled", 0.9, 0.09, 2.8),
        ("slab", 0.0, 0.0, 0.0),
    ],
)
def test_bands_are_as_measured_before(marginal, ratio, low, high):
    """40,000 points in 20 dimensions, |<w, x>| at most 0.1, from a trial with code of its own."""
    sample = jax.jit(draw, static_argnums=(1, 2, 3, 4))(
        jax.random.key(0), marginal, "massart", 40_000, 20
    )
    assert mass_ratio(sample.weights, sample.x, 0, 0.1) == pytest.approx(ratio, abs=0.15)
    smallest, largest, _ = local_spread(sample.weights, sample.x, 0, 0.1)
    assert smallest == pytest.approx(low, abs=0.08) and largest == pytest.approx(high, abs=0.2)
