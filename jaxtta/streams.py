"""Test streams: in which order an adapter sees which images, as index arrays.

The setting decides results more than the method does, so it is data: a `Stream` names for every
batch the domain (shift and severity) and the image of each row. Streams are made on the host, from
a seed, and do not depend on the images.

References:
  Wang et al., Continual Test-Time Domain Adaptation, CVPR 2022 (continual, gradual).
  Gong et al., NOTE, NeurIPS 2022; Yuan et al., RoTTA, CVPR 2023 (Dirichlet streams).
  Niu et al., SAR, ICLR 2023 (online label shift, mixed shifts, batches of one).
  Names follow mariodoebler/test-time-adaptation.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Ten orders of the 15 standard corruptions that continual benchmarks share; indices into their
# usual sequence (gaussian_noise, shot_noise, ..., jpeg_compression).
ORDERS = (
    (10, 13, 0, 5, 6, 4, 2, 14, 3, 12, 1, 8, 7, 9, 11),
    (14, 1, 6, 8, 11, 9, 3, 12, 0, 10, 4, 2, 13, 7, 5),
    (11, 3, 0, 1, 7, 8, 4, 6, 12, 14, 13, 10, 2, 5, 9),
    (1, 9, 4, 13, 7, 12, 10, 2, 3, 8, 11, 0, 5, 14, 6),
    (13, 4, 6, 7, 9, 2, 10, 5, 8, 14, 0, 1, 11, 3, 12),
    (5, 7, 9, 1, 3, 11, 6, 10, 8, 12, 4, 0, 13, 14, 2),
    (8, 2, 14, 11, 6, 4, 13, 7, 3, 5, 10, 12, 1, 9, 0),
    (3, 5, 6, 1, 0, 4, 14, 9, 11, 13, 8, 12, 7, 10, 2),
    (4, 6, 2, 9, 7, 14, 0, 8, 1, 10, 11, 5, 13, 3, 12),
    (11, 0, 3, 6, 8, 4, 14, 9, 13, 12, 1, 2, 7, 5, 10),
)


class Stream(NamedTuple):
    """A test stream of T batches of B rows.

    Attributes:
      domain: which shift each row is from, `[T, B]`, int32.
      image: which one of that domain, `[T, B]`, int32.
      mask: False for rows that pad a ragged batch, `[T, B]`.
      reset: whether the adapter starts from the source before this batch, `[T]`.
    """

    domain: np.ndarray
    image: np.ndarray
    mask: np.ndarray
    reset: np.ndarray


def _check(batch_size: int, num_images: int) -> None:
    if batch_size < 1 or num_images < 1:
        raise ValueError(
            f"a stream of {num_images} images in batches of {batch_size} is empty; both must be at "
            "least 1."
        )


def _cut(domain: np.ndarray, index: np.ndarray, batch_size: int, reset: bool = False) -> Stream:
    """Batches of a sequence `[N]`; the last one is padded with its first row."""
    _check(batch_size, len(index))
    num_batches = -(-len(index) // batch_size)
    place = np.arange(num_batches * batch_size).reshape(num_batches, batch_size)
    mask = place < len(index)
    place = np.where(mask, place, (num_batches - 1) * batch_size)
    resets = np.zeros(num_batches, bool)
    resets[0] = reset
    return Stream(domain[place].astype(np.int32), index[place].astype(np.int32), mask, resets)


def join(streams: Sequence[Stream]) -> Stream:
    """One after the other."""
    return Stream(*(np.concatenate(parts) for parts in zip(*streams, strict=True)))


def rounds(stream: Stream, number: int) -> Stream:
    """The same stream several times without a reset between rounds.

    Raises:
      ValueError: `number` is below 1.
    """
    if number < 1:
        raise ValueError(f"a stream cannot be repeated {number} times; give 1 or more rounds.")
    return join([stream] * number)


def continual(
    domains: Sequence[int], num_images: int, batch_size: int, seed: int, *, reset: bool = False
) -> Stream:
    """Every domain in turn, each with all images in an order of its own.

    Args:
      domains: which, in order.
      num_images: N per domain.
      batch_size: B; batches do not cross domains, the last one of each may be ragged.
      seed: of the orders.
      reset: whether the adapter starts from the source at every domain.

    Raises:
      ValueError: (as all functions here) an empty stream.
    """
    _check(batch_size, num_images)
    rng = np.random.default_rng([seed, 1])
    parts = [
        _cut(np.full(num_images, domain), rng.permutation(num_images), batch_size, reset)
        for domain in domains
    ]
    return join(parts)


def reset_each_shift(domains: Sequence[int], num_images: int, batch_size: int, seed: int) -> Stream:
    """`continual`, starting from the source at every domain."""
    return continual(domains, num_images, batch_size, seed, reset=True)


def gradual(
    shifts: Sequence[int],
    num_images: int,
    batch_size: int,
    seed: int,
    *,
    num_severities: int = 5,
    first_falls: bool = False,
) -> Stream:
    """Every shift with severities rising to the highest and falling again: 1 2 3 4 5 4 3 2 1.

    Args:
      shifts: which, in order; domain `shift * num_severities + severity - 1` holds the images.
      num_images: N per domain.
      batch_size: B.
      seed: of the orders.
      num_severities: levels.
      first_falls: the first shift starts at the highest severity (CoTTA, PETAL).
    """
    up = list(range(num_severities))
    down = up[-2::-1]
    levels = []
    for i, shift in enumerate(shifts):
        path = [up[-1], *down] if first_falls and i == 0 else up + down
        levels += [shift * num_severities + level for level in path]
    return continual(levels, num_images, batch_size, seed)


def mixed_domains(domains: Sequence[int], num_images: int, batch_size: int, seed: int) -> Stream:
    """All images of all domains in one random order."""
    _check(batch_size, num_images)
    order = np.random.default_rng([seed, 2]).permutation(len(domains) * num_images)
    return _cut(np.asarray(domains)[order // num_images], order % num_images, batch_size)


def dirichlet_order(
    labels: np.ndarray,
    concentration: float,
    rng: np.random.Generator,
    *,
    min_slot: int | None = None,
) -> np.ndarray:
    """An order of images whose classes come in bursts.

    Each class is split over as many time slots as there are classes by Dirichlet proportions; slots
    that already hold their share take no more; drawn again until every slot has `min_slot` images.
    Within a slot the classes follow each other in a random order.

    Args:
      labels: `[N]`.
      concentration: delta > 0; towards 0 nearly one class at a time. 0: sorted by class.
      rng: of the draws.
      min_slot: smallest slot; `None`: 10, or a tenth of a slot's share if that is less.

    Returns:
      Positions in `labels`, `[N]`.

    Raises:
      ValueError: no such split was found.
    """
    classes = np.unique(labels)
    members = {c: rng.permutation(np.flatnonzero(labels == c)) for c in classes}
    if concentration == 0:
        return np.concatenate([members[c] for c in rng.permutation(classes)])
    num_slots, limit = len(classes), len(labels) / len(classes)
    floor = max(1, min(10, int(limit / 10))) if min_slot is None else min_slot
    for _ in range(1000):
        slots: list[dict[int, np.ndarray]] = [{} for _ in range(num_slots)]
        for c in classes:
            held = np.array([sum(map(len, slot.values())) for slot in slots])
            share = rng.dirichlet(np.full(num_slots, concentration)) * (held < limit)
            if share.sum() == 0:  # all the mass fell on full slots
                share = (held < limit).astype(float)
            cuts = (np.cumsum(share / share.sum()) * len(members[c])).astype(int)[:-1]
            for slot, part in zip(slots, np.split(members[c], cuts), strict=True):
                slot[c] = part
        if min(sum(map(len, slot.values())) for slot in slots) >= floor:
            break
    else:
        raise ValueError(
            f"no split of {len(labels)} images into {num_slots} slots of at least {floor} was "
            f"found with concentration {concentration}; raise it or lower min_slot."
        )
    return np.concatenate([slot[c] for slot in slots for c in rng.permutation(classes)])


def correlated(
    labels: np.ndarray,
    domains: Sequence[int],
    batch_size: int,
    seed: int,
    *,
    concentration: float = 0.1,
    reset: bool = False,
) -> Stream:
    """Every domain in turn, its images in `dirichlet_order`; concentration 0 sorts by class.

    Args:
      labels: of the images, the same for all domains, `[N]`.
      domains: which, in order.
      batch_size: B.
      seed: of the orders.
      concentration: delta; 0.1 is customary for CIFAR.
      reset: whether the adapter starts from the source at every domain.
    """
    rng = np.random.default_rng([seed, 3])
    labels = np.asarray(labels)
    parts = [
        _cut(
            np.full(len(labels), domain),
            dirichlet_order(labels, concentration, rng),
            batch_size,
            reset,
        )
        for domain in domains
    ]
    return join(parts)


def label_shift(
    labels: np.ndarray,
    domains: Sequence[int],
    batch_size: int,
    seed: int,
    *,
    ratio: float,
    length: int | None = None,
    reset: bool = False,
) -> Stream:
    """Online label shift: in slot i class i has probability r / (r + C - 1), every other 1 / (...).

    Images are drawn with replacement; the order of the classes is random.

    Args:
      labels: of the images, `[N]`.
      domains: which, in order.
      batch_size: B.
      seed: of the draws.
      ratio: r >= 1; 1 is uniform, 500000 practically sorted.
      length: images per domain; N when `None`.
      reset: whether the adapter starts from the source at every domain.

    Raises:
      ValueError: r below 1.
    """
    if ratio < 1:
        raise ValueError(f"the imbalance ratio is {ratio}; give 1 (uniform) or more.")
    rng = np.random.default_rng([seed, 4])
    labels = np.asarray(labels)
    classes, number = np.unique(labels), len(labels) if length is None else length
    members = [np.flatnonzero(labels == c) for c in classes]
    parts = []
    for domain in domains:
        slot_class = rng.permutation(len(classes))
        index: list[np.ndarray] = []
        for slot in np.array_split(np.arange(number), len(classes)):
            chance = np.full(len(classes), 1 / (ratio + len(classes) - 1))
            chance[slot_class[len(index)]] *= ratio
            drawn = rng.choice(len(classes), size=len(slot), p=chance)
            index.append(np.array([rng.choice(members[c]) for c in drawn], int))
        order = np.concatenate(index)
        parts.append(_cut(np.full(number, domain), order, batch_size, reset))
    return join(parts)


def long_tailed_subset(labels: np.ndarray, factor: float, *, backward: bool = False) -> np.ndarray:
    """Positions of a subset in which class c has a share like factor^(-c / (C - 1)).

    As many images as all classes can give; the first ones of each class.

    Args:
      labels: `[N]`.
      factor: largest class to smallest, at least 1.
      backward: the first class is the smallest one.

    Returns:
      Positions in `labels`, ascending.

    Raises:
      ValueError: `factor` is below 1.
    """
    if factor < 1:
        raise ValueError(f"the imbalance factor is {factor}; give 1 (balanced) or more.")
    classes, counts = np.unique(labels, return_counts=True)
    share = factor ** -np.linspace(0, 1, len(classes))
    share = share[::-1] if backward else share
    sizes = np.maximum(((counts / share).min() * share + 1e-9).astype(int), 1)
    kept = [np.flatnonzero(labels == c)[:n] for c, n in zip(classes, sizes, strict=True)]
    return np.sort(np.concatenate(kept))


def long_tailed(
    labels: np.ndarray,
    domains: Sequence[int],
    batch_size: int,
    seed: int,
    *,
    factor: float,
    backward: bool = False,
    reset: bool = False,
) -> Stream:
    """Every domain in turn, with a long-tailed label distribution; see `long_tailed_subset`.

    Args:
      labels: of the images, the same for all domains, `[N]`.
      domains: which, in order.
      batch_size: B.
      seed: of the orders.
      factor: largest class to smallest.
      backward: the first class is the smallest one: the reverse of such a source.
      reset: whether the adapter starts from the source at every domain.
    """
    kept = long_tailed_subset(np.asarray(labels), factor, backward=backward)
    rng = np.random.default_rng([seed, 6])
    parts = [
        _cut(np.full(len(kept), domain), rng.permutation(kept), batch_size, reset)
        for domain in domains
    ]
    return join(parts)


def open_set(
    num_known: int,
    num_unknown: int,
    domains: Sequence[int],
    batch_size: int,
    seed: int,
    *,
    reset: bool = False,
) -> Stream:
    """Every domain in turn; half of each batch are images of unknown classes.

    Args:
      num_known: images 0 to `num_known - 1` are of known classes.
      num_unknown: the images after them are not.
      domains: which, in order.
      batch_size: B, even; batches are as many as both kinds fill.
      seed: of the orders.
      reset: whether the adapter starts from the source at every domain.

    Raises:
      ValueError: an odd batch size, or too few images.
    """
    half = batch_size // 2
    if batch_size % 2 or min(num_known, num_unknown) < max(half, 1):
        raise ValueError(
            f"batches of {batch_size} from {num_known} known and {num_unknown} unknown images are "
            "not possible; take an even size and at least half of it of each kind."
        )
    rng = np.random.default_rng([seed, 5])
    parts = []
    for domain in domains:
        known, unknown = rng.permutation(num_known), num_known + rng.permutation(num_unknown)
        num_batches = min(num_known, num_unknown) // half
        pick = lambda order, n=num_batches: order[: n * half].reshape(n, half)
        index = np.concatenate([pick(known), pick(unknown)], axis=1).reshape(-1)
        parts.append(_cut(np.full(len(index), domain), index, batch_size, reset))
    return join(parts)
