"""Meta-training of LPG and TA-LPG: by evolution of whole lives, or by truncated meta-gradients.

    fitness = fitness_of_lives(setting, sample, max_steps=100)
    core = evolution(rule.init, fitness, decaying_adam(1e-2), num_pairs=512)
    core = meta_gradient(setting, sample, optax.adam(1e-4), num_lifetimes=512)

References:
  As in `learned_rule.py`. Official code: EmptyJackson/groove (meta/train.py). Differences: its
  value critic never leaves its initialisation, because the updated parameters are dropped; ours
  learns, and `train_critic=False` does as the code does.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxrl.losses import policy_gradient_loss, value_loss
from jaxrl.meta.evolution import Candidates, Evaluate, Pairs
from jaxrl.meta.lifetime import (
    FLOOR,
    AgentState,
    Setting,
    final_return,
    init_agent,
    interact,
    live,
    probabilities,
    update_while_alive,
)
from jaxrl.returns import generalised_advantages
from jaxrl.rollout import check_places, put_workers, take_workers
from jaxtrain.core import Core, StepOutput
from jaxtrain.parallel import AxisName, local_value_and_grad, mark_varying, psum
from jaxtrain.schedules.checks import check_counts

SampleLife = Callable[[Array], tuple[Any, Array]]  # key -> (level, N)

# --- Evolution ------------------------------------------------------------------------------------


def fitness_of_lives(
    setting: Setting,
    sample: SampleLife,
    *,
    max_steps: int,
    num_episodes: int = 64,
    num_buckets: int = 4,
) -> Evaluate:
    """Fitness for `evolution`: mean return at the end of a whole life, one life per candidate.

    Both members of a pair meet the same level, lifetime and initial agent. Pairs are sorted by
    their lifetime N and run in `num_buckets` portions one after the other, each as long as its
    longest life, so that short lives do not wait for the longest one of all.

    Args:
      setting: what all lifetimes share.
      sample: draws a level and N.
      max_steps: longest episode of the evaluation.
      num_episodes: episodes of the evaluation.
      num_buckets: must divide the pairs (of a shard).

    Raises:
      ValueError: (when called) the buckets do not divide the pairs.
    """

    def evaluate(candidates: Candidates, pairs: Pairs) -> Array:
        num_pairs = pairs.noise.shape[0]
        if num_pairs % num_buckets:
            raise ValueError(
                f"{num_pairs} pairs do not divide into {num_buckets} buckets; choose a divisor."
            )

        def drawn(key: Array) -> tuple[Array, tuple[Any, Array]]:
            key_agent, key_life = jax.random.split(key)
            return key_agent, sample(key_life)

        key_agent, (level, lifetime) = jax.vmap(drawn)(pairs.task)
        order = jnp.argsort(lifetime)

        def of_pair(args: tuple[Any, ...]) -> Array:
            key_noise, key_run, key_agent, level, lifetime = args
            agent = init_agent(setting, key_agent, level)

            def of_member(eta: Any, key: Array) -> Array:
                key_live, key_end = jax.random.split(key)
                trained = live(setting, eta, agent, level, lifetime, key_live)
                return final_return(
                    setting, trained, level, key_end, max_steps=max_steps, num_episodes=num_episodes
                )

            return jax.vmap(of_member)(candidates(key_noise), key_run)

        everything = (pairs.noise, pairs.run, key_agent, level, lifetime)
        ordered = jax.tree.map(
            lambda x: x[order].reshape(num_buckets, -1, *x.shape[1:]), everything
        )
        fitness = jax.lax.map(jax.vmap(of_pair), ordered).reshape(num_pairs, 2)
        return jnp.zeros_like(fitness).at[order].set(fitness)

    return evaluate


def updates_run(lifetime: Array, num_buckets: int) -> Array:
    """Agent updates that are computed for lifetimes `[P]` in so many buckets, `[]`; their sum is
    the least possible and P times the longest what a single bucket costs."""
    portions = jnp.sort(lifetime).reshape(num_buckets, -1)
    return (portions.max(1) * portions.shape[1]).sum()


# --- Meta-gradients -------------------------------------------------------------------------------


class Life(NamedTuple):
    """A lifetime under way.

    Attributes:
      agent: the agent.
      critic: value function used by the meta-gradient alone, and its optimiser's state.
      level: params of its environment.
      lifetime: N, `[]`, int32.
    """

    agent: AgentState
    critic: tuple[Any, Any]
    level: Any
    lifetime: Array


class MetaGradientState(NamedTuple):
    """State of `meta_gradient`.

    Attributes:
      params: eta.
      opt_state: of the meta-optimiser.
      lives: every leaf `[B, ...]`.
    """

    params: Any
    opt_state: Any
    lives: Life


def meta_gradient(
    setting: Setting,
    sample: SampleLife,
    optimizer: optax.GradientTransformation,
    *,
    num_lifetimes: int = 512,
    num_updates: int = 5,
    num_chunks: int = 1,
    gamma: ArrayLike = 0.99,
    lambda_: ArrayLike = 0.95,
    policy_entropy_coef: ArrayLike = 0.05,
    prediction_entropy_coef: ArrayLike = 1e-3,
    pi_hat_coef: ArrayLike = 5e-3,
    y_hat_coef: ArrayLike = 1e-3,
    train_critic: bool = True,
    remat: bool = True,
    axis_name: AxisName | None = None,
) -> Core:
    """Gradient of the return after K updates with respect to the rule, through those updates.

    Per lifetime: K updates, one more rollout, advantages A from a value critic of its own,
    normalised over the rollout, and

        meta_loss = -mean(log pi(a|s) A) - b0 H(pi) - b1 H(y) + b2 mean(pi_hat^2)
                    + b3 mean(sum_j y_hat_j^2)

    with the last four averaged over the K updates. Lifetimes that are over are replaced by new
    agents on new levels.

    Args:
      setting: what all lifetimes share.
      sample: draws a level and N.
      optimizer: of eta, e.g. `optax.adam(1e-4)`.
      num_lifetimes: B, over all devices.
      num_updates: K.
      num_chunks: the lifetimes are differentiated in so many portions one after the other, to fit
        memory; results do not depend on it beyond rounding. Must divide B (of a shard).
      gamma: discount of the advantages.
      lambda_: of the advantages.
      policy_entropy_coef: b0.
      prediction_entropy_coef: b1.
      pi_hat_coef: b2.
      y_hat_coef: b3.
      train_critic: whether the value critic learns.
      remat: forget what happened inside each update and compute it again in the backward pass.
      axis_name: mapped device axis, None for global arrays.

    Returns:
      A core whose batch is places of lifetimes `[b]`, int32. Metrics: `meta_loss`, `value_loss`,
      `reward` (per step), the entropies, `pi_hat_square`, `num_finished` and `grad_norm`.

    Raises:
      ValueError: a size below 1, or rollouts of one step of one worker, whose advantage cannot be
        normalised; (when called) the batch is not the places of all lifetimes, or the chunks do not
        divide it.
    """
    check_counts(num_lifetimes=num_lifetimes, num_updates=num_updates, num_chunks=num_chunks)
    if setting.num_workers * setting.num_steps < 2:
        raise ValueError(
            "the advantage of a single sample is 0 once it is normalised; give the agents two "
            "workers or steps, or more."
        )
    critic_optimizer = setting.optimizers.critic

    def new_life(key: Array) -> Life:
        key_life, key_agent, key_critic = jax.random.split(key, 3)
        level, lifetime = sample(key_life)
        agent = init_agent(setting, key_agent, level)
        example = jax.tree.map(lambda x: x[0], agent.workers.observation)
        critic = setting.body.init(key_critic, example, 1)
        return Life(agent, (critic, critic_optimizer.init(critic)), level, lifetime)

    def init(key: Array) -> MetaGradientState:
        key_rule, key_lives = jax.random.split(key)
        eta = setting.rule.init(key_rule)
        lives = jax.vmap(new_life)(jax.random.split(key_lives, num_lifetimes))
        return jax.tree.map(jnp.copy, MetaGradientState(eta, optimizer.init(eta), lives))

    def values(critic: Any, observations: Any) -> Array:
        return jax.vmap(jax.vmap(lambda o: setting.body.apply(critic, o)[0]))(observations)

    def meta_loss(eta: Any, life: Life, key: Array) -> tuple[Array, Any]:
        key_updates, key_after = jax.random.split(key)

        def one(agent: AgentState, key: Array) -> Any:
            return update_while_alive(setting, eta, agent, life.level, life.lifetime, key)

        one = jax.checkpoint(one) if remat else one
        agent, stats = jax.lax.scan(one, life.agent, jax.random.split(key_updates, num_updates))
        stats = jax.tree.map(jnp.mean, stats)
        workers, steps = interact(setting, agent, life.level, key_after)
        steps = jax.lax.stop_gradient(steps)
        critic, critic_opt = life.critic
        value = values(critic, steps.observation)
        estimate = functools.partial(generalised_advantages, gamma=gamma, lambda_=lambda_)
        advantage = jax.vmap(estimate)(
            reward_t=steps.reward,
            value_t=value,
            next_value_t=values(critic, steps.next_observation),
            terminated_t=steps.terminated,
            truncated_t=steps.truncated,
        )
        target = advantage + value
        normal = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        p = probabilities(setting, agent.actor, steps.observation)
        log_p = jnp.log(jnp.take_along_axis(p, steps.action[..., None], -1)[..., 0] + FLOOR)
        loss = (
            policy_gradient_loss(log_p, normal).mean()
            - policy_entropy_coef * stats.policy_entropy
            - prediction_entropy_coef * stats.prediction_entropy
            + pi_hat_coef * stats.pi_hat_square
            + y_hat_coef * stats.y_hat_square
        )

        def critic_loss(params: Any) -> Array:
            found = values(params, steps.observation)
            return value_loss(found, value, jax.lax.stop_gradient(target)).mean()

        value_error, grads = jax.value_and_grad(critic_loss)(critic)
        if train_critic:
            moves, critic_opt = critic_optimizer.update(grads, critic_opt)
            critic = optax.apply_updates(critic, moves)
        metrics = {
            "meta_loss": loss,
            "value_loss": value_error,
            "reward": steps.reward.mean(),
            "policy_entropy": stats.policy_entropy,
            "prediction_entropy": stats.prediction_entropy,
            "pi_hat_square": stats.pi_hat_square,
        }
        after = life._replace(agent=agent._replace(workers=workers), critic=(critic, critic_opt))
        return loss, jax.lax.stop_gradient((after, metrics))

    def update(
        state: MetaGradientState, batch: Array, key: Array
    ) -> tuple[MetaGradientState, StepOutput]:
        check_places(batch, "lifetimes", num_lifetimes, axis_name)
        size = batch.shape[0]
        if size % num_chunks:
            raise ValueError(f"{size} lifetimes do not divide into {num_chunks} chunks.")
        keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(batch)
        lives = take_workers(state.lives, batch)

        def chunk_loss(eta: Any, lives: Life, keys: Array) -> tuple[Array, Any]:
            losses, (after, metrics) = jax.vmap(meta_loss, (None, 0, 0))(eta, lives, keys)
            return losses.sum(), (after, jax.tree.map(jnp.sum, metrics))

        differentiate = local_value_and_grad(chunk_loss, axis_name, has_aux=True)

        def add(sums: Any, chunk: tuple[Life, Array]) -> tuple[Any, Life]:
            (_, (after, metrics)), grads = differentiate(state.params, *chunk)
            return jax.tree.map(jnp.add, sums, (grads, metrics)), after

        chunks = jax.tree.map(
            lambda x: x.reshape(num_chunks, -1, *x.shape[1:]), (lives, keys[:, 0])
        )
        (_, (_, shapes)), grads = jax.eval_shape(
            differentiate, state.params, *jax.tree.map(lambda x: x[0], chunks)
        )
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (grads, shapes))
        sums, after = jax.lax.scan(add, mark_varying(zeros, axis_name), chunks)
        lives = jax.tree.map(lambda x: x.reshape(size, *x.shape[2:]), after)

        over = lives.agent.num_updates >= lives.lifetime
        fresh = jax.vmap(new_life)(keys[:, 1])
        replace = lambda new, old: jnp.where(over.reshape(size, *(1,) * (old.ndim - 1)), new, old)
        lives = jax.tree.map(replace, fresh, lives)

        (gradient, metrics), finished = psum((sums, over.sum() * 1.0), axis_name)
        gradient, metrics = jax.tree.map(lambda x: x / num_lifetimes, (gradient, metrics))
        moves, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        metrics |= {"num_finished": finished, "grad_norm": optax.tree.norm(gradient)}
        state = MetaGradientState(
            optax.apply_updates(state.params, moves),
            opt_state,
            put_workers(state.lives, batch, lives, axis_name),
        )
        return state, StepOutput(metrics)

    return Core(init, update)
