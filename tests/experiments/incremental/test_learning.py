"""Tasks of classes, and one more task learned by the rows that begin alike."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.images.labelled import Images
from experiments.incremental.learning import begin, in_tasks, learning
from jaxtrain.host.config import load
from jaxtrain.nets import ViT

RNG = np.random.default_rng(0)


def images(number, classes=4):
    labels = np.concatenate([np.arange(classes), RNG.integers(0, classes, number - classes)])
    pixels = RNG.integers(0, 256, (number, 4, 4, 3)).astype(np.uint8)
    pixels[:, 0, 0, 0] = 60 * labels
    return Images(pixels, labels, "made up")


def test_tasks_are_classes_in_an_order_of_the_seed():
    train, test = images(60), images(20)
    orders = set()
    for seed in range(4):
        tasks = in_tasks(train, test, 2, seed)
        number = np.bincount(train.labels).min()
        assert tasks.images.shape == (2, 2 * number, 4, 4, 3)
        for task in range(2):
            counts = np.bincount(tasks.labels[task], minlength=4)
            assert counts[2 * task : 2 * task + 2].tolist() == [number, number]
        # The first pixel knows the class that an image had before.
        old = tasks.images[..., 0, 0, 0].ravel() // 60
        place = dict(zip(old.tolist(), tasks.labels.ravel().tolist(), strict=True))
        assert [place[c] for c in test.labels] == tasks.test_labels.tolist()
        orders.add(tuple(place[c] for c in range(4)))
    assert len(orders) > 1


@functools.cache
def after(task, rows=("head_only", "ovor")):
    changes = "data.num_tasks=2,num_epochs=2,model.patch=2,model.depth=2"
    config, _ = load(f"configs/continual.py:debug,{changes}")
    tasks = in_tasks(images(40), images(10), 2, 0)
    module = ViT(num_classes=2, patch=2, width=8, depth=2, num_heads=2)
    weights = module.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))["params"]
    stage = begin(config, rows, 4, 10)(jax.random.key(1))
    run = learning(config, module, rows, 2, tasks.images.shape[1])
    stages = [stage]
    for i in range(task + 1):
        given = tasks.images[i], tasks.labels[i], tasks.test
        stages.append(run(weights, stages[-1], jnp.int32(i), *given, jax.random.key(i)))
    return stages


@pytest.mark.ci
def test_rows_have_the_parts_of_the_head_of_all_their_tasks():
    start, first, second = after(1)
    assert (first.params.prompts[0][0] != start.params.prompts[0][0]).any()
    for row in ("head_only", "ovor"):
        old, new = (np.asarray(stage.heads[row].kernel) for stage in (first, second))
        np.testing.assert_array_equal(old[:, :2], new[:, :2])
        np.testing.assert_array_equal(old[:, 2:], start.params.head.kernel[:, 2:])
        assert (new[:, 2:] != old[:, 2:]).any()
        assert (first.predicted[row] < 2).all()
        assert set(second.predicted[row].tolist()) <= set(range(4))
    assert (second.heads["ovor"].kernel != second.heads["head_only"].kernel).any()
