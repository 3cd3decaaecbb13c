"""Which runs make the tables at full size, and that they go on where they stopped."""

import pytest

from experiments import tta_claims
from experiments.images.controls import with_controls
from experiments.images.settings import own_settings
from jaxtrain.host import files
from jaxtrain.host.config import flatten, load


@pytest.fixture
def started(monkeypatch):
    """What was started; a run only leaves its table."""
    seen = []

    def main(argv):
        seen.append(argv)
        folder = argv[1].removeprefix("--workdir=")
        files.write_text(f"{folder}/evaluation/table.txt", f"table of {argv[0]}\n")

    monkeypatch.setattr(tta_claims.tta_images, "main", main)
    return seen


def test_every_variant_has_its_folder_and_all_tables_are_in_one_file(started, tmp_path):
    tta_claims.main([f"--workdir={tmp_path}"])
    variants = [argv[0].rpartition(":")[2] for argv in started]
    assert variants == list(tta_claims.RUNS) and all(len(argv) == 2 for argv in started)
    assert len({argv[1] for argv in started}) == 4
    text = (tmp_path / "tables.txt").read_text()
    assert [text.count(f":{name}\n") for name in variants] == [1, 1, 1, 1]


def test_fewer_images_and_some_variants(started, tmp_path):
    flags = [f"--workdir={tmp_path}", "--images=64", "--variants=cifar10_c_teachers"]
    tta_claims.main(flags)
    (argv,) = started
    assert argv[0].endswith(":cifar10_c_teachers") and "--config.batch_size=64" in argv


@pytest.mark.parametrize("name", tta_claims.RUNS)
def test_a_trial_sets_numbers_of_images_that_the_run_reads(name):
    read = flatten(own_settings(load(f"configs/tta_images.py:{name}")[0]))
    assert set(tta_claims.RUNS[name]) <= set(read)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--variants=small"], "--variants: 'small' is unknown; they are cifar10_c, "),
        (["--workdir="], "--workdir names no folder"),
        (["--images=-1"], "--images=-1 is impossible"),
    ],
)
def test_impossible_flags_start_nothing(started, capsys, flags, sentence):
    with pytest.raises(SystemExit) as stop:
        tta_claims.main(flags)
    assert stop.value.code == 2 and not started
    assert capsys.readouterr().err.startswith(f"error: {sentence}")


def test_the_tables_are_of_the_full_set_with_pretrained_weights():
    rows = {}
    for name in tta_claims.RUNS:
        config, _ = load(f"configs/tta_images.py:{name}")
        rows[name] = list(with_controls(own_settings(config)))
        assert len(config.data.corruptions) == 15 and config.data.severity == 5
        assert config.num_seeds == 3 and config.model.weights == "weights/cifar10_resnet20.npz"
        assert config.data.num_images == (2_000 if "teachers" in name else 10_000)
        setting = "continual" if "continual" in name else "reset_each_shift"
        assert config.stream.setting == setting
    entropy = ["source", "reset", "batch_norm", "tent", "eata", "sar", "roid"]
    assert rows["cifar10_c"] == rows["cifar10_c_continual"] == entropy
    assert rows["cifar10_c_teachers"] == rows["cifar10_c_teachers_continual"]
    assert rows["cifar10_c_teachers"][2:] == [
        "batch_norm",
        "cotta",
        "cotta(learning_rate=0)",
        "rmt",
        "rmt(learning_rate=0)",
        "rmt(weights_only)",
    ]
