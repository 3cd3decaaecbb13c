"""Made-up streets: classes, times of the day, repeatable draws."""

import numpy as np

from experiments.data.images import scenes


def test_streets_have_all_classes_and_dusk_is_dark():
    day, dusk = (scenes.streets(20, (36, 48), 0, dusk=dusk) for dusk in (False, True))
    for one in (day, dusk):
        assert one.images.shape == (20, 36, 48, 3) and one.images.dtype == np.uint8
        assert set(np.unique(one.labels)) == set(range(len(scenes.CLASSES)))
    assert dusk.images.mean() < 0.5 * day.images.mean()
    red, _, blue = np.stack([x.images[x.labels == scenes.SKY].mean(0) for x in (day, dusk)], 1)
    assert blue[0] > 1.5 * red[0] and blue[1] < 1.2 * red[1]


def test_streets_of_a_seed_are_the_same_and_of_others_are_not():
    make = lambda seed: scenes.streets(2, (8, 16), seed, dusk=True)
    np.testing.assert_array_equal(make(0).images, make(0).images)
    assert not np.array_equal(make(0).labels, make(1).labels)
