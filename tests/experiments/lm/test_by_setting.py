"""Trials by setting, and the interval over problems and seeds against simulated experiments."""

import jax
import numpy as np
import pytest

from experiments.lm.by_setting import bootstrap, over_trials, settings_of, table, values_of
from jaxtrain.host import sweep
from jaxtrain.host.config import load

AXES = sweep.parse("seed=0:2;dco.num_samples=1,16", ("dco.num_samples",))


def test_trials_of_a_setting_differ_in_their_seed():
    assert settings_of(AXES) == {"num_samples=1": [0, 2], "num_samples=16": [1, 3]}
    assert settings_of(None) == {"": [0]} and settings_of(None, "trained") == {"trained": [0]}
    assert settings_of(sweep.parse("seed=0:2", ()), "trained") == {"trained": [0, 1]}
    assert values_of(AXES, "dco.num_samples", 7).tolist() == [1, 16, 1, 16]
    assert values_of(AXES, "other", 7).tolist() == [7] * 4 and values_of(None, "seed", 7) == [7]


def test_a_measurement_sees_the_numbers_and_the_seed_of_its_trial():
    config, _ = load("configs/lm_reward.py:debug")
    measure = lambda state, config, key: (state * config.dco.num_samples, jax.random.uniform(key))
    state = np.arange(4.0)
    found, drawn = over_trials(measure, config, AXES)(state, jax.random.key(0))
    assert found.tolist() == [0, 16, 2, 48]
    assert drawn[0] == drawn[1] != drawn[2] == drawn[3]
    assert over_trials(measure, config, None)(2.0, jax.random.key(0))[0] == 512


@pytest.mark.parametrize(("of_seed", "wider"), [(0.0, 2**0.5), (1.0, 1.0)])
def test_the_interval_covers_the_spread_of_the_mean(of_seed, wider):
    """The mean has the variance of seeds / S + that of problems / S P, the latter counted twice."""
    rng = np.random.default_rng(0)
    seeds, problems = 12, 30
    values = of_seed * rng.normal(size=(seeds, 1)) + rng.normal(size=(seeds, problems))
    found = bootstrap(np.stack([values, 2 * values]))
    std = np.sqrt(of_seed**2 / seeds + 1 / (seeds * problems))
    assert found.value[0] == pytest.approx(values.mean())
    width = found.high - found.low
    assert 0.75 < width[0] / (2 * 1.96 * std * wider) < 1.25
    assert width[1] == pytest.approx(2 * width[0])
    still = bootstrap(np.full((3, 5), 0.25))
    assert still.low == still.value == still.high == 0.25
    values[:, ::2] = np.nan
    some, those = bootstrap(values), values[:, 1::2]
    assert some.value == pytest.approx(those.mean()) and some.low < those.mean() < some.high


def test_a_table_has_a_line_for_every_name():
    text = table("title", ["a", "b"], {"x": ["1", "2"], "y": ["3", "4"]})
    cells = [line.split() for line in text.splitlines()]
    assert cells == [[], ["title"], ["a", "b"], ["x", "1", "2"], ["y", "3", "4"]]
