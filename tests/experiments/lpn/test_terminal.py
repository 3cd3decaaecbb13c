"""Grids as text."""

import io
import re

import numpy as np
import pytest

from experiments.lpn.figures import ARC_COLOURS
from experiments.lpn.terminal import BACKGROUNDS, grid_text, takes_colour

GRID = np.arange(10, dtype=np.uint8).reshape(2, 5)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_grid_is_digits_and_the_same_digits_in_colour():
    assert grid_text(GRID, colour=False) == "0 1 2 3 4\n5 6 7 8 9"
    shown = grid_text(GRID, colour=True)
    digits = [line.rstrip() for line in re.sub(r"\x1b\[[\d;]*m", "", shown).splitlines()]
    assert digits == ["0 1 2 3 4", "5 6 7 8 9"]
    assert shown.count("\x1b[48;5;") == shown.count("\x1b[0m") == 10
    assert not re.search(r"\x1b\[0m[^\x1b\n]", shown)  # no cell leaks into the next


def test_the_colours_are_the_nearest_to_those_of_the_figures():
    """The 6 x 6 x 6 cube and the greys of terminals with 256 colours."""
    levels = (0, 95, 135, 175, 215, 255)
    cube = [(r, g, b) for r in levels for g in levels for b in levels]
    table = np.array([*cube, *((v, v, v) for v in range(8, 239, 10))])
    for code, name in zip(BACKGROUNDS, ARC_COLOURS, strict=True):
        wanted = np.array([int(name[i : i + 2], 16) for i in (1, 3, 5)])
        distance = abs(table - wanted).max(-1)
        assert distance[code - 16] <= distance.min() + 32, name


@pytest.mark.parametrize(
    ("stream", "environment", "expected"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": ""}, True),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_colour_is_for_terminals_whose_user_wants_it(monkeypatch, stream, environment, expected):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert takes_colour(stream) is expected
