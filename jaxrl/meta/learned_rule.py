r"""The network that is the learning rule of LPG and TA-LPG.

It reads a rollout backwards in time and says, for every step, how the policy should change there
(pi_hat) and what the agent should predict there (y_hat). What the agent minimises with them is

    L = mean[ log pi(a|s) pi_hat ] + alpha_y mean KL( y(s) || y_hat )

so a *negative* pi_hat makes an action likelier. That sign is part of every saved rule, `SIGN`.

References:
  Oh et al., Discovering Reinforcement Learning Algorithms, arXiv 2007.08794 (LPG).
  Jackson et al., Discovering Temporally-Aware Reinforcement Learning Algorithms, arXiv 2402.05828
  (TA-LPG, eq. 9). Official code: EmptyJackson/groove (models/lpg.py), which gives the rule the raw
  n and N; we follow the paper, and `raw_time_inputs` does as the code does.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import ArrayLike

SIGN = "minimise mean(log pi * pi_hat) + alpha_y * KL(y || y_hat)"


class RuleInputs(NamedTuple):
    """What the rule sees of one worker's rollout; no gradient flows through it.

    Attributes:
      reward: raw, `[T]`.
      done: an episode ended here, for whatever reason, `[T]`, bool.
      probability: of the action taken, under the current policy, `[T]`.
      prediction: y(s_t), `[T, m]`.
      next_prediction: y of the observation after the step, before any reset, `[T, m]`.
    """

    reward: Array
    done: Array
    probability: Array
    prediction: Array
    next_prediction: Array


class RuleOutputs(NamedTuple):
    """What the rule says: pi_hat `[T]`, unbounded, and y_hat `[T, m]`, probabilities."""

    pi_hat: Array
    y_hat: Array


class Rule(NamedTuple):
    """A learning rule as functions.

    Attributes:
      init: key -> parameters eta.
      apply: `(eta, inputs, n, N) -> RuleOutputs`; n updates done of N, which is at least 1. An N
        below is taken as 1, so that what the rule says of an agent without a life is finite.
      num_predictions: m.
    """

    init: Callable[[Array], Any]
    apply: Callable[[Any, RuleInputs, ArrayLike, ArrayLike], RuleOutputs]
    num_predictions: int


def _run(module: nn.Module, params: Any, *inputs: Any) -> Any:
    return module.apply({"params": params}, *inputs)


CELLS = {"gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}


def recurrent_rule(
    num_predictions: int = 8,
    *,
    temporal: bool = False,
    cell: str = "gru",
    width: int = 256,
    embed_width: int = 16,
    raw_time_inputs: bool = False,
    gamma_input: float | None = None,
) -> Rule:
    """The rule of LPG and, with `temporal`, of TA-LPG.

    Per step the inputs are reward, done, probability, phi(y), phi(y') (0 where done) and, if
    temporal, n / N and log N. A recurrent cell reads them from the last step to the first; its
    memory is cleared before it reads a step with done, so nothing crosses the end of an episode.
    With the defaults and a GRU it has 203,946 parameters, 1,536 more if temporal.

    Args:
      num_predictions: m, size of the agent's predictions.
      temporal: whether the rule knows how far the lifetime is.
      cell: gru (official code) or lstm (LPG paper).
      width: of the cell.
      embed_width: hidden units of phi.
      raw_time_inputs: n and N instead of n / N and log N.
      gamma_input: a discount to give as constant input, as the LPG paper does; None for none.

    Raises:
      ValueError: unknown cell.
    """
    if cell not in CELLS:
        raise ValueError(f"unknown cell {cell!r}; choose {' or '.join(CELLS)}.")
    recurrent = CELLS[cell](width)
    embed = nn.Sequential([nn.Dense(embed_width), nn.relu, nn.Dense(1)])
    to_policy, to_prediction = nn.Dense(1), nn.Dense(num_predictions)
    num_inputs = 5 + 2 * temporal + (gamma_input is not None)

    def memory(like: Array) -> Any:
        """Zeros, made from data so that they have its mapped axes."""
        zeros = jnp.broadcast_to(jnp.zeros_like(like), (width,))
        return zeros if cell == "gru" else (zeros, zeros)

    def init(key: Array) -> dict[str, Any]:
        keys = jax.random.split(key, 4)
        start = memory(jnp.float32(0.0))
        return {
            "embed": embed.init(keys[0], jnp.zeros(num_predictions))["params"],
            "cell": recurrent.init(keys[1], start, jnp.zeros(num_inputs))["params"],
            "pi_hat": to_policy.init(keys[2], jnp.zeros(width))["params"],
            "y_hat": to_prediction.init(keys[3], jnp.zeros(width))["params"],
        }

    def apply(eta: Any, inputs: RuleInputs, n: ArrayLike, lifetime: ArrayLike) -> RuleOutputs:
        inputs = jax.lax.stop_gradient(inputs)
        phi = lambda y: _run(embed, eta["embed"], y)[:, 0]
        next_embedding = jnp.where(inputs.done, 0.0, phi(inputs.next_prediction))
        done = inputs.done.astype(jnp.float32)
        columns = [inputs.reward, done, inputs.probability, phi(inputs.prediction), next_embedding]
        if temporal:
            n, lifetime = (jnp.asarray(x, jnp.float32) for x in (n, lifetime))
            lifetime = jnp.maximum(lifetime, 1.0)
            times = (n, lifetime) if raw_time_inputs else (n / lifetime, jnp.log(lifetime))
            columns += [jnp.broadcast_to(t, done.shape) for t in times]
        if gamma_input is not None:
            columns.append(jnp.full_like(done, gamma_input))
        x = jnp.stack(columns, axis=-1)

        def read(carry: Any, step: tuple[Array, Array]) -> tuple[Any, Array]:
            features, ended = step
            carry = jax.tree.map(lambda c: jnp.where(ended, 0.0, c), carry)
            carry, output = _run(recurrent, eta["cell"], carry, features)
            return carry, output

        _, hidden = jax.lax.scan(read, memory(x[0, 0]), (x, inputs.done), reverse=True)
        hidden = nn.relu(hidden)
        pi_hat = _run(to_policy, eta["pi_hat"], hidden)[:, 0]
        y_hat = nn.softmax(_run(to_prediction, eta["y_hat"], hidden))
        return RuleOutputs(pi_hat, y_hat)

    return Rule(init, apply, num_predictions)
