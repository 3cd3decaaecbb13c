"""Advantages of a rollout, and gradient steps on mini-batches of its samples.

Functions that know nothing of PPO's state; `ppo` composes them, and so can other learners:

    samples = flat(with_advantages(network, params, steps, gamma=0.99, lambda_=0.95))
    loss = functools.partial(actor_critic_loss, network=network, drift=drift.ppo(0.2))
    learn = functools.partial(gradient_step, loss, optimizer)         # one step on one mini-batch
    carry = (params, optimizer.init(params))
    carry, metrics = epoch(learn, carry, samples, key, num_minibatches=4)
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxrl.distributions import Distribution
from jaxrl.drift import Drift
from jaxrl.losses import LARGEST_LOG_RATIO, value_loss
from jaxrl.networks import Network
from jaxrl.returns import generalised_advantages
from jaxrl.rollout import Transition
from jaxtrain.parallel import AxisName, axis_size, fold_in_axis, pmean, value_and_grad

Loss = Callable[[Any, Any], tuple[Array, dict[str, Array]]]  # (params, samples) -> loss, metrics
Learn = Callable[[Any, Any], tuple[Any, dict[str, Array]]]  # (carry, samples) -> carry, metrics


class Samples(NamedTuple):
    """Steps with what a loss wants to know of them; leaves `[samples, ...]`.

    Attributes:
      observation: as the network sees it.
      action: the action taken.
      log_prob: of that action under the policy that took it, nats.
      value: V of the observation when the data were collected.
      advantage: A; of M rewards with a critic each, these three are `[samples, M]`.
      target: what the value is to become, A + V.
    """

    observation: Any
    action: Any
    log_prob: Array
    value: Array
    advantage: Array
    target: Array


def with_advantages(
    network: Network,
    params: Any,
    steps: Transition,
    *,
    gamma: ArrayLike,
    lambda_: ArrayLike,
    bootstrap_on_truncation: bool = True,
) -> Samples:
    """Steps with their values, generalised advantages and targets A + V.

    Args:
      network: its value function.
      params: of the network.
      steps: `[w, T, ...]`, observations as the network sees them, log pi(action) as `extras`.
      gamma: discount.
      lambda_: of generalised advantage estimation.
      bootstrap_on_truncation: whether V(last observation) counts when a time limit cut the episode.

    Returns:
      Samples `[w, T, ...]`; `flat` makes them ready for `epoch`.
    """
    values = jax.vmap(jax.vmap(functools.partial(network.value, params)))
    return with_values(
        steps,
        values(steps.observation),
        values(steps.next_observation),
        gamma=gamma,
        lambda_=lambda_,
        bootstrap_on_truncation=bootstrap_on_truncation,
    )


def with_values(
    steps: Transition,
    value: Array,
    next_value: Array,
    *,
    gamma: ArrayLike,
    lambda_: ArrayLike,
    bootstrap_on_truncation: bool = True,
) -> Samples:
    """`with_advantages` of steps whose values V(s) and V(s') are known, `[w, T]` or, of M rewards
    with a critic each, `[w, T, M]`.

    Raises:
      ValueError: the values are not those of as many rewards.
    """
    if value.shape != steps.reward.shape:
        raise ValueError(
            f"rewards are {steps.reward.shape} [workers, steps, ...] but values are {value.shape}; "
            "a network needs a value for every reward, mlp(..., num_critics=M)."
        )
    ended = steps.terminated if bootstrap_on_truncation else steps.done

    def estimate(reward: Array, value: Array, next_value: Array, *ends: Array) -> Array:
        return generalised_advantages(
            reward_t=reward,
            value_t=value,
            next_value_t=next_value,
            terminated_t=ends[0],
            truncated_t=ends[1],
            gamma=gamma,
            lambda_=lambda_,
        )

    if value.ndim == 3:
        estimate = jax.vmap(estimate, (-1, -1, -1, None, None), -1)
    advantage = jax.vmap(estimate)(steps.reward, value, next_value, ended, steps.truncated)
    return Samples(
        observation=steps.observation,
        action=steps.action,
        log_prob=steps.extras,
        value=value,
        advantage=advantage,
        target=advantage + value,
    )


def flat(tree: Any) -> Any:
    """Steps of all workers as one list: leaves `[w, T, ...]` become `[w T, ...]`."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def normalised_advantages(advantage: Array, axis_name: AxisName | None = None) -> Array:
    """(A - mean) / (standard deviation + 1e-8), over the samples of all shards.

    Args:
      advantage: A, `[m]`.
      axis_name: mapped device axis.

    Raises:
      ValueError: there is one sample, whose normalised advantage would be 0 whatever it is.

    References:
      Code of Schulman et al., arXiv 1707.06347 (baselines, ppo2), which does so per mini-batch.
    """
    if advantage.size * axis_size(axis_name) < 2:
        raise ValueError(
            "the advantage of a single sample is 0 once it is normalised; make mini-batches of two "
            "samples or more, or do not normalise."
        )
    centred = advantage - pmean(advantage.mean(), axis_name)
    deviation = jnp.sqrt(pmean((centred**2).mean(), axis_name))
    return centred / (deviation + 1e-8)


def actor_critic_loss(
    params: Any,
    samples: Samples,
    *,
    network: Network,
    drift: Drift,
    progress: ArrayLike = 0.0,
    value_clip: float | Array | None = None,
    value_coef: ArrayLike = 0.5,
    entropy_coef: ArrayLike = 0.01,
) -> tuple[Array, dict[str, Array]]:
    """Mean over samples of D(rho, A) - rho A + value_coef value loss - entropy_coef entropy.

    Args:
      params: of the network.
      samples: `[m, ...]`.
      network: policy and value function.
      drift: D, e.g. `drift.ppo(0.2)`; see `jaxrl.drift`.
      progress: n / N, for drifts that look at it.
      value_clip: of the value loss, None for plain squared error.
      value_coef: weight of the value loss.
      entropy_coef: weight of the entropy.

    Returns:
      The loss `[]`, and means `[]` of `policy_loss`, `value_loss`, `entropy` (nats) and `approx_kl`
      (rho - 1 - log rho, an unbiased estimate of KL(old policy || policy) in nats).
    """

    def of_sample(sample: Samples) -> dict[str, Array]:
        policy = network.policy(params, sample.observation)
        value = network.value(params, sample.observation)
        return parts_of_loss(
            policy, value, sample, drift=drift, progress=progress, value_clip=value_clip
        )

    parts = jax.vmap(of_sample)(samples)
    return weighted_loss(parts, value_coef=value_coef, entropy_coef=entropy_coef)


def parts_of_loss(
    policy: Distribution,
    value: Array,
    sample: Samples,
    *,
    drift: Drift,
    progress: ArrayLike,
    value_clip: float | Array | None,
) -> dict[str, Array]:
    """The parts, `[]`, that one sample has in `actor_critic_loss`, whose metrics they are.

    Args:
      policy: of the network now.
      value: of the network now, `[]` or, of M rewards, `[M]`, as the value loss is then.
      sample: one; its observation is not looked at.
      drift, progress, value_clip: as in `actor_critic_loss`.
    """
    log_ratio = policy.log_prob(sample.action) - sample.log_prob
    return {
        "policy_loss": drift.loss(log_ratio, sample.advantage, jnp.asarray(progress)),
        "value_loss": value_loss(value, sample.value, sample.target, value_clip),
        "entropy": policy.entropy(),
        "approx_kl": jnp.expm1(jnp.minimum(log_ratio, LARGEST_LOG_RATIO)) - log_ratio,
    }


def weighted_loss(
    parts: dict[str, Array], *, value_coef: ArrayLike, entropy_coef: ArrayLike
) -> tuple[Array, dict[str, Array]]:
    """`actor_critic_loss` from the parts of all samples, of any shape, and their means."""
    parts = {name: x.mean() for name, x in parts.items()}
    total = (
        parts["policy_loss"] + value_coef * parts["value_loss"] - entropy_coef * parts["entropy"]
    )
    return total, parts


def gradient_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    carry: tuple[Any, Any],
    samples: Any,
    *,
    axis_name: AxisName | None = None,
) -> tuple[tuple[Any, Any], dict[str, Array]]:
    """One step of the optimiser down the mean loss of one mini-batch of all shards together.

    Args:
      loss: `(params, samples) -> ([], metrics)`, a mean over samples.
      optimizer: any Optax transformation.
      carry: parameters and the state of the optimiser.
      samples: of the mini-batch, leaves `[m, ...]`.
      axis_name: mapped device axis.

    Returns:
      The carry after the step, and `loss` with the metrics, `[]`.
    """
    params, opt_state = carry
    (value, parts), grads = value_and_grad(loss, axis_name, has_aux=True)(params, samples)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), {"loss": value} | parts


