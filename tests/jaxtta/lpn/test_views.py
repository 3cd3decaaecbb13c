"""Views of a task against NumPy, and the vote against counting."""

import itertools
from functools import partial
from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtta.lpn import Grid, Pairs, in_views
from jaxtta.lpn.solve import Solution
from jaxtta.lpn.views import View, draw_views, opposite, seen, vote

LENGTH = 36


def streams(arrays):
    cells = np.zeros((len(arrays), LENGTH), np.uint8)
    for row, array in zip(cells, arrays, strict=True):
        row[: array.size] = array.ravel()
    return Grid(jnp.asarray(cells), jnp.asarray([a.shape for a in arrays], jnp.int32))


def arrays_of(grids):
    cells, shapes = np.asarray(grids.cells), np.asarray(grids.shape)
    places = np.ndindex(shapes.shape[:-1])
    return [cells[i][: shapes[i].prod()].reshape(shapes[i]) for i in places]


def random_arrays(seed, number=64):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 10, rng.integers(1, 7, 2), dtype=np.uint8) for _ in range(number)]


draw = jax.jit(draw_views, static_argnums=1, static_argnames=("rotate", "transpose", "colors"))


@pytest.mark.parametrize("seed", range(3))
def test_the_opposite_undoes_every_view_exactly(seed):
    """Every symmetry of the square with a permutation each, on grids of all shapes."""
    arrays = random_arrays(seed)
    grids, views = streams(arrays), draw(jax.random.key(seed), 16)
    changed = jax.jit(jax.vmap(seen, (0, None)))(views, grids)
    back = jax.jit(jax.vmap(seen))(opposite(views), changed)
    for v in range(16):
        np.testing.assert_array_equal(back.cells[v], grids.cells)  # padding, too
        np.testing.assert_array_equal(back.shape[v], grids.shape)
        own = View(int(views.turns[v]), bool(views.mirror[v]), np.asarray(views.table[v]))
        shown = jax.tree.map(itemgetter(v), changed)
        for array, found in zip(arrays, arrays_of(shown), strict=True):
            moved = np.rot90(np.fliplr(array) if own.mirror else array, -own.turns)
            np.testing.assert_array_equal(found, own.table[moved])
            undone = np.argsort(own.table)[found]
            undone = np.rot90(undone, own.turns)
            np.testing.assert_array_equal(np.fliplr(undone) if own.mirror else undone, array)
    assert any((changed.cells[v] != grids.cells).any() for v in range(1, 16))


def ways(**kinds):
    """(turns, mirror) of the views of some keys `[keys][V]`, and all tables."""
    number = kinds.pop("number")
    views = [draw(jax.random.key(i), number, **kinds) for i in range(6)]
    every = [
        list(zip(v.turns.tolist(), v.mirror.tolist(), strict=True)) for v in jax.device_get(views)
    ]
    return every, np.stack([v.table for v in views])


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ({}, set(itertools.product(range(4), (False, True)))),
        ({"transpose": False}, {(t, False) for t in range(4)}),
        ({"rotate": False}, {(0, False), (3, True)}),
        ({"rotate": False, "transpose": False}, {(0, False)}),
    ],
)
def test_every_way_comes_once_before_any_comes_again(kinds, expected):
    size = len(expected)
    every, tables = ways(number=2 * size, **kinds)
    for one in every:
        assert one[0] == (0, False) and set(one[:size]) == expected == set(one[size:])
    assert size < 4 or len({tuple(one) for one in every}) > 1
    np.testing.assert_array_equal(tables[:, 0], np.tile(np.arange(10), (6, 1)))
    np.testing.assert_array_equal(np.sort(tables, -1), np.broadcast_to(np.arange(10), tables.shape))
    assert (tables[..., 0] == 0).all() and len(np.unique(tables[:, 1], axis=0)) == 6


