"""Learners of language models as cores: from texts, from preferences, from labels.

    core = finetune(model, optimizer)
    state = core.init(params)
    state, out = core.update(state, Examples(tokens, valid, mask, weight), key)

All begin with the parameters they are given, `init(params)`, and keep copies. Learning from reward
is `policy_gradient`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxrl.lm import objectives
from jaxrl.lm.objectives import Aggregation
from jaxrl.lm.preferences import preference_margin
from jaxtrain import trees
from jaxtrain.collectives import AxisName, local_value_and_grad, pmean, value_and_grad
from jaxtrain.collectives import masked_mean as mean_over
from jaxtrain.lm import heads
from jaxtrain.lm.decoder import Decoder, score
from jaxtrain.protocol import Core, StepOutput
from jaxtrain.schedules.applied import applied_rate


class LearnerState(NamedTuple):
    """State of all learners.

    Attributes:
      params: of the model; of `judge` a pair of those and of the head.
      opt_state: of the optimiser.
      reference: parameters that a divergence is measured from; `()` if there is none.
    """

    params: Any
    opt_state: Any
    reference: Any = ()


class Texts(NamedTuple):
    """Texts to compare.

    Attributes:
      tokens: `[B, S]`, int.
      valid: which slots hold a token, `[B, S]`.
      mask: which tokens carry a loss, `[B, S]`, bool.
    """

    tokens: Any
    valid: Any
    mask: Any


class Examples(NamedTuple):
    """Texts to learn from.

    Attributes:
      tokens: `[B, S]`, int.
      valid: which slots hold a token, `[B, S]`.
      mask: which tokens carry a loss, `[B, S]`, bool.
      weight: of each text, `[B]`.
    """

    tokens: Any
    valid: Any
    mask: Any
    weight: Any


class Pairs(NamedTuple):
    """Preferences between two responses; the reference is scored before, by `score`.

    Attributes:
      chosen: the better ones.
      rejected: the worse ones.
      reference_chosen: log-probability of the better ones under the reference, `[B]`: sums, or
        means where the learner takes means.
      reference_rejected: of the worse ones, `[B]`.
    """

    chosen: Texts
    rejected: Texts
    reference_chosen: Any
    reference_rejected: Any


class Labelled(NamedTuple):
    """Texts with judgements at some of their tokens.

    Attributes:
      tokens: `[B, S]`, int.
      valid: `[B, S]`.
      mask: tokens after which a judgement is due, `[B, S]`, bool.
      label: what it should be, in [0, 1], `[B, S]`.
    """

    tokens: Any
    valid: Any
    mask: Any
    label: Any


def begin(optimizer: optax.GradientTransformation, params: Any, reference: Any) -> LearnerState:
    """The state before the first update, with copies of what is given."""
    state = LearnerState(params, optimizer.init(params), reference)
    return jax.tree.map(jnp.copy, state)


def gradient_step(
    optimizer: optax.GradientTransformation,
    loss: Callable[[Any], tuple[Array, dict[str, Array]]],
    carry: tuple[Any, Any],
    axis_name: AxisName | None,
) -> tuple[tuple[Any, Any], dict[str, Array]]:
    """One step of the optimiser on a mean loss over all shards.

    Args:
      optimizer: any Optax transformation.
      loss: `params -> (loss [], named scalars [])`, of one shard under `axis_name`.
      carry: `(params, opt_state)`.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      The new `carry`, and metrics: those of the loss, `loss`, `gradient_norm` and the applied rate.
    """
    (value, metrics), grads = value_and_grad(loss, axis_name, has_aux=True)(carry[0])
    return _stepped(optimizer, carry, value, metrics, grads)


def _stepped(
    optimizer: optax.GradientTransformation,
    carry: tuple[Any, Any],
    value: Array,
    metrics: dict[str, Array],
    grads: Any,
) -> tuple[tuple[Any, Any], dict[str, Array]]:
    params, opt_state = carry
    updates, opt_state = optimizer.update(grads, opt_state, params)
    metrics = {"loss": value, "gradient_norm": trees.global_norm(grads)} | metrics
    metrics = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), metrics)
    return (optax.apply_updates(params, updates), opt_state), metrics | applied_rate(opt_state)


def _check(batch: Any, kind: type) -> None:
    if not isinstance(batch, kind):
        raise ValueError(f"this learner needs {kind.__name__} but got {type(batch).__name__}.")


def finetune(
    model: Decoder,
    optimizer: optax.GradientTransformation,
    *,
    aggregation: Aggregation | None = None,
    num_samples: ArrayLike | None = None,
    axis_name: AxisName | None = None,
) -> Core:
    """Supervised fine-tuning, weighted regression on rewards, or coverage of N samples.

    Args:
      model: the language model.
      optimizer: any Optax transformation.
      aggregation: of the losses of tokens; `token_mean` without it.
      num_samples: N of `objectives.coverage_loss`, whose weighted mean over texts is minimised
        instead.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(params)`; batches are `Examples`.

    Raises:
      ValueError: both an aggregation and N; (when called) the batch is something else.
    """
    if aggregation is not None and num_samples is not None:
        raise ValueError("coverage is of whole texts; leave out aggregation, or num_samples.")

    def update(state: LearnerState, batch: Any, key: Array) -> tuple[LearnerState, StepOutput]:
        _check(batch, Examples)
        tokens, valid, mask, weight = map(jnp.asarray, batch)

        def loss(params: Any) -> tuple[Array, dict[str, Array]]:
            log_prob = score(model, params, tokens, valid, mask).logp
            if num_samples is None:
                value = objectives.supervised(
                    log_prob, mask, aggregation or "token_mean", weight=weight, axis_name=axis_name
                )
            else:
                each = objectives.coverage_loss(log_prob, mask, num_samples) * weight
                value = mean_over(each, mask.any(-1), axis_name)
            return value, {"log_prob": mean_over(log_prob, mask, axis_name)}

        carry, metrics = gradient_step(optimizer, loss, state[:2], axis_name)
        return LearnerState(*carry), StepOutput(metrics)

    return Core(lambda params: begin(optimizer, params, ()), update)


def preference(
    model: Decoder,
    optimizer: optax.GradientTransformation,
    loss: Callable[[Array], Array],
    *,
    means: bool = False,
    supervised_weight: ArrayLike = 0.0,
    axis_name: AxisName | None = None,
) -> Core:
    """Learning from preferences with a reference: DPO and its kin.

    Args:
      model: the language model.
      optimizer: any Optax transformation.
      loss: of the margin, `[B] -> [B]`, for example `functools.partial(preferences.dpo, beta=0.1)`.
      means: margins of mean log-probabilities per token, as IPO wants them.
      supervised_weight: of the mean negative log-probability per token of the better response.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(params)`; batches are `Pairs`. Metrics are the mean margin and the share of
      pairs that are ordered right.

    Raises:
      ValueError: (when called) the batch is something else.
    """
    reduce = objectives.mean_log_prob if means else objectives.sequence_log_prob

    def update(state: LearnerState, batch: Any, key: Array) -> tuple[LearnerState, StepOutput]:
        _check(batch, Pairs)
        both = jax.tree.map(lambda *x: jnp.concatenate(x), batch.chosen, batch.rejected)
        reference = jnp.asarray(batch.reference_chosen), jnp.asarray(batch.reference_rejected)

        def of_pairs(params: Any) -> tuple[Array, dict[str, Array]]:
            log_prob = score(model, params, both.tokens, both.valid, both.mask).logp
            chosen, rejected = jnp.split(reduce(log_prob, both.mask), 2)
            margin = preference_margin(chosen, rejected, *reference)
            better = objectives.mean_log_prob(log_prob, both.mask)[: len(margin)]
            value = (loss(margin) - supervised_weight * better).mean()
            right = (margin > 0).astype(jnp.float32).mean()
            return value, {"margin": margin.mean(), "ordered": right}

        carry, metrics = gradient_step(optimizer, of_pairs, state[:2], axis_name)
        return LearnerState(*carry), StepOutput(metrics)

    return Core(lambda params: begin(optimizer, params, ()), update)


def judge(
    model: Decoder,
    optimizer: optax.GradientTransformation,
    *,
    axis_name: AxisName | None = None,
) -> Core:
    """A head that judges texts, trained together with the model: rewards of steps and of outcomes,
    P(IK).

    Args:
      model: the language model.
      optimizer: any Optax transformation.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(params)`, whose parameters are `(those of the model, heads.Head)`; batches
      are `Labelled`. `outputs` are the log-odds before the step, `[B, S]`.

    Raises:
      ValueError: (when called) the batch is something else.
    """

    def init(params: Any) -> LearnerState:
        return begin(optimizer, (params, heads.judge_head(model.config.width)), ())

    def update(state: LearnerState, batch: Any, key: Array) -> tuple[LearnerState, StepOutput]:
        _check(batch, Labelled)
        tokens, valid, mask, label = map(jnp.asarray, batch)

        def loss(params: Any) -> tuple[Array, tuple[Array, Array]]:
            hidden = model.forward(params[0], tokens, valid)[0]
            log_odds = heads.head_logit(params[1], hidden.astype(jnp.float32))
            right = ((log_odds > 0) == (label > 0.5)).astype(jnp.float32)
            accuracy = mean_over(right, mask, axis_name)
            return heads.soft_label_loss(log_odds, label, mask, axis_name), (accuracy, log_odds)

        differentiate = local_value_and_grad(loss, axis_name, has_aux=True)
        (value, (accuracy, log_odds)), grads = differentiate(state.params)
        value, accuracy, grads = pmean((value, accuracy, grads), axis_name)
        said = {"accuracy": accuracy}
        carry, metrics = _stepped(optimizer, state[:2], value, said, grads)
        return LearnerState(*carry), StepOutput(metrics, log_odds)

    return Core(init, update)