def epoch(
    learn: Learn,
    carry: Any,
    samples: Any,
    key: Array,
    *,
    num_minibatches: int,
    axis_name: AxisName | None = None,
) -> tuple[Any, dict[str, Array]]:
    """One pass over the samples in random mini-batches; every sample is in one of them.

    Args:
      learn: `(carry, mini-batch) -> (carry, metrics)`, e.g. a `gradient_step`.
      carry: what learning changes.
      samples: leaves `[n, ...]`, of this shard.
      key: consumed; shards draw different orders with it.
      num_minibatches: mini-batches, one after the other.
      axis_name: mapped device axis.

    Returns:
      The carry after the pass, and the metrics of every mini-batch, `[num_minibatches]`.

    Raises:
      ValueError: the mini-batches do not divide the samples.
    """
    size = jax.tree.leaves(samples)[0].shape[0]
    if size % num_minibatches:
        raise ValueError(
            f"{size} samples (workers x steps) cannot be cut into {num_minibatches} mini-batches; "
            "choose a divisor."
        )
    order = jax.random.permutation(fold_in_axis(key, axis_name), size)

    def one(carry: Any, chosen: Array) -> tuple[Any, dict[str, Array]]:
        return learn(carry, jax.tree.map(lambda x: x[chosen], samples))

    return jax.lax.scan(one, carry, order.reshape(num_minibatches, -1))


