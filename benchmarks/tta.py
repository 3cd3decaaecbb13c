"""Cost of adaptation: each method against a plain forward pass, and a sweep against single runs.

python -m benchmarks.tta

Every method adapts a random network to the same made-up stream in one scanned program; times are
medians of interleaved repetitions and exclude compilation. The expectation counts forward passes of
the batch and backward passes at the price of two forwards.
"""

import argparse
import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from configs.tta_images import get_config
from experiments import tta_methods
from experiments.tta_methods import Source
from jaxtrain import nets
from jaxtta import entropy, protocol, streams

# Forward passes and backward passes per batch, from the methods' definitions.
PASSES = {
    "source": (1, 0),
    "batch_norm": (1, 0),
    "lame": (1, 0),
    "tent": (1, 1),
    "eta": (1, 1),
    "sar": (2, 2),
    "deyo": (2, 1),
    "open_set": (2, 1),
    "roid": (2, 2),
    "cotta": (34, 1),
}


def timed(function, *args):
    begin = time.perf_counter()
    jax.block_until_ready(function(*args))
    return time.perf_counter() - begin


def costs(source, images, stream, repeats):
    """Median seconds of each method over the stream."""
    config = get_config("debug,method.cotta.num_augmentations=32,method.cotta.min_confidence=1.1")
    programs = {
        name: jax.jit(functools.partial(protocol.evaluate, tta_methods.build(config, name, source)))
        for name in PASSES
    }
    args = ((source.params, source.model_state), images, stream, jax.random.key(0))
    for program in programs.values():
        timed(program, *args)
    times = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            times[name].append(timed(program, *args))
    return {name: statistics.median(values) for name, values in times.items()}


def sweep(source, images, stream):
    """8 seeds x 4 learning rates of TENT in one program, and one after another in one program."""

    def run(rate, key):
        core = entropy.tent(source.apply, optax.adam(rate))
        args = (source.params, source.model_state)
        return protocol.evaluate(core, args, images, stream, key).logits

    rates = jnp.array([1e-4, 3e-4, 1e-3, 3e-3])
    keys = jax.random.split(jax.random.key(0), 8)
    both = jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))
    single = jax.jit(run)

    def one_by_one():
        return jnp.stack([jnp.stack([single(r, k) for k in keys]) for r in rates])

    begin = time.perf_counter()
    swept = jax.block_until_ready(both(rates, keys))
    together = time.perf_counter() - begin
    begin = time.perf_counter()
    alone = jax.block_until_ready(one_by_one())
    separate = time.perf_counter() - begin
    difference = float(jnp.abs(swept - alone).max())
    assert difference < 1e-2, difference
    return together, separate, difference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--batches", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    module = nets.cifar_resnet(8)
    number = options.batch * options.batches
    images = np.random.default_rng(0).integers(0, 256, (1, number, 32, 32, 3)).astype(np.uint8)
    weights = jax.jit(nets.from_linen(module).init)(jax.random.key(0), images[0, :1] / 255.0)
    source = Source(nets.classifier(module), *weights, 10)
    stream = streams.continual([0], number, options.batch, 0)
    times = costs(source, images, stream, options.repeats)
    print(f"ResNet-8, {options.batches} batches of {options.batch}")
    print(f"{'method':<12} {'seconds':>8} {'x source':>9} {'expected':>9}")
    for name, seconds in times.items():
        forwards, backwards = PASSES[name]
        ratio, expected = seconds / times["source"], forwards + 2 * backwards
        print(f"{name:<12} {seconds:8.3f} {ratio:9.1f} {expected:9d}")
    together, separate, difference = sweep(source, images, stream)
    print("TENT, 8 seeds x 4 learning rates, compilation included:")
    print(f"one vmapped program {together:.1f} s, 32 runs of one program {separate:.1f} s")
    print(f"ratio {separate / together:.2f}; logits differ by {difference:.1e}")


if __name__ == "__main__":
    main()
