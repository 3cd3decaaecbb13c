"""Streams: every image where it should be, in the order the setting says."""

import numpy as np
import pytest

from jaxtta import streams

LABELS = np.arange(100) % 10


def rows(stream):
    return stream.domain[stream.mask], stream.image[stream.mask]


def test_continual_visits_every_image_of_every_domain_once():
    stream = streams.continual([4, 2], 10, 4, seed=0)
    assert stream.domain.shape == (6, 4) and not stream.reset.any()
    domain, index = rows(stream)
    np.testing.assert_array_equal(domain, [4] * 10 + [2] * 10)
    np.testing.assert_array_equal(np.sort(index[:10]), np.arange(10))
    assert not np.array_equal(index[:10], index[10:])
    np.testing.assert_array_equal(stream.mask.sum(1), [4, 4, 2, 4, 4, 2])
    again = streams.continual([4, 2], 10, 4, seed=0)
    assert all(map(np.array_equal, stream, again))
    assert not np.array_equal(streams.continual([4, 2], 10, 4, seed=1).image, stream.image)


def test_reset_and_rounds():
    stream = streams.reset_each_shift([0, 1, 2], 8, 4, seed=0)
    np.testing.assert_array_equal(stream.reset, [1, 0, 1, 0, 1, 0])
    twice = streams.rounds(streams.continual([0, 1], 4, 4, 0), 2)
    np.testing.assert_array_equal(twice.domain[:, 0], [0, 1, 0, 1])
    with pytest.raises(ValueError, match="0 times"):
        streams.rounds(twice, 0)


@pytest.mark.parametrize("falls", [False, True])
def test_gradual_rises_and_falls(falls):
    stream = streams.gradual([2, 0], 4, 4, 0, first_falls=falls)
    first = [5, 4, 3, 2, 1] if falls else [1, 2, 3, 4, 5, 4, 3, 2, 1]
    expected = [10 + s - 1 for s in first] + [s - 1 for s in [1, 2, 3, 4, 5, 4, 3, 2, 1]]
    np.testing.assert_array_equal(stream.domain[:, 0], expected)


def test_mixed_domains_mix():
    stream = streams.mixed_domains([3, 5], 50, 10, 0)
    domain, index = rows(stream)
    assert sorted(zip(domain, index, strict=True)) == [(d, i) for d in (3, 5) for i in range(50)]
    assert (np.diff(stream.domain, axis=1) != 0).any(1).mean() > 0.8


def runs(classes):
    """Mean length of stretches of one class."""
    return len(classes) / (1 + (np.diff(classes) != 0).sum())


def test_correlated_streams_are_between_sorted_and_shuffled():
    length = {}
    for delta in (0, 0.01, 0.1, 100.0):
        stream = streams.correlated(LABELS, [1], 10, 0, concentration=delta)
        _, index = rows(stream)
        np.testing.assert_array_equal(np.sort(index), np.arange(100))
        length[delta] = runs(LABELS[index])
    assert length[0] == 10 and length[0] >= length[0.01] > length[100.0]
    assert length[100.0] < 1.5
    shuffled = streams.continual([1], 100, 10, 0)
    assert runs(LABELS[shuffled.image.ravel()]) < 1.5, "the control must not be correlated"


def test_dirichlet_slots_have_a_share_and_a_floor():
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(5), 40))
    order = streams.dirichlet_order(labels, 0.1, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(order), np.arange(200))
    with pytest.raises(ValueError, match="raise it or lower min_slot"):
        streams.dirichlet_order(labels, 0.1, np.random.default_rng(0), min_slot=41)


@pytest.mark.parametrize("ratio, share", [(1, 0.1), (9, 0.5), (500_000, 1.0)])
def test_label_shift_has_the_ratio(ratio, share):
    stream = streams.label_shift(LABELS, [0], 50, 0, ratio=ratio, length=20_000)
    _, index = rows(stream)
    slots = np.stack([np.bincount(s, minlength=10) for s in np.split(LABELS[index], 10)])
    assert abs(slots.max(1).mean() / 2000 - share) < 0.03
    assert len(set(slots.argmax(1))) == 10 or ratio == 1
    with pytest.raises(ValueError, match="ratio is 0.5"):
        streams.label_shift(LABELS, [0], 50, 0, ratio=0.5)


def test_long_tails_and_their_reverse():
    counts = {}
    for backward in (False, True):
        stream = streams.long_tailed(LABELS, [3, 1], 4, 0, factor=5.0, backward=backward)
        _, index = rows(stream)
        counts[backward] = np.bincount(LABELS[index], minlength=10)
        assert list(dict.fromkeys(stream.domain.ravel())) == [3, 1]
        first = stream.image[stream.mask & (stream.domain == 3)]
        assert len(set(first)) == len(first)
    np.testing.assert_array_equal(counts[True], counts[False][::-1])
    assert counts[False][0] == 5 * counts[False][-1] and (np.diff(counts[False]) <= 0).all()
    assert len(streams.long_tailed_subset(LABELS, 1.0)) == len(LABELS)
    with pytest.raises(ValueError, match="imbalance factor is 0.5"):
        streams.long_tailed_subset(LABELS, 0.5)


def test_open_set_batches_are_half_unknown():
    stream = streams.open_set(20, 12, [0, 1], 8, 0)
    assert stream.image.shape == (6, 8)
    np.testing.assert_array_equal((stream.image >= 20).sum(1), 4)
    assert len(set(stream.image[:3].ravel())) == 24
    with pytest.raises(ValueError, match="even size"):
        streams.open_set(20, 12, [0], 7, 0)


def test_orders_are_permutations_and_empty_streams_are_refused():
    assert all(sorted(order) == list(range(15)) for order in streams.ORDERS)
    with pytest.raises(ValueError, match="is empty"):
        streams.continual([0], 0, 4, 0)
