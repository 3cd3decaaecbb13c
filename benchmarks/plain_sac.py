"""The usual single-file compiled SAC, for comparison only: same maths as `soft_actor_critic`.

Written the way such files are written: one `train(key)`, batched environments and one network
output per batch, keys split as they are needed. The three losses of a step are taken at the same
parameters, and one Adam serves all. Time limits are bootstrapped.
"""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jaxrl.envs import pendulum
from jaxrl.networks import orthogonal

ENVS, GRADIENT_STEPS, BATCH, CAPACITY, RANDOM = 4, 4, 64, 20_000, 1_000
GAMMA, TAU, RATE, WIDTHS, LIMIT = 0.99, 0.005, 1e-3, (64, 64), 2.0


class MLP(nn.Module):
    """Two hidden layers of relu."""

    size: int
    gain: float

    @nn.compact
    def __call__(self, x):
        for width in WIDTHS:
            x = nn.relu(nn.Dense(width, kernel_init=orthogonal(2**0.5))(x))
        return nn.Dense(self.size, kernel_init=orthogonal(self.gain))(x)


def make_train(num_updates: int):
    """`train(key) -> mean return of the episodes that ended in each update`, NaN where none did."""
    env = pendulum()
    actor, critic = MLP(2, 0.01), MLP(1, 1.0)
    optimizer = optax.adam(RATE)

    def q_values(params, obs, action):
        both = jnp.concatenate([obs, action], -1)
        return jax.vmap(lambda p: critic.apply(p, both)[..., 0])(params)

    def sample(params, obs, key):
        mean, log_std = jnp.split(actor.apply(params, obs), 2, -1)
        log_std = log_std.clip(-20, 2)
        noise = jax.random.normal(key, mean.shape)
        u = mean + jnp.exp(log_std) * noise
        log_prob = -0.5 * noise**2 - log_std - 0.5 * jnp.log(2 * jnp.pi)
        log_prob -= jnp.log(LIMIT) + 2 * (jnp.log(2) - u - nn.softplus(-2 * u))
        return LIMIT * jnp.tanh(u), log_prob.sum(-1)

    def train(key):
        key, key_actor, key_critics, key_reset = jax.random.split(key, 4)
        obs_action = jnp.zeros(4)
        params = {
            "actor": actor.init(key_actor, jnp.zeros(3)),
            "critics": jax.vmap(critic.init, (0, None))(
                jax.random.split(key_critics, 2), obs_action
            ),
            "log_alpha": jnp.zeros(()),
        }
        opt_state = optimizer.init(params)
        reset = jax.vmap(env.reset, (0, None))
        obs, env_state = reset(jax.random.split(key_reset, ENVS), env.params)
        buffer = dict(
            obs=jnp.zeros((CAPACITY, 3)), action=jnp.zeros((CAPACITY, 1)),
            reward=jnp.zeros(CAPACITY), terminated=jnp.zeros(CAPACITY, bool),
            following=jnp.zeros((CAPACITY, 3)),
        )  # fmt: skip

        def loss_fn(params, targets, rows, key):
            key_now, key_next = jax.random.split(key)
            alpha = jax.lax.stop_gradient(jnp.exp(params["log_alpha"]))
            following, log_next = sample(params["actor"], rows["following"], key_next)
            value = q_values(targets, rows["following"], following).min(0) - alpha * log_next
            target = rows["reward"] + GAMMA * (1 - rows["terminated"]) * value
            errors = q_values(params["critics"], rows["obs"], rows["action"])
            critic_loss = ((errors - jax.lax.stop_gradient(target)) ** 2).sum(0).mean()
            action, log_prob = sample(params["actor"], rows["obs"], key_now)
            fixed = jax.lax.stop_gradient(params["critics"])
            actor_loss = (alpha * log_prob - q_values(fixed, rows["obs"], action).min(0)).mean()
            short = jax.lax.stop_gradient(log_prob) - 1.0
            return critic_loss + actor_loss - (params["log_alpha"] * short).mean()

        def update(carry, i):
            params, targets, opt_state, buffer, env_state, obs, returns, key = carry
            key, key_act, key_any, key_step, key_reset, key_learn = jax.random.split(key, 6)
            action = sample(params["actor"], obs, key_act)[0]
            anything = jax.random.uniform(key_any, action.shape, minval=-LIMIT, maxval=LIMIT)
            is_random = i * ENVS < RANDOM
            action = jnp.where(is_random, anything, action)
            step = jax.vmap(env.step, (0, 0, 0, None))(
                jax.random.split(key_step, ENVS), env_state, action, env.params
            )
            new_obs, new_state = reset(jax.random.split(key_reset, ENVS), env.params)
            done = step.terminated | step.truncated
            pick = lambda a, b: jnp.where(done.reshape(-1, *(1,) * (a.ndim - 1)), a, b)
            next_obs, env_state = jax.tree.map(
                pick, (new_obs, new_state), (step.observation, step.state)
            )
            rows = dict(
                obs=obs, action=action, reward=step.reward, terminated=step.terminated,
                following=step.observation,
            )  # fmt: skip
            places = (i * ENVS + jnp.arange(ENVS)) % CAPACITY
            buffer = jax.tree.map(lambda old, new: old.at[places].set(new), buffer, rows)
            size = jnp.minimum((i + 1) * ENVS, CAPACITY)

            def learn(carry, key):
                params, targets, opt_state = carry
                key_rows, key_loss = jax.random.split(key)
                index = jax.random.randint(key_rows, (BATCH,), 0, size)
                batch = jax.tree.map(lambda x: x[index], buffer)
                grads = jax.grad(loss_fn)(params, targets, batch, key_loss)
                updates, opt_state = optimizer.update(grads, opt_state)
                params = optax.apply_updates(params, updates)
                targets = optax.incremental_update(params["critics"], targets, TAU)
                return (params, targets, opt_state), None

            before = (params, targets, opt_state)
            after, _ = jax.lax.scan(learn, before, jax.random.split(key_learn, GRADIENT_STEPS))
            is_ready = (i + 1) * ENVS >= RANDOM
            after = jax.tree.map(lambda new, old: jnp.where(is_ready, new, old), after, before)
            total = returns + step.reward
            ended = jnp.where(done, total, 0.0).sum() / done.sum()
            returns = jnp.where(done, 0.0, total)
            return (*after, buffer, env_state, next_obs, returns, key), ended

        carry = (params, params["critics"], opt_state, buffer, env_state, obs)
        carry = (*carry, jnp.zeros(ENVS), key)
        return jax.lax.scan(update, carry, jnp.arange(num_updates))[1]

    return train
