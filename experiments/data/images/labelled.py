"""Labelled images: the record that every reader gives, and where files are looked for."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Images(NamedTuple):
    """A labelled set.

    Attributes:
      images: `[N, H, W, C]`, or grey `[N, H, W]`: uint8, or float32 from 0 to 1. Those of
        `loader.load` are `[N, size, size, 3]`, uint8.
      labels: `[N]`, int64; -1 for all where none are known.
      provenance: set and source, to be printed with every result.
      groups: `[N]`, int64: within which errors are reported, in sets that have such.
      names: `[N]`, str: `<class>/<file>` of pictures in folders, file names of TensorFlow data sets
        that hold them; by these, corrupted copies are found.
      classes: label -> name, of every class that the files know; None where they have no names.
    """

    images: np.ndarray
    labels: np.ndarray
    provenance: str
    groups: np.ndarray | None = None
    names: np.ndarray | None = None
    classes: dict[int, str] | None = None

    @property
    def has_labels(self) -> bool:
        """Whether any label is known."""
        return bool((self.labels >= 0).any())

    def rows(self, which: np.ndarray | slice) -> "Images":
        """The set of these rows."""
        groups, names = (None if x is None else x[which] for x in (self.groups, self.names))
        return self._replace(
            images=self.images[which], labels=self.labels[which], groups=groups, names=names
        )


def roots(data_dir: str = "") -> list[Path]:
    """Existing folders that may hold data, the given one first."""
    named = [data_dir, os.environ.get("JAXTTA_DATA", "")]
    return [path for p in named if p and (path := Path(p).expanduser()).is_dir()]


def find(relative: str, data_dir: str = "") -> Path | None:
    """The first such file below one of the `roots`, or the path itself if it exists."""
    candidates = [Path(relative), *(root / relative for root in roots(data_dir))]
    return next((path for path in candidates if path.is_file()), None)
