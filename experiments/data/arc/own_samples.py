"""Training samples from ARC tasks as they are: some demonstrations of a task, drawn at random.

The loss decodes every pair of a sample from the others (leave-one-out), so that any folder of tasks
with two demonstrations or more is training data; test pairs are never used. Rotations and
recolourings of the samples happen on the device, see `jaxtta.lpn.augment`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from experiments.data.arc.parsing import Task
from experiments.data.arc.rearc import Sample
from experiments.data.arc.tasks import Fault


class Samples(Protocol):
    """A source of the samples of a step, such as `rearc_samples.RearcSamples`."""

    def samples(self, step: int) -> list[Sample]:
        """This process's slice of the batch of one step."""
        ...


class Own(NamedTuple):
    """A set of tasks to train on.

    Attributes:
      tasks: each has at least two demonstrations.
      num_pairs: demonstrations per sample, at most; a sample of a smaller task has fewer.
    """

    tasks: tuple[Task, ...]
    num_pairs: int

    def sample(self, rng: np.random.Generator) -> Sample:
        """Some demonstrations of a random task, in random order."""
        task = self.tasks[rng.integers(len(self.tasks))]
        chosen = rng.permutation(len(task.train))[: self.num_pairs]
        grids = [grid for i in chosen for grid in task.train[i]]
        shapes = np.array([grid.shape for grid in grids], np.uint8)
        cells = np.concatenate([grid.ravel() for grid in grids])
        return Sample(task.id, shapes.reshape(len(chosen), 2, 2), cells)


def usable(
    tasks: Sequence[Task], max_cells: int, source: str
) -> tuple[tuple[Task, ...], list[Fault]]:
    """Separates the tasks that can be trained on from those that cannot."""
    kept, faults = [], []
    for task in tasks:
        largest = max(grid.size for pair in task.train for grid in pair)
        if len(task.train) < 2:
            why = "it has one demonstration, and leave-one-out needs two"
        elif largest > max_cells:
            why = f"it has a grid of {largest} cells, more than the largest bucket of {max_cells}"
        else:
            kept.append(task)
            continue
        faults.append(Fault(task.id, source, f"{source}: task {task.id}: {why}."))
    return tuple(kept), faults


class Mixture:
    """Batches drawn from several sets. Sample i of a run is a function of the seed and i alone.

    Args:
      own: sets of tasks by name.
      weights: name -> share of the samples, in any unit; may name `other`.
      seed: of the samples.
      batch_size: samples per step, over all processes.
      other: a further source, such as the Re-ARC generators, and its name in `weights`.
      shard: (index, count) of this process; it gets its equal slice of each batch.
    """

    def __init__(
        self,
        own: Mapping[str, Own],
        weights: Mapping[str, float],
        *,
        seed: int,
        batch_size: int,
        other: tuple[str, Samples] | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        self._own, self._other, self._seed = own, other, seed
        self._names = tuple(weights)
        self._shares = np.array(list(weights.values()), float) / sum(weights.values())
        index, count = shard
        size = batch_size // count
        self._batch_size, self._slice = batch_size, range(index * size, (index + 1) * size)

    def samples(self, step: int) -> list[Sample]:
        """This process's slice of the batch of one step."""
        found, others = [], None
        for place, i in enumerate(self._slice):
            # Not negative: a seed of -1 stands for held-out samples.
            rng = np.random.default_rng([self._seed + 1, step * self._batch_size + i])
            name = self._names[rng.choice(len(self._names), p=self._shares)]
            if self._other is not None and name == self._other[0]:
                others = others or self._other[1].samples(step)
                found.append(others[place])
            else:
                found.append(self._own[name].sample(rng))
        return found