def test_without_colours_there_are_as_many_views_as_ways():
    every, tables = ways(number=8, colors=False)
    assert len(set(every[0])) == 8 and (tables == np.arange(10)).all()
    for number, kinds in ((9, {}), (3, {"rotate": False}), (0, {"colors": True})):
        with pytest.raises(ValueError, match=f"{number} views are asked for; .* there are 1 to"):
            draw_views(jax.random.key(0), number, **{"colors": False, **kinds})


def counted(arrays, votes, scores):
    """The vote by a loop over different grids."""
    found = {}
    for i, (array, number, score) in enumerate(zip(arrays, votes, scores, strict=True)):
        key = (array.shape, array.tobytes())
        count, best, place = found.get(key, (0, -np.inf, i))
        found[key] = (count + number, *((score, i) if score > best else (best, place)))
    ranked = sorted(found.values(), key=lambda row: (-row[0], -row[1], row[2]))
    return [ranked[0][2], ranked[min(1, len(ranked) - 1)][2]]


A, B, C = np.array([[1, 2]], np.uint8), np.array([[1], [2]], np.uint8), np.array([[3]], np.uint8)


@pytest.mark.parametrize(
    ("grids", "votes", "scores", "expected"),
    [
        ([A, B, A], [1, 1, 1], [0, 9, 0], "AB"),  # two votes against the better score
        ([A, B, C], [1, 1, 1], [1, 3, 2], "BC"),  # likelihood decides
        ([A, B, C], [1, 1, 1], [2, 2, 2], "AB"),  # and then the order
        ([B, A, A, C], [0, 1, 1, 0], [5, 1, 0, 6], "AC"),  # no vote, but a second attempt
        ([A, B, A, B], [1, 1, 0, 0], [1, 2, 3, 0], "AB"),  # the best score of equal grids
        ([A, A], [1, 0], [1, 2], "AA"),  # none differs
        ([B, A, B], [1, 1, 0], [-np.inf, -np.inf, -np.inf], "BA"),
    ],
)
def test_votes_by_hand(grids, votes, scores, expected):
    pick = vote(streams(grids), jnp.array(votes), jnp.array(scores, jnp.float32))
    named = {"A": A, "B": B, "C": C}
    for place, name in zip(pick.tolist(), expected, strict=True):
        assert grids[place] is named[name]


def test_a_vote_equals_the_count():
    rng = np.random.default_rng(0)
    kinds = [A, B, C, A[::, ::-1].copy(), np.array([[1, 2], [0, 0]], np.uint8)]
    of = rng.integers(0, len(kinds), (200, 7))
    arrays = [[kinds[i] for i in row] for row in of]
    votes, scores = rng.integers(0, 2, of.shape), rng.integers(0, 3, of.shape).astype(np.float32)
    grids = jax.tree.map(lambda *x: jnp.stack(x), *map(streams, arrays))
    found = np.asarray(jax.jit(vote)(grids, votes, scores))
    for row, pick in enumerate(found):
        expected = counted(arrays[row], votes[row], scores[row])
        assert of[row][pick].tolist() == of[row][expected].tolist()
        assert scores[row][pick].tolist() == scores[row][expected].tolist()


# --- Solving --------------------------------------------------------------------------------------


def copies(params, keys, demos, inputs, *, score):
    """A solver whose first attempt is the input and whose second is the first demonstration's
    output; a row's score is `score(row)`."""
    first, second = inputs, jax.tree.map(lambda x: x[:, :1], demos.outputs)
    attempts = jax.tree.map(
        lambda a, b: jnp.stack([a, jnp.broadcast_to(b, a.shape)], 2), first, second
    )
    scores = score(jnp.arange(len(keys)))[:, None] - jnp.array([[0.0, 0.5]])
    rows = jnp.arange(len(keys), dtype=jnp.int32)
    noise = jax.vmap(jax.random.uniform)(keys)
    nothing, no_trail = jnp.zeros(len(keys)), jnp.zeros((len(keys), 1, 0))  # as in context
    return Solution(
        attempts, noise[:, None, None], scores, rows, rows > 2, scores, no_trail, scores, nothing,
        jnp.broadcast_to(scores[:, None], attempts.shape.shape[:-1]),
    )  # fmt: skip


