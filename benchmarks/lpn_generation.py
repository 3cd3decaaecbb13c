"""Generation with kept keys and values against re-running the decoder for every token, at 30 x 30.

python -m benchmarks.lpn_generation

Both are greedy, compiled, and run on the same latents and inputs; the grids must be equal. The head
kernels are set so that full grids are predicted, the worst case for the cache. The network is the
authors' single-task one (3 decoder blocks of 6 x 16). One grid of 10 x 10 is timed, too. About 3
minutes on 2 CPU cores; half a minute with `--kept_only`.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from jaxtta.lpn import LPN, Block, Config, Grid, Pairs, generate
from jaxtta.lpn.decoder import Decoder


def predict_full_size(lpn: LPN, params, latents, inputs: Grid):
    """Parameters whose row and column heads answer the largest side on this batch."""
    decoder = params["decoder"]
    full = Grid(jnp.zeros_like(inputs.cells), jnp.full_like(inputs.shape, lpn.config.max_rows))
    prepared = lpn.prepare(params, Pairs(inputs, full, jnp.ones(len(latents), bool)))
    memory = lpn.decoder(
        params, Decoder.memory, prepared.inputs, latents[:, None], jnp.ones((len(latents), 1), bool)
    )
    hidden = lpn.decoder(params, Decoder.write, memory, prepared.outputs)[:, 0]
    heads = {"shape_row_logits_proj": memory.context, "shape_col_logits_proj": hidden}
    for name, vectors in heads.items():
        vectors = vectors - vectors.mean(-1, keepdims=True)
        kernel = jnp.zeros_like(decoder[name]["kernel"]).at[:, -1].set(vectors.sum(0))
        decoder = {**decoder, name: {"kernel": kernel}}
    return {**params, "decoder": decoder}


def generate_by_rerunning(lpn: LPN, params, latents, inputs: Grid) -> Grid:
    """The plain way: a whole teacher-forced pass per token, over the padded sequence."""
    limit = lpn.config.max_rows * lpn.config.max_cols
    batch = len(latents)

    def logits(grid):
        pairs = Pairs(inputs, grid, jnp.ones(batch, bool))
        return lpn.logits(params, latents, lpn.prepare(params, pairs))

    cells = jnp.zeros((batch, limit), jnp.uint8)
    rows = logits(Grid(cells, jnp.ones((batch, 2), jnp.int32))).rows.argmax(-1) + 1
    shape = jnp.stack([rows, jnp.ones_like(rows)], -1)
    cols = logits(Grid(cells, shape)).cols.argmax(-1) + 1
    shape = jnp.stack([rows, cols], -1)

    def step(k, cells):
        colour = logits(Grid(cells, shape)).cells[:, k].argmax(-1)
        keep = k < shape.prod(-1)
        return cells.at[:, k].set(jnp.where(keep, colour, 0).astype(jnp.uint8))

    return Grid(jax.lax.fori_loop(0, limit, step, cells), shape)


def network(side: int, batch: int):
    """Network, parameters and full-size inputs on which it answers with full-size grids."""
    blocks = Block(num_layers=3, num_heads=6, head_dim=16, mlp_factor=1.0)
    lpn = LPN(Config(side, side, 32, Block(0, 6, 16, 1.0), blocks))
    params = jax.jit(lpn.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    inputs = Grid(
        jnp.asarray(rng.integers(0, 10, (batch, side**2)), jnp.uint8),
        jnp.full((batch, 2), side, jnp.int32),
    )
    latents = jnp.asarray(rng.normal(size=(batch, 32)), jnp.float32)
    params = jax.jit(predict_full_size, static_argnums=0)(lpn, params, latents, inputs)
    return lpn, params, latents, inputs


def kept(lpn: LPN, repeats: int, *args) -> tuple[timing.Spent, Grid]:
    function = jax.jit(lambda p, z, g: generate(lpn, p, z, g))
    spent, grids = timing.timed(function, *args, repeats=repeats)
    assert (np.asarray(grids.shape) == lpn.config.max_rows).all(), grids.shape
    return spent, grids


@timing.told()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--slow_batch", type=int, default=1, help="grids the plain way generates")
    parser.add_argument("--batch", type=int, default=16, help="grids generated together")
    parser.add_argument("--kept_only", action="store_true", help="without the plain way")
    options = parser.parse_args()
    lpn, *args = network(10, 1)
    print(f"kept keys and values, 10 x 10, one grid: {kept(lpn, 20, *args)[0]}")

    lpn, params, latents, inputs = network(30, options.batch)
    few = options.slow_batch
    first = params, latents[:few], jax.tree.map(lambda x: x[:few], inputs)
    alone, same = kept(lpn, 3, *first)
    print(f"kept keys and values, 30 x 30, batch {few}: {alone}")
    fast, grids = kept(lpn, 1, params, latents, inputs)
    print(f"kept keys and values, 30 x 30, batch {options.batch}: {fast}")
    if options.kept_only:
        return
    plain = jax.jit(lambda p, z, g: generate_by_rerunning(lpn, p, z, g))
    slow, again = timing.timed(plain.lower(*first).compile(), *first, warm=False)
    print(f"re-running the decoder, batch {few}: {slow}")
    assert (np.asarray(same.cells) == np.asarray(again.cells)).all(), "grids differ"
    share = (np.asarray(grids.cells[:few]) == np.asarray(again.cells)).mean()
    print(f"ratio at equal batch       {slow.wall / alone.wall:8.1f}")
    each = slow.wall / few / (fast.wall / options.batch)
    print(f"ratio with tasks and attempts batched {each:8.1f}")
    print(f"equal cells: {100.0:.1f} % at equal batch, {100 * share:.1f} % across batch sizes")


if __name__ == "__main__":
    main()
