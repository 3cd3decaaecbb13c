"""Grids as text: coloured cells in a terminal, plain digits everywhere else."""

import os
from typing import TextIO

import numpy as np

# The nearest of the 256 terminal colours to those of the ARC web site, 0 to 9, and of black and
# white the one that is easier to read on each.
BACKGROUNDS = (16, 32, 203, 41, 220, 248, 200, 208, 117, 88)
FOREGROUNDS = (231, 231, 16, 16, 16, 16, 16, 16, 16, 231)


def takes_colour(stream: TextIO) -> bool:
    """Whether colours can be shown on a stream and the user has not asked for none
    (https://no-color.org)."""
    none = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return stream.isatty() and not none


def grid_text(grid: np.ndarray, *, colour: bool) -> str:
    """A grid `[rows, cols]` of colours 0..9 as lines of digits, each on its colour if asked."""
    cell = _coloured if colour else str
    return "\n".join(("" if colour else " ").join(map(cell, row)) for row in grid.tolist())


def _coloured(value: int) -> str:
    return f"\x1b[48;5;{BACKGROUNDS[value]};38;5;{FOREGROUNDS[value]}m{value} \x1b[0m"