def tasks(number=3):
    pairs = [streams(random_arrays(i, 2)) for i in range(2 * number)]
    stack = lambda some: jax.tree.map(lambda *x: jnp.stack(x), *some)
    demos = Pairs(stack(pairs[:number]), stack(pairs[number:]), jnp.array([[1, 0]] * number, bool))
    return jax.random.split(jax.random.key(3), number), demos, demos.inputs


def test_one_view_changes_no_bit():
    solve = partial(copies, score=lambda row: -1.0 * row)
    found, expected = jax.jit(in_views(solve, 1))(None, *tasks()), solve(None, *tasks())
    for new, old in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(new, old)


def test_views_are_seen_together_and_agree_when_a_solver_sees_through_them():
    """Copying is the same program in every view, so what is changed back is what was asked."""
    asked = []

    def solve(params, keys, demos, inputs):
        asked.append((keys, demos, inputs))
        return copies(params, keys, demos, inputs, score=lambda row: jnp.float32(row % 5))

    def solver(*given):
        return in_views(solve, 5)(None, *given), asked.pop()

    keys, demos, inputs = tasks()
    found, (own, seen_demos, seen_inputs) = jax.jit(solver)(keys, demos, inputs)
    assert not asked
    assert own.shape == (15,) and len(np.unique(jax.random.key_data(own), axis=0)) == 15
    np.testing.assert_array_equal(jax.random.key_data(own[::5]), jax.random.key_data(keys))
    np.testing.assert_array_equal(seen_demos.mask, np.repeat(demos.mask, 5, axis=0))
    np.testing.assert_array_equal(seen_inputs.cells[::5], inputs.cells)
    assert (seen_inputs.cells[1::5] != inputs.cells).any()
    first = jax.tree.map(lambda x: x[:, :, 0], found.attempts)
    second = jax.tree.map(lambda x: x[:, :, 1], found.attempts)
    outputs = jax.tree.map(lambda x: jnp.broadcast_to(x[:, :1], x.shape), demos.outputs)
    for grids, expected in ((first, inputs), (second, outputs)):
        np.testing.assert_array_equal(grids.cells, expected.cells)
        np.testing.assert_array_equal(grids.shape, expected.shape)
    # The view with the best score, the last of five, gives the rest.
    np.testing.assert_array_equal(found.steps_used, [4, 9, 14])
    np.testing.assert_array_equal(found.attempt_scores, np.full((3, 2, 2), [4, 3.5]))


def test_the_grid_of_most_views_wins_against_the_better_score():
    """The three best views answer black, the other five copy; all second attempts are black."""

    def solve(params, keys, demos, inputs):
        found = copies(params, keys, demos, inputs, score=lambda row: -1.0 * (row % 8))
        wrong = (jnp.arange(len(keys)) % 8 < 3)[:, None, None, None]
        cells = jnp.where(wrong, 0, found.attempts.cells).at[:, :, 1].set(0)
        return found._replace(attempts=found.attempts._replace(cells=cells))

    one = Grid(
        jnp.zeros((1, 1, LENGTH), jnp.uint8).at[..., 0].set(7), jnp.ones((1, 1, 2), jnp.int32)
    )
    demos = Pairs(one, one, jnp.ones((1, 1), bool))
    found = jax.jit(in_views(solve, 8))(None, jax.random.split(jax.random.key(0), 1), demos, one)
    assert found.attempts.cells[0, 0, :, 0].tolist() == [7, 0]
    assert found.scores[0, 0] == 0 and found.attempt_scores[0, 0].tolist() == [-3, 0]
