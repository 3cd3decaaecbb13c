"""Batched latent search against the plain formulation.

python -m benchmarks.lpn_search

Plain: one task and one start point at a time, over sequences padded to the largest grid of the
model, with the gradient of the whole loss (parameters included) of which the latent's part is used.
Ours: all tasks and starts at once, the size bucket of the tasks, latent gradients only. The third
row keeps the input's keys and values over the whole search, which the variant
`input_sees_context=False` allows (another model, so its latents are not compared). About 2 minutes
on 2 CPU cores.
"""

import argparse
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from jaxtrain.host.costs import matmul_flops
from jaxtta.lpn import (
    LPN,
    Block,
    Config,
    Grid,
    Method,
    Pairs,
    Starts,
    ascent_adam,
    gradient_ascent,
    scorer,
    search_task,
)


def grids(rng: np.random.Generator, lead: tuple[int, ...], cells: int, room: int) -> Grid:
    side = int(cells**0.5)
    values = np.zeros((*lead, room), np.uint8)
    values[..., :cells] = rng.integers(0, 10, (*lead, cells))
    return Grid(jnp.asarray(values), jnp.full((*lead, 2), side, jnp.int32))


@timing.told()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--starts", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--cells", type=int, default=100)
    parser.add_argument("--room", type=int, default=225, help="padded length of the plain form")
    options = parser.parse_args()
    block = Block(num_layers=2, num_heads=6, head_dim=16, mlp_factor=1.0)
    config = Config(30, 30, 32, block, block)
    lpn = LPN(config)
    params = jax.jit(lpn.init)(jax.random.key(0))
    lead = (options.tasks, 3)

    def demos(room):
        rng = np.random.default_rng(0)
        pair = [grids(rng, lead, options.cells, room) for _ in range(2)]
        return Pairs(*pair, jnp.ones(lead, bool))

    make = functools.partial(gradient_ascent, optimizer=ascent_adam(0.1))
    further = (options.starts - 1, 0.5) if options.starts > 1 else None
    starts = Starts(random_perturbation=further)
    method = Method(make_search=make, num_steps=options.steps, starts=starts)
    keys = jax.random.split(jax.random.key(1), options.tasks)

    def ours(lpn):
        return jax.jit(
            lambda p, k, d: jax.vmap(lambda key, demo: search_task(lpn, p, key, demo, method))(k, d)
        )

    given = params, keys, demos(options.cells)
    flops, rate = matmul_flops(jax.make_jaxpr(ours(lpn))(*given)), timing.matmul_rate()
    batched, result = timing.timed(ours(lpn), *given, repeats=3)
    rate = (rate + timing.matmul_rate()) / 2
    print(f"batched  {batched}, {flops / batched.wall / rate:.2f} of the matrix-multiply rate")
    separate = LPN(dataclasses.replace(config, input_sees_context=False))
    kept, _ = timing.timed(ours(separate), *given, repeats=3)

    @jax.jit
    def plain_gradient(params, z, demo):
        def loss(params, z):
            return scorer(lpn, params, demo)(z[None]).score[0]

        value, (_, gradient) = jax.value_and_grad(loss, argnums=(0, 1))(params, z)
        return value, gradient

    @jax.jit
    def plain_move(z, moments, count, gradient):
        gradient = -gradient / jnp.maximum(1.0, jnp.linalg.norm(gradient))
        first = 0.9 * moments[0] + 0.1 * gradient
        second = 0.9 * moments[1] + 0.1 * gradient**2
        scale = 1 - 0.9**count
        step = (first / scale) / (jnp.sqrt(second / scale + 1e-8) + 1e-8)
        return z - 0.1 * step, (first, second)

    padded = demos(options.room)
    starts = np.asarray(result.latents[:, 0])

    def plain():
        found = np.zeros((options.tasks, options.starts), np.float32)
        for t in range(options.tasks):
            demo = jax.tree.map(lambda x, t=t: x[t], padded)
            for s in range(options.starts):
                z = jnp.asarray(starts[t, s])
                moments, best = (jnp.zeros_like(z), jnp.zeros_like(z)), -np.inf
                for count in range(1, options.steps + 1):
                    value, gradient = plain_gradient(params, z, demo)
                    best = max(best, float(value))
                    z, moments = plain_move(z, moments, count, gradient)
                found[t, s] = max(best, float(plain_gradient(params, z, demo)[0]))
        return found

    slow, best = timing.timed(plain)
    ours_best = np.asarray(result.scores.max(1))
    print(
        f"{options.tasks} tasks of 3 demonstrations with {options.cells} cells, {options.starts} "
        f"starts, {options.steps} Adam steps"
    )
    print(f"plain    {slow} (padded to {options.room} cells)")
    print(f"batched  {batched}   ratio {slow.wall / batched.wall:.1f}")
    print(f"input keys and values kept {kept}   {batched.wall / kept.wall:.2f} x batched")
    difference = np.abs(best - ours_best).max()
    print(f"best scores differ by {difference:.1e}")
    assert difference < 1e-3, difference


if __name__ == "__main__":
    main()
