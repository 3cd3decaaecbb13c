"""The claims of the paper on small pattern tasks, three seeds each, with a control that must fail.

python -m pytest tests/behaviour -m slow      (about half an hour on two cores)

Each test trains a config variant with `--sweep=seed=0:3`, exactly as docs/lpn.md describes; runs
are shared between tests. Numbers are means over seeds of exact-match accuracy on 192 leave-one-out
predictions.
"""

import json

import numpy as np
import pytest

from experiments import lpn_patterns
from jaxtrain.host import cli

pytestmark = [pytest.mark.slow, pytest.mark.behaviour]


@pytest.fixture(scope="session")
def accuracy(tmp_path_factory):
    """`accuracy(variant) -> {name: values of three seeds}`; every variant is trained once."""
    folder, found = tmp_path_factory.mktemp("lpn"), {}

    def run(variant):
        if variant not in found:
            workdir = folder / variant
            cli.main(
                lpn_patterns.run,
                sweepable=lpn_patterns.SWEEPABLE,
                validate=lpn_patterns.validate,
                argv=[
                    f"--config=configs/lpn_patterns.py:{variant}",
                    "--sweep=seed=0:3",
                    f"--workdir={workdir}",
                ],
            )
            final = json.loads((workdir / "summary.json").read_text())["final"]
            found[variant] = {name: np.array(value["trials"]) for name, value in final.items()}
        return found[variant]

    return run


def test_search_improves_an_under_trained_model(accuracy):  # E1
    result = accuracy("small")
    curve = [result[f"{name}_accuracy"] for name in ("mean", "ascent_5", "ascent_20")]
    means = [values.mean() for values in curve]
    assert 0.0 < means[0] < 0.6, "stop training while the mean latent is still poor"
    assert means[0] < means[1] < means[2]
    assert means[2] >= min(2 * means[0], 0.9)
    assert result["ascent_100_accuracy"].mean() >= means[2] - 0.03
    # Control: searching on another task's demonstrations gains nothing.
    assert result["ascent_20_shuffled_accuracy"].mean() < 0.02
    assert result["mean_shuffled_accuracy"].mean() < 0.02


def test_training_with_one_ascent_step_suits_search(accuracy):  # E2
    mean, ascent = accuracy("small"), accuracy("small_ga_1")
    gain = ascent["ascent_20_accuracy"].mean() - ascent["mean_accuracy"].mean()
    assert gain > 0.1
    assert ascent["ascent_20_accuracy"].mean() > mean["ascent_20_accuracy"].mean() - 0.05


def test_stopping_the_gradient_is_no_worse(accuracy):  # E3
    first, second = accuracy("small_ga_1"), accuracy("small_ga_1_full_gradient")
    assert first["ascent_20_accuracy"].mean() > second["ascent_20_accuracy"].mean() - 0.05


def test_gradient_beats_sampling(accuracy):  # E4
    result = accuracy("small")
    gradient, many, few, none = (
        result[f"{name}_accuracy"].mean()
        for name in ("ascent_20", "random_250", "random_25", "mean")
    )
    assert gradient > many >= few >= none - 0.01
