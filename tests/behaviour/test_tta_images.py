"""Claims of test-time adaptation, at the sizes of docs/tta_images.md, some on one seed.

Each test asserts what a family claims and, as a control, where it must fail.
"""

import json

import numpy as np
import pytest

from experiments import tta_images
from tests.shared_data import DATA

pytestmark = [
    pytest.mark.behaviour,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (DATA / "weights").is_dir(), reason="needs the pretrained weights beside the checkout"
    ),
]


@pytest.fixture
def measured(tmp_path_factory):
    """`measured(variant, *flags)` -> method -> rows of `evaluation/results.json`, by seed."""

    def run(variant, *flags):
        folder = tmp_path_factory.mktemp(variant) / "run"
        argv = [
            f"--config=configs/tta_images.py:{variant}",
            f"--workdir={folder}",
            f"--config.data.data_dir={DATA}",
            *flags,
        ]
        tta_images.main(argv=argv)
        rows = json.loads((folder / "evaluation" / "results.json").read_text())["rows"]
        return {m: [r for r in rows if r["method"] == m] for m in {r["method"] for r in rows}}

    return run


def errors(rows, shift=None):
    """Mean error over corruptions, or that of one, `[seeds]`."""
    per = [{s: v["error"] for s, v in row["shifts"].items()} for row in rows]
    return np.array([p[shift] if shift else np.mean(list(p.values())) for p in per])


def test_batch_statistics_repair_and_tent_improves_on_them(measured):
    """Controls: batch statistics hurt bright and clean images."""
    rows = measured("small", "--config.methods=('batch_norm','tent')")
    source, repaired = rows["source"], rows["batch_norm"]
    assert (errors(repaired) < errors(source) - 0.10).all()
    assert errors(rows["tent"]).mean() <= errors(repaired).mean()
    for shift in ("contrast", "defocus_blur", "gaussian_noise"):
        assert (errors(repaired, shift) < errors(source, shift) - 0.10).all()
    assert (errors(repaired, "brightness") > errors(source, "brightness")).all()
    clean = [np.array([r["clean_error"] for r in rows[m]]) for m in ("source", "batch_norm")]
    assert (clean[0] < clean[1]).all()


def test_mean_teachers_are_ahead_of_tent_on_a_long_stream(measured):
    """The control is that adaptation is needed: the source is far behind all of them."""
    methods = "--config.methods=('tent','cotta','rmt','petal')"
    rows = measured("small_continual", methods, "--config.num_seeds=1")
    tent = errors(rows["tent"])
    for name in ("cotta", "rmt", "petal"):
        assert (errors(rows[name]) < tent).all()
    assert (tent < errors(rows["source"]) - 0.2).all()
    brier = {m: np.mean([s["brier"] for s in rows[m][0]["shifts"].values()]) for m in rows}
    assert brier["petal"] < brier["cotta"] < brier["tent"]


def test_the_anchor_of_eata_and_regular_resets_remember_what_tent_forgets(measured):
    """At twenty times the published rate. ETA, which is EATA without the anchor, is the control."""
    rows = measured(
        "small_high_rate",
        "--config.methods=('tent','eta','eata')",
        "--config.method.eata.fisher_weight=10",
        "--config.method.reset.num_batches=12",
        "--config.method.reset.learning_rate=0.02",
    )
    clean = {m: np.array([r["clean_error"] for r in rows[m]]) for m in rows}
    assert (clean["eata"] < clean["tent"] - 0.3).all()
    assert (clean["eata"] < clean["eta"]).all()
    assert (errors(rows["eata"]) < errors(rows["eta"])).all()
    assert (errors(rows["eta"]) < errors(rows["tent"])).all()
    assert (errors(rows["reset"]) < errors(rows["eta"]) - 0.05).all()
    assert (clean["reset"] < clean["source"] + 0.1).all()


def test_class_gaussians_adapt_better_than_entropy(measured):
    """Also when 20 images of a class are all that is known of the source."""
    rows = measured("small_continual", "--config.methods=('batch_norm','tent','cafa')")
    few = measured(
        "small_continual", "--config.methods=('cafa',)", "--config.features.num_images=200"
    )
    assert (errors(rows["tent"]) < errors(rows["batch_norm"])).all()
    assert (errors(rows["cafa"]) < errors(rows["tent"])).all()
    assert (errors(few["cafa"]) < errors(rows["tent"])).all()


