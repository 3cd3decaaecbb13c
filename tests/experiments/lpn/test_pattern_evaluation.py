"""Which tasks the measurements of pattern tasks are given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.lpn import pattern_evaluation
from experiments.lpn.pattern_evaluation import Plan, Problems, shuffled
from experiments.lpn.searches import build_method
from jaxtrain.host.config import load
from jaxtta.lpn import Grid, Pairs
from jaxtta.lpn.search import Scored, run_search


def test_the_control_is_measured_on_the_demonstrations_of_another_task():
    measure = lambda params, key, given: given
    given = Problems(jnp.arange(6), "targets", "posterior", "_x")
    found = shuffled(measure, 2)(None, None, given)  # three tasks of two pairs
    assert found[1:] == ("targets", None, "_x_shuffled")
    assert not (found.demos // 2 == given.demos // 2).any()
    np.testing.assert_array_equal(found.demos % 2, given.demos % 2)


@pytest.mark.parametrize("rate", [0.1, 0.0])
def test_only_the_control_at_rate_0_stays_where_the_search_starts(rate):
    """As many steps from the same start, each of which scores a latent with the decoder."""
    config, _ = load("configs/lpn_patterns.py:debug,evaluation.search.num_steps=5")
    group = config.evaluation.search
    group.gradient_ascent.learning_rate = rate
    search = build_method(group, "gradient_ascent").make_search(
        lambda z: Scored(-((z - 1) ** 2).sum(-1), z[:, 0] > 9), archive_size=1
    )
    found = run_search(search, jax.random.key(0), jnp.zeros((1, 2)), 5)
    assert np.isfinite(found.scores).all() and found.scores.shape == (6, 1)
    assert (found.latents == 0).all() == (rate == 0)


def test_the_control_at_rate_0_is_the_ascent_but_for_its_rate(monkeypatch):
    config, _ = load("configs/lpn_patterns.py:small")
    asked = {}

    def noted(lpn, search, name, steps, *, label="ascent", **options):
        asked[label] = (name, steps, search.gradient_ascent.to_dict())

    monkeypatch.setattr(pattern_evaluation, "along_a_search", noted)
    plan = pattern_evaluation.searches(config, None)
    (name, steps, still), ascent = asked["ascent_at_rate_0"], config.evaluation.search
    assert (name, steps) == ("gradient_ascent", (20,))
    assert still == ascent.gradient_ascent.to_dict() | {"learning_rate": 0.0}
    assert ascent.gradient_ascent.learning_rate > 0 and len(plan.elsewhere) == 2


def test_further_densities_and_numbers_of_demonstrations_are_those_of_the_config(monkeypatch):
    spec = "debug,data.num_pairs=4,evaluation.densities=(0.5,),evaluation.demonstrations=(2,)"
    config, _ = load(f"configs/lpn_patterns.py:{spec}")
    asked = []

    def tasks(num_pairs=4, **changes):
        asked.append(dict(num_pairs=num_pairs) | changes)
        shape = (3, num_pairs)
        grids = Grid(jnp.zeros((*shape, 4), jnp.uint8), jnp.ones((*shape, 2), jnp.int32))
        return Pairs(grids, grids, jnp.ones(shape, bool)), None

    measure = lambda params, key, given: {f"seen{given.suffix}": given.demos.mask.shape}
    monkeypatch.setattr(pattern_evaluation, "held_out", lambda config: tasks)
    monkeypatch.setattr(pattern_evaluation, "searches", lambda *given: Plan((), (), (measure,)))
    monkeypatch.setattr(pattern_evaluation, "leave_one_out_posterior", lambda *given: None)
    monkeypatch.setattr(pattern_evaluation, "generated", lambda *given: {})
    found = pattern_evaluation.evaluation(config, None)(None, None, True)
    assert found == {"seen_density_0.5_accuracy": (12, 3), "seen_demos_2_accuracy": (3, 2)}
    assert asked == [{"num_pairs": 4}, {"num_pairs": 4, "density": 0.5}, {"num_pairs": 3}]
