"""The usual single-file compiled recurrent PPO, for comparison: same maths as `memory_ppo`.

Written the way such files are written (purejaxrl's ppo_rnn.py): a cell that is scanned over time on
a batch of environments, mini-batches of whole environments, and whole rollouts to go back through.
Time limits are bootstrapped, from the hidden states that the steps have left.
"""

import functools

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jaxrl.envs import recall
from jaxrl.networks import orthogonal

ENVS, STEPS, EPOCHS, MINIBATCHES, WIDTH, CUES = 32, 40, 4, 4, 32, 4
GAMMA, LAMBDA, RATE = 0.99, 0.95, 2e-3


class ScannedCell(nn.Module):
    """A GRU over time `[T, B, ...]`; hidden states are zeros where an episode begins."""

    @functools.partial(
        nn.scan, variable_broadcast="params", in_axes=0, out_axes=0, split_rngs={"params": False}
    )
    @nn.compact
    def __call__(self, hidden, given):
        x, first = given
        hidden = jnp.where(first[:, None], 0.0, hidden)
        return nn.GRUCell(WIDTH, recurrent_kernel_init=orthogonal(1.0))(hidden, x)


class ActorCritic(nn.Module):
    """A layer, the cell, and two layers for each head."""

    @nn.compact
    def __call__(self, hidden, obs, first):
        dense = lambda size, gain: nn.Dense(size, kernel_init=orthogonal(gain))
        x = nn.tanh(dense(WIDTH, 2**0.5)(obs))
        hidden, y = ScannedCell()(hidden, (x, first))
        logits = dense(CUES, 0.01)(nn.tanh(dense(WIDTH, 2**0.5)(y)))
        value = dense(1, 1.0)(nn.tanh(dense(WIDTH, 2**0.5)(y)))[..., 0]
        return hidden, logits, value


def make_train(num_updates: int):
    """`train(key) -> mean return of the episodes that ended in each update`, `[num_updates]`."""
    env = recall(CUES, 8)
    network = ActorCritic()
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(RATE, eps=1e-5))

    def train(key):
        key, key_params, key_reset = jax.random.split(key, 3)
        reset = jax.vmap(env.reset, (0, None))
        obs, env_state = reset(jax.random.split(key_reset, ENVS), env.params)
        hidden, first = jnp.zeros((ENVS, WIDTH)), jnp.zeros(ENVS, bool)
        params = network.init(key_params, hidden, obs[None], first[None])
        opt_state = optimizer.init(params)

        def env_step(carry, _):
            params, env_state, obs, hidden, first, returns, key = carry
            key, key_act, key_step, key_reset = jax.random.split(key, 4)
            hidden, logits, value = network.apply(params, hidden, obs[None], first[None])
            logits, value = logits[0], value[0]
            action = jax.random.categorical(key_act, logits)
            log_prob = jnp.take_along_axis(nn.log_softmax(logits), action[:, None], 1)[:, 0]
            step = jax.vmap(env.step, (0, 0, 0, None))(
                jax.random.split(key_step, ENVS), env_state, action, env.params
            )
            new_obs, new_state = reset(jax.random.split(key_reset, ENVS), env.params)
            done = step.terminated | step.truncated
            pick = lambda a, b: jnp.where(done.reshape(-1, *(1,) * (a.ndim - 1)), a, b)
            next_obs, env_state = jax.tree.map(
                pick, (new_obs, new_state), (step.observation, step.state)
            )
            total = returns + step.reward
            row = dict(
                obs=obs, first=first, action=action, log_prob=log_prob, value=value,
                reward=step.reward, terminated=step.terminated, done=done,
                final=step.observation, hidden=hidden, total=total,
            )  # fmt: skip
            carry = (params, env_state, next_obs, hidden, done, jnp.where(done, 0.0, total), key)
            return carry, row

        def update(carry, _):
            params, opt_state, env_state, obs, hidden, first, returns, key = carry
            begin = hidden
            (_, env_state, obs, hidden, first, returns, key), rows = jax.lax.scan(
                env_step, (params, env_state, obs, hidden, first, returns, key), None, STEPS
            )
            many = lambda x: x.reshape(1, STEPS * ENVS, *x.shape[2:])
            goes_on = jnp.zeros((1, STEPS * ENVS), bool)
            next_value = network.apply(
                params, many(rows["hidden"])[0], many(rows["final"]), goes_on
            )[2].reshape(STEPS, ENVS)

            def gae(advantage, row):
                reward, value, following, terminated, done = row
                delta = reward + GAMMA * following * (1 - terminated) - value
                advantage = delta + GAMMA * LAMBDA * (1 - done) * advantage
                return advantage, advantage

            columns = [rows["reward"], rows["value"], next_value, rows["terminated"], rows["done"]]
            _, advantage = jax.lax.scan(gae, jnp.zeros(ENVS), tuple(columns), reverse=True)
            names = ("obs", "first", "action", "log_prob", "value")
            data = (*(rows[name] for name in names), advantage, advantage + rows["value"])

            def loss_fn(params, begin, obs, first, action, old_log_prob, old, advantage, target):
                _, logits, value = network.apply(params, begin, obs, first)
                log_p = nn.log_softmax(logits)
                log_prob = jnp.take_along_axis(log_p, action[..., None], -1)[..., 0]
                clipped = old + (value - old).clip(-0.2, 0.2)
                value_loss = 0.5 * jnp.maximum((value - target) ** 2, (clipped - target) ** 2)
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                ratio = jnp.exp(log_prob - old_log_prob)
                actor = jnp.minimum(ratio * advantage, ratio.clip(0.8, 1.2) * advantage)
                entropy = -(jnp.exp(log_p) * log_p).sum(-1).mean()
                return -actor.mean() + 0.5 * value_loss.mean() - 0.01 * entropy

            def epoch(carry, _):
                params, opt_state, key = carry
                key, key_order = jax.random.split(key)
                order = jax.random.permutation(key_order, ENVS).reshape(MINIBATCHES, -1)

                def minibatch(carry, chosen):
                    params, opt_state = carry
                    batch = jax.tree.map(lambda x: x[:, chosen], data)
                    grads = jax.grad(loss_fn)(params, begin[chosen], *batch)
                    updates, opt_state = optimizer.update(grads, opt_state)
                    return (optax.apply_updates(params, updates), opt_state), None

                (params, opt_state), _ = jax.lax.scan(minibatch, (params, opt_state), order)
                return (params, opt_state, key), None

            (params, opt_state, key), _ = jax.lax.scan(
                epoch, (params, opt_state, key), None, EPOCHS
            )
            ended = jnp.where(rows["done"], rows["total"], 0.0).sum() / rows["done"].sum()
            return (params, opt_state, env_state, obs, hidden, first, returns, key), ended

        carry = (params, opt_state, env_state, obs, hidden, first, jnp.zeros(ENVS), key)
        return jax.lax.scan(update, carry, None, num_updates)[1]

    return train
