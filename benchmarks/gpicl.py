"""Speed of in-context meta-learning: the full-size step, cached evaluation, swept runs.

python -m benchmarks.gpicl [--parts step,online,sweep]

step: share of the machine's matrix-multiply rate that the training step of the published setting
(width 256, 4 layers of 8 heads of 32, 100 examples of 14 x 14 pixels) reaches; the rate is that of
a 2048 x 2048 float32 product measured before and after. online: predicting the labels of one
sequence of that model one by one with kept keys and values, against reading the whole prefix again
for every example (in lengths that are multiples of ten, so that ten programs serve all). sweep:
training many seeds and numbers of tasks in one program, against programs of their own and against
one program run again and again. Results are checked to be equal.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import timing
from jaxtrain import holding, trees
from jaxtrain.host.costs import matmul_flops
from jaxtta import in_context as icl

PIXELS, CLASSES, LENGTH = 196, 10, 100


def images(n: int, pixels: int, classes: int) -> icl.Data:
    """Random pixels: speed does not depend on what they show."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, pixels)).astype(np.float32)
    return icl.Data(jnp.asarray(x), jnp.arange(n, dtype=jnp.int32) % classes)


def step(batch_size: int, repeats: int) -> None:
    learner = icl.transformer(PIXELS, CLASSES, LENGTH)
    data = images(10_000, PIXELS, CLASSES)
    sampler = functools.partial(
        icl.sampler,
        base_key=jax.random.key(0),
        projection=icl.Projection(PIXELS, PIXELS),
        num_classes=CLASSES,
        length=LENGTH,
        batch_size=batch_size,
        num_tasks=2**16,
    )
    core = holding(lambda data: icl.meta_training(learner, sampler(data), optax.adam(1e-3)))
    state = jax.jit(core.init)(data, jax.random.key(0))
    index, key = jnp.arange(batch_size), jax.random.key(1)
    flops = matmul_flops(jax.make_jaxpr(core.update)(state, index, key))
    update = jax.jit(core.update, donate_argnums=0)
    draw = jax.jit(lambda data, key, index: sampler(data)(key, index))
    state, _ = jax.block_until_ready(update(state, index, key))
    jax.block_until_ready(draw(data, key, index))
    before = timing.matmul_rate()

    def advance():
        nonlocal state
        state, output = update(state, index, key)
        return output

    seconds = timing.timed(advance, repeats=repeats, warm=False)[0]
    drawing = timing.timed(draw, data, key, index, repeats=repeats, warm=False)[0]
    rate = (before + timing.matmul_rate()) / 2
    print(
        f"step: {trees.size(state.state.params):,} parameters, {batch_size} sequences of {LENGTH}"
    )
    print(f"  {flops:.3e} FLOPs of matrix products in {seconds}, drawing {drawing}")
    print(f"  machine {rate / 1e9:.1f}, step {flops / seconds.wall / 1e9:.1f} GFLOP/s")
    print(f"  fraction {flops / seconds.wall / rate:.2f}")


def online(batch_size: int, repeats: int) -> None:
    learner = icl.transformer(PIXELS, CLASSES, LENGTH)
    params = jax.jit(learner.init)(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (batch_size, LENGTH, PIXELS))
    y = jax.random.randint(jax.random.key(2), (batch_size, LENGTH), 0, CLASSES)
    cached = jax.jit(functools.partial(icl.online, learner))
    whole = jax.jit(learner.logits)  # one program per length

    def again():
        rows = []
        for t in range(LENGTH):
            size = 10 * (t // 10 + 1)
            rows.append(whole(params, x[:, :size], y[:, :size])[:, t])
        return jnp.stack(rows, axis=1)

    difference = float(jnp.abs(cached(params, x, y) - again()).max())
    assert difference < 1e-4, difference
    slow, fast, parallel = (
        timing.timed(function, repeats=repeats, warm=False)[0]
        for function in (again, lambda: cached(params, x, y), lambda: whole(params, x, y))
    )
    print(f"online: {batch_size} sequences of {LENGTH}, logits differ by {difference:.1e}")
    print(f"  kept keys and values  {fast}")
    print(f"  prefix again          {slow}   ratio {slow.wall / fast.wall:.1f}")
    print(f"  all at once           {parallel}   (possible when all labels are known)")


def sweep(trials: int, steps: int) -> None:
    pixels, classes, length, batch = 16, 4, 24, 4
    data = images(540, pixels, classes)
    learner = icl.transformer(
        pixels, classes, length, num_layers=1, width=16, num_heads=2, key_size=8, layout="paired"
    )

    def run(seed, num_tasks):
        key = jax.random.fold_in(jax.random.key(0), seed)
        sample = icl.sampler(
            data,
            key,
            icl.Projection(pixels, pixels),
            classes,
            length=length,
            batch_size=batch,
            num_tasks=num_tasks,
        )
        core = icl.meta_training(learner, sample, optax.adam(2e-3))

        def body(state, i):
            state, out = core.update(state, jnp.arange(batch), jax.random.fold_in(key, i))
            return state, out.metrics["loss"]

        return jax.lax.scan(body, core.init(key), jnp.arange(steps))[1]

    seeds = jnp.arange(trials)
    tasks = jnp.asarray(2 ** (np.arange(trials) % 17), jnp.int32)

    def timed(function):
        jax.clear_caches()
        spent, result = timing.timed(function, warm=False)
        return spent.wall, np.asarray(result)

    together, swept = timed(lambda: jax.jit(jax.vmap(run))(seeds, tasks))
    few = [timed(lambda i=i: jax.jit(run)(seeds[i], tasks[i]))[0] for i in range(3)]
    each = float(np.mean(few)) * trials

    def one_after_another():
        program = jax.jit(run)
        return np.stack([program(s, k) for s, k in zip(seeds, tasks, strict=True)])

    shared, alone = timed(one_after_another)
    difference = np.abs(swept - alone).max()
    assert difference < 1e-3, difference
    print(f"sweep: {trials} runs of {steps} steps, losses differ by {difference:.1e}")
    print(f"  one swept program           {together:7.1f} s")
    print(f"  separate programs           {each:7.1f} s   ratio {each / together:.1f}")
    print(f"  one program, one at a time  {shared:7.1f} s   ratio {shared / together:.1f}")


@timing.told()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", default="step,online,sweep")
    parser.add_argument("--batch_size", type=int, default=32, help="sequences of the step")
    parser.add_argument("--online_batch", type=int, default=1)
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20, help="of each swept run")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    parts = options.parts.split(",")
    if "step" in parts:
        step(options.batch_size, options.repeats)
    if "online" in parts:
        online(options.online_batch, options.repeats)
    if "sweep" in parts:
        sweep(options.trials, options.steps)


if __name__ == "__main__":
    main()
