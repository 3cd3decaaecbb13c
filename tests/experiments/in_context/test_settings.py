"""In-context runs as configs describe them: schedules, keys of tasks, probes."""

import types

import jax
import numpy as np
import pytest

from experiments.data.images.vectors import Vectors
from experiments.in_context import settings
from jaxtrain.host.config import UsageError, load

DEBUG = "configs/gpicl.py:debug"


def sets(num_test, replace=False):
    x, y = np.zeros((num_test, 4), np.float32), np.zeros(num_test, np.int32)
    return types.SimpleNamespace(base=Vectors(x, y, x, y, 1, "", replace), foreign={})


def test_a_schedule_ends_with_the_last_step_of_the_optimiser():
    """Ten batches are five steps if two are accumulated."""
    spec = "num_steps=10,optimizer.accumulate=2,optimizer.schedule=linear,optimizer.warmup_steps=1"
    config, _ = load(f"{DEBUG},optimizer.learning_rate=1.0,{spec}")
    rates = [float(settings.schedule_of(config)(step)) for step in range(5)]
    np.testing.assert_allclose(rates, [1, 0.75, 0.5, 0.25, 0], atol=1e-6)


def test_every_seed_has_tasks_of_its_own():
    keys = {jax.random.key_data(settings.base_key(seed)).tobytes() for seed in range(4)}
    assert len(keys) == 4


def test_probes_say_what_meta_training_has_seen():
    found = settings.probes(load(DEBUG)[0], sets(6), None)
    flags = {name: (p.seen, p.raw, p.shuffled) for name, p in found.items()}
    assert flags == {
        "seen": (True, False, False),
        "unseen": (False, False, False),
        "raw": (False, True, False),
        "shuffled": (False, False, True),
    }


def test_sequences_need_as_many_test_images_unless_they_may_repeat():
    config, _ = load(DEBUG)  # of six images
    with pytest.raises(UsageError, match="'seen' has fewer test images than tasks.length=6"):
        settings.probes(config, sets(5), None)
    settings.probes(config, sets(5, replace=True), None)
