"""Overlap, suppression, matching and average precision: by loops, by hand, and beside COCO's."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtta.dense import boxes


def random_boxes(number, n, seed=0):
    rng = np.random.default_rng(seed)
    low = rng.random((number, n))
    return np.concatenate([low, low + 0.1 + 0.5 * rng.random((number, n))], 1).astype(np.float32)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_overlap_is_that_of_the_loop(n):
    a, b = random_boxes(5, n), random_boxes(4, n, seed=1)
    expected = np.zeros((5, 4))
    for (i, x), (j, y) in itertools.product(enumerate(a), enumerate(b)):
        sides = [min(x[n + d], y[n + d]) - max(x[d], y[d]) for d in range(n)]
        common = np.prod(np.maximum(sides, 0))
        union = np.prod(x[n:] - x[:n]) + np.prod(y[n:] - y[:n]) - common
        expected[i, j] = common / union
    np.testing.assert_allclose(boxes.iou(a, b), expected, rtol=1e-5)
    assert boxes.iou(jnp.zeros((1, 2 * n)), jnp.zeros((1, 2 * n))) == 0


def test_suppression_keeps_the_best_of_what_overlaps():
    rng = np.random.default_rng(0)
    x, scores = random_boxes(12, 2), rng.random(12).astype(np.float32)
    scores[3] = -np.inf
    overlap, kept = np.asarray(boxes.iou(x, x)), []
    for i in np.argsort(-scores):
        if np.isfinite(scores[i]) and all(overlap[i, j] <= 0.3 for j in kept):
            kept.append(i)
    found = jax.jit(boxes.suppress)(x, scores, 0.3)
    assert {*np.flatnonzero(found).tolist()} == {*map(int, kept)} and 1 < len(kept) < 11


def test_what_is_suppressed_suppresses_nothing():
    chain = np.array([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]])  # neighbours overlap by a half
    assert boxes.suppress(chain, np.array([0.9, 0.8, 0.7]), 0.4).tolist() == [True, False, True]


def test_a_true_box_is_found_once_and_by_the_better_detection():
    overlap = np.array([[0.6, 0.7], [0.8, 0.6], [0.9, 0.55], [0.4, 0.0], [0.9, 0.9]])
    scores = np.array([0.9, 0.8, 0.7, 0.6, -np.inf])
    # The first takes box 1, the second box 0; nothing is left for the third.
    assert boxes.match(overlap, scores, 0.5).tolist() == [True, True, False, False, False]
    assert boxes.match(overlap, scores, 0.65).tolist() == [True, True, False, False, False]
    assert boxes.match(overlap, scores, 0.85).tolist() == [False, False, True, False, False]
    rising = jnp.array([0.1, 0.2, 0.3, 0.4, -jnp.inf])
    assert boxes.match(overlap, rising, 0.5).tolist() == [False, True, True, False, False]


def test_average_precision_by_hand():
    """Hit, miss, hit of three true boxes: precision 1 up to a third, 2/3 up to two thirds."""
    scores = jnp.array([0.2, 0.9, 0.5, -jnp.inf])
    hit = jnp.array([True, True, False, True])
    area = boxes.average_precision(scores, hit, 3)
    np.testing.assert_allclose(area, (1 + 2 / 3) / 3, rtol=1e-6)
    late = boxes.average_precision(jnp.array([0.9, 0.8, 0.7]), jnp.array([False, True, True]), 3)
    np.testing.assert_allclose(late, 2 * (2 / 3) / 3, rtol=1e-6)  # the best at any higher recall
    # At 0, 0.01 .. 0.33 precision is 1, at 0.34 .. 0.66 it is 2 / 3.
    coco = boxes.average_precision(scores, hit, 3, points=101)
    np.testing.assert_allclose(coco, (34 + 33 * 2 / 3) / 101, rtol=1e-6)
    assert boxes.average_precision(scores, hit, 2, points=101) > 0.8
    assert boxes.average_precision(scores, jnp.zeros(4, bool), 0) == 0


@pytest.mark.optional_dep
def test_average_precision_is_that_of_coco():
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    rng = np.random.default_rng(0)
    truths, found, annotations, results = [], [], [], []
    for image in range(6):
        true = random_boxes(4, 2, seed=image)
        near = true + 0.08 * rng.normal(size=true.shape).astype(np.float32)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 0.01)
        mine = np.concatenate([near, random_boxes(3, 2, seed=100 + image)])
        scores = rng.random(len(mine)).astype(np.float32)
        truths.append(true)
        found.append((mine, scores))
        corner = lambda b: [float(v) for v in (b[0], b[1], b[2] - b[0], b[3] - b[1])]
        for b in true:
            about = dict(id=len(annotations) + 1, image_id=image, category_id=1, iscrowd=0)
            area = float((b[2] - b[0]) * (b[3] - b[1]))
            annotations.append(about | dict(bbox=corner(b), area=area))
        for b, score in zip(mine, scores, strict=True):
            about = dict(image_id=image, category_id=1, score=float(score))
            results.append(about | dict(bbox=corner(b)))
    truth = coco.COCO()
    images = [dict(id=i) for i in range(6)]
    truth.dataset = dict(images=images, annotations=annotations, categories=[dict(id=1)], info={})
    truth.createIndex()
    judge = cocoeval.COCOeval(truth, truth.loadRes(results), "bbox")
    judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
    judge.evaluate()
    judge.accumulate()
    precision = judge.eval["precision"][:, :, 0, 0, -1]
    for level, threshold in enumerate(judge.params.iouThrs):
        hits = [
            boxes.match(boxes.iou(mine, true), scores, threshold)
            for (mine, scores), true in zip(found, truths, strict=True)
        ]
        scores = np.concatenate([scores for _, scores in found])
        mine = boxes.average_precision(scores, jnp.concatenate(hits), 24, points=101)
        np.testing.assert_allclose(mine, precision[level].mean(), atol=1e-3)


def test_boxes_of_other_shapes_are_named():
    with pytest.raises(ValueError, match="lower corner first"):
        boxes.iou(jnp.zeros((2, 4)), jnp.zeros((2, 2)))
    with pytest.raises(ValueError, match="lower corner first"):
        boxes.iou(jnp.zeros((2, 3)), jnp.zeros((2, 3)))
