"""Goal-conditioned behaviour cloning: the mean action of the data, by least squares."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxrl.networks import MLP
from jaxrl.offline import windows
from jaxrl.offline.windows import Trajectories
from jaxtrain.core import Core, supervised
from jaxtrain.parallel import AxisName
from jaxtrain.protocol import Model


def network(action_size: int, widths: tuple[int, ...] = (256, 256)) -> Model:
    """GELU layers from an observation and a goal to an action, `[B, S], [B, S] -> [B, A]`."""
    net = MLP(widths, action_size, jax.nn.gelu, 0.01)
    joined = lambda inputs: jnp.concatenate([inputs["observation"], inputs["goal"]], axis=-1)

    def init(key: Array, inputs: Any) -> tuple[Any, Any]:
        return net.init(key, joined(inputs)[0])["params"], ()

    def apply(
        params: Any, model_state: Any, inputs: Any, *, key: Array | None, train: bool
    ) -> tuple[Array, Any]:
        del key, train
        act = lambda x: jnp.asarray(net.apply({"params": params}, x))
        return jax.vmap(act)(joined(inputs)), model_state

    return Model(init, apply)


def draw(key: Array, data: Trajectories, starts: Array) -> dict[str, Any]:
    """One example: a uniform step, and a uniform later row of its trajectory as the goal."""
    key_row, key_goal = jax.random.split(key)
    row = windows.pick(key_row, starts)
    goal = windows.later(key_goal, row + 1, data.last)
    inputs = {"observation": data.observation[row], "goal": data.observation[goal]}
    return {"inputs": inputs, "action": data.action[row]}


def cloning(
    model: Model, optimizer: optax.GradientTransformation, *, axis_name: AxisName | None = None
) -> Core:
    """Regression of actions: one step on mean |a - model(s, g)|^2 of each batch.

    Where the data know two ways, it learns their average; it is what learners of whole
    distributions are measured against.

    Args:
      model: of `{"observation": [B, S], "goal": [B, S]}` to `[B, A]`, such as `network`.
      optimizer: any Optax transformation.
      axis_name: mapped device axis, None for global arrays.

    Returns:
      A `supervised` core; a batch holds `inputs` and `action` `[B, A]`, as `draw` makes them.

    References:
      Lynch et al., Learning Latent Plans from Play, CoRL 2019, arXiv 1903.01973 (Play-GCBC), here
      with a deterministic policy.
    """

    def loss(action: Array, batch: Any) -> tuple[Array, dict[str, Array]]:
        return ((action - batch["action"]) ** 2).sum(-1).mean(), {}

    return supervised(model, loss, optimizer, axis_name=axis_name)
