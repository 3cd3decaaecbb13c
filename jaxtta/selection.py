"""Which parameters of a network a method adapts: predicates on the path of a leaf.

A path is that of `jaxtrain.trees`: the names from the root to the leaf, whatever the nodes are
(dicts, lists, dataclasses, modules of Equinox). The names of a PyTorch `state_dict`, `bn1.weight`,
count as paths too.
"""

import re
from collections.abc import Callable
from typing import Any

from jaxtrain import trees

Predicate = Callable[[tuple[str, ...]], bool]

_NORM = re.compile(
    r"norm.*|(.*_)?(batch|layer|group|instance|rms)?_?norm(alization)?_?\d*|(bn|ln|gn)([_\d].*)?",
    re.IGNORECASE,
)
_SCALES, _SHIFTS = ("scale", "weight", "gamma"), ("bias", "beta", "offset")
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def _parts(path: tuple[str, ...]) -> tuple[str, ...]:
    return tuple("/".join(path).replace(".", "/").split("/"))


def _paths(params: Any) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Path of every leaf, and its shape."""
    return {
        tuple(name.replace(".", "/").split("/")): shape
        for name, (shape, _) in trees.describe(params).items()
    }


def norm_parameters(path: tuple[str, ...]) -> bool:
    """Scale and bias of every normalisation layer, by the usual names of such layers.

    Those are `norm...`, `BatchNorm_0`, `layer_norm`, `bn1`, `ln_f` and the like; layers that are
    called otherwise, or only numbered, are found by `norm_layers`.
    """
    *modules, leaf = _parts(path)
    return leaf not in _STATISTICS and any(_NORM.fullmatch(name) for name in modules)


def norm_layers(params: Any) -> Predicate:
    """`norm_parameters`, and those of layers that have the form of a normalisation layer.

    That form is a scale and a shift (`scale`, `weight` or `gamma` beside `bias`, `beta` or
    `offset`) of one shape, with nothing of another shape beside them.

    Args:
      params: of any network, arrays or their shapes.
    """
    shapes: dict[tuple[str, ...], dict[str, tuple[int, ...]]] = {}
    for (*modules, leaf), shape in _paths(params).items():
        shapes.setdefault(tuple(modules), {})[leaf] = shape

    def is_affine(leaves: dict[str, tuple[int, ...]]) -> bool:
        own = {name: shape for name, shape in leaves.items() if name not in _STATISTICS}
        kinds = [set(own) & set(names) for names in (_SCALES, _SHIFTS)]
        return all(kinds) and len(set(own.values())) == 1 and () not in own.values()

    layers = {modules for modules, leaves in shapes.items() if is_affine(leaves)}

    def select(path: tuple[str, ...]) -> bool:
        *modules, leaf = _parts(path)
        return norm_parameters(path) or (tuple(modules) in layers and leaf in _SCALES + _SHIFTS)

    return select


def shallow_norm_parameters(params: Any) -> Predicate:
    """`norm_layers` without the last stage, as SAR and DeYO choose them.

    The stages are the outermost series of modules that are alike but for a number and hold
    normalisation layers: `stage1`, ..., `layer4`, `ResNetBlock_15`, `blocks/11`. Left out are the
    last of up to seven stages, the last quarter of blocks (9 to 11 of 12) and of longer series, and
    a last normalisation behind them (`norm_last`, `norm_final`, `ln_f`; `norm` after blocks). A
    network without such a series keeps all of its normalisation layers.

    Args:
      params: of any network, arrays or their shapes.
    """
    select = norm_layers(params)
    series: dict[tuple[tuple[str, ...], str], set[int]] = {}
    for path in _paths(params):
        for depth, name in enumerate(path[:-2] if select(path) else ()):
            if found := re.fullmatch(r"(\D*?)_?(\d+)", name):
                series.setdefault((path[:depth], found[1]), set()).add(int(found[2]))
    several = {place: sorted(numbers) for place, numbers in series.items() if len(numbers) > 1}
    if not several:
        return select
    (above, stem), numbers = min(several.items(), key=lambda x: (len(x[0][0]), -len(x[1])))
    is_blocks = (stem or above[-1]).startswith("block") or len(numbers) > 7
    last = numbers[len(numbers) - (len(numbers) // 4 if is_blocks else 1) :]
    left_out = {(*above, f"{stem}{gap}{number}") for gap in ("", "_") for number in last}
    outer = above if stem else above[:-1]
    ends = ("norm_last", "norm_final", "final_norm", "ln_f", "ln_post", *["norm"] * is_blocks)
    left_out |= {(*outer, name) for name in ends}
    return lambda path: (
        select(path) and not any(_parts(path)[: len(place)] == place for place in left_out)
    )


def all_parameters(path: tuple[str, ...]) -> bool:
    """Every parameter."""
    return True
