"""Timelines and the videos made of them."""

import gzip
import json

import numpy as np
import pytest

from experiments.data import videos
from jaxtrain.host.config import UsageError

HELD = {
    "a": {"duration_s": 40.0, "segments": [[1.0, 3.0, "Jump"], [10.0, 50.0, "Jump"]]},
    "b": {"duration_s": 60.0, "segments": [[5.0, 9.5, "Run"]]},
    "two actions": {"duration_s": 60.0, "segments": [[5.0, 9.0, "Run"], [5.0, 9.0, "Jump"]]},
    "short": {"duration_s": 10.0, "segments": [[5.0, 9.0, "Run"]]},
}


def written(folder, held, name="t.json"):
    text = json.dumps(held).encode()
    (folder / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return str(folder / name)


@pytest.mark.parametrize("name", ["t.json", "t.json.gz"])
def test_timelines_of_one_action_are_read(tmp_path, name):
    found = videos.read(written(tmp_path, HELD, name))
    assert found == [
        videos.Timeline(40.0, ((1.0, 3.0), (10.0, 40.0)), 0),
        videos.Timeline(60.0, ((5.0, 9.5),), 1),
    ]


@pytest.mark.parametrize(
    ("held", "sentence"),
    [
        ([1, 2], "no file of timelines"),
        ({"a": {"duration_s": 40.0}}, "lacks 'segments'"),
        ({"a": {"duration_s": 40.0, "segments": [[3.0, 1.0, "x"]]}}, "ends before it starts"),
        ({"short": HELD["short"]}, "no video of one action"),
    ],
)
def test_impossible_timelines_are_refused(tmp_path, held, sentence):
    with pytest.raises(UsageError, match=sentence):
        videos.read(written(tmp_path, held))


def test_made_up_timelines_lie_in_their_videos():
    lines = videos.made_up(40, 5, seed=0)
    assert {line.action for line in lines} == set(range(5)) and len(lines) == 40
    for line in lines:
        flat = [x for segment in line.segments for x in segment]
        assert flat == sorted(flat) and 0 <= flat[0] and flat[-1] <= line.duration <= 200


def test_frames_hold_the_concept_where_the_action_is():
    rng = np.random.default_rng(0)
    made = videos.world(2, 8, rng)
    np.testing.assert_allclose(np.linalg.norm(made.concepts, axis=1), 1)
    lines = [videos.Timeline(30.0, ((5.0, 10.0),), 1), videos.Timeline(40.0, ((1.0, 2.0),), 0)]
    quiet = dict(background=0.0, offset=0.0, noise=0.0)
    shown = videos.filmed(made, lines, rng, strength=2.0, **quiet)
    assert shown.mask.sum(1).tolist() == [60, 80] and shown.frames.shape == (2, 80, 16)
    np.testing.assert_array_equal(np.flatnonzero(shown.truth[0]), np.arange(10, 20))
    expected = 2 * made.concepts[1] @ made.to_frames
    np.testing.assert_allclose(shown.frames[0, 15], expected, rtol=1e-5)
    assert not shown.frames[0, 25].any() and shown.segments[0].tolist() == [[10, 20]]


def test_names_are_turned_away_and_pairs_belong_together():
    rng = np.random.default_rng(0)
    made = videos.world(50, 8, rng)
    near, far = (videos.names(made, m, rng) for m in (0.0, 3.0))
    np.testing.assert_allclose(near, made.concepts @ made.to_names, rtol=1e-4, atol=1e-5)
    back = far @ np.linalg.pinv(made.to_names)
    cosine = (back * made.concepts).sum(1) / np.linalg.norm(back, axis=1)
    assert abs(cosine.mean() - 1 / np.sqrt(10)) < 0.1
    frames, names = videos.paired(made, 300, rng)
    latent = [x @ np.linalg.pinv(m) for x, m in ((frames, made.to_frames), (names, made.to_names))]
    assert np.corrcoef(latent[0].ravel(), latent[1].ravel())[0, 1] > 0.9
