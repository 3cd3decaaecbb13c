"""The claims about schedules at small size, three seeds each, with controls that must fail.

python -m pytest tests/behaviour/test_lr_schedules.py -m slow      (minutes on two cores)

Each test runs a config variant exactly as docs/schedules.md describes.
"""

import json

import numpy as np
import pytest

from experiments import lr_schedules

pytestmark = [pytest.mark.slow, pytest.mark.behaviour]


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    """`study(variant) -> {name: values}`; every variant runs once."""
    folder, found = tmp_path_factory.mktemp("schedules"), {}

    def run(variant):
        if variant not in found:
            workdir = folder / variant
            config = f"--config=configs/lr_schedules.py:{variant}"
            lr_schedules.main(argv=[config, f"--workdir={workdir}"])
            final = json.loads((workdir / "summary.json").read_text())["final"]
            value = lambda x: np.array(x["trials"], float) if isinstance(x, dict) else x
            found[variant] = {name: value(x) for name, x in final.items()}
        return found[variant]

    return run


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_linear_decay_is_best_for_the_last_iterate(study, optimizer):
    found = study("small")
    losses = {
        name.partition("/")[2]: x.mean() for name, x in found.items() if name.startswith(optimizer)
    }
    for worse in ("warmup_constant", "inverse_sqrt"):
        assert losses[worse] > 1.003 * losses["linear"], worse
    for close in ("cosine", "refined"):  # too close to be told apart at this size
        assert abs(losses[close] / losses["linear"] - 1) < 0.015, close
    # Control: the same rates in rising order.
    assert losses["table(values=(0, 1))"] > 1.02 * losses["linear"]


def test_linear_decay_beats_all_others_where_coordinates_are_met_rarely(study):
    found = {n.partition("/")[2]: x for n, x in study("small").items() if n.startswith("sparse/")}
    for worse in ("cosine", "inverse_sqrt", "wsd(decay=0.2)", "warmup_constant"):
        assert (found[worse] > 1.1 * found["linear"]).all(), worse
    # Control: the same rates in rising order.
    assert (found["table(values=(0, 1))"] > 2 * found["linear"]).all()


def test_the_bound_holds_for_linear_decay(study):
    found = study("small")
    assert found["bound/linear/100"].max() < 1 and found["bound/linear/1000"].max() < 1
    # Controls: at the same peak one other schedule breaks it, and others are far behind.
    assert found["bound/inverse_sqrt/1000"].min() > 1
    for name in ("constant", "table(values=(0, 1))"):
        assert found[f"bound/{name}/1000"].mean() > 2 * found["bound/linear/1000"].mean()


def test_refinement_finds_warmup_by_itself(study):
    found = study("language_small")
    assert found["norm_fall"] > 2
    assert found["refined_first_rate"] < 0.7 and 0.02 < found["refined_peak_at"] < 0.6
    assert found["refined_at_75"] < 0.24 and found["refined_at_90"] < 0.09  # linear: 0.25, 0.1
    # Control: from the reversed trace there is no warm-up.
    assert found["reversed_peak_at"] < 0.02
    # The loss is that of linear decay: a gain does not show at this size.
    refined, linear = (found[f"valid_loss/{name}"].mean() for name in ("refined", "linear"))
    assert abs(refined / linear - 1) < 0.02


def test_the_infinite_schedule_forgets_less(study):
    found = study("continual_small")
    forgetting = {
        name.partition("/")[2]: x.mean() for name, x in found.items() if "forgetting/" in name
    }
    assert forgetting["infinite, const 0.25"] < 0.7 * forgetting["repeated cosine"]
    # Control: what helps is that nothing is warmed up again.
    assert forgetting["control: infinite, warmed up again"] > forgetting["infinite, const 0.25"]
    assert found["annealing/infinite, const 0.25"].max() < 0, "annealing helps at every task's end"
    # For good as well, at every peak.
    for name, cosine in found.items():
        if name.startswith("lasting/repeated cosine/"):
            infinite = found[name.replace("repeated cosine", "infinite, const 0.25")]
            assert (infinite < cosine).all(), name


def test_between_two_stages_the_infinite_schedule_forgets_less(study):
    found = study("continual_two_stages")
    cosine = found["forgetting/repeated cosine"]
    for const in ("0.25", "0.5"):
        assert (found[f"forgetting/infinite, const {const}"] < 0.8 * cosine).all()
    assert found["forgetting/control: infinite, warmed up again"].mean() > 0.9 * cosine.mean()


def test_autolrs_needs_fewer_updates_than_the_default(study):
    found = study("search_small")
    assert found["speed_up"].min() > 1.3
    # Control: with one random candidate per stage nothing is searched.
    mine, control = (
        found[f"final/{name}"].mean()
        for name in ("AutoLRS, search included", "control: one random rate per stage")
    )
    assert mine < control
