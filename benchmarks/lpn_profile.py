"""Where the time of small latent-program work goes: the floor, the program, its products, the rest.

python -m benchmarks.lpn_profile

For training steps of `pattern_4` and `pattern_2d` (32 tasks), a search of ten steps on 8 tasks of
three demonstrations and one grid of 10 x 10 at batch 1, all float32. The floor is the FLOPs of the
products that some result depends on: no pair of tokens that a mask forbids, no token that nothing
reads. The rate is that of a 2048 x 2048 product in the same run, per second of CPU time, which
other programs disturb least. A training step or a search is also told apart into its matrix
products, each timed alone at its shapes, and what is left: softmax, norms, masks, and copies
between layouts. A
product timed alone has the cost of its call besides, which counts where products are tiny. Two
minutes on two cores.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr

from benchmarks import timing
from benchmarks.lpn_generation import predict_full_size
from configs.lpn_patterns import get_config
from experiments.lpn.settings import build_core, build_model
from experiments.lpn_patterns import sampler
from jaxtrain.host import costs
from jaxtta.lpn import (
    LPN,
    Block,
    Config,
    Grid,
    Method,
    Pairs,
    ascent_adam,
    generate,
    gradient_ascent,
    search_task,
)

TASKS, SEARCHED, STEPS = 32, 8, 10


class Case(NamedTuple):
    """Work that is timed.

    Attributes:
      name: as printed.
      function: compiled when it is called.
      args: its arguments.
      floor: FLOPs that it cannot do without.
      program: FLOPs of the matrix products that it makes.
      config: of the network.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    floor: float
    program: float
    config: Config


class Work(NamedTuple):
    """FLOPs of products with weights, and of those between tokens."""

    dense: float
    attention: float

    def __add__(self, other: Any) -> "Work":
        return Work(self.dense + other.dense, self.attention + other.attention)

    def times(self, dense: float, attention: float) -> float:
        return dense * self.dense + attention * self.attention


def block(sizes: Block, *, kv: int, out: int, pairs: int, q: int | None = None) -> Work:
    """One block that makes keys and values of `kv` tokens and new values of `out` tokens.

    Queries are made of `q` tokens, of those of `out` by default; `pairs` are queries times keys.
    """
    width, hidden = sizes.width, int(sizes.mlp_factor * sizes.width)
    each = 2 * width * width
    queries = out if q is None else q
    dense = 2 * each * kv + each * (queries + out) + 4 * width * hidden * out
    return Work(dense, 4 * width * pairs)


def encoding(config: Config, cells: int) -> Work:
    """Of one pair: the last block makes the CLS token only."""
    tokens, sizes, work = 2 * cells + 5, config.encoder, Work(0, 0)
    for i in range(sizes.num_layers):
        out = tokens if i + 1 < sizes.num_layers else 1
        work += block(sizes, kv=tokens, out=out, pairs=out * tokens)
    return work + Work(2 * 2 * sizes.width * config.latent_dim, 0)


def decoding(config: Config, cells: int, *, prepared: bool = False) -> Work:
    """Of one output of `cells` under one latent, the input having as many.

    With `prepared`, all of the first block that no latent changes has been done before.
    """
    sizes, read, written = config.decoder, cells + 3, cells + 1
    causal = written * read + written * (written + 1) // 2
    work = Work(2 * config.latent_dim * sizes.width, 0)
    for i in range(sizes.num_layers):
        out = read if i + 1 < sizes.num_layers else 1
        if i == 0 and prepared:
            pairs = read + (out - 1) + written
            work += block(sizes, kv=1, q=1, out=out + written, pairs=pairs)
        else:
            pairs = out * read + causal
            work += block(sizes, kv=read + written, out=out + written, pairs=pairs)
    heads = config.max_rows + config.max_cols + 10 * cells
    return work + Work(2 * sizes.width * heads, 0)


def training_floor(config: Config, cells: int, pairs: int) -> float:
    """Of the gradient of `pairs` pairs: every product has two in the backward pass."""
    return pairs * (encoding(config, cells) + decoding(config, cells)).times(3, 3)


def search_floor(config: Config, cells: int, demos: int, steps: int) -> float:
    """Of one task: gradients of latents need no products for weights; the last score none."""
    once = encoding(config, cells).times(1, 1)
    whole, step = decoding(config, cells), decoding(config, cells, prepared=True)
    once += max(0.0, whole.times(1, 1) - step.times(1, 1))
    return demos * (once + steps * step.times(2, 3) + step.times(1, 1))


def traced(function: Callable[..., Any], args: tuple[Any, ...]) -> Jaxpr:
    """The program without what no result needs, which the compiler leaves out, too."""
    return needed(jax.make_jaxpr(function)(*args).jaxpr)


def needed(program: Jaxpr) -> Jaxpr:
    """The same arguments and results, and inside of loops, too."""

    def inside(param: Any) -> Any:
        is_program = isinstance(param, ClosedJaxpr)
        return param.replace(jaxpr=needed(param.jaxpr)) if is_program else param

    program = dce_jaxpr(program, [True] * len(program.outvars), True)[0]
    equations = [
        equation.replace(params={name: inside(x) for name, x in equation.params.items()})
        for equation in program.eqns
    ]
    return program.replace(eqns=equations)


def program_of(function: Callable[..., Any], args: tuple[Any, ...], passes: Any = None) -> float:
    return costs.cost(traced(function, args), passes).total_flops


