"""Adaptation reads no truth, and scores are those of loops over pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.data.images.masks import Masked
from experiments.dense import training
from experiments.dense.rows import Row
from jaxtrain import trees
from jaxtrain.core import Core, StepOutput
from jaxtrain.nets import Classified
from jaxtrain.nets.norm import BATCH
from jaxtta.images import tent
from tests.jaxtta.images import tiny


def pictures(number, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (number, 2, 4, 3)).astype(np.uint8)
    return Masked(images, rng.integers(-1, 3, (number, 2, 4)).astype(np.int32), "made up")


def test_the_truth_of_the_target_is_only_counted():
    core = tent(tiny.network(pixels=True), optax.sgd(0.1))
    model = lambda state: trees.merge(state.params, state.frozen)
    run = training.adapting(Row(core, model, 3), 2)
    params, stats = tiny.as_jax(tiny.variables(dtype=np.float32))
    source, target = pictures(5), pictures(4, 1)
    other = target._replace(labels=(target.labels + 2) % 3)
    one, two = (run(params, stats, source, x, jax.random.key(0)) for x in (target, other))
    jax.tree.map(np.testing.assert_array_equal, one[:2], two[:2])
    assert one.right.shape == (3,) and not np.array_equal(one.right, two.right)
    moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), one.params, params)
    assert max(jax.tree.leaves(moved)) > 1e-4


def test_a_look_ahead_sees_the_batches_that_come():
    """A core that learns nothing and keeps what each of five updates is shown."""
    steps, ahead = 5, 2

    def update(state, batch, key):
        now, coming = batch["now"]["inputs"], batch["ahead"]["inputs"]
        seen = jnp.concatenate([now[:, None], coming], 1)
        kept = {"seen": state["seen"].at[state["step"]].set(seen), "step": state["step"] + 1}
        return kept, StepOutput({}, Classified(now, now))

    shape = steps, 2, ahead + 1, 2, 4, 3
    core = Core(lambda *given: {"seen": jnp.zeros(shape), "step": 0}, update)
    run = training.adapting(Row(core, lambda state: state["seen"], steps, ahead=ahead), 2)
    seen = run({}, {}, pictures(5), pictures(20, 1), jax.random.key(0)).params
    for j in range(1, ahead + 1):
        np.testing.assert_array_equal(seen[: steps - j, :, j], seen[j:, :, 0])
    assert not np.array_equal(seen[0, :, 0], seen[1, :, 0])


def by_brightness(params, model_state, x, *, norm, mask):
    """Class 0, 1 or 2 by the first channel, if the batch is whole as the norm says."""
    assert norm == BATCH and mask is not None
    first = x[..., :1] * 3
    middles = jnp.arange(3.0).reshape(1, 1, 1, 3) + 0.5
    return Classified(-jnp.abs(first - middles)), model_state


@pytest.mark.parametrize("batch_size", [2, 5, 8])
def test_scores_are_those_of_a_loop(batch_size):
    given = pictures(5)
    options = dict(norm=BATCH, num_classes=3, batch_size=batch_size, num_shown=2)
    found = training.scored(by_brightness, {}, {}, given, **options)
    guessed = np.minimum(given.images[..., 0] // 85, 2).astype(int)
    confusion = np.zeros((3, 3), int)
    for i, j in zip(given.labels.ravel(), guessed.ravel(), strict=True):
        if i >= 0:
            confusion[i, j] += 1
    np.testing.assert_array_equal(found.confusion, confusion)
    right = [((a == b) & (a >= 0)).sum() for a, b in zip(given.labels, guessed, strict=True)]
    np.testing.assert_array_equal(found.right, right)
    np.testing.assert_array_equal(found.known, (given.labels >= 0).sum((1, 2)))
    np.testing.assert_array_equal(found.shown, guessed[:2])


def test_mean_iou_is_over_the_classes_that_occur():
    confusion = np.array([[3, 1, 0], [1, 1, 2], [0, 0, 0]])
    assert training.mean_iou(confusion) == pytest.approx((3 / 5 + 1 / 5) / 2)
