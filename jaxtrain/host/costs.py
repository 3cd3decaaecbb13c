"""What a program costs, counted in its jaxpr before it is compiled: FLOPs, bytes, memory.

The compiler's own analysis counts the body of a loop once; here a `scan` counts as often as it
runs, and a loop whose length is not known before it runs as often as `jaxtrain.loops.at_most` says,
or as often as the caller knows it runs.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from jaxtrain import loops


class Loop(NamedTuple):
    """A loop whose length is not known before it runs.

    Attributes:
      name: from `jaxtrain.loops.at_most`, empty for a loop without it.
      most: passes at most, 1 for a loop without a name.
      passes: passes that were counted.
      flops: of one pass.
      bytes: of one pass.
    """

    name: str
    most: int
    passes: float
    flops: float
    bytes: float


class Cost(NamedTuple):
    """What one call costs, over all devices.

    Attributes:
      flops: floating-point operations of matrix products and convolutions, a multiply-add as two,
        by type of their operands.
      bytes: what these products read and write. Everything else of a network is fused into them
        where a compiler does its work, so this is the least that has to move.
      loops: outermost loops of unknown length.
    """

    flops: Mapping[str, float]
    bytes: float
    loops: tuple[Loop, ...] = ()

    @property
    def total_flops(self) -> float:
        return sum(self.flops.values())


def cost(jaxpr: Jaxpr | ClosedJaxpr, passes: Mapping[str, float] | None = None) -> Cost:
    """Counts a program.

    Args:
      jaxpr: what `jax.jit(fun).trace(*args).jaxpr` or `jax.make_jaxpr(fun)(*args)` returns.
      passes: name of a loop -> passes it makes on average; default as many as it may make.

    Returns:
      The cost. A `cond` counts as its dearest branch, a loop without a name once.
    """
    flops: Counter[str] = Counter()
    moved, found = 0.0, []
    for equation in _open(jaxpr).eqns:
        name, params = equation.primitive.name, equation.params
        if name in ("dot_general", "conv_general_dilated"):
            flops[str(_dtype(equation.invars[0]))] += _product(equation)
            moved += sum(map(_size, (*equation.invars, *equation.outvars)))
            continue
        inner = [cost(one, passes) for one in _inner(params)]
        if name == "cond":
            inner = [max(inner, key=lambda one: (one.total_flops, one.bytes))]
        times: float = params["length"] if name == "scan" else 1
        if name == "shard_map":
            mesh = params["mesh"].shape
            times = math.prod(mesh[axis] for axis in params.get("newly_manual_axes", mesh))
        if name == "while":
            said = loops.bound(equation.source_info.name_stack) or loops.Bound("", 1)
            times = (passes or {}).get(said.name, said.most)
            pass_flops = sum(one.total_flops for one in inner)
            found.append(Loop(*said, times, pass_flops, sum(one.bytes for one in inner)))
        else:
            found += [loop for one in inner for loop in one.loops]
        for one in inner:
            flops.update({dtype: times * count for dtype, count in one.flops.items()})
            moved += times * one.bytes
    return Cost(dict(flops), moved, tuple(loop for loop in found if loop.flops))


def matmul_flops(jaxpr: Jaxpr | ClosedJaxpr) -> int:
    """Floating-point operations of all matrix products and convolutions, see `cost`."""
    return int(cost(jaxpr).total_flops)


def peak_bytes(jaxpr: Jaxpr | ClosedJaxpr) -> int:
    """Bytes that are alive at once, arguments and results included, if equations run in order.

    An element-wise result that is used once is taken to be fused into its user and to need no
    memory. Compilers reorder and reuse: this is an estimate.
    """
    program = _open(jaxpr)
    last: dict[Any, int] = {v: len(program.eqns) for v in program.outvars if _is_var(v)}
    uses = Counter(v for e in program.eqns for v in e.invars if _is_var(v))
    uses.update(last)
    fused = set()
    for i, equation in reversed(list(enumerate(program.eqns))):
        until = i
        if equation.primitive.name in _FUSED and uses[equation.outvars[0]] == 1:
            until = last.get(equation.outvars[0], i)
            if until < len(program.eqns):
                fused.add(equation.outvars[0])
        for var in filter(_is_var, equation.invars):
            last[var] = max(last.get(var, 0), until)
    alive = sum(map(_size, (*program.invars, *program.constvars)))
    peak = alive
    ends: dict[int, list[Any]] = {}
    given = {*program.invars, *program.constvars}
    for var, end in last.items():
        if var not in given and var not in fused:
            ends.setdefault(end, []).append(var)
    for i, equation in enumerate(program.eqns):
        made = sum(_size(v) for v in equation.outvars if v in last and v not in fused)
        around = sum(map(_size, (*equation.invars, *equation.outvars)))
        inside = max((peak_bytes(one) - around for one in _inner(equation.params)), default=0)
        alive += made
        peak = max(peak, alive + max(inside, 0))
        alive -= sum(map(_size, ends.get(i, ())))
    return peak


# Element-wise, and changes of shape, which cost nothing.
_FUSED = frozenset(
    "abs add add_any and broadcast_in_dim ceil clamp convert_element_type copy cos div eq erf "
    "erf_inv exp exp2 expand_dims expm1 floor ge gt integer_pow iota is_finite le log log1p "
    "logistic lt max min mul ne neg not or pow real reshape rsqrt select_n sign sin sqrt square "
    "squeeze stop_gradient sub tanh transpose xor".split()
)


def _open(jaxpr: Jaxpr | ClosedJaxpr) -> Jaxpr:
    return jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr


def _inner(params: Mapping[str, Any]) -> Iterator[Jaxpr]:
    """The programs inside an equation."""
    is_program = lambda x: isinstance(x, (Jaxpr, ClosedJaxpr))
    leaves = jax.tree.leaves(list(params.values()), is_leaf=is_program)
    return map(_open, filter(is_program, leaves))


def _is_var(x: Any) -> bool:
    return not isinstance(x, Literal)


def _dtype(var: Any) -> Any:
    return getattr(var.aval, "dtype", None)


def _size(var: Any) -> int:
    if (dtype := _dtype(var)) is None:
        return 0
    item = 8 if jnp.issubdtype(dtype, jax.dtypes.prng_key) else dtype.itemsize
    return math.prod(var.aval.shape) * item


def _product(equation: Any) -> int:
    """FLOPs of one matrix product or convolution."""
    params = equation.params
    out, left, right = (v.aval.shape for v in (equation.outvars[0], *equation.invars[:2]))
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return 2 * math.prod(out) * math.prod(left[axis] for axis in contracted)
    outputs = right[params["dimension_numbers"].rhs_spec[0]]
    return 2 * math.prod(out) * math.prod(right) // outputs
