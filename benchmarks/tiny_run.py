"""A run of a few seconds for the resume drill: least squares with noise, nothing to download.

python -m benchmarks.tiny_run --workdir=runs/tiny
python -m benchmarks.tiny_run --workdir=runs/tiny --data=host --num_steps=400

Run again, it continues. Exit code 3 means: stopped by a signal after saving, 2: the disk is full.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtrain.core import Core, StepOutput
from jaxtrain.host import loop
from jaxtrain.host.checkpoint import CheckpointError, Checkpoints
from jaxtrain.host.data import Generated, Pipeline, arrays
from jaxtrain.host.metrics import Writer
from jaxtrain.parallel import Execution, Mode, make_mesh, value_and_grad

SIZE = 384


class State(NamedTuple):
    """`w` is `[SIZE, SIZE]` float32, so that saving takes a while."""

    w: jax.Array
    opt_state: optax.OptState


def make_core(axis_name: str | None = None) -> Core:
    optimizer = optax.adam(1e-2)

    def init(key: jax.Array) -> State:
        w = jax.random.normal(key, (SIZE, SIZE)) / SIZE**0.5
        return State(w, optimizer.init(w))

    def update(
        state: State, batch: dict[str, jax.Array], key: jax.Array
    ) -> tuple[State, StepOutput]:
        def loss_fn(w: jax.Array) -> jax.Array:
            return jnp.mean((jnp.tanh(batch["inputs"] @ w) - batch["targets"]) ** 2)

        loss, grad = value_and_grad(loss_fn, axis_name)(state.w)
        grad = grad + 1e-3 * jax.random.normal(key, grad.shape)
        updates, opt_state = optimizer.update(grad, state.opt_state)
        state = State(optax.apply_updates(state.w, updates), opt_state)
        return state, StepOutput({"loss": loss, "norm": optax.tree.norm(state.w)})

    return Core(init, update)


def sample(key: jax.Array, index: jax.Array) -> dict[str, jax.Array]:
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
    inputs = jax.vmap(lambda k: jax.random.normal(k, (SIZE,)))(keys)
    return {"inputs": inputs, "targets": jnp.roll(inputs, 1, axis=1)}


def host_data() -> Pipeline:
    inputs = np.random.default_rng(0).normal(size=(50, SIZE)).astype(np.float32)
    return arrays({"inputs": inputs, "targets": np.roll(inputs, 1, axis=1)}, batch_size=8, seed=0)


def run(
    workdir: str | Path, data: str = "generated", num_steps: int = 200, mode: Mode = "jit"
) -> None:
    """Trains in `workdir` on all devices, or goes on there; saves every 20 steps."""
    execution = Execution(mode, make_mesh({"data": -1}))
    key, core = jax.random.key(0), make_core(execution.axis_name)
    with Checkpoints(Path(workdir) / "checkpoints", every=20, keep=2, keep_best="-loss") as saved:
        state, start, meta = saved.restore_or(jax.jit(core.init)(key))
        with Writer(workdir, start, tensorboard=False) as writer:
            loop.train(
                core,
                state,
                data=Generated(sample, batch_size=8) if data == "generated" else host_data(),
                key=key,
                num_steps=num_steps,
                log_every=10,
                execution=execution,
                checkpoints=saved,
                writer=writer,
                evaluate=lambda state, step, key: {"trace": jnp.trace(state.w)},
                eval_every=20,
                start=start,
                meta=meta,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--data", choices=("generated", "host"), default="generated")
    parser.add_argument("--num_steps", type=int, default=800)
    options = parser.parse_args()
    try:
        run(options.workdir, options.data, options.num_steps)
    except loop.Preempted as stop:
        print(f"Stopped at {stop}; run the same command to go on.", file=sys.stderr)
        sys.exit(3)
    except (CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
