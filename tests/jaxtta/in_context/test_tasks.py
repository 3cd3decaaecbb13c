"""Tasks and sequences: determinism, scale, ranges, biases, and examples without repeats."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtta import in_context as icl
from jaxtta.in_context import tasks
from jaxtta.in_context.tasks import FIRST_UNSEEN, MAX_TASKS, Projection

N, C = 6, 4
SQUARE = Projection(N, N)
BASE = jax.random.key(3)


def base_data(n=40, inputs=N, seed=0):
    """Rows that can be told apart, with label = row mod C."""
    rng = np.random.default_rng(seed)
    return icl.Data(
        jnp.asarray(rng.normal(size=(n, inputs)), jnp.float32), jnp.arange(n, dtype=jnp.int32) % C
    )


def make(data=None, **changes):
    options = dict(length=5, batch_size=8, num_tasks=4)
    projection = changes.pop("projection", SQUARE)
    data = base_data() if data is None else data
    return icl.sampler(data, BASE, projection, C, **(options | changes))


@functools.cache
def one_task(bias=0.0):
    return jax.jit(lambda k: icl.sample_task(BASE, k, SQUARE, C, bias=bias))


def batch_task(index, projection=SQUARE, **kwargs):
    return icl.sample_task(BASE, jnp.uint32(index), projection, C, **kwargs)


# --- One task -------------------------------------------------------------------------------------


def test_a_task_is_a_function_of_base_key_and_index():
    first, again = one_task()(7), batch_task(7)
    np.testing.assert_allclose(first.projection, again.projection, rtol=1e-6)
    np.testing.assert_array_equal(first.permutation, again.permutation)
    many = jax.vmap(one_task())(jnp.arange(12, dtype=jnp.uint32))
    np.testing.assert_allclose(many.projection[7], first.projection, rtol=1e-6)
    np.testing.assert_array_equal(many.permutation[7], first.permutation)
    flat = np.asarray(many.projection).reshape(12, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(12)).max() < 0.6, "two tasks share their projection"
    other = icl.sample_task(jax.random.key(4), jnp.uint32(7), SQUARE, C)
    assert jnp.abs(other.projection - first.projection).max() > 0.1


def test_projection_keeps_the_variance():
    wide = Projection(49, 49)
    x = jax.random.normal(jax.random.key(0), (1, 49)) * 1.7
    keys = jax.random.split(jax.random.key(1), 200)
    mapped = jax.vmap(lambda key: tasks.project(key, x, wide))(keys)
    assert abs(float((mapped**2).mean() / (x**2).mean()) - 1) < 0.05
    entries = jax.vmap(lambda k: icl.sample_task(BASE, k, wide, C).projection)(
        jnp.arange(20, dtype=jnp.uint32)
    )
    np.testing.assert_allclose(entries.std(), 1 / np.sqrt(49), rtol=0.02)
    np.testing.assert_allclose(entries.mean(), 0, atol=0.003)
    narrow = icl.sample_task(BASE, jnp.uint32(0), Projection(900, 9), C).projection
    np.testing.assert_allclose(narrow.std(), 1 / np.sqrt(900), rtol=0.05)  # of the inputs


def test_label_permutations_are_uniform():
    many = jax.vmap(one_task())(jnp.arange(2400, dtype=jnp.uint32)).permutation
    np.testing.assert_array_equal(np.sort(many, axis=1), np.tile(np.arange(C), (2400, 1)))
    counts = np.unique(np.asarray(many), axis=0, return_counts=True)[1]
    assert len(counts) == 24 and counts.min() > 60 and counts.max() < 150


@pytest.mark.parametrize("blocks, outputs", [(1, N), (3, N), (2, 4)])
def test_projecting_equals_multiplying_by_the_stored_matrix(blocks, outputs):
    projection = Projection(N, outputs, blocks)
    task = batch_task(5, projection)
    x = base_data(7).inputs
    key = jax.random.split(tasks.task_key(BASE, 5), 3)[0]
    mapped = tasks.project(key, x, projection)
    expected = [[sum(a * b for a, b in zip(row, v, strict=True)) for row in task.projection]
                for v in np.asarray(x)]  # fmt: skip
    assert mapped.shape == (7, outputs)
    np.testing.assert_allclose(mapped, expected, atol=1e-5)
    soft = tasks.project(key, x, projection._replace(softmax=True))
    np.testing.assert_allclose(soft.sum(-1), outputs, rtol=1e-5)
    np.testing.assert_allclose(
        jnp.log(soft[0, 0] / soft[0, 1]), mapped[0, 0] - mapped[0, 1], atol=1e-4
    )


# --- Ranges ---------------------------------------------------------------------------------------


def test_seen_and_unseen_indices_never_meet():
    assert MAX_TASKS - 1 < FIRST_UNSEEN < 2**32
    # The largest training index and the first unseen ones are different tasks.
    edge = [batch_task(k).projection for k in (MAX_TASKS - 1, FIRST_UNSEEN, FIRST_UNSEEN + 1)]
    assert min(jnp.abs(a - b).max() for a in edge for b in edge if a is not b) > 0.1
    # The official code's -1 .. -32 lie in the upper half, too.
    negative = jnp.arange(-1, -33, -1, dtype=jnp.int32).astype(jnp.uint32)
    assert (negative >= jnp.uint32(FIRST_UNSEEN)).all()


def drawn_indices(sample, key, num_tasks, first=0, batch=8):
    """Which task each sequence of a batch belongs to, by comparing with all candidates."""
    data = base_data()
    x, _ = jax.jit(sample)(key, jnp.arange(batch))
    maps = [np.asarray(one_task()(jnp.uint32(first + k)).projection) for k in range(num_tasks)]
    found = []
    for i in range(batch):
        gaps = []
        for matrix in maps:
            mapped = np.asarray(data.inputs) @ matrix.T
            distance = np.abs(np.asarray(x[i])[:, None] - mapped[None]).max(-1).min(1).max()
            gaps.append(float(distance))
        assert min(gaps) < 1e-4, "the sequence belongs to no task of the range"
        found.append(int(np.argmin(gaps)))
    return found


def test_seen_sequences_use_seen_tasks_and_unseen_ones_unseen_tasks():
    key = jax.random.key(0)
    seen = drawn_indices(make(batch_size=8), key, 4)
    assert len(set(seen)) > 1
    drawn_indices(make(first_task=FIRST_UNSEEN), key, 4, first=FIRST_UNSEEN)
    with pytest.raises(AssertionError, match="no task of the range"):
        drawn_indices(make(first_task=FIRST_UNSEEN), key, 4)


def test_number_of_tasks_may_be_traced():
    def draw(num_tasks):
        return make(num_tasks=num_tasks)(jax.random.key(0), jnp.arange(8))

    many = jax.jit(jax.vmap(draw))(jnp.array([1, 4]))
    few, one = jax.jit(lambda: draw(4))(), jax.jit(lambda: draw(1))()
    np.testing.assert_allclose(many.x[1], few.x, atol=1e-5)
    np.testing.assert_array_equal(many.y[0], one.y)


# --- Examples -------------------------------------------------------------------------------------


def test_examples_of_a_sequence_are_different_ones():
    data = base_data(23)
    sample = jax.jit(make(data, raw=True, length=6, batch_size=16))
    x, y = sample(jax.random.key(0), jnp.arange(16))
    rows = [[int(jnp.abs(data.inputs - v[None]).max(1).argmin()) for v in row] for row in x]
    assert all(len(set(row)) == 6 for row in rows)
    # Three sequences (23 // 6) share one pass over the data; all items come from one order.
    for start in range(0, 15, 3):
        together = sum(rows[start : start + 3], [])
        assert len(set(together)) == 18
    assert rows[0] != rows[3]
    truth = np.asarray(data.labels)[np.array(rows)]
    for i in range(16):  # labels are those of the images, renamed by a permutation
        names = {(int(a), int(b)) for a, b in zip(truth[i], y[i], strict=True)}
        assert len(names) == len({a for a, _ in names}) == len({b for _, b in names})


def test_drawing_with_replacement_repeats():
    data = base_data(3)
    sample = jax.jit(make(data, raw=True, replace=True, length=12))
    x, _ = sample(jax.random.key(0), jnp.arange(8))
    assert all(len(np.unique(np.asarray(row)[:, 0])) <= 3 for row in x)


def test_sequences_do_not_depend_on_the_batch_they_are_drawn_with():
    sample, key = jax.jit(make(batch_size=8)), jax.random.key(0)
    whole = sample(key, jnp.arange(8))
    part = sample(key, jnp.array([5, 2]))
    np.testing.assert_allclose(part.x, whole.x[jnp.array([5, 2])], atol=1e-6)
    np.testing.assert_array_equal(part.y, whole.y[jnp.array([5, 2])])


def test_sequences_per_task_splits_the_batch():
    sample = make(batch_size=8, sequences_per_task=4, num_tasks=16)
    found = drawn_indices(sample, jax.random.key(2), 16)
    assert len(set(found[:4])) == len(set(found[4:])) == 1
    assert len({*found}) == 2


# --- Biases ---------------------------------------------------------------------------------------


def permutations_of(sample, step=0, num=64):
    """Whether each sequence kept its labels: raw label = row mod C is known from the image."""
    data = base_data()
    x, y = jax.jit(sample)(jax.random.key(5), jnp.arange(num), step)
    rows = jnp.abs(x[:, :, None] - data.inputs[None, None]).max(-1).argmin(-1)
    return np.asarray((data.labels[rows] == y).all(1))


def test_full_bias_keeps_labels_but_not_projections():
    many = jax.vmap(one_task(1.0))(jnp.arange(9, dtype=jnp.uint32))
    np.testing.assert_array_equal(many.permutation, np.tile(np.arange(C), (9, 1)))
    assert jnp.abs(many.projection[0] - many.projection[1]).max() > 0.1
    assert permutations_of(make(raw=True, bias=1.0, batch_size=64)).all()


@pytest.mark.parametrize("draw", ["task", "sequence"])
def test_bias_is_the_share_of_unpermuted_sequences(draw):
    sample = make(raw=True, bias=0.7, bias_draw=draw, batch_size=64, num_tasks=2**20)
    kept = permutations_of(sample).mean()
    # A random permutation of 4 labels is the identity once in 24 draws.
    assert abs(kept - (0.7 + 0.3 / 24)) < 0.17


def test_bias_is_drawn_per_task_or_per_sequence():
    """With two tasks only: per task, all sequences of a task agree; per sequence, they do not."""
    for draw, both in (("task", False), ("sequence", True)):
        sample = make(raw=True, bias=0.5, bias_draw=draw, batch_size=64, num_tasks=1)
        kept = permutations_of(sample)
        assert (0 < kept.mean() < 1) == both


def test_schedule_of_the_bias():
    values = [float(icl.bias_at(step, 0.9, 100)) for step in (0, 50, 100, 1000)]
    np.testing.assert_allclose(values, [1.0, 0.95, 0.9, 0.9], rtol=1e-6)
    assert float(icl.bias_at(0, 0.9, 0)) == pytest.approx(0.9)
    # Traced, inside the generator: labels are untouched at step 0, permuted later.
    sample = make(raw=True, bias=0.0, bias_steps=10, batch_size=64, num_tasks=2**20)
    assert permutations_of(sample, step=0).all()
    assert permutations_of(sample, step=10).mean() < 0.3


def test_single_task_biases_map_and_permutation():
    found = drawn_indices(make(single_task=1.0, num_tasks=4), jax.random.key(0), 4)
    assert set(found) == {0}


# --- Errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(length=41), "41 different examples cannot be drawn from 40"),
        (dict(projection=Projection(7, 7)), "takes 7 inputs but the data have 6"),
        (dict(projection=Projection(N, 4), raw=True), "num_outputs = num_inputs"),
        (dict(projection=Projection(N, N, 4)), "do not divide into 4 blocks"),
        (dict(projection=Projection(N, 0)), "impossible sizes"),
        (dict(sequences_per_task=3), "not a multiple of sequences_per_task"),
        (dict(bias_draw="step"), "choose task or sequence"),
    ],
)
def test_impossible_generators_are_named(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**changes)
