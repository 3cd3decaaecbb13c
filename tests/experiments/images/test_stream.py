"""Test images of a stream, the order of its domains, and its parts with their images."""

import numpy as np

from experiments.data.images import corruptions
from experiments.images import stream
from jaxtrain.host.config import load

DEBUG = "configs/tta_images.py:debug"  # 24 images of ten classes in turn, two corruptions


def test_images_of_unknown_classes_come_last_without_a_label():
    config, _ = load(f"{DEBUG},stream.setting=open_set,model.num_classes=6")
    found = stream.test_images(config)
    known = [c for c in np.arange(24) % 10 if c < 6]
    assert found.labels.tolist() == known + [-1] * (24 - len(known))


def test_all_severities_of_a_corruption_come_before_the_next_corruption():
    config, _ = load(f"{DEBUG},stream.setting=gradual")
    expected = [(name, s) for name in ("gaussian_noise", "contrast") for s in (1, 2, 3, 4, 5)]
    assert stream.domains_of(config) == expected


def test_parts_count_the_batches_before_them_and_hold_their_own_domain():
    spec = f"{DEBUG},stream.setting=continual,stream.rounds=2,data.memory_gb=1e-4"
    config, _ = load(spec)
    clean = stream.test_images(config)
    whole = stream.build_stream(config, clean.labels, 3)
    parts = list(stream.with_images(config, clean, whole, 3))
    assert [part.first for part in parts] == [0, 3, 6, 9]  # three batches of eight each
    assert [part.is_last for part in parts] == [False, False, False, True]
    for part, name in zip(parts, ["gaussian_noise", "contrast"] * 2, strict=True):
        expected = corruptions.corrupt(clean.images, name, 5, 3)
        np.testing.assert_array_equal(part.images, expected[None])
        assert not part.stream.domain.any()