def test_adapters_lead_and_the_symmetric_loss_teaches_better(measured):
    """ViDA against CoTTA; RMT against RMT with the plain cross-entropy, the control."""
    rows = measured(
        "small_continual",
        "--config.methods=('cotta','rmt','vida')",
        "--config.method.vida.modules=stage",
        "--config.num_seeds=1",
    )
    plain = measured(
        "small_continual",
        "--config.methods=('rmt',)",
        "--config.method.rmt.loss=cross_entropy",
        "--config.num_seeds=1",
    )
    assert (errors(rows["vida"]) < errors(rows["cotta"])).all()
    assert (errors(rows["rmt"]) < errors(plain["rmt"])).all()


def test_memo_needs_one_image(measured):
    """Ahead of the statistics it uses; a step from batch statistics of one image is the control."""
    rows = measured(
        "small_batches",
        "--config.batch_size=1",
        "--config.methods=('alpha_norm','memo')",
        f"--config.method.alpha_norm.weight={1 / 17}",
        "--config.num_seeds=1",
    )
    assert (errors(rows["memo"]) < errors(rows["alpha_norm"]) - 0.01).all()
    assert (errors(rows["alpha_norm"]) < errors(rows["source"]) - 0.05).all()
    assert (rows["memo"][0]["clean_error"]) < rows["source"][0]["clean_error"]
    assert (errors(rows["reset"]) > errors(rows["source"]) + 0.1).all()


def test_lame_wins_on_sorted_streams_and_loses_on_shuffled_ones(measured):
    rows = measured("small_correlated", "--config.methods=('lame','batch_norm')")
    assert (errors(rows["lame"]) < errors(rows["source"])).all()
    assert (errors(rows["lame"]) < errors(rows["batch_norm"]) - 0.1).all()
    shuffled = measured(
        "small_correlated",
        "--config.stream.setting=reset_each_shift",
        "--config.methods=('lame','batch_norm')",
    )
    assert (errors(shuffled["lame"]) > errors(shuffled["source"]) + 0.05).all()
    assert (errors(shuffled["batch_norm"]) < errors(shuffled["lame"])).all()


def test_deyo_learns_where_entropy_follows_the_spurious_colour(measured):
    """Entropy alone makes the model worse with every round; DeYO's second criterion better."""
    rows = measured("small_spurious", "--config.num_seeds=1", "--config.methods=('tent','deyo')")
    tent, deyo = rows["tent"][0], rows["deyo"][0]
    assert tent["rounds"][-1] > tent["rounds"][0] + 0.01
    assert deyo["rounds"][-1] < deyo["rounds"][0] - 0.03
    assert deyo["worst_group"] < tent["worst_group"]
    assert 0 < deyo["share_selected"] < 0.5


def test_label_shift_adapter_helps_when_the_tail_is_reversed(measured):
    """And does no harm on balanced clean images."""
    rows = measured("small_long_tailed", "--config.num_seeds=1")
    assert (errors(rows["label_shift_adapter"]) < errors(rows["tent"]) - 0.02).all()
    clean = [rows[m][0]["clean_error"] for m in ("label_shift_adapter", "source")]
    assert clean[0] < clean[1] + 0.02


@pytest.mark.parametrize("size", [4, 64])
def test_half_of_both_statistics_is_ahead_of_either(measured, size):
    rows = measured(
        "small_batches",
        f"--config.batch_size={size}",
        "--config.methods=('batch_norm','alpha_norm')",
        "--config.method.alpha_norm.weight=0.5",
    )
    for alone in ("source", "batch_norm"):
        assert (errors(rows["alpha_norm"]) < errors(rows[alone]) - 0.02).all()


def test_roid_is_stable_with_four_images(measured):
    """Ahead of the other updates on the mean; nothing gives back what few images cost."""
    rows = measured("small_batches")
    for name in ("tent", "sar", "roid"):
        assert (errors(rows[name]) < errors(rows["source"]) - 0.15).all()
    assert errors(rows["roid"]).mean() < errors(rows["tent"]).mean()


def test_filter_keeps_unknown_classes_apart(measured):
    """Entropy minimisation makes unknown rows look known; the filter takes part of that back."""
    rows = measured("small_open_set", "--config.num_seeds=1")
    auroc = {m: rows[m][0]["open_set"]["auroc"] for m in ("batch_norm", "tent", "open_set")}
    assert auroc["tent"] < auroc["open_set"] < auroc["batch_norm"]


def test_memory_that_grows_is_ahead_of_a_fixed_one(measured):
    grows = measured("small_memory")["adanpc"]
    fixed = measured("small_memory", "--config.method.adanpc.growth=0")["adanpc"]
    assert errors(grows).mean() < errors(fixed).mean()
