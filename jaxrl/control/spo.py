"""SPO: learning from comparisons of trajectories, by playing against oneself.

The reward of a trajectory is the share of the others of the same rollout that it wins against.
`self_play(...)` gives `jaxrl.ppo` such rewards in place of the environment's; `reward_model(...)`
is the usual way, a reward of single steps fitted to the same comparisons, to compare with.

    core = ppo(env, network, optimizer, num_steps=16, relabel=self_play(earned, prefers))

Both want rollouts that are whole episodes: `num_steps` is the length of every one.

References:
  Swamy, Dann, Kidambi, Wu and Agarwal, A Minimaximalist Approach to Reinforcement Learning from
  Human Feedback, ICML 2024, arXiv 2401.04056. Differences: a trajectory is compared with the others
  of its rollout instead of a queue, and has its whole reward at its end instead of 1/T of it at
  every step, which is the same return without a discount.
  Christiano et al., Deep Reinforcement Learning from Human Preferences, NeurIPS 2017 (the model).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxrl.actor_critic_state import Relabel
from jaxrl.rollout import Transition
from jaxtrain.parallel import AxisName, gather

Summary = Callable[[Array], Any]  # rewards [T] of a trajectory -> what is compared
Prefers = Callable[[Any, Any], Array]  # two of those -> 1 where the first wins, 1/2 for a draw


def comparisons(prefers: Prefers, compared: Any, key: Array, flips: ArrayLike = 0.0) -> Array:
    """Who wins against whom, `[W, W]`: 1 where the row's trajectory does, 1/2 on the diagonal.

    Every pair is asked once: what one wins the other loses.

    Args:
      prefers: the judge.
      compared: of the trajectories, leaves `[W, ...]`.
      key: consumed.
      flips: chance that the judge says the opposite, in [0, 1/2].
    """
    wins = jax.vmap(lambda a: jax.vmap(lambda b: prefers(a, b))(compared))(compared)
    flipped = jnp.triu(jax.random.bernoulli(key, flips, wins.shape), 1)
    wins = jnp.where(flipped | flipped.T, 1 - wins, wins)
    return jnp.where(jnp.eye(len(wins), dtype=bool), 0.5, wins)


def win_rates(wins: Array) -> Array:
    """Share of the others that each trajectory wins against, `[W]`, of `comparisons` `[W, W]`.

    Raises:
      ValueError: there is one trajectory.
    """
    if len(wins) < 2:
        raise ValueError("one trajectory has no other to be compared with.")
    return (wins.sum(1) - jnp.diag(wins)) / (len(wins) - 1)


def _own(x: Array, size: int, axis_name: AxisName | None) -> Array:
    """The rows of this shard among those of all, `[size, ...]`."""
    if axis_name is None:
        return x
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(axis_name) * size, size)


def self_play(
    summary: Summary,
    prefers: Prefers,
    *,
    flips: ArrayLike = 0.0,
    axis_name: AxisName | None = None,
) -> Relabel:
    """Win rates as rewards, at the last step of each trajectory.

    Args:
      summary: what is compared of the rewards `[T]` of a trajectory.
      prefers: the judge of two of those.
      flips: chance that it says the opposite; may be traced.
      axis_name: mapped device axis, None for global arrays.

    Returns:
      What `ppo` takes as `relabel`.
    """

    def apply(aux: Any, steps: Transition, key: Array) -> tuple[Array, Any, dict[str, Array]]:
        compared = gather(jax.vmap(summary)(steps.reward), axis_name)
        rates = win_rates(comparisons(prefers, compared, key, flips))
        mine = _own(rates, len(steps.reward), axis_name)
        return jnp.zeros_like(steps.reward).at[:, -1].set(mine), aux, {}

    return Relabel(lambda key: (), apply)


def reward_model(
    summary: Summary,
    prefers: Prefers,
    features: Callable[[Any, Any], Array],
    num_features: int,
    optimizer: optax.GradientTransformation,
    *,
    flips: ArrayLike = 0.0,
    axis_name: AxisName | None = None,
) -> Relabel:
    """A reward w . features(s, a), fitted to the same comparisons while the policy learns from it.

    One step per rollout on the mean over all pairs of the Bradley-Terry model's cross-entropy,
    -log sigmoid(R(winner) - R(loser)) with R the sum over the steps.

    Args:
      summary, prefers, flips, axis_name: as in `self_play`.
      features: of an observation and an action, `[F]`.
      num_features: F.
      optimizer: any Optax transformation.

    Returns:
      What `ppo` takes as `relabel`; it reports `preference_loss`, nats.
    """

    def init(key: Array) -> tuple[Array, Any]:
        weights = jnp.zeros(num_features)
        return weights, optimizer.init(weights)

    def apply(aux: Any, steps: Transition, key: Array) -> tuple[Array, Any, dict[str, Array]]:
        weights, opt_state = aux
        of_steps = jax.vmap(jax.vmap(features))(steps.observation, steps.action)
        totals = gather(of_steps.sum(1), axis_name)
        compared = gather(jax.vmap(summary)(steps.reward), axis_name)
        wins = comparisons(prefers, compared, key, flips)
        others = ~jnp.eye(len(wins), dtype=bool)

        def loss(weights: Array) -> Array:
            score = totals @ weights
            margin = score[:, None] - score[None]
            return optax.sigmoid_binary_cross_entropy(margin, wins).mean(where=others)

        value, grads = jax.value_and_grad(loss)(weights)
        updates, opt_state = optimizer.update(grads, opt_state, weights)
        reward = of_steps @ weights
        aux = optax.apply_updates(weights, updates), opt_state
        return reward, aux, {"preference_loss": value}

    return Relabel(init, apply)


# --- One step: a game between actions -------------------------------------------------------------


def minimax_winner(payoff: Array, *, rate: ArrayLike = 0.05, num_steps: int = 2_000) -> Array:
    """What self-play comes to among K actions, `[K]`: the average of its policies.

    p <- p exp(rate payoff p), the policy against itself. For an antisymmetric payoff the average
    converges to the symmetric equilibrium, while the last policy goes round it.

    Args:
      payoff: 2 P(row beats column) - 1, `[K, K]`, antisymmetric.
      rate: of exponentiated gradient.
      num_steps: steps.
    """

    def step(logits: Array, _: Any) -> tuple[Array, Array]:
        policy = jax.nn.softmax(logits)
        return logits + rate * payoff @ policy, policy

    return jax.lax.scan(step, jnp.zeros(len(payoff)), None, num_steps)[1].mean(0)


def exploitability(payoff: Array, policy: Array) -> Array:
    """What the best answer wins against `policy` `[K]`, `[]`; 0 at the equilibrium."""
    return (payoff @ policy).max()
