"""What devices send to each other in a step: collectives, expected and in compiled programs."""

import re
from collections.abc import Mapping
from typing import Any

from jaxtrain import trees
from jaxtrain.meshes import FSDP_AXIS, AnyMesh

Collectives = Mapping[str, tuple[float, float]]  # kind -> (how many, their bytes)
_COLLECTIVES = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s64": 8, "f64": 8}


def expected(params: Any, mesh: AnyMesh, times: float) -> dict[str, tuple[float, float]]:
    """Kind of collective -> (how many, bytes), for gradients that are computed `times` a step.

    In mode jit every micro-batch sums its gradients over the devices. Along `fsdp` each device
    keeps a part of the sum, and the parameters are gathered once a step.
    """
    size, found = trees.num_bytes(params), {}
    if (fsdp := mesh.shape.get(FSDP_AXIS, 1)) > 1:
        found = {"all-gather": (1, size), "reduce-scatter": (times, times * size)}
    if mesh.size > fsdp:
        found["all-reduce"] = (times, times * size / fsdp)
    return found


def sent(kinds: Collectives, mesh: AnyMesh) -> float:
    """Bytes that a device sends in rings of these collectives."""
    fsdp = mesh.shape.get(FSDP_AXIS, 1)
    total = 0.0
    for kind, (_, size) in kinds.items():
        others = mesh.size // fsdp if kind == "all-reduce" else fsdp
        total += (2 if kind == "all-reduce" else 1) * (others - 1) / others * size
    return total


def in_program(program: str) -> dict[str, tuple[float, float]]:
    """Kind of collective -> (how many, bytes they produce), from the text of a compiled program."""
    found: dict[str, tuple[float, float]] = {}
    for shapes, kind in re.findall(rf"= (.*?) ({_COLLECTIVES})(?:-start)?\(", program):
        count, size = found.get(kind, (0, 0))
        for dtype, dims in re.findall(r"([a-z]+[0-9]*)\[([0-9,]*)\]", shapes):
            elements = 1
            for dim in filter(None, dims.split(",")):
                elements *= int(dim)
            size += elements * _BYTES.get(dtype, 4)
        found[kind] = (count + 1, size)
    return found
