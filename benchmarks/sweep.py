"""A sweep over 32 seeds in one program against 32 runs one after another, compilation included.

python -m benchmarks.sweep

Small pattern runs: 4 x 4 grids, 2 x 2 patterns, a network of 1 + 1 blocks. The sequential runs are
timed in two ways: each compiling its own program (as separate commands would; four of them are
timed and the rest extrapolated), and all sharing one compiled program. About 3 minutes on 2 CPU
cores.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from configs.lpn_patterns import get_config
from experiments.lpn.settings import build_core, build_model
from experiments.lpn_patterns import sampler


@timing.told()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=4)
    options = parser.parse_args()
    config = get_config(f"debug,batch_size={options.batch_size}")
    lpn = build_model(config)
    core, sample = build_core(config, lpn), sampler(config)

    def run(seed):
        key = jax.random.key(seed)
        state = core.init(key)

        def body(state, i):
            step_key = jax.random.fold_in(key, i)
            batch = sample(jax.random.fold_in(step_key, 0), jnp.arange(config.batch_size))
            state, output = core.update(state, batch, jax.random.fold_in(step_key, 1))
            return state, output.metrics["loss"]

        return jax.lax.scan(body, state, jnp.arange(options.steps))[1]

    def timed(function):
        jax.clear_caches()
        spent, result = timing.timed(function, warm=False)
        return spent.wall, np.asarray(result)

    seeds = jnp.arange(options.seeds)
    together, swept = timed(lambda: jax.jit(jax.vmap(run))(seeds))
    few = [timed(lambda s=s: jax.jit(run)(jnp.int32(s)))[0] for s in range(4)]
    each = float(np.mean(few)) * options.seeds

    def one_after_another():
        program = jax.jit(run)
        return np.stack([program(seed) for seed in seeds])

    shared, alone = timed(one_after_another)
    print(f"{options.seeds} runs of {options.steps} steps")
    print(f"one swept program           {together:7.1f} s")
    print(f"separate programs           {each:7.1f} s   ratio {each / together:.1f}")
    print(f"one program, one at a time  {shared:7.1f} s   ratio {shared / together:.1f}")
    difference = np.abs(swept - alone).max()
    print(f"losses differ by {difference:.1e}")
    assert difference < 1e-4, difference


if __name__ == "__main__":
    main()
