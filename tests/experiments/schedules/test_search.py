"""Data of the search study."""

import jax
import numpy as np

from experiments.schedules.search import first_below, labelled, parts
from jaxtrain.host.config import load


def test_a_share_of_the_labels_is_not_the_teachers():
    config, _ = load("configs/lr_schedules.py:search_debug,search.wrong_labels=0.0")
    right = labelled(config, jax.random.key(1), 400)
    config.search.wrong_labels = 0.5
    found = labelled(config, jax.random.key(1), 400)
    np.testing.assert_array_equal(found["inputs"], right["inputs"])
    wrong = (found["labels"] != right["labels"]).mean()
    assert 0.38 < wrong < 0.52  # a tenth of the random ones is right


def test_held_out_data_are_not_those_of_the_validation():
    config, _ = load("configs/lr_schedules.py:search_debug")
    build, _, test_loss, valid_loss = parts(config)
    params = jax.jit(build(0.1).init)(jax.random.key(0)).params
    assert abs(float(test_loss(params)) - float(valid_loss(params))) > 1e-3


def test_the_first_step_at_which_a_loss_is_at_most_its_target():
    losses = np.array([[3.0, 1.0, 9.0], [2.0, 5.0, 8.0], [1.0, 0.0, 7.0]])
    found = first_below(np.array([10, 20, 30]), losses, np.array([2.0, 1.0, 6.0]))
    np.testing.assert_array_equal(found, [20, 10, np.nan])