def training_case(variant: str, micro_batch: int = 0) -> Case:
    config = get_config(f"{variant},batch_size={TASKS},micro_batch={micro_batch}")
    lpn = build_model(config)
    core, sample = build_core(config, lpn), sampler(config)
    state = jax.jit(core.init)(jax.random.key(0))
    batch = jax.jit(sample)(jax.random.key(1), jnp.arange(TASKS))
    args = state, batch, jax.random.key(2)
    cells, pairs = config.data.num_rows * config.data.num_cols, TASKS * config.data.num_pairs
    passes = {f"micro_batches_of_{cells}_cells": TASKS // (micro_batch or TASKS)}
    name = f"step, {variant}" + (f", {micro_batch} tasks at once" if micro_batch else "")
    floor = training_floor(lpn.config, cells, pairs)
    program = program_of(core.update, args, passes)
    return Case(name, jax.jit(core.update), args, floor, program, lpn.config)


def searched(lpn: LPN, *, one_by_one: bool) -> Callable[..., Any]:
    """`(params, keys, demos) -> latents` of the tasks, together or one after the other."""
    ascent = functools.partial(gradient_ascent, optimizer=ascent_adam(0.1))
    method = Method(make_search=ascent, num_steps=STEPS)

    def search(params: Any, keys: Any, demos: Pairs) -> Any:
        one = lambda task: search_task(lpn, params, *task, method).best_latents[0]
        return (jax.lax.map if one_by_one else lambda f, x: jax.vmap(f)(x))(one, (keys, demos))

    return search


def search_case(*, one_by_one: bool) -> Case:
    config = get_config(f"pattern_4,batch_size={SEARCHED},data.num_pairs=3")
    lpn = build_model(config)
    (tasks,) = jax.jit(sampler(config))(jax.random.key(1), jnp.arange(SEARCHED))
    demos = jax.tree.map(lambda x: x[:, 0], tasks.pairs)
    params = jax.jit(lpn.init)(jax.random.key(0))
    args = params, jax.random.split(jax.random.key(2), SEARCHED), demos
    function = searched(lpn, one_by_one=one_by_one)
    name = f"search, {'task after task' if one_by_one else f'{SEARCHED} tasks at once'}"
    floor = SEARCHED * search_floor(lpn.config, 100, 3, STEPS)
    program = program_of(function, args, {"": STEPS})
    return Case(name, jax.jit(function), args, floor, program, lpn.config)


def generation_case() -> Case:
    lpn = build_model(get_config("pattern_4"))
    rng = np.random.default_rng(0)
    cells = jnp.asarray(rng.integers(0, 10, (1, 100)), jnp.uint8)
    inputs = Grid(cells, jnp.full((1, 2), 10, jnp.int32))
    latents = jnp.asarray(rng.normal(size=(1, lpn.config.latent_dim)), jnp.float32)
    params = jax.jit(lpn.init)(jax.random.key(0))
    params = jax.jit(predict_full_size, static_argnums=0)(lpn, params, latents, inputs)
    args = params, latents, inputs
    function = lambda p, z, g: generate(lpn, p, z, g)
    # Two loops, for 36 and for 64 cells: 50 on average.
    program = program_of(function, args, {"": 50})
    floor = decoding(lpn.config, 100).times(1, 1)
    return Case("one grid of 10 x 10", jax.jit(function), args, floor, program, lpn.config)


def cases() -> Iterator[Case]:
    """Made one by one, so that little is held."""
    yield training_case("pattern_4")
    yield training_case("pattern_4", 4)
    yield training_case("pattern_2d")
    yield search_case(one_by_one=False)
    yield search_case(one_by_one=True)
    yield generation_case()


def products(jaxpr: ClosedJaxpr | Jaxpr, passes: int = 1) -> Counter[tuple[Any, ...]]:
    """(dimension numbers, shapes) of the float32 products -> how often they are made.

    A `scan` counts as often as it runs, any other loop `passes` times.
    """
    found: Counter[tuple[Any, ...]] = Counter()
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            shapes = tuple(v.aval.shape for v in equation.invars)
            found[params["dimension_numbers"], shapes] += 1
        times = {"scan": params.get("length", 1), "while": passes}.get(name, 1)
        is_program = lambda x: isinstance(x, (ClosedJaxpr, Jaxpr))
        for inner in filter(is_program, jax.tree.leaves(list(params.values()), is_leaf=is_program)):
            found.update({key: times * n for key, n in products(inner, passes).items()})
    return found


def seconds_alone(found: Counter[tuple[Any, ...]], repeats: int = 5) -> float:
    """CPU time of all products, each compiled and timed by itself."""
    total = 0.0
    for (dimensions, shapes), number in found.items():
        multiply = jax.jit(functools.partial(jax.lax.dot_general, dimension_numbers=dimensions))
        arrays = [jnp.ones(shape) for shape in shapes]
        total += number * timing.timed(multiply, *arrays, repeats=repeats)[0].cpu
    return total


@timing.told()
def main() -> None:
    jax.config.update("jax_enable_compilation_cache", False)
    before = timing.matmul_rates()
    rows = []
    for case in cases():
        spent, _ = timing.timed(case.function, *case.args, repeats=5)
        alone = None
        if "grid" not in case.name:
            passes = STEPS if "search" in case.name else TASKS // 4
            alone = seconds_alone(products(traced(case.function, case.args), passes))
        rows.append((case, spent, alone))
    after = timing.matmul_rates()
    print(f"matrix-multiply rate before {before}, after {after}")
    rate = (before.cpu + after.cpu) / 2
    for case, spent, alone in rows:
        share = case.program / spent.cpu / rate
        said = (
            f"{case.name:<36} floor {case.floor:.2e} FLOPs, {case.floor / rate:.2g} s of CPU time, "
            f"program {case.program / case.floor:.2f} of it, {spent}, {share:.2f} of the rate"
        )
        if alone is not None:
            said += f", products alone {alone:.2g} s of CPU time ({alone / spent.cpu:.0%})"
        print(said)


if __name__ == "__main__":
    main()
