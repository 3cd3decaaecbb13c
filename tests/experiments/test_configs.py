"""Every variant of every config resolves, is possible, and is what it was."""

import importlib
import json
import pathlib

import pytest

from experiments import lpn_arc, lpn_patterns
from experiments.lpn_settings import build_model
from jaxtrain.host.config import UsageError, flatten, load

EXPERIMENTS = {"lpn_arc": lpn_arc, "lpn_patterns": lpn_patterns}
GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "configs.json"
ALL = [
    f"configs/{name}.py:{variant}"
    for name in EXPERIMENTS
    for variant in importlib.import_module(f"configs.{name}").VARIANTS
]
# Encoder and decoder parameters of the published configurations, from the authors' code.
PARAMETERS = {
    "lpn_patterns.py:pattern_2d": (126_792, 127_872),
    "lpn_patterns.py:pattern_4": (121_824, 121_536),
    "lpn_patterns.py:pattern_5": (121_824, 121_536),
    "lpn_patterns.py:pattern_ood": (138_560, 15_936),
    "lpn_arc.py:overfit_007bbfb7": (18_912, 188_352),
    "lpn_arc.py:overfit_045e512c": (18_912, 2_157_056),
    "lpn_arc.py:scaling_1": (33_408, 623_872),
    "lpn_arc.py:scaling_5": (65_856, 2_427_392),
    "lpn_arc.py:scaling_25": (230_016, 2_427_392),
    "lpn_arc.py:scaling_100": (426_624, 2_427_392),
    "lpn_arc.py:scaling_400": (3_212_544, 6_359_552),
    "lpn_arc.py:arc_train": (3_245_312, 3_230_208),
    "lpn_arc.py:paper,model.positions=learned": (25_496_064, 19_108_864),
}


def resolved(spec):
    return json.loads(json.dumps(flatten(load(spec)[0])))


@pytest.mark.parametrize("spec", ALL)
def test_variant_is_possible(spec):
    config, _ = load(spec)
    EXPERIMENTS[config.experiment].validate(config)


def test_variants_are_what_they_were():
    """To accept changes: python -m tests.experiments.test_configs."""
    found = {spec: resolved(spec) for spec in ALL}
    assert found == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("spec", PARAMETERS)
def test_published_parameter_counts(spec):
    counts = build_model(load(f"configs/{spec}")[0]).num_parameters()
    assert (counts["encoder"], counts["decoder"]) == PARAMETERS[spec]


@pytest.mark.parametrize(
    "spec, sentence",
    [
        ("configs/lpn_patterns.py:debug,data.pattern_size=4", "smaller than the grid"),
        ("configs/lpn_patterns.py:debug,data.num_pairs=1", "at least 2"),
        ("configs/lpn_patterns.py:debug,data.density=0.0", "above 0"),
        ("configs/lpn_patterns.py:debug,model.max_rows=5", "make them equal"),
        ("configs/lpn_patterns.py:debug,micro_batch=3", "micro_batch=3"),
        ("configs/lpn_patterns.py:debug,train.mode=median", "the modes are"),
        ("configs/lpn_patterns.py:debug,model.positions=sinus", "positions is 'sinus'"),
        ("configs/lpn_arc.py:debug,data.lengths=(900,)", "none above"),
        ("configs/lpn_arc.py:debug,evaluation.methods=('luck',)", "unknown search method 'luck'"),
        ("configs/lpn_arc.py:debug,evaluation.attempts=best", "attempts is 'best'"),
        ("configs/lpn_arc.py:debug,data.overfit_task=25ff71a9", "at most one of"),
    ],
)
def test_impossible_settings_are_named(spec, sentence):
    config, _ = load(spec)
    with pytest.raises(UsageError, match=sentence):
        EXPERIMENTS[config.experiment].validate(config)


if __name__ == "__main__":
    text = json.dumps({spec: resolved(spec) for spec in ALL}, indent=1, sort_keys=True)
    GOLDEN.write_text(text + "\n")
