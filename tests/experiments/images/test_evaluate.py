"""A stream that comes in parts."""

import jax
import numpy as np

from experiments.images import evaluate
from experiments.images.evaluate import Evaluator, over_stream
from experiments.images.methods import Method
from experiments.images.stream import Part
from jaxtrain.core import Core
from jaxtta.evaluation import Evaluation


class Counting:
    """Its state is the number of batches it has seen."""

    def start(self):
        return 10

    def proceed(self, state, part, key):
        seen = np.arange(state, state + 2)
        return Evaluation(**{name: seen for name in Evaluation._fields} | {"state": state + 2})


def test_a_part_goes_on_from_the_state_after_the_one_before():
    parts = [Part(None, None, first, first == 4) for first in (0, 2, 4)]
    (name, found), (other, _) = over_stream({"a": Counting(), "b": Counting()}, parts, None)
    assert (name, other, found.state) == ("a", "b", 16)
    for field in set(Evaluation._fields) - {"state"}:
        np.testing.assert_array_equal(getattr(found, field), np.arange(10, 16))


def test_batches_are_counted_over_all_parts(monkeypatch):
    continued = lambda core, args, state, images, stream, key, first: first
    monkeypatch.setattr(evaluate.evaluation, "continued", continued)
    core = Core(lambda: 0, lambda state, batch, key: None)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    evaluator = Evaluator(Method(core, ()), mesh, window=0, image_shape=(2, 2, 3))
    part = Part(np.zeros(1), np.zeros(1), 7, is_last=False)
    assert evaluator.proceed(0, part, jax.random.key(0)) == 7