def passes(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    carry: tuple[Any, Any],
    samples: Samples,
    key: Array,
    *,
    num_epochs: int,
    num_minibatches: int,
    normalise_advantages: bool,
    reward_weights: ArrayLike | None = None,
    axis_name: AxisName | None = None,
) -> tuple[tuple[Any, Any], dict[str, Array]]:
    """Several epochs of gradient steps.

    Args:
      loss, optimizer, carry: of `gradient_step`.
      samples, num_minibatches: of `epoch`.
      key: consumed.
      num_epochs: passes over the samples.
      normalise_advantages: whether those of each mini-batch are, of every reward by itself.
      reward_weights: of M rewards in the sum of advantages that the policy learns from, `[M]`.
      axis_name: mapped device axis.

    Returns:
      The carry after the last step, and the mean metrics of all steps, `[]`.
    """

    def combined(advantage: Array) -> Array:
        normalise = functools.partial(normalised_advantages, axis_name=axis_name)
        if reward_weights is not None:
            normalise = jax.vmap(normalise, -1, -1)
        advantage = normalise(advantage) if normalise_advantages else advantage
        return advantage if reward_weights is None else advantage @ jnp.asarray(reward_weights)

    def learn(carry: tuple[Any, Any], chosen: Samples) -> Any:
        chosen = chosen._replace(advantage=combined(chosen.advantage))
        return gradient_step(loss, optimizer, carry, chosen, axis_name=axis_name)

    def one_pass(carry: tuple[Any, Any], key: Array) -> Any:
        return epoch(
            learn, carry, samples, key, num_minibatches=num_minibatches, axis_name=axis_name
        )

    carry, metrics = jax.lax.scan(one_pass, carry, jax.random.split(key, num_epochs))
    return carry, jax.tree.map(jnp.mean, metrics)
