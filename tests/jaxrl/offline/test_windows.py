"""Trajectories and draws against loops over lists."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.offline import windows

LENGTHS = (3, 5, 2)


@pytest.fixture
def flat():
    rng = np.random.default_rng(0)
    number = sum(LENGTHS)
    terminal = np.zeros(number, bool)
    terminal[np.cumsum(LENGTHS) - 1] = True
    return {
        "observations": rng.normal(size=(number, 2)).astype(np.float32),
        "actions": rng.normal(size=(number, 3)).astype(np.float32),
        "terminals": terminal,
    }


def test_the_flat_layout_comes_back(flat):
    data = windows.from_flat(flat | {"qpos": np.zeros(3)})
    np.testing.assert_array_equal(data.last, [2] * 3 + [7] * 5 + [9] * 2)
    back = windows.to_flat(data)
    assert back.keys() == flat.keys()
    for name, x in flat.items():
        np.testing.assert_array_equal(back[name], x)


def test_stacked_trajectories_are_the_flat_ones():
    observation, action = np.arange(12.0).reshape(2, 3, 2), np.arange(6.0).reshape(2, 3, 1)
    data = windows.stacked(observation, action)
    np.testing.assert_array_equal(data.last, [2, 2, 2, 5, 5, 5])
    np.testing.assert_array_equal(data.observation, observation.reshape(6, 2))
    np.testing.assert_array_equal(data.action[:, 0], np.arange(6))


def changed(name, change):
    return lambda flat: flat | {name: change(flat[name])}


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda flat: {k: x for k, x in flat.items() if k != "actions"}, "lack actions"),
        (changed("observations", lambda x: x[:-1]), "a row per step"),
        (changed("observations", lambda x: x[:, 0]), "a row per step"),
        (changed("terminals", lambda x: x[:, None]), "a row per step"),
        (changed("actions", lambda x: x[:, :0]), "a row per step"),
        (changed("actions", lambda x: np.where(x > 1, np.nan, x)), "actions holds values"),
        (changed("observations", lambda x: x.astype(complex)), "observations holds values"),
        (changed("terminals", lambda x: 2.0 * x), "terminals must be 1"),
        (changed("terminals", lambda x: x & (np.arange(10) < 9)), "terminals must be 1"),
        (changed("terminals", lambda x: x | (np.arange(10) == 8)), "2 of the 4 trajectories"),
        (lambda flat: {k: x[:0] for k, x in flat.items()}, "a row per step"),
    ],
)
def test_what_is_no_trajectory_is_refused(flat, spoil, sentence):
    with pytest.raises(ValueError, match=sentence):
        windows.from_flat(spoil(flat))


@pytest.mark.parametrize("length", [1, 2, 4])
def test_windows_begin_where_they_fit(flat, length):
    data = windows.from_flat(flat)
    ends = np.repeat(np.cumsum(LENGTHS), LENGTHS)
    expected = [i for i in range(10) if i + length <= ends[i]]
    np.testing.assert_array_equal(windows.starts(data, length), expected)
    found = windows.window(data.action, jnp.int32(expected[-1]), length)
    np.testing.assert_array_equal(found, flat["actions"][expected[-1] :][:length])


def test_windows_that_fit_nowhere_are_named(flat):
    with pytest.raises(ValueError, match="has 6 rows; the longest has 5"):
        windows.starts(windows.from_flat(flat), 6)


def test_futures_are_geometric_and_stop_at_the_end():
    """Against the chances of 1, 2, 3 steps, and of all that are more."""
    gamma, last = 0.6, jnp.full(10, 4, jnp.int32)
    keys = jax.random.split(jax.random.key(0), 20_000)
    draw = jax.jit(jax.vmap(lambda k, row: windows.future(k, row, last, gamma), (0, None)))
    counts = np.bincount(draw(keys, jnp.int32(0)), minlength=5) / len(keys)
    expected = [0, *((1 - gamma) * gamma ** np.arange(3)), gamma**3]
    np.testing.assert_allclose(counts, expected, atol=0.015)
    assert (draw(keys[:100], jnp.int32(4)) == 4).all()
    for certain, row in ((0.0, 1), (1.0, 4)):
        assert windows.future(keys[0], jnp.int32(0), last, certain) == row


def test_later_rows_are_uniform():
    last = jnp.array([3, 3, 3, 3], jnp.int32)
    keys = jax.random.split(jax.random.key(0), 20_000)
    rows = jax.jit(jax.vmap(lambda k: windows.later(k, jnp.int32(1), last)))(keys)
    np.testing.assert_allclose(
        np.bincount(rows, minlength=4) / 20_000, [0, *[1 / 3] * 3], atol=0.015
    )


def test_an_example_belongs_to_its_place(flat):
    data = windows.from_flat(flat)
    begins = windows.starts(data, 2)
    sample = windows.by_place(lambda k, data, rows: data.action[windows.pick(k, rows)])
    key = jax.random.key(3)
    whole = sample(key, jnp.arange(6), data, begins)
    np.testing.assert_array_equal(
        sample(key, jnp.array([4, 1]), data, begins), whole[jnp.array([4, 1])]
    )
    one = windows.pick(jax.random.fold_in(key, 2), begins)
    np.testing.assert_array_equal(whole[2], flat["actions"][one])
