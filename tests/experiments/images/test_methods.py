"""What methods get of the source and of their settings."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.images import methods
from experiments.images.methods import Method

SOURCE = SimpleNamespace(
    apply=None, num_classes=10, params={}, weights=(), select="all normalisation"
)
SGD = dict(optimizer="sgd", learning_rate=0.1)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"optimizer": "descent"}, (1, 2)),
        ({"optimizer": "sgd"}, (1, 0.9 + 2)),
        ({"optimizer": "sgd", "nesterov": True}, (1 + 0.9, 2 + 0.9 * (0.9 + 2))),
        ({"optimizer": "adam"}, (1, (0.29 / 0.19) / math.sqrt(0.004999 / 0.001999))),
    ],
)
def test_two_steps_of_each_optimiser_by_hand(settings, steps):
    """On gradients 1 and 2."""
    optimizer = methods.build_optimizer(learning_rate=0.1, **settings)
    state, found = optimizer.init(np.float32(0)), []
    for gradient in (1, 2):
        step, state = optimizer.update(np.float32(gradient), state)
        found.append(float(step))
    np.testing.assert_allclose(found, -0.1 * np.array(steps), rtol=1e-4)


def test_thresholds_are_shares_of_the_largest_entropy():
    make = lambda apply, optimizer, num_classes, *, threshold, select: (threshold, select)
    found = methods._reliable(make, SOURCE, threshold=0.5, **SGD)
    assert found == (pytest.approx(0.5 * math.log(10)), "all normalisation")


def test_sar_and_deyo_adapt_shallow_layers(monkeypatch):
    monkeypatch.setattr(methods.selection, "shallow_norm_parameters", lambda params: "shallow")
    for name in ("sar", "deyo"):
        monkeypatch.setattr(methods, name, lambda *given, **options: options)
    assert methods._sar(SOURCE, None, threshold=0.4, **SGD).core["select"] == "shallow"
    core = methods._deyo(SOURCE, None, threshold=0.4, margin=0.5, **SGD).core
    assert core["select"] == "shallow" and core["margin"] == pytest.approx(0.5 * math.log(10))


def test_only_the_methods_of_the_config_are_scored_again(monkeypatch):
    monkeypatch.setattr(methods, "method", lambda name: lambda source, known: Method(name, ()))
    monkeypatch.setattr(methods.adaptation, "rescored", lambda core, apply: f"{core} again")
    config = SimpleNamespace(methods=("tent", "eta"), rescored=("tent",), method={})
    found = {name: build(SOURCE, None).core for name, build in methods.chosen(config).items()}
    assert found == {"source": "source", "reset": "reset", "tent": "tent again", "eta": "eta"}
