"""Videos as features of frames, made from real or made-up timelines of actions.

A timeline is a duration and the segments of one action. Frames are linear features of a latent: a
background that wanders, an offset of the video, and the action's concept in its segments. Names of
actions are linear features of the concept, turned away from it by `misalignment`: names that say
little of what their action looks like. `paired` gives what the two towers are trained on.
"""

import gzip
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxtrain.host.arrays import one_sentence
from jaxtrain.host.config import UsageError

RATE = 2.0  # frames a second


class Timeline(NamedTuple):
    """Duration in seconds, segments (start, end), and the action."""

    duration: float
    segments: tuple[tuple[float, float], ...]
    action: int


class Videos(NamedTuple):
    """Padded videos: `frames [V, T, D]`, `mask [V, T]`, `truth [V, T]`, `label [V]`, and the
    segments in frames, `[V, S, 2]`, -1 for none."""

    frames: np.ndarray
    mask: np.ndarray
    truth: np.ndarray
    label: np.ndarray
    segments: np.ndarray


class World(NamedTuple):
    """Concepts `[C, L]`, and the maps of a latent to frames `[L, D]` and to names `[L, N]`."""

    concepts: np.ndarray
    to_frames: np.ndarray
    to_names: np.ndarray


def read(file: str, shortest: float = 30.0, longest: float = 200.0) -> list[Timeline]:
    """Timelines of one action from a file as that of THUMOS14, JSON or JSON in gzip.

    It holds, by the name of the video, `duration_s` and `segments` of (start, end, action).

    Raises:
      UsageError: no such file, or it holds something else.
    """
    path = Path(file)
    with one_sentence(path, "file of timelines"):
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        held = json.loads(text)
        actions: dict[str, int] = {}
        found = []
        for about in held.values():
            segments = [(float(a), float(b), str(name)) for a, b, name in about["segments"]]
            duration = float(about["duration_s"])
            if any(not 0 <= a < b for a, b, _ in segments):
                raise ValueError("a segment ends before it starts")
            if len({name for *_, name in segments}) == 1 and shortest <= duration <= longest:
                action = actions.setdefault(segments[0][2], len(actions))
                kept = tuple((a, min(b, duration)) for a, b, _ in segments if a < duration)
                if kept:
                    found.append(Timeline(duration, kept, action))
    if not found:
        raise UsageError(
            f"{file} has no video of one action and {shortest:g} to {longest:g} seconds"
        )
    return found


def made_up(number: int, num_actions: int, seed: int) -> list[Timeline]:
    """Timelines like those of THUMOS14: one to ten segments of a few seconds."""
    rng = np.random.default_rng([seed, 14])
    found = []
    for i in range(number):
        duration = float(rng.uniform(30, 200))
        count = int(rng.integers(1, 1 + max(1, min(10, duration // 15))))
        starts = np.sort(rng.uniform(0, duration - 8, count))
        ends = np.minimum(starts + rng.uniform(3, 8, count), [*starts[1:] - 0.5, duration])
        segments = [(float(a), float(b)) for a, b in zip(starts, ends, strict=True) if b > a + 1]
        found.append(Timeline(duration, tuple(segments or [(1.0, 6.0)]), i % num_actions))
    return found


def world(num_actions: int, size: int, rng: np.random.Generator) -> World:
    """Random concepts of length 1 in `size` dimensions, and maps to twice as many."""
    concepts = rng.normal(size=(num_actions, size))
    concepts /= np.linalg.norm(concepts, axis=1, keepdims=True)
    maps = rng.normal(size=(2, size, 2 * size)) / np.sqrt(size)
    return World(concepts, *maps)


def names(made: World, misalignment: float, rng: np.random.Generator) -> np.ndarray:
    """Features of the names of the actions, `[C, N]`."""
    turned = rng.normal(size=made.concepts.shape)
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    return ((made.concepts + misalignment * turned) @ made.to_names).astype(np.float32)


def paired(made: World, number: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Frames and names of other things that belong together, `[number, D]` and `[number, N]`."""
    latent = rng.normal(size=(number, made.concepts.shape[1])) / np.sqrt(made.concepts.shape[1])
    return tuple(
        (latent @ x + 0.1 * rng.normal(size=(number, x.shape[1])) * 0.5).astype(np.float32)
        for x in (made.to_frames, made.to_names)
    )  # type: ignore[return-value]


def filmed(
    made: World,
    timelines: list[Timeline],
    rng: np.random.Generator,
    *,
    strength: float,
    background: float,
    offset: float = 0.3,
    noise: float = 0.3,
) -> Videos:
    """Features of the frames of every timeline."""
    lengths = [int(np.ceil(line.duration * RATE)) for line in timelines]
    longest, size = max(lengths), made.concepts.shape[1]
    shape = (len(timelines), longest)
    frames = np.zeros((*shape, made.to_frames.shape[1]), np.float32)
    truth, most = np.zeros(shape, bool), max(len(line.segments) for line in timelines)
    segments = np.full((len(timelines), most, 2), -1.0, np.float32)
    for i, (line, length) in enumerate(zip(timelines, lengths, strict=True)):
        for j, (start, end) in enumerate(line.segments):
            segments[i, j] = start * RATE, end * RATE
            truth[i, int(start * RATE) : max(int(end * RATE), int(start * RATE) + 1)] = True
        walk = np.zeros((length, size))
        steps = rng.normal(size=(length, size)) / np.sqrt(size)
        for t in range(length):
            walk[t] = 0.95 * walk[t - 1] + np.sqrt(1 - 0.95**2) * steps[t] if t else steps[t]
        latent = background * walk + offset * rng.normal(size=(1, size)) / np.sqrt(size)
        latent += strength * truth[i, :length, None] * made.concepts[line.action]
        latent += noise * rng.normal(size=latent.shape) / np.sqrt(size)
        frames[i, :length] = latent @ made.to_frames
    mask = np.arange(longest)[None] < np.asarray(lengths)[:, None]
    return Videos(frames, mask, truth & mask, np.array([x.action for x in timelines]), segments)
