"""Meta-training: ordinary supervised training whose batch is drawn inside the update.

What is not a shape may be traced (number of tasks, bias, learning rate, Adam's epsilons), so one
program trains all seeds and settings of a sweep.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxtrain.core import Core, Model, StepOutput, TrainState, supervised
from jaxtrain.parallel import AxisName
from jaxtta.in_context.learner import Learner
from jaxtta.in_context.sequences import Sample


def loss_and_accuracy(logits: Array, labels: Array) -> tuple[Array, dict[str, Array]]:
    """Mean cross-entropy over sequences and positions, in nats, summed in float32.

    Args:
      logits: `[B, T, C]`.
      labels: `[B, T]`.

    Returns:
      Loss `[]`; accuracy over all positions, at the first and at the last one, `[]`.
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)
    right = (logits.argmax(-1) == labels).astype(jnp.float32)
    ends = {"accuracy_first": right[:, 0].mean(), "accuracy_last": right[:, -1].mean()}
    return losses.mean(), {"accuracy": right.mean(), **ends}


def meta_training(
    learner: Learner,
    sample: Sample,
    optimizer: optax.GradientTransformation,
    *,
    axis_name: AxisName | None = None,
) -> Core:
    """Meta-training core: one step on the mean loss over all positions of freshly drawn sequences.

    Args:
      learner: what to train.
      sample: `(key, index, step) -> Sequences`, see `sequences.sampler`.
      optimizer: any Optax transformation. The paper's is Adam at 1e-3 without warm-up or decay,
        `jaxtrain.optimizers.adam(1e-3)`. Smaller `eps` shorten the plateau. The official code adds
        1e-8 under the root (`eps_root`) unless it clips gradients, which keeps the denominator
        above 1e-4 although gradients on the plateau are tiny.
      axis_name: mapped device axis, None for global arrays.

    Returns:
      A core with `init(key)`; its batch is the places of the sequences in the batch, int32 `[B]`.
      State is a `TrainState` whose `model_state` counts updates (float32, for the schedule of the
      bias). Metrics are `loss`, `accuracy`, `accuracy_first`, `accuracy_last` and,
      where the optimiser keeps it, `learning_rate`.

    Raises:
      ValueError: (when called) the batch is not a vector of places.
    """

    def apply(
        params: Any, step: Array, inputs: tuple[Array, Array], *, key: Array | None, train: bool
    ) -> tuple[Array, Array]:
        return learner.logits(params, *inputs), step + 1.0 if train else step

    model = Model(lambda key, _: (learner.init(key), jnp.float32(0)), apply)
    core = supervised(
        model,
        lambda logits, batch: loss_and_accuracy(logits, batch["labels"]),
        optimizer,
        axis_name=axis_name,
    )

    def init(key: Array) -> TrainState:
        return core.init(key, {"inputs": ()})

    def update(state: TrainState, index: Array, key: Array) -> tuple[TrainState, StepOutput]:
        if jnp.ndim(index) != 1:
            raise ValueError(
                "the batch of meta-training is the places [B] of its sequences in the batch, but "
                f"has shape {jnp.shape(index)}; pass jnp.arange(batch_size)."
            )
        key_sample, key_update = jax.random.split(key)
        x, y = sample(key_sample, index, state.model_state)
        return core.update(state, {"inputs": (x, y), "labels": y}, key_update)

    return Core(init, update)
