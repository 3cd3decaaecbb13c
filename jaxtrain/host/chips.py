"""What accelerators do at most, from their vendors' data sheets, and the time a step needs there.

Sources: the system architecture pages of Google Cloud TPU (v4, v5e, v5p, v6e) and NVIDIA's H100
data sheet (SXM, dense). JAX multiplies float32 matrices in one bfloat16 pass on a TPU and in TF32
on a GPU unless it is told otherwise, and so does the table.
"""

from collections.abc import Mapping
from typing import NamedTuple

from jaxtrain.host.costs import Cost


class Chip(NamedTuple):
    """One device.

    Attributes:
      kind: `jax.Device.device_kind`.
      memory: bytes.
      flops: operations a second by type of the operands of a matrix product.
      bandwidth: bytes a second between memory and chip.
      link: bytes a second that it sends to the other devices of its slice or host.
    """

    kind: str
    memory: int
    flops: Mapping[str, float]
    bandwidth: float
    link: float


def _tpu(kind: str, gib: int, tera: float, bandwidth: float, link: float) -> Chip:
    rates = {"bfloat16": tera * 1e12, "float32": tera * 1e12}
    return Chip(kind, gib * 2**30, rates, bandwidth * 1e9, link * 1e9)


CHIPS = {
    "v4": _tpu("TPU v4", 32, 275, 1228, 300),
    "v5e": _tpu("TPU v5 lite", 16, 197, 819, 200),
    "v5p": _tpu("TPU v5", 95, 459, 2765, 600),
    "v6e": _tpu("TPU v6 lite", 32, 918, 1640, 400),
    "h100": Chip(
        "NVIDIA H100 80GB HBM3",
        80 * 2**30,
        {"bfloat16": 989.4e12, "float32": 494.7e12},
        3350e9,
        450e9,
    ),
}


class Roofline(NamedTuple):
    """Seconds that a step needs at least on each resource of a device; the largest one bounds it.

    Attributes:
      products: matrix products at the peak rate.
      memory: bytes at the peak bandwidth.
      links: collectives at the peak rate of the links.
    """

    products: float
    memory: float
    links: float

    @property
    def seconds(self) -> float:
        return max(self)

    @property
    def bound(self) -> str:
        """The resource that takes longest."""
        return max(self._fields, key=lambda name: getattr(self, name))


def roofline(chip: Chip, cost: Cost, devices: int, state: float, sent: float) -> Roofline:
    """The least time of one step.

    Args:
      chip: every device.
      cost: of the step, over all devices.
      devices: how many share the work.
      state: bytes that every device reads and writes once a step, such as its parameters and
        optimiser moments.
      sent: bytes that every device sends to others in a step; a ring over n devices that sums
        something sends 2 (n - 1) / n of it.
    """
    slowest = min(chip.flops.values())
    products = sum(n / chip.flops.get(dtype, slowest) for dtype, n in cost.flops.items())
    return Roofline(
        products / devices,
        (cost.bytes / devices + 2 * state) / chip.bandwidth,
        sent / chip.link,
    )
