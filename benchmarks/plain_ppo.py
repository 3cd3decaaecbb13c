"""The usual single-file compiled PPO, for comparison only: same maths as `jaxrl.actor_critic.ppo`.

Written the way such files are written: one `train(key)`, batched environments and one network
output per step inside the scan, keys split as they are needed. Time limits are bootstrapped.
"""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jaxrl.envs import cart_pole

ENVS, STEPS, EPOCHS, MINIBATCHES = 4, 128, 4, 4


class ActorCritic(nn.Module):
    """Two separate MLPs."""

    @nn.compact
    def __call__(self, x):
        def mlp(size, gain):
            h = x
            for _ in range(2):
                h = nn.tanh(nn.Dense(64, kernel_init=nn.initializers.orthogonal(2**0.5))(h))
            return nn.Dense(size, kernel_init=nn.initializers.orthogonal(gain))(h)

        return mlp(2, 0.01), mlp(1, 1.0)[..., 0]


def make_train(num_updates: int, total_updates: int = 976):
    """`train(key) -> mean return of the episodes that ended in each update`, `[num_updates]`."""
    env = cart_pole()
    network = ActorCritic()
    per_update = EPOCHS * MINIBATCHES
    schedule = lambda count: 2.5e-4 * (1.0 - (count // per_update) / total_updates)
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(schedule, eps=1e-5))

    def train(key):
        key, key_params, key_reset = jax.random.split(key, 3)
        params = network.init(key_params, jnp.zeros(4))
        opt_state = optimizer.init(params)
        reset = jax.vmap(env.reset, (0, None))
        obs, env_state = reset(jax.random.split(key_reset, ENVS), env.params)

        def env_step(carry, _):
            params, env_state, obs, returns, key = carry
            key, key_act, key_step, key_reset = jax.random.split(key, 4)
            logits, value = network.apply(params, obs)
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
                obs=obs, action=action, log_prob=log_prob, value=value, reward=step.reward,
                terminated=step.terminated, done=done, final=step.observation, total=total,
            )  # fmt: skip
            return (params, env_state, next_obs, jnp.where(done, 0.0, total), key), row

        def update(carry, _):
            params, opt_state, env_state, obs, returns, key = carry
            (_, env_state, obs, returns, key), rows = jax.lax.scan(
                env_step, (params, env_state, obs, returns, key), None, STEPS
            )
            next_value = network.apply(params, rows["final"])[1]

            def gae(advantage, row):
                reward, value, following, terminated, done = row
                delta = reward + 0.99 * following * (1 - terminated) - value
                advantage = delta + 0.99 * 0.95 * (1 - done) * advantage
                return advantage, advantage

            columns = [rows["reward"], rows["value"], next_value, rows["terminated"], rows["done"]]
            _, advantage = jax.lax.scan(gae, jnp.zeros(ENVS), tuple(columns), reverse=True)
            data = (rows["obs"], rows["action"], rows["log_prob"], rows["value"], advantage)
            data = (*data, advantage + rows["value"])

            def loss_fn(params, obs, action, old_log_prob, old_value, advantage, target):
                logits, value = network.apply(params, obs)
                log_p = nn.log_softmax(logits)
                log_prob = jnp.take_along_axis(log_p, action[:, None], 1)[:, 0]
                clipped = old_value + (value - old_value).clip(-0.2, 0.2)
                value_loss = 0.5 * jnp.maximum((value - target) ** 2, (clipped - target) ** 2)
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                ratio = jnp.exp(log_prob - old_log_prob)
                actor = jnp.minimum(ratio * advantage, ratio.clip(0.8, 1.2) * advantage)
                entropy = -(jnp.exp(log_p) * log_p).sum(-1).mean()
                return -actor.mean() + 0.5 * value_loss.mean() - 0.01 * entropy

            def epoch(carry, _):
                params, opt_state, key = carry
                key, key_order = jax.random.split(key)
                order = jax.random.permutation(key_order, ENVS * STEPS)
                flat = jax.tree.map(
                    lambda x: x.reshape(ENVS * STEPS, *x.shape[2:])[order].reshape(
                        MINIBATCHES, -1, *x.shape[2:]
                    ),
                    data,
                )

                def minibatch(carry, batch):
                    params, opt_state = carry
                    grads = jax.grad(loss_fn)(params, *batch)
                    updates, opt_state = optimizer.update(grads, opt_state)
                    return (optax.apply_updates(params, updates), opt_state), None

                (params, opt_state), _ = jax.lax.scan(minibatch, (params, opt_state), flat)
                return (params, opt_state, key), None

            (params, opt_state, key), _ = jax.lax.scan(
                epoch, (params, opt_state, key), None, EPOCHS
            )
            ended = jnp.where(rows["done"], rows["total"], 0.0).sum() / rows["done"].sum()
            return (params, opt_state, env_state, obs, returns, key), ended

        carry = (params, opt_state, env_state, obs, jnp.zeros(ENVS), key)
        return jax.lax.scan(update, carry, None, num_updates)[1]

    return train
