"""T3AL from the command line, what it measures, and videos of one's own."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import tta_vision_language as command
from jaxtta.vision_language.t3al import Localised

DEBUG = "--config=configs/tta_vision_language.py:debug"


def run(workdir, *flags):
    command.main(argv=[DEBUG, f"--workdir={workdir}", *flags])
    return json.loads((workdir / "summary.json").read_text())["final"]


@pytest.mark.ci
def test_a_run_ends_with_both_kinds_of_names_and_a_figure(tmp_path, capsys):
    final = run(tmp_path)
    assert set(final) == {"weak", "good"}
    for found in final.values():
        assert len(found["rank adapted"]["trials"]) == 2
        for seed in range(2):
            gain = found["rank adapted"]["trials"][seed] - found["rank free"]["trials"][seed]
            assert found["gain"]["trials"][seed] == pytest.approx(gain, abs=1e-5)
    assert "rank background left in" in capsys.readouterr().out
    assert (tmp_path / "plots" / "timelines.png").stat().st_size > 1000


def test_ranks_are_the_share_of_ordered_pairs():
    score = jnp.array([0.1, 0.9, 0.5, 0.5, 9.0])
    truth = jnp.array([False, True, True, False, True])
    mask = jnp.array([True, True, True, True, False])
    # 0.9 above 0.1 and 0.5; 0.5 above 0.1 and level with 0.5.
    assert command.ranked(score, truth, mask) == pytest.approx(3.5 / 4)


def test_precision_is_that_of_the_regions():
    region = jnp.array([[-1, 0, 0, 0, -1, 1, 1, -1], [0, 0, -1, -1, -1, -1, -1, -1]])
    sure = jnp.where(region == 0, 0.9, jnp.where(region == 1, 0.5, 0.0))
    found = Localised(sure, region, sure, jnp.array([[1] * 8, [0] * 8]))
    segments, scores = command.detections(Localised(*(x[0] for x in found)))
    assert segments[:2].tolist() == [[1, 4], [5, 7]]
    np.testing.assert_allclose(scores[:2], [0.9, 0.5], rtol=1e-6)
    assert np.isneginf(scores[2:]).all()
    # Both regions of the first video are right; that of the second has the wrong name.
    true = jnp.array([[[1.0, 4.0], [5.0, 7.0]], [[0.0, 2.0], [-1.0, -1.0]]])
    value = command.precision(found, jnp.array([1, 1]), true)
    third = np.array([1.0, 2 / 3]).sum() / 3  # order of equal scores: the first video comes first
    assert value == pytest.approx(third, abs=1e-5)


def own(**changes):
    rng = np.random.default_rng(0)
    held = dict(
        frames=rng.normal(size=(3, 20, 5)),
        mask=np.arange(20)[None] < np.array([[20], [12], [15]]),
        names=rng.normal(size=(2, 4)),
        visual=rng.normal(size=(5, 3)),
        text=rng.normal(size=(4, 3)),
        log_scale=np.array(2.0),
    )
    return held | changes


def test_videos_of_ones_own(tmp_path, capsys):
    np.savez(tmp_path / "mine.npz", **own())
    run(tmp_path / "run", f"--config.data.file={tmp_path / 'mine.npz'}")
    found = np.load(tmp_path / "run" / "regions.npz")
    assert found["region"].shape == (3, 20) and (found["region"][1, 12:] == -1).all()
    assert "video 2: name" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(visual=np.ones((4, 3))), "expected frames [V, T, D]"),
        (dict(mask=np.ones((3, 19))), "expected frames [V, T, D]"),
        (dict(mask=np.arange(20)[None] >= np.array([[2], [3], [4]])), "from the first frame"),
        (dict(names=np.full((2, 4), np.nan)), "not finite"),
    ],
)
def test_impossible_videos_are_refused(tmp_path, capsys, changes, sentence):
    np.savez(tmp_path / "mine.npz", **own(**changes))
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "run", f"--config.data.file={tmp_path / 'mine.npz'}")
    assert stop.value.code == 2 and sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_too_few_timelines_are_named(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "run", "--config.data.num_videos=9")
    assert stop.value.code == 2 and "there are 4 timelines" in capsys.readouterr().err
