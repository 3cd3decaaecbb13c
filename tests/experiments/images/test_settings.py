"""A run of `tta_images` sees what it reads of its config, and nothing else."""

import pytest

from experiments.images.known import Known
from experiments.images.settings import own_settings
from jaxtrain.host.config import load


def seen(**changes):
    spec = ",".join(["configs/tta_images.py:debug", *(f"{k}={v}" for k, v in changes.items())])
    return own_settings(load(spec)[0])


@pytest.mark.parametrize(
    ("methods", "groups"),
    [
        (("tent",), set()),
        (("tent", "eata"), {"fisher"}),
        (("petal",), {"clean", "posterior"}),
        (("sda", "itta"), {"diffusion", "projection", "features"}),
    ],
)
def test_what_no_method_asks_for_is_not_seen(methods, groups):
    own = seen(methods=methods)
    asked = {"fisher", "clean", "posterior", "features", "diffusion", "projection"}
    assert asked & set(own.keys()) == groups
    assert set(own.method.keys()) - {"reset"} == set(methods)
    weights = {"model.weights": "stored.npz"}
    assert set(seen(methods=methods, **weights).source.keys()) == (
        {"seed", "imbalance"} if groups else set()
    )


def test_a_stored_network_and_methods_that_know_nothing_need_no_seed_of_the_source():
    own = seen(methods=("batch_norm", "tent"), **{"model.weights": "stored.npz"})
    assert "seed" not in own.source
    Known(own, None)


def test_keys_of_other_streams_and_of_corruptions_that_are_not_made_are_not_seen():
    gradual = seen(**{"stream.setting": "gradual"})
    assert "first_falls" in gradual.stream and "ratio" not in gradual.stream
    of_corruptions = {"corruptions", "severity", "corrupted_dir"}
    assert of_corruptions <= set(gradual.data.keys())
    assert not of_corruptions & set(seen(**{"data.target": "mine.npz"}).data.keys())
