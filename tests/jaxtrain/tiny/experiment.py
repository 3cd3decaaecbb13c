"""Fits a line; a whole experiment in a page, for tests of the command line.

Second paragraph of the help.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtrain.core import Model, supervised
from jaxtrain.host import cli, sweep
from jaxtrain.host.checkpoint import Checkpoints
from jaxtrain.host.data import Generated
from jaxtrain.host.loop import train
from jaxtrain.host.metrics import Writer

MAX_WIDTH = 8


def sample(key, index):
    """Points of y = sum(x) with noise."""
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
    x = jax.vmap(lambda k: jax.random.normal(k, (3,)))(keys)
    return {"inputs": x, "labels": x.sum(-1) + 0.1 * x[:, 0]}


def build(config, values, axis_name=None):
    """The core of one trial; `values` may hold a traced learning rate."""

    def init(key, inputs):
        return {"w": jax.random.normal(key, (inputs.shape[-1],))}, ()

    def apply(params, model_state, inputs, *, key, train):
        noise = config.model.noise * jax.random.normal(key, (inputs.shape[0],))
        return inputs @ params["w"] + noise, model_state

    def loss(outputs, batch):
        return jnp.mean((outputs - batch["labels"]) ** 2), {}

    rate = values.get("optimizer.learning_rate", config.optimizer.learning_rate)
    return supervised(Model(init, apply), loss, optax.sgd(rate), axis_name=axis_name)


def validate(config):
    if config.model.width > MAX_WIDTH:
        raise ValueError(
            f"model.width={config.model.width} is larger than {MAX_WIDTH}; choose a smaller one"
        )


def run(config, context):
    if context.flags["fault"] == "crash":
        raise RuntimeError("this experiment is broken")
    if context.flags["fault"] == "usage":
        raise cli.UsageError("the file\nof tasks is empty")
    key = jax.random.key(config.seed)
    execution = context.execution
    if context.sweep is not None:
        core = sweep.swept(lambda values: build(config, values, execution.axis_name), context.sweep)
    else:
        core = build(config, {}, execution.axis_name)
    example = {"inputs": np.zeros((1, 3), np.float32)}
    state = sweep.place(core.init(key, example), context.sweep, execution.mesh)
    with (
        Checkpoints(
            context.workdir / "checkpoints", every=config.checkpoint.every, keep=2
        ) as checkpoints,
    ):
        state, start, meta = checkpoints.restore_or(state)
        with Writer(context.workdir, start, tensorboard=False) as writer:
            state, step = train(
                core,
                state,
                data=Generated(sample, config.batch_size),
                key=key,
                num_steps=config.num_steps,
                log_every=config.log_every,
                execution=execution,
                checkpoints=checkpoints,
                writer=writer,
                start=start,
                meta=meta,
                bracket=context.profile,
            )
    error = jnp.abs(state.params["w"] - jnp.array([1.1, 1.0, 1.0])).sum(-1)
    return {"steps": step, "error": error}


if __name__ == "__main__":
    cli.main(
        run,
        sweepable=("optimizer.learning_rate",),
        validate=validate,
        may_change=("model.note",),
        flags=(cli.define_enum("fault", "none", ("none", "crash", "usage"), "what goes wrong"),),
    )
