"""Fits a line; a whole experiment in a page, for tests of the command line.

Second paragraph of the help.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtrain.core import Core, Model, supervised
from jaxtrain.host import cli, experiment
from jaxtrain.host.data import Generated

MAX_WIDTH = 8


def sample(key, index):
    """Points of y = sum(x) with noise."""
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
    x = jax.vmap(lambda k: jax.random.normal(k, (3,)))(keys)
    return {"inputs": x, "labels": x.sum(-1) + 0.1 * x[:, 0]}


def build_core(config, axis_name=None):
    """The core of one trial; the learning rate may be traced."""
    strength = config.model.noise

    def init(key, inputs):
        return {"w": jax.random.normal(key, (inputs.shape[-1],))}, ()

    def apply(params, model_state, inputs, *, key, train):
        noise = strength * jax.random.normal(key, (inputs.shape[0],))
        return inputs @ params["w"] + noise, model_state

    def loss(outputs, batch):
        return jnp.mean((outputs - batch["labels"]) ** 2), {}

    optimizer = optax.sgd(config.optimizer.learning_rate)
    core = supervised(Model(init, apply), loss, optimizer, axis_name=axis_name)
    example = {"inputs": np.zeros((1, 3), np.float32)}
    return Core(lambda key: core.init(key, example), core.update)


def validate(config):
    if config.model.width > MAX_WIDTH:
        raise ValueError(
            f"model.width={config.model.width} is larger than {MAX_WIDTH}; choose a smaller one"
        )


def build(config, setup):
    read = [config.kind, config.model.width, config.model.note]
    if config.optimizer.clip:
        read.append(config.model.sizes)

    def evaluate(run):
        return {"error": np.abs(np.asarray(run.state.params["w"]) - [1.1, 1.0, 1.0]).sum(-1)}

    def report(run, results):
        return {"steps": steps}

    def save(run):
        (run.workdir / "saved").touch()

    def check(rows):
        assert len(rows["loss"]) == log_every
        if setup.flags["fault"] == "stuck":
            raise RuntimeError("nothing is learned")

    steps, log_every = config.num_steps, config.log_every
    training = experiment.Training(
        core=build_core,
        data=Generated(sample, config.batch_size),
        evaluate=evaluate,
        check=lambda: check,
        report=report,
        save=save,
    )
    work = experiment.prepared(training, config, setup)

    def faulty(context):
        if context.flags["fault"] == "crash":
            raise RuntimeError("this experiment is broken")
        if context.flags["fault"] == "usage":
            raise cli.UsageError("the file\nof tasks is empty")
        return work(context)

    return faulty


main = functools.partial(
    cli.main,
    build,
    sweepable=("optimizer.learning_rate",),
    validate=validate,
    may_change=("model.note",),
    flags=(
        experiment.MODE,
        cli.define_enum("fault", "none", ("none", "crash", "usage", "stuck"), "what goes wrong"),
    ),
)

if __name__ == "__main__":
    main()
