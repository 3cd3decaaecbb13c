"""Samples of halfspaces: what each marginal and noise is, and files that are refused."""

import jax
import numpy as np
import pytest

from experiments.data import halfspace_samples as samples
from jaxtrain.host.config import UsageError

N, D = 4000, 5


def drawn(marginal, noise="massart"):
    draw = jax.jit(samples.draw, static_argnums=(1, 2, 3, 4))
    return jax.tree.map(np.asarray, draw(jax.random.key(0), marginal, noise, N, D))


@pytest.mark.parametrize("name", samples.MARGINALS)
def test_marginals_are_what_they_are_called(name):
    x, y, w, u = drawn(name)
    assert abs(w @ u) < 1e-5 and np.isclose(np.linalg.norm(w), 1) and {*y} == {-1, 1}
    distance, fourth = np.abs(x @ w), (x**4).mean(0) / (x**2).mean(0) ** 2
    if name == "gaussian":
        np.testing.assert_allclose(np.cov(x.T), np.eye(D), atol=0.1)
    if name == "laplace":
        np.testing.assert_allclose((x**2).mean(0), 1, atol=0.15)
        assert fourth.min() > 4
    if name == "cube":
        assert {*np.abs(x).ravel()} == {1}
    if name == "scaled":
        np.testing.assert_allclose(x.std(0), np.linspace(0.3, 1.7, D), rtol=0.05)
    if name == "slab":
        assert distance.min() >= 0.099 and distance.min() < 0.12
        np.testing.assert_allclose((x @ u).std(), 1, atol=0.05)
    if name == "cluster":
        near = np.linalg.norm(x - 1.5 * u, axis=1) < 0.3
        assert abs(near.mean() - 0.3) < 0.03 and abs(y[near].mean()) < 0.1
        assert abs((y * np.sign(x @ w))[near].mean()) < 0.2
    if name == "trap":
        v = 0.5 * w + 0.75**0.5 * u
        assert np.abs(x @ v).min() >= 0.49 and abs((x @ v > 30).mean() - 0.1) < 0.02
        assert (y * x.T).mean(1) @ v > 0.9 * np.linalg.norm((y * x.T).mean(1))


def test_noises_flip_as_many_as_they_say():
    x, y, w, _ = drawn("gaussian")
    wrong, distance = y * (x @ w) < 0, np.abs(x @ w)
    assert abs(wrong.mean() - (0.3 / (1 + distance)).mean()) < 0.02
    assert wrong[distance < 0.2].mean() > wrong[distance > 2].mean() + 0.1
    x, y, w, u = drawn("gaussian", "adversarial")
    wrong = y * (x @ w) < 0
    assert abs(wrong.mean() - 0.05) < 0.001
    assert (np.sign(x @ w) * (x @ u))[wrong].min() > 1.4


def test_a_sample_is_read_with_either_labels(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(200, 3)), np.arange(200) % 2
    np.savez(tmp_path / "s.npz", x=x, y=y)
    found = samples.read(str(tmp_path / "s.npz"))
    np.testing.assert_allclose(found.x, x, rtol=1e-6)
    np.testing.assert_array_equal(found.y, 2 * y - 1)


@pytest.mark.parametrize(
    ("held", "sentence"),
    [
        ({"x": np.zeros((200, 3))}, "lacks y"),
        ({"x": np.zeros(200), "y": np.ones(200)}, r"expected rows \[N, d\]"),
        ({"x": np.zeros((20, 3)), "y": np.ones(20)}, "100 rows"),
        ({"x": np.zeros((200, 3)), "y": np.ones(200)}, "both of the labels"),
        ({"x": np.zeros((200, 3)), "y": np.arange(200) % 3}, "both of the labels"),
        ({"x": np.full((200, 3), np.nan), "y": np.arange(200) % 2}, "not finite"),
    ],
)
def test_impossible_samples_are_refused(tmp_path, held, sentence):
    np.savez(tmp_path / "s.npz", **held)
    with pytest.raises(UsageError, match=sentence):
        samples.read(str(tmp_path / "s.npz"))
