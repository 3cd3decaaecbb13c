"""A language model of SmolLM2's shape: decoding against reading its weights, rows, layouts, chunks.

python -m benchmarks.lm                # 135M parameters, about 2 minutes on 2 CPU cores
python -m benchmarks.lm --layers=4

A token of one row cannot take less time than reading every weight once. Of each pair the parts run
in turn and the shortest time of each counts; seconds of processor time stand beside those of the
clock, since other work on the machine stretches only the latter so much. Weights are random.
"""

import argparse
import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.lm import PUBLISHED, Decoder, Options, continue_until, decoder, empty, score

TOKENS = 16


def paired(first: Callable[[], Any], second: Callable[[], Any], rounds: int) -> np.ndarray:
    """Shortest seconds `[2, 2]`: of each function by the clock and of the processors."""
    seconds = np.full((2, 2), np.inf)
    jax.block_until_ready((first(), second()))
    for _ in range(rounds):
        for i, function in enumerate((first, second)):
            clock, work = time.perf_counter(), time.process_time()
            jax.block_until_ready(function())
            spent = time.perf_counter() - clock, time.process_time() - work
            seconds[i] = np.minimum(seconds[i], spent)
    return seconds


def show(names: tuple[str, str], seconds: np.ndarray, what: str) -> None:
    for name, (clock, work) in zip(names, seconds * 1e3, strict=True):
        print(f"{name:<44}{clock:9.2f} ms {work:9.2f} ms of processors")
    clock, work = seconds[0] / seconds[1]
    print(f"{what:<44}{clock:9.2f}    {work:9.2f}\n", flush=True)


def writer(model: Decoder, params: Any, rows: int) -> Callable[[], Any]:
    """Writes `TOKENS` tokens in each of `rows` rows."""
    begun = empty(model, jax.random.split(jax.random.key(0), rows), 128)
    never = jnp.zeros(model.config.vocabulary, bool)
    go = jax.jit(lambda p, r: continue_until(model, p, r, TOKENS, never, Options(0.0)))
    return lambda: go(params, begun)


def products(params: Any, rows: int, features_first: bool) -> Callable[[], Any]:
    """Every matrix of the blocks times `rows` states, in one of two layouts of both."""
    width = params["norm"]["scale"].size
    kernels = [x for x in jax.tree.leaves(params | {"embedding": {}}) if x.ndim > 1]
    matrices = [x.reshape(*((width, -1) if len(x) == width else (-1, width))) for x in kernels]
    if features_first:
        matrices = [jnp.array(x.T) for x in matrices]
        run = jax.jit(lambda ms: sum((m @ jnp.ones((m.shape[1], rows))).sum() for m in ms))
    else:
        run = jax.jit(lambda ms: sum((jnp.ones((rows, m.shape[0])) @ m).sum() for m in ms))
    return lambda: run(matrices)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", type=int, default=30, help="layers of the network")
    parser.add_argument("--rounds", type=int, default=5, help="times each part is run")
    options = parser.parse_args()
    config = dataclasses.replace(PUBLISHED["smollm2_135m"], num_layers=options.layers)
    model = decoder(config)
    params = jax.jit(model.init)(jax.random.key(0))
    size = sum(x.size for x in jax.tree.leaves(params))
    print(f"{size / 1e6:.1f}M parameters in {config.num_layers} layers, {4 * size / 1e6:.0f} MB\n")
    run = functools.partial(paired, rounds=options.rounds)

    read = jax.jit(lambda p: jax.tree.map(jnp.sum, p))
    one, sixteen = writer(model, params, 1), writer(model, params, 16)
    seconds = run(one, lambda: read(params)) / [[TOKENS], [1]]
    show(("one token of one row", "every weight read once"), seconds, "times the least possible")
    seconds = run(one, sixteen) / TOKENS * [[16], [1]]
    show(("16 tokens, one row after the other", "16 tokens, rows together"), seconds, "gain")
    seconds = run(products(params, 16, False), products(params, 16, True))
    show(("products of 16 rows, rows first", "features first"), seconds, "gain of features first")

    short = decoder(dataclasses.replace(config, num_layers=1))
    tokens = np.random.default_rng(0).integers(0, config.vocabulary, (8, 128))

    def gradient(largest: int) -> Callable[[], Any]:
        valid = np.ones(tokens.shape, bool)
        loss = lambda p: score(short, p, tokens, valid, largest=largest).logp.mean()
        run = jax.jit(jax.grad(loss))
        some = {name: x for name, x in params.items() if name in ("embedding", "block0", "norm")}
        return lambda: run(some)

    seconds = run(gradient(2**40), gradient(2**24))
    names = ("gradient of 1,024 tokens, all logits", "2^24 logits at a time")
    show(names, seconds, "gain of chunks")


if __name__ == "__main__":
    main()
