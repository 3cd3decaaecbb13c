"""Sharpening: a policy learns to write at once what it would choose among many of its samples.

The judge is the policy before any update, the base: a response is as good as it is probable there.
`amortise` imitates the most probable of N samples, `regress` fits a power of the base; their exact
laws are in `tasks.tables`. Neither knows what a response is:

    draw(base, places [P], key) -> (responses, every leaf [P, N, ...]; log-probabilities [P, N])
    log_prob(params, responses, every leaf [R, ...]) -> [R]

    core = amortise(draw, log_prob, optimizer)
    state = core.init(base)
    state, out = core.update(state, places, key)

References:
  Huang et al., Self-Improvement in Language Models: The Sharpening Mechanism, arXiv 2412.01951.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxrl.lm.learners import LearnerState, begin, gradient_step
from jaxrl.lm.tasks.tables import sharpening_loss
from jaxtrain.collectives import AxisName, pmean
from jaxtrain.protocol import Core, StepOutput

Draw = Callable[[Any, Array, Array], tuple[Any, Array]]
LogProb = Callable[[Any, Any], Array]


def amortise(
    draw: Draw,
    log_prob: LogProb,
    optimizer: optax.GradientTransformation,
    *,
    num_samples: ArrayLike | None = None,
    axis_name: AxisName | None = None,
) -> Core:
    """Imitates the most probable of N samples of the base; the first of equally probable ones.

    Args:
      draw: samples of the base, see the head of this file. A place and the key give a prompt.
      log_prob: of responses under parameters.
      optimizer: any Optax transformation.
      num_samples: how many of those drawn are compared, at least 1; all without it. With 1 the
        policy imitates itself, and nothing is sharpened.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(base)`; batches are numbers of places `[P]`, `outputs` the log-probability
      of what is imitated under the base, `[P]`, whose mean is the metric `own_log_prob`.

    Raises:
      ValueError: (when called) a batch that is no list of places.
    """

    def loss(base: Array, responses: Any) -> tuple[Array, Callable[[Any], Array]]:
        compared = base
        if num_samples is not None:
            compared = jnp.where(jnp.arange(base.shape[1]) < num_samples, base, -jnp.inf)
        place = jnp.arange(len(base)), compared.argmax(1)
        chosen = jax.tree.map(lambda x: x[place], responses)
        return base[place], lambda params: -log_prob(params, chosen).mean()

    return _sharpened(draw, loss, optimizer, axis_name)


def regress(
    draw: Draw,
    log_prob: LogProb,
    optimizer: optax.GradientTransformation,
    *,
    beta: ArrayLike,
    axis_name: AxisName | None = None,
) -> Core:
    """Regression on pairs of samples, whose optimum is base^(1 + 1 / beta).

    Sample i of a prompt is compared with sample i + N / 2, see `tasks.tables.sharpening_loss`.

    Args:
      draw: samples of the base, an even number of each prompt.
      log_prob: of responses under parameters.
      optimizer: any Optax transformation.
      beta: weight of the divergence from the base, above 0.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core as `amortise` makes it; `outputs` are means over the samples.

    Raises:
      ValueError: (when called) an odd number of samples, or a batch that is no list of places.
    """

    def loss(base: Array, responses: Any) -> tuple[Array, Callable[[Any], Array]]:
        if base.shape[1] % 2:
            raise ValueError(f"{base.shape[1]} samples are no pairs; draw an even number of them.")
        flat = jax.tree.map(lambda x: x.reshape(base.size, *x.shape[2:]), responses)
        halves: Any = functools.partial(jnp.split, indices_or_sections=2, axis=1)

        def of_pairs(params: Any) -> Array:
            now = log_prob(params, flat).reshape(base.shape)
            return sharpening_loss(halves(now), halves(base), beta).mean()

        return base.mean(1), of_pairs

    return _sharpened(draw, loss, optimizer, axis_name)


def _sharpened(
    draw: Draw,
    loss_of: Callable[[Array, Any], tuple[Array, Callable[[Any], Array]]],
    optimizer: optax.GradientTransformation,
    axis_name: AxisName | None,
) -> Core:
    def update(state: LearnerState, batch: Any, key: Array) -> tuple[LearnerState, StepOutput]:
        if not hasattr(batch, "shape") or len(batch.shape) != 1:
            raise ValueError("sharpening needs a batch of places, one number per prompt.")
        responses, base = draw(state.reference, jnp.asarray(batch), key)
        own, loss = loss_of(base, responses)
        carry, metrics = gradient_step(
            optimizer, lambda params: (loss(params), {}), state[:2], axis_name
        )
        metrics |= {"own_log_prob": pmean(own.mean(), axis_name)}
        return LearnerState(*carry, state.reference), StepOutput(metrics, own)

    return Core(lambda params: begin(optimizer, params, params), update)
