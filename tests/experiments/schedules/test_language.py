"""Text of the language study, and what its network may see of it."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.schedules.language import Transformer, encoded, windows
from jaxtrain.host.config import load


def test_labels_are_the_characters_one_later():
    found = windows(jnp.arange(9), jnp.array([0, 4]), 3)
    np.testing.assert_array_equal(found["inputs"], [[0, 1, 2], [4, 5, 6]])
    np.testing.assert_array_equal(found["labels"], [[1, 2, 3], [5, 6, 7]])


def test_the_last_tenth_is_kept_for_validation(tmp_path):
    text = "abcdefghij" * 10
    (tmp_path / "text.txt").write_text(text)
    config, _ = load("configs/lr_schedules.py:language_debug")
    config.language.text = str(tmp_path / "text.txt")
    train, valid, kinds = encoded(config)
    letters = lambda codes: "".join(chr(ord("a") + int(code)) for code in codes)
    assert (letters(train), letters(valid), kinds) == (text[:90], text[90:], 10)


def test_a_character_is_predicted_from_those_before_it():
    network = Transformer(vocab=5, layers=1, heads=1, width=4)
    tokens = jnp.array([[0, 1, 2, 3], [0, 1, 4, 3]])
    found, _ = jax.jit(network.init_with_output)(jax.random.key(0), tokens)
    np.testing.assert_array_equal(found[0, :2], found[1, :2])
    assert (np.abs(found[0, 2:] - found[1, 2:]).max(-1) > 1e-3).all()
