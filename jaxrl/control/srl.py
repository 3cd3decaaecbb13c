"""SRL, sequence reinforcement learning: of one observation, a sequence of actions.

The actor is a recurrent network that begins with an observation and goes on with its own actions,
J of them, without looking again. Critic and model of the next observation work at every step, and
exist in training only: the model says where the actor would be when it takes its second, third, ...
action, and the critic what that action is worth there.

    core = srl(env, sequence_mlp(env.action), optimizer, length=8)
    seen, act = sequenced(env, network), acting_in_sequences(network, state.params, held=8)

It is a `Learner` of `off_policy`, as soft actor-critic is; the actor's hidden state is carried
through rollouts by `jaxrl.memory`.

References:
  Patel and Siegelmann, Overcoming Slow Decision Frequencies in Continuous Control, ICLR 2025, arXiv
  2410.08979, and its code, dee0512/Sequence-Reinforcement-Learning, which has no training script.
  Differences: one batch and one optimiser serve critics, model, actor and temperature, whose losses
  are taken at the same parameters; the actor is updated in every step; critics begin with
  orthogonal matrices.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array
from jax.typing import ArrayLike

from jaxrl.distributions import SquashedNormal
from jaxrl.envs.environment import Box, Discrete, Environment
from jaxrl.memory import Decided, Remembered, remembering
from jaxrl.networks import MLP
from jaxrl.off_policy import Learner, off_policy, towards
from jaxrl.rollout import Act, Transition
from jaxrl.soft_actor_critic import Values, box_of, joined, or_any, squashed, two_critics
from jaxtrain.core import Core
from jaxtrain.schedules.checks import check_counts


class SequenceNetwork(NamedTuple):
    """An actor that goes on by itself, two critics and a model; of one observation, an array.

    Attributes:
      init: `(key, observation) -> (actor's, critics', model's params)`.
      start: a hidden state, `[H]`, NumPy; its numbers do not matter.
      look: `(actor's params, observation) -> hidden`.
      go_on: `(actor's params, hidden, action before) -> (hidden, SquashedNormal)`.
      values: `(critics' params, observation, action) -> [2]`.
      model: `(model's params, observation, action) -> next observation`.
    """

    init: Callable[[Array, Array], tuple[Any, Any, Any]]
    start: np.ndarray
    look: Callable[[Any, Array], Array]
    go_on: Callable[[Any, Array, Array], tuple[Array, SquashedNormal]]
    values: Values
    model: Callable[[Any, Array, Array], Array]


class _Actor(nn.Module):
    """Two layers that look, a GRU cell that goes on, and a layer for means and deviations."""

    width: int
    size: int
    num_outputs: int

    def setup(self) -> None:
        evenly = nn.initializers.xavier_uniform()
        self.first = nn.Dense(self.width, kernel_init=evenly)
        self.hidden = nn.Dense(self.size, kernel_init=evenly)
        self.cell = nn.GRUCell(self.size, kernel_init=evenly, recurrent_kernel_init=evenly)
        self.head = nn.Dense(self.num_outputs, kernel_init=evenly)

    def look(self, observation: Array) -> Array:
        return self.hidden(nn.relu(self.first(observation.ravel())))

    def go_on(self, hidden: Array, action: Array) -> tuple[Array, Array]:
        hidden, _ = self.cell(hidden, action.ravel())
        return hidden, self.head(hidden)

    def __call__(self, observation: Array, action: Array) -> tuple[Array, Array]:
        return self.go_on(self.look(observation), action)


def sequence_mlp(
    action: Discrete | Box,
    widths: Sequence[int] = (256, 256),
    size: int = 256,
    model_widths: Sequence[int] = (400, 300),
    activation: Callable[[Array], Array] = jax.nn.relu,
) -> SequenceNetwork:
    """The networks of the paper: a GRU, and MLPs for critics and model.

    Args:
      action: the action space, a `Box`.
      widths: hidden units per layer of the critics.
      size: H, of the actor's layers and hidden state.
      model_widths: hidden units per layer of the model.
      activation: of the hidden units of critics and model.

    Raises:
      ValueError: the actions are not those of a box.
    """
    box = box_of(action)
    actor = _Actor(size, size, 2 * math.prod(box.shape))
    init_critics, values = two_critics(box, widths, activation)
    foreseeing = lambda observation: MLP(tuple(model_widths), observation.size, activation)

    def init(key: Array, observation: Array) -> tuple[Any, Any, Any]:
        key_actor, key_critics, key_model = jax.random.split(key, 3)
        nothing = jnp.zeros(box.shape)
        model = foreseeing(observation).init(key_model, joined(observation, nothing))
        return (
            actor.init(key_actor, observation, nothing)["params"],
            init_critics(key_critics, observation),
            model["params"],
        )

    def look(params: Any, observation: Array) -> Array:
        return jnp.asarray(actor.apply({"params": params}, observation, method="look"))

    def go_on(params: Any, hidden: Array, before: Array) -> tuple[Array, SquashedNormal]:
        said: Any = actor.apply({"params": params}, hidden, before, method="go_on")
        return said[0], squashed(said[1], box)

    def model(params: Any, observation: Array, action: Array) -> Array:
        both = joined(observation, action)
        following = jnp.asarray(foreseeing(observation).apply({"params": params}, both))
        return following.reshape(observation.shape)

    return SequenceNetwork(init, np.zeros(size, np.float32), look, go_on, values, model)


class Params(NamedTuple):
    """What gradients change: actor, critics, model and the log of the temperature `[]`."""

    actor: Any
    critics: Any
    model: Any
    log_alpha: Array


class Targets(NamedTuple):
    """Critics and a model that follow."""

    critics: Any
    model: Any


class Row(NamedTuple):
    """A step and the action before it, zeros at the start; a time limit is no end."""

    observation: Array
    before: Array
    action: Array
    reward: Array
    terminated: Array
    next_observation: Array


def sequence_losses(
    params: Params,
    given: tuple[Row, Array],
    *,
    network: SequenceNetwork,
    targets: Targets,
    gamma: ArrayLike,
    target_entropy: ArrayLike,
) -> tuple[Array, dict[str, Array]]:
    """Sum of four losses; nothing flows from one part into the parameters of another.

        critics      as of soft actor-critic, a' the first action of a sequence that begins at s'
        model        mean of ( f(s, a) - s' )^2
        actor        mean over rows of sum_j alpha log pi_j - min_i Q_i(s_j, b_j), where b_0, b_1,
                     ... is one sequence from s, s_0 = s and s_{j+1} = f'(s_j, b_j), through
                     which no gradient flows
        temperature  - log alpha mean( mean_j log pi_j + target entropy )

    Args:
      params: of actor, critics, model and temperature.
      given: rows `[m]`, and standard normal noise `[m, 1 + J, ...]` of a' and of b.
      network: the functions of the parameters.
      targets: parameters of Q' and f'.
      gamma: discount.
      target_entropy: nats.
    """
    fixed = jax.lax.stop_gradient(params)
    alpha = jnp.exp(fixed.log_alpha)

    def of_row(row: Row, noise: Array) -> dict[str, Array]:
        hidden = network.look(fixed.actor, row.next_observation)
        following, of_following = network.go_on(fixed.actor, hidden, row.action)[1].at(noise[0])
        value = network.values(targets.critics, row.next_observation, following).min()
        value = value - alpha * of_following
        target = row.reward + gamma * jnp.where(row.terminated, 0.0, value)
        error = network.values(params.critics, row.observation, row.action) - target
        missed = network.model(params.model, row.observation, row.action) - row.next_observation

        def one(carry: Any, noise: Array) -> tuple[Any, tuple[Array, Array]]:
            hidden, before, observation = carry
            hidden, policy = network.go_on(params.actor, hidden, before)
            action, log_prob = policy.at(noise)
            score = network.values(fixed.critics, observation, action).min()
            foreseen = jax.lax.stop_gradient(network.model(targets.model, observation, action))
            return (hidden, action, foreseen), (log_prob, score)

        start = network.look(params.actor, row.observation), row.before, row.observation
        _, (log_prob, score) = jax.lax.scan(one, start, noise[1:])
        short = jax.lax.stop_gradient(log_prob.mean()) + target_entropy
        return {
            "critic_loss": (error**2).sum(),
            "model_loss": (missed**2).mean(),
            "actor_loss": (alpha * log_prob - score).sum(),
            "temperature_loss": -params.log_alpha * short,
            "entropy": -log_prob.mean(),
        }

    parts = {name: x.mean() for name, x in jax.vmap(of_row)(*given).items()}
    losses = "critic_loss", "model_loss", "actor_loss", "temperature_loss"
    return functools.reduce(jnp.add, (parts[name] for name in losses)), parts


class Begun(NamedTuple):
    """A sequence under way.

    Attributes:
      hidden: of the actor, `[H]`.
      action: the last one.
      place: in the sequence, `[]`, int32; 0: the next step begins another.
    """

    hidden: Any
    action: Any
    place: Any


def acting_in_sequences(
    network: SequenceNetwork, params: Params, held: ArrayLike, *, greedy: bool = False
) -> Act:
    """The actor, who looks at every `held`-th observation of an episode.

    Args:
      network: its actor.
      params: of the network.
      held: steps of a sequence, at least 1, also more than it was trained with; may be traced.
      greedy: the likeliest actions instead of random ones.

    Returns:
      `(key, Remembered) -> (Decided, ())`, for the environment of `sequenced`.
    """

    def act(key: Array, seen: Remembered) -> tuple[Decided, tuple[()]]:
        begun: Begun = seen.memory
        looked = network.look(params.actor, seen.observation)
        hidden = jnp.where(begun.place == 0, looked, begun.hidden)
        hidden, policy = network.go_on(params.actor, hidden, begun.action)
        action = policy.mode() if greedy else policy.sample(key)
        return Decided(action, Begun(hidden, action, (begun.place + 1) % held)), ()

    return act


def sequenced(env: Environment, network: SequenceNetwork) -> Environment:
    """The environment as `acting_in_sequences` sees it: it hands back what is under way."""
    action = np.zeros(box_of(env.action).shape, np.float32)
    return remembering(env, Begun(network.start, action, np.int32(0)))


def srl(
    env: Environment,
    network: SequenceNetwork,
    optimizer: optax.GradientTransformation,
    *,
    length: int = 8,
    gamma: ArrayLike = 0.99,
    tau: ArrayLike = 0.005,
    target_entropy: ArrayLike | None = None,
    **options: Any,
) -> Core:
    """Sequence reinforcement learning.

    Args:
      env: the environment, as it is, with observations that are one array and actions in a box.
      network: actor, critics and model.
      optimizer: as in `soft_actor_critic`.
      length: J, actions of a sequence, in rollouts and in the actor's loss.
      gamma, tau, target_entropy: as in `soft_actor_critic`; the model follows as the critics do.
      **options: of `off_policy`: workers, steps, rows and the buffer.

    Returns:
      A core with the batch of `off_policy`, whose workers see `sequenced(env, network)`. Metrics:
      those of `off_policy`, with the four losses, `entropy` and `alpha`.

    Raises:
      ValueError: what `off_policy` refuses, a length below 1, an action space that is no box;
        (when called) observations that are not one array.
    """
    check_counts(length=length)
    box = box_of(env.action)
    wanted = -float(math.prod(box.shape)) if target_entropy is None else target_entropy

    def init(key: Array, seen: Remembered) -> tuple[Params, Targets]:
        if not isinstance(seen.observation, jax.Array):
            raise ValueError("the model of srl foresees observations that are one array.")
        actor, critics, model = network.init(key, seen.observation)
        return Params(actor, critics, model, jnp.float32(0.0)), Targets(critics, model)

    def act(params: Params, at_random: Array) -> Act:
        known = acting_in_sequences(network, params, length)

        def choose(key: Array, seen: Remembered) -> tuple[Decided, tuple[()]]:
            decided, said = known(key, seen)
            action = or_any(at_random, box, key, decided.action)
            return Decided(action, decided.memory._replace(action=action)), said

        return choose

    def row(steps: Transition) -> Row:
        return Row(
            steps.observation.observation,
            steps.observation.memory.action,
            steps.action.action,
            steps.reward,
            steps.terminated,
            steps.next_observation.observation,
        )

    def example(seen: Remembered) -> Row:
        action = jnp.zeros(box.shape)
        nothing = jnp.float32(0.0), jnp.zeros((), bool)
        return Row(seen.observation, action, action, *nothing, seen.observation)

    losses = functools.partial(sequence_losses, network=network, gamma=gamma, target_entropy=wanted)
    learner = Learner(
        init=init,
        act=act,
        row=row,
        example=example,
        noise=(1 + length, *box.shape),
        loss=losses,
        follow=lambda targets, params: towards(tau, targets, Targets(params.critics, params.model)),
        said=lambda params: {"alpha": jnp.exp(params.log_alpha)},
    )
    return off_policy(sequenced(env, network), learner, optimizer, **options)
