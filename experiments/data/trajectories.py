"""Trajectories for the learners of `jaxrl.offline`: a file of the user's, or play in a maze."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxrl.envs.point_maze import Maze, play, read_maze
from jaxrl.envs.two_routes import demonstration, routes_maze
from jaxrl.normalise import Moments, no_moments, standardise, update_moments
from jaxrl.offline import windows
from jaxrl.offline.windows import Trajectories
from jaxtrain.host import arrays
from jaxtrain.host.config import UsageError


class Dataset(NamedTuple):
    """Trajectories with standardised observations.

    Attributes:
      data: the rows.
      moments: of the observations before, which `standardise` takes.
      maze: where they were made and policies can be tried; None for a file.
      provenance: what they are, in words.
    """

    data: Trajectories
    moments: Moments
    maze: Maze | None
    provenance: str

    def seen(self, observation: Any) -> Any:
        """An observation `[S]` as the learners see it."""
        return standardise(self.moments, observation)


def read(path: str) -> Trajectories:
    """Trajectories of an `.npz` or `.safetensors` file in the layout of OGBench.

    Raises:
      UsageError: the file is not there, damaged, or holds no trajectories.
    """
    try:
        return windows.from_flat(arrays.read(path, windows.NAMES, finite=True))
    except ValueError as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path}: {error}") from error


def load(options: ConfigDict) -> Dataset:
    """The data of a config group `data`: `path`, or else `task` and the sizes of what is made."""
    if path := options.path:
        data, maze = read(path), None
        provenance = f"{len(data.last)} rows of {path}"
    else:
        maze, make = (
            (read_maze(), play) if options.task == "play" else (routes_maze(), demonstration)
        )
        number, length, noise = options.num_trajectories, options.length, options.noise
        keys = jax.random.split(jax.random.key(options.seed), number)
        made = jax.jit(jax.vmap(lambda key: make(maze, key, length, noise)))(keys)
        data = windows.stacked(*made)
        provenance = f"{number} trajectories of {length} steps of {options.task}, made here"
    first = jnp.zeros(data.observation.shape[1:])
    moments = update_moments(no_moments(first), data.observation)
    seen = jax.vmap(lambda x: standardise(moments, x))(data.observation)
    return Dataset(data._replace(observation=seen), moments, maze, provenance)
