"""Share of the machine's matrix-multiply rate that a training step reaches.

python -m benchmarks.lpn_train_rate

The rate is measured in the same run with a 2048 x 2048 float32 product. FLOPs are those of the
matrix products in the step, counted from its program. The model is the paper's ARC model (44.6M
parameters) on one task of full 30 x 30 grids, the case in which grids weigh most. What keeps the
step from the full rate is shown by timing its attention alone (products with 64 channels around a
softmax over a score matrix that does not fit into the caches) and its feed-forward layers alone.
About 4 minutes and 12 GiB on 2 CPU cores.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from jaxtrain.host.costs import matmul_flops
from jaxtrain.nets.attention import attend
from jaxtta.lpn import LPN, Block, Config, Grid, Pairs, adamw, cut, task_loss, training


def seconds(function, *args) -> float:
    """Median time of a compiled function and its gradient."""
    step = jax.jit(jax.grad(lambda *a: function(*a).sum(), argnums=tuple(range(len(args)))))
    return timing.timed(step, *args, repeats=3)[0].wall


def parts(batch: int, cells: int, encoder: Block, decoder: Block) -> dict[str, tuple[float, float]]:
    """Seconds and FLOPs of attention and feed-forward layers in one step, by name."""
    # (layers, queries, keys) of the encoder, the decoder's input side, and its output side.
    sizes = (
        (encoder, 2 * cells + 5, 2 * cells + 5),
        (decoder, cells + 2, cells + 3),
        (decoder, cells + 1, 2 * cells + 4),
    )
    spent = {"attention": [0.0, 0.0], "feed-forward": [0.0, 0.0]}
    for block, queries, keys in sizes:
        q, k = (jnp.ones((batch, block.num_heads, n, block.head_dim)) for n in (queries, keys))
        mask = jnp.ones((queries, keys), bool)
        spent["attention"][0] += block.num_layers * seconds(
            lambda q, k, v, mask=mask: attend(q, k, v, mask), q, k, k
        )
        # Two products forward, four backward.
        spent["attention"][1] += block.num_layers * 12 * batch * queries * keys * block.width
        hidden = int(block.mlp_factor * block.width)
        x = jnp.ones((batch * queries, block.width))
        w1, w2 = jnp.ones((block.width, hidden)), jnp.ones((hidden, block.width))
        spent["feed-forward"][0] += block.num_layers * seconds(
            lambda x, w1, w2: jax.nn.silu(x @ w1) @ w2, x, w1, w2
        )
        spent["feed-forward"][1] += block.num_layers * 12 * x.size * hidden
    return {name: (time, flops) for name, (time, flops) in spent.items()}


@timing.told()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--side", type=int, default=30)
    parser.add_argument("--tasks", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--layers", type=int, nargs=2, default=(8, 6), help="encoder, decoder")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--head_dim", type=int, default=64)
    parser.add_argument("--mlp_factor", type=float, default=4.0)
    parser.add_argument("--remat", action="store_true")
    parser.add_argument("--profile", default="", help="folder for a trace of one step")
    options = parser.parse_args()
    encoder, decoder = (
        Block(n, options.heads, options.head_dim, options.mlp_factor) for n in options.layers
    )
    lpn = LPN(Config(30, 30, 256, encoder, decoder, positions="rope", remat=options.remat))
    core = training(lpn.init, functools.partial(task_loss, lpn), adamw(3e-4))
    state = jax.jit(core.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    lead = (options.tasks, options.pairs)

    def grid():
        cells = jnp.asarray(rng.integers(0, 10, (*lead, options.side**2)), jnp.uint8)
        return Grid(cells, jnp.full((*lead, 2), options.side, jnp.int32))

    batch = cut(Pairs(grid(), grid(), jnp.ones(lead, bool)), jnp.arange(options.tasks))
    key = jax.random.key(1)
    flops = matmul_flops(jax.make_jaxpr(core.update)(state, batch, key))
    step = jax.jit(core.update, donate_argnums=0)
    state, _ = jax.block_until_ready(step(state, batch, key))
    before = timing.matmul_rate()

    def advance():
        nonlocal state
        state, output = step(state, batch, key)
        return output

    whole = timing.timed(advance, repeats=3, warm=False)[0]
    rate = (before + timing.matmul_rate()) / 2
    if options.profile:
        with jax.profiler.trace(options.profile):
            jax.block_until_ready(step(state, batch, key))
    reached = flops / whole.wall
    print(f"parameters {lpn.num_parameters()['total']:,}")
    print(f"matrix products of one step  {flops:.3e} FLOPs in {whole}")
    print(
        f"matrix-multiply rate  {rate / 1e9:.1f} GFLOP/s, training step {reached / 1e9:.1f} GFLOP/s"
    )
    print(f"fraction {reached / rate:.2f}")
    del state
    alone = parts(options.tasks * options.pairs, options.side**2, encoder, decoder)
    for name, (spent, count) in alone.items():
        print(
            f"{name} alone: {spent:.2f} s ({spent / whole.wall:.0%} of the step, "
            f"{count / flops:.0%} of its FLOPs), fraction {count / spent / rate:.2f}"
        )


if __name__ == "__main__":
    main()
