"""Cost of adaptation: each method against a plain forward pass, and a sweep against single runs.

python -m benchmarks.tta
python -m benchmarks.tta --methods tent eata sweep

Every method adapts a random network to the same made-up stream in one scanned program; times are
medians of interleaved repetitions and exclude compilation. The expectation counts forward passes of
the batch and backward passes at the price of two forwards; augmentations are not in it. Where it is
not the count usually quoted: RMT differentiates two student passes and one of replayed source
images; CoTTA and PETAL need a pass each of source, student and teacher, the latter once per
augmentation if not skipped; DeYO and ROID are counted as if every row were selected, though second
passes over selected rows always run on whole batches here; RoTTA's bank is as large as a batch and
learns once per batch; VDP, NHL and ITTA have few trained numbers, so that less than a whole
backward pass is needed.
"""

import argparse
import functools
import statistics
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import timing
from configs.tta_images import get_config
from experiments.images import methods
from experiments.images.source import Source
from jaxtrain import nets
from jaxtrain.nets import Classified
from jaxtta import adaptation, evaluation, streams
from jaxtta.images import entropy, label_shift
from jaxtta.images.cafa import ClassGaussians
from jaxtta.images.petal import Posterior
from jaxtta.images.rmt import Labelled
from jaxtta.selection import norm_parameters

# Forward passes and backward passes per batch, from the methods' definitions.
PASSES = {
    "source": (1, 0),
    "batch_norm": (1, 0),
    "alpha_norm": (1, 0),
    "ema_norm": (2, 0),
    "lame": (1, 0),
    "adanpc": (1, 0),
    "tent": (1, 1),
    "core": (1, 1),
    "eta": (1, 1),
    "eata": (1, 1),
    "cafa": (1, 1),
    "label_shift_adapter": (2, 1),
    "open_set": (2, 1),
    "deyo": (2, 1),
    "nhl": (2, 1),
    "sar": (2, 2),
    "roid": (2, 2),
    "vdp": (3, 1),
    "itta": (3, 2),
    "rotta": (3, 1),
    "rmt": (4, 3),
    "vida": (12, 1),
    "cotta_skipped": (3, 1),
    "cotta": (34, 1),
    "petal": (34, 1),
    "memo": (33, 32),
}
SWEEP = "sweep"


def timed(function, *args):
    begin = time.perf_counter()
    jax.block_until_ready(function(*args))
    return time.perf_counter() - begin


def random_source(module, images, batch_size):
    """A random network, and random knowledge of it in the shapes that the methods take."""
    weights = jax.jit(nets.from_linen(module).init)(jax.random.key(0), images[0, :1] / 255.0)
    params, model_state = weights
    rng = np.random.default_rng(1)
    head = label_shift.head_of(params)
    size, classes = head.kernel.shape
    random = lambda *shape: jnp.asarray(rng.random(shape), jnp.float32)
    labels = rng.integers(0, classes, images.shape[1])
    prior = jnp.arange(1.0, 1 + classes) / jnp.arange(1.0, 1 + classes).sum()
    cut = lambda x: x[: len(x) // batch_size * batch_size].reshape(-1, batch_size, *x.shape[1:])
    constant = lambda value: functools.partial(jax.tree.map, lambda x: jnp.full_like(x, value))
    norms = adaptation.split(params, norm_parameters)[0]
    adapter = label_shift.identity(prior, head, 64, jax.random.key(2))
    gaussians = ClassGaussians(
        random(classes, size), jnp.broadcast_to(jnp.eye(size), (classes, size, size))
    )
    known = types.SimpleNamespace(
        fisher=constant(1.0)(norms),
        prototypes=random(classes, size),
        clean=Labelled(cut(images[0]), cut(labels)),
        posterior=Posterior(params, model_state, constant(0.01)(params)),
        features=(Classified((), random(2_000, size)), rng.integers(0, classes, 2_000)),
        head_adapter=lambda **settings: adapter,
        gaussians=lambda **settings: gaussians,
        consistency=lambda **settings: None,
    )
    return Source(nets.classifier(module), params, model_state, classes, module=module), known


def settings(batch_size):
    """Published numbers of augmentations, and no training on source images."""
    config = get_config("debug")
    method = config.method
    method.cotta.num_augmentations = method.petal.num_augmentations = method.memo.num_views = 32
    method.cotta.min_confidence = method.petal.min_confidence = 1.1  # always augmented
    method.vida.num_augmentations = 10
    method.vida.source_steps = method.rmt.warm_up_images = 0
    method.rotta.capacity = method.rotta.update_every = batch_size
    return config


def build(config, name, source, known):
    changed = config.copy_and_resolve_references()
    if name == "cotta_skipped":  # confident source: the augmented passes are left out
        changed.method.cotta.min_confidence = 0.0
    changed.methods = (name.removesuffix("_skipped"),)
    return methods.chosen(changed)[changed.methods[0]](source, known)


def costs(names, source, known, images, stream, batch_size, repeats):
    """Median seconds of each method over the stream."""
    config, programs = settings(batch_size), {}
    for name in names:
        core, args = build(config, name, source, known)
        run = jax.jit(functools.partial(evaluation.evaluate, core))
        programs[name] = functools.partial(run, args, images, stream, jax.random.key(0))
    for program in programs.values():
        timed(program)
    times = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            times[name].append(timed(program))
    return {name: statistics.median(values) for name, values in times.items()}


def sweep(source, images, stream):
    """8 seeds x 4 learning rates of TENT in one program, and one after another in one program."""

    def run(rate, key):
        core = entropy.tent(source.apply, optax.adam(rate))
        args = (source.params, source.model_state)
        return evaluation.evaluate(core, args, images, stream, key).logits

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


@timing.told()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--batches", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=[*PASSES, SWEEP],
        default=[*PASSES, SWEEP],
        metavar="NAME",
        help=f"a part of {', '.join([*PASSES, SWEEP])} (default: all); source is always timed",
    )
    options = parser.parse_args()
    module = nets.cifar_resnet(8)
    number = options.batch * options.batches
    images = np.random.default_rng(0).integers(0, 256, (1, number, 32, 32, 3)).astype(np.uint8)
    source, known = random_source(module, images, options.batch)
    stream = streams.continual([0], number, options.batch, 0)
    print(f"ResNet-8, {options.batches} batches of {options.batch}")
    if names := [name for name in PASSES if name in options.methods]:
        names = list(dict.fromkeys(["source", *names]))
        times = costs(names, source, known, images, stream, options.batch, options.repeats)
        print(f"{'method':<20} {'seconds':>8} {'x source':>9} {'expected':>9}")
        for name, seconds in times.items():
            forwards, backwards = PASSES[name]
            ratio, expected = seconds / times["source"], forwards + 2 * backwards
            print(f"{name:<20} {seconds:8.3f} {ratio:9.1f} {expected:9d}")
    if SWEEP in options.methods:
        together, separate, difference = sweep(source, images, stream)
        print("TENT, 8 seeds x 4 learning rates, compilation included:")
        print(f"one vmapped program {together:.1f} s, 32 runs of one program {separate:.1f} s")
        print(f"ratio {separate / together:.2f}; logits differ by {difference:.1e}")


if __name__ == "__main__":
    main()
