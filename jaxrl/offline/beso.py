"""BESO: actions by denoising, given the states before and a state to come.

A transformer learns to take noise out of the actions of a window of play, knowing its states and a
goal from later in the same trajectory; a few steps of a sampler then make the next action. Where
the data know two ways to a goal it goes one of them, where a regression goes between both.

`beso(...)` is a `supervised` core whose batch is what `draw` makes of trajectories, noise included;
`act` chooses actions one after the other.

References:
  Reuss et al., Goal-Conditioned Imitation Learning using Score-based Diffusion Policies, RSS 2023,
  arXiv 2304.02532; network and settings of its code (intuitive-robots/beso). Differences: a goal is
  left out per example (the code masks single numbers of it, of which its authors were unsure), and
  there is no dropout of attention weights.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array
from jax.typing import ArrayLike

from jaxrl.offline import windows
from jaxrl.offline.windows import Trajectories
from jaxtrain import diffusion
from jaxtrain.core import Core, supervised
from jaxtrain.nets.transformer import Attention, FeedForward, TransformerBlock
from jaxtrain.parallel import AxisName
from jaxtrain.protocol import Model


class DenoisingTransformer(nn.Module):
    """F: what to take out of noisy actions.

    Tokens are [sigma] [goals] [state 1] [action 1] ... [state w] [action w], each of which reads
    those before it and itself; states and goals share an embedding, a state and its action a place.

    Attributes:
      action_size: A.
      width: channels of a token.
      num_layers: transformer blocks.
      num_heads: of each; they divide the width.
    """

    action_size: int
    width: int = 360
    num_layers: int = 6
    num_heads: int = 6

    @nn.compact
    def __call__(self, action: Array, level: Array, observation: Array, goal: Array) -> Array:
        """F `[B, w, A]`.

        Args:
          action: noisy and scaled, `[B, w, A]`.
          level: log(sigma) / 4, `[B]`.
          observation: `[B, w, S]`.
          goal: `[B, g, S]`, 0 for none.
        """
        small = nn.initializers.normal(0.02)
        dense = functools.partial(nn.Dense, self.width, kernel_init=small)
        batch, length = action.shape[:2]
        goals = goal.shape[1]
        places = self.param("places", small, (goals + length, self.width))[None]
        states = dense(name="state")(jnp.concatenate([goal, observation], axis=1)) + places
        actions = dense(name="action")(action) + places[:, goals:]
        pairs = jnp.stack([states[:, goals:], actions], axis=2).reshape(batch, -1, self.width)
        noise = dense(name="level")(level[:, None, None])
        x = jnp.concatenate([noise, states[:, :goals], pairs], axis=1)
        mask = jnp.tri(x.shape[1], dtype=bool)[None, None]
        attention = functools.partial(
            Attention,
            width=self.width,
            num_heads=self.num_heads,
            head_dim=self.width // self.num_heads,
            kernel_init=small,
        )
        feed_forward = functools.partial(FeedForward, hidden=4 * self.width, kernel_init=small)
        for layer in range(self.num_layers):
            x = TransformerBlock(attention, feed_forward, name=f"block_{layer}")(x, mask)
        of_actions = nn.LayerNorm(name="norm")(x)[:, 1 + goals :][:, 1::2]
        return nn.Dense(self.action_size, kernel_init=small, name="head")(of_actions)


# --- Training -------------------------------------------------------------------------------------


def draw(
    key: Array,
    data: Trajectories,
    starts: Array,
    *,
    window: int,
    num_goals: int = 1,
    sigma: tuple[ArrayLike, ArrayLike] = (0.005, 1.0),
    sigma_data: ArrayLike = 0.5,
    drop_goal: ArrayLike = 0.1,
) -> dict[str, dict[str, Array]]:
    """One example: a window, a goal behind it, a level of noise and the noise.

    The goal is `num_goals` rows that begin anywhere between the end of the window and that of the
    trajectory. It is 0 where none are left, and, so that the network also learns to do without one,
    with chance `drop_goal`.

    Args:
      key: consumed.
      data: the trajectories; goals of 0 want observations of mean 0.
      starts: of windows, `windows.starts(data, window)`.
      window: w, rows.
      num_goals: g.
      sigma: least and greatest level of noise.
      sigma_data: deviation of actions, the median of the levels.
      drop_goal: in [0, 1].
    """
    key_row, key_goal, key_drop, key_level, key_noise = jax.random.split(key, 5)
    row = windows.pick(key_row, starts)
    room = data.last[row] - (row + window) - num_goals + 2  # places where a goal can begin
    begin = row + window + jax.random.randint(key_goal, (), 0, jnp.maximum(room, 1))
    goal = windows.window(data.observation, jnp.minimum(begin, data.last[row]), num_goals)
    kept = (room > 0) & ~jax.random.bernoulli(key_drop, drop_goal)
    action = windows.window(data.action, row, window)
    return {
        "inputs": {
            "observation": windows.window(data.observation, row, window),
            "action": action,
            "goal": jnp.where(kept, goal, 0.0),
            "sigma": diffusion.random_level(key_level, *sigma, location=sigma_data),
            "noise": jax.random.normal(key_noise, action.shape),
        }
    }


def beso(
    network: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    sigma_data: ArrayLike = 0.5,
    axis_name: AxisName | None = None,
) -> Core:
    """Training to denoise: mean |F(c_in x, log(sigma) / 4) - (a - c_skip x) / c_out|^2, x noisy.

    Args:
      network: F, such as `DenoisingTransformer`.
      optimizer: any Optax transformation; the authors' is AdamW.
      sigma_data: deviation of actions.
      axis_name: mapped device axis, None for global arrays.

    Returns:
      A `supervised` core; a batch holds `inputs` with `observation` `[B, w, S]`, `action` and
      `noise` `[B, w, A]`, `goal` `[B, g, S]` and `sigma` `[B]`, as `draw` makes them. The authors
      act with averaged parameters: `jaxtrain.with_ema` around it keeps them.
    """

    def init(key: Array, inputs: Any) -> tuple[Any, Any]:
        parts = (inputs[name] for name in ("action", "sigma", "observation", "goal"))
        return network.init(key, *parts)["params"], ()

    def apply(
        params: Any, model_state: Any, inputs: Any, *, key: Array | None, train: bool
    ) -> tuple[Any, Any]:
        del key, train
        sigma = inputs["sigma"][:, None, None]
        noisy = inputs["action"] + sigma * inputs["noise"]
        around = diffusion.scales(sigma, sigma_data)
        said = network.apply(
            {"params": params},
            around.into * noisy,
            jnp.log(inputs["sigma"]) / 4,
            inputs["observation"],
            inputs["goal"],
        )
        return (said, diffusion.target(inputs["action"], noisy, around)), model_state

    def loss(outputs: tuple[Array, Array], batch: Any) -> tuple[Array, dict[str, Array]]:
        said, wanted = outputs
        return ((said - wanted) ** 2).mean(), {}

    return supervised(Model(init, apply), loss, optimizer, axis_name=axis_name)


# --- Acting ---------------------------------------------------------------------------------------


class Memory(NamedTuple):
    """The window so far: states `[w, S]`, actions `[w, A]`, and how many states, `[]`, int32."""

    observation: Array
    action: Array
    size: Array


def no_memory(window: int, observation_size: int, action_size: int) -> Memory:
    """Before anything was seen."""
    states, actions = jnp.zeros((window, observation_size)), jnp.zeros((window, action_size))
    return Memory(states, actions, jnp.int32(0))


def remembered(memory: Memory, observation: Array) -> tuple[Memory, Array]:
    """The window with a further state `[S]`, without the oldest if it was full, and its place."""
    window = len(memory.observation)
    is_full = memory.size >= window
    states, actions = (jnp.where(is_full, jnp.roll(x, -1, 0), x) for x in memory[:2])
    place = jnp.minimum(memory.size, window - 1)
    states = states.at[place].set(observation)
    return Memory(states, actions, jnp.minimum(memory.size + 1, window)), place


def act(
    network: nn.Module,
    params: Any,
    memory: Memory,
    key: Array,
    observation: Array,
    goal: Array,
    *,
    levels: Array,
    guidance: ArrayLike = 1.0,
    sigma_data: ArrayLike = 0.5,
    hold: bool = False,
    method: str = "ddim",
    bounds: tuple[float, float] = (-1.0, 1.0),
) -> tuple[Memory, Array]:
    """The next action `[A]`: the last of the window, after `method` has taken the noise out.

    Actions that were taken before begin without noise. As in the authors' code the sampler changes
    them like the new one, unless `hold` keeps them as they were.

    Args:
      network: F.
      params: of it.
      memory: the window before, `no_memory` at first.
      key: consumed.
      observation: the state now, `[S]`.
      goal: `[g, S]`.
      levels: of the sampler, e.g. `jaxtrain.diffusion.exponential_levels(3, 0.005, 1.0)`.
      guidance: lambda; 1 takes the goal as it was learned, 0 ignores it, more exaggerates it.
      sigma_data: as in training.
      hold: see above.
      method: of `jaxtrain.diffusion.SAMPLERS`.
      bounds: what actions are clipped to.

    Returns:
      The window with this state and action, and the action.
    """
    memory, place = remembered(memory, observation)
    key_noise, key_sampler = jax.random.split(key)
    taken = (jnp.arange(len(memory.action)) < place)[:, None]

    def denoised(goal: Array, x: Array, sigma: Array) -> Array:
        x = jnp.where(taken, memory.action, x) if hold else x
        around = diffusion.scales(sigma, sigma_data)
        said = network.apply(
            {"params": params},
            (around.into * x)[None],
            (jnp.log(sigma) / 4)[None],
            memory.observation[None],
            goal[None],
        )
        return around.skip * x + around.out * jnp.asarray(said)[0]

    with_goal = functools.partial(denoised, goal)
    without = functools.partial(denoised, jnp.zeros_like(goal))
    noise = levels[0] * jax.random.normal(key_noise, memory.action.shape)
    x = diffusion.sampled(
        diffusion.guided(with_goal, without, guidance),
        jnp.where(taken, memory.action, noise),
        levels,
        key_sampler,
        method,
    )
    action = jnp.clip(x[place], *bounds)
    return memory._replace(action=memory.action.at[place].set(action)), action
