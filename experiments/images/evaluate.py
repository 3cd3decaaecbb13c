"""Methods of `tta_images` over streams, compiled, with their arrays on the devices."""

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.data.images.loader import Images
from experiments.images.methods import Method
from experiments.images.stream import Part
from jaxtrain.core import Core
from jaxtta import adaptation, evaluation, scores, streams
from jaxtta.evaluation import Evaluation


class Evaluator:
    """One method on a mesh: every batch is split over it, all else is on every device.

    Args:
      method: the adapter, and the arguments of its `init`.
      mesh: has the axis `data`.
      window: above 0, images come one by one and statistics are those of the last `window`.
      image_shape: `(H, W, C)` of one image.
    """

    def __init__(
        self, method: Method, mesh: Mesh, *, window: int, image_shape: tuple[int, int, int]
    ) -> None:
        core = over_window(method.core, window, image_shape) if window else method.core
        self._mesh = mesh
        self._args = jax.device_put(method.args, NamedSharding(mesh, P()))
        self._has_window = window > 0
        self._init = jax.jit(core.init)
        self._continued = jax.jit(functools.partial(evaluation.continued, core))
        self._predict = jax.jit(functools.partial(evaluation.predict, method.core))

    def start(self) -> Any:
        """The state before the first batch."""
        return self._init(*self._args)

    def proceed(self, state: Any, part: Part, key: jax.Array) -> Evaluation:
        """The next part of a stream, as `placed`, from the state after the one before."""
        return self._continued(self._args, state, part.images, part.stream, key, part.first)

    def error(self, state: Any, data: Images, stream: streams.Stream, key: jax.Array) -> float:
        """Share of wrong predictions on these images; the state is left as it is."""
        state = state.state if self._has_window else state
        part = placed(Part(data.images[None], stream, 0, is_last=True), self._mesh)
        logits = self._predict(state, part.images, part.stream, key)
        return scores.scores_by_domain(np.asarray(logits), data.labels, stream)[0]["error"]


def over_window(core: Core, window: int, image_shape: tuple[int, int, int]) -> Core:
    """The adapter on single images, with a window of the last ones."""
    inner = adaptation.windowed(core, window, image_shape)
    # Streams carry row masks; batches of one have nothing to mask.
    return Core(inner.init, lambda s, batch, key: inner.update(s, {"inputs": batch["inputs"]}, key))


def placed(part: Part, mesh: Mesh) -> Part:
    """The same on the devices: images on each of them, batches split."""
    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P(None, "data"))
    stream = jax.device_put(part.stream, streams.Stream(split, split, split, whole))
    return part._replace(images=jax.device_put(part.images, whole), stream=stream)


def over_stream(
    evaluators: Mapping[str, Evaluator], parts: Iterable[Part], key: jax.Array
) -> Iterator[tuple[str, Evaluation]]:
    """Every method over a whole stream: its name, and its results with the last state.

    Parts are `placed`; the images of one are there while all methods see them.
    """
    scored: dict[str, list[Evaluation]] = {name: [] for name in evaluators}
    states: dict[str, Any] = {}
    for part in parts:
        for name, evaluator in evaluators.items():
            state = states.pop(name) if name in states else evaluator.start()
            done = evaluator.proceed(state, part, key)
            scored[name].append(jax.device_get(done._replace(state=None)))
            if part.is_last:
                together = jax.tree.map(lambda *x: np.concatenate(x), *scored.pop(name))
                yield name, together._replace(state=done.state)
            else:
                states[name] = done.state
