"""Generation with kept keys and values against re-running the decoder for every token, at 30 x 30.

python -m benchmarks.lpn_generation

Both are greedy, compiled, and run on the same latents and inputs; the grids must be equal. The head
kernels are set so that full 30 x 30 grids are predicted, the worst case for the cache. The network
is the authors' single-task one (3 decoder blocks of 6 x 16). About 3 minutes on 2 CPU cores.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxtta.lpn import LPN, Block, Config, Grid, Pairs, generate
from jaxtta.lpn.decoder import Decoder


def predict_full_size(lpn: LPN, params, latents, inputs: Grid):
    """Parameters whose row and column heads answer 30 on this batch."""
    decoder = params["decoder"]
    full = Grid(jnp.zeros_like(inputs.cells), jnp.full_like(inputs.shape, 30))
    prepared = lpn.prepare(params, Pairs(inputs, full, jnp.ones(len(latents), bool)))
    memory = lpn.decoder(
        params, Decoder.memory, prepared.inputs, latents[:, None], jnp.ones((len(latents), 1), bool)
    )
    hidden = lpn.decoder(params, Decoder.write, memory, prepared.outputs)[:, 0]
    heads = {"shape_row_logits_proj": memory.context, "shape_col_logits_proj": hidden}
    for name, vectors in heads.items():
        vectors = vectors - vectors.mean(-1, keepdims=True)
        kernel = jnp.zeros_like(decoder[name]["kernel"]).at[:, 29].set(vectors.sum(0))
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


def seconds(function, *args) -> tuple[float, Grid]:
    compiled = jax.jit(function).lower(*args).compile()
    begin = time.perf_counter()
    result = jax.block_until_ready(compiled(*args))
    return time.perf_counter() - begin, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--slow_batch", type=int, default=1, help="grids the plain way generates")
    parser.add_argument("--batch", type=int, default=16, help="grids generated together")
    options = parser.parse_args()
    blocks = Block(num_layers=3, num_heads=6, head_dim=16, mlp_factor=1.0)
    lpn = LPN(Config(30, 30, 32, Block(0, 6, 16, 1.0), blocks))
    params = jax.jit(lpn.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    inputs = Grid(
        jnp.asarray(rng.integers(0, 10, (options.batch, 900)), jnp.uint8),
        jnp.full((options.batch, 2), 30, jnp.int32),
    )
    latents = jnp.asarray(rng.normal(size=(options.batch, 32)), jnp.float32)
    params = jax.jit(predict_full_size, static_argnums=0)(lpn, params, latents, inputs)

    def first(n):
        return latents[:n], jax.tree.map(lambda x: x[:n], inputs)

    few = options.slow_batch
    fast, grids = seconds(lambda p, z, g: generate(lpn, p, z, g), params, *first(options.batch))
    alone, same = seconds(lambda p, z, g: generate(lpn, p, z, g), params, *first(few))
    slow, again = seconds(lambda p, z, g: generate_by_rerunning(lpn, p, z, g), params, *first(few))
    assert (np.asarray(grids.shape) == 30).all(), grids.shape
    assert (np.asarray(same.cells) == np.asarray(again.cells)).all(), "grids differ"
    share = (np.asarray(grids.cells[:few]) == np.asarray(again.cells)).mean()
    print(f"re-running the decoder     {slow / few:8.2f} s per grid (batch {few})")
    print(f"kept keys and values       {alone / few:8.3f} s per grid (batch {few})")
    print(
        f"kept keys and values       {fast / options.batch:8.3f} s per grid (batch {options.batch})"
    )
    print(f"ratio at equal batch       {slow / alone:8.1f}")
    print(f"ratio with tasks and attempts batched {slow / few / (fast / options.batch):8.1f}")
    print(f"equal cells: {100.0:.1f} % at equal batch, {100 * share:.1f} % across batch sizes")


if __name__ == "__main__":
    main()
