"""Damaged copies of a file, always the same ones."""

from collections.abc import Iterator

import numpy as np


def copies(content: bytes, number: int, seed: int = 0) -> Iterator[bytes]:
    """As many damaged copies: cut short, bits flipped, bytes replaced, a piece taken out or twice.

    Half of them are hurt in their first or last 200 bytes, where formats keep their sizes.
    """
    rng = np.random.default_rng(seed)
    for i in range(number):
        size = len(content)
        place = int(rng.integers(size))
        if rng.random() < 0.5:
            place = int(rng.integers(min(200, size)))
            place = place if rng.random() < 0.5 else size - 1 - place
        changed = bytearray(content)
        match i % 5:
            case 0:
                changed = changed[:place]
            case 1:
                changed[place] ^= 1 << int(rng.integers(8))
            case 2:
                piece = rng.integers(0, 256, int(rng.integers(1, 9)), np.uint8).tobytes()
                changed[place : place + len(piece)] = piece
            case 3:
                del changed[place : place + int(rng.integers(1, 40))]
            case 4:
                changed[place:place] = changed[place : place + int(rng.integers(1, 40))]
        yield bytes(changed)
