"""The inner agents of learned objectives: their networks, their updates, their whole lives.

    optimizers = Optimizers(sgd(40.0, max_norm=0.5), sgd(4.0, max_norm=0.5))
    setting = Setting(grid_world(shape), rule, tabular(shape.num_states), optimizers)
    agent = init_agent(setting, key, level)
    agent = live(setting, eta, agent, level, lifetime, key)
    score = final_return(setting, agent, level, key, max_steps=100)

Everything is for one agent on one level; callers `vmap` over lifetimes.

References:
  As in `learned_rule.py`; sizes of EmptyJackson/groove (agents/, environments/.../configs.py).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array

from jaxrl.distributions import Categorical
from jaxrl.envs.environment import Discrete, Environment
from jaxrl.envs.grid_world import TabularObservation
from jaxrl.losses import categorical_entropy, categorical_kl
from jaxrl.meta.learned_rule import Rule, RuleInputs
from jaxrl.rollout import Transition, Worker, episode, new_worker, rollout
from jaxtrain.parallel import mark_varying_like
from jaxtrain.schedules.checks import check_counts

FLOOR = 1e-8  # added to probabilities, as in the official code

# --- Networks and optimisers ----------------------------------------------------------------------


class Body(NamedTuple):
    """A network with any number of outputs.

    Attributes:
      init: `(key, observation, num_outputs) -> params`.
      apply: `(params, observation) -> [num_outputs]`.
    """

    init: Callable[[Array, Any, int], Any]
    apply: Callable[[Any, Any], Array]


def tabular(num_states: int) -> Body:
    """One linear map without bias from a one-hot state and the time, by gathering a row.

    The product with the one-hot is row `index` of the weights, and its gradient a scatter-add.
    """

    def init(key: Array, observation: TabularObservation, num_outputs: int) -> Array:
        initializer = nn.initializers.lecun_normal()
        return initializer(key, (num_states + 1, num_outputs))

    def apply(weights: Array, observation: TabularObservation) -> Array:
        return weights[observation.index] + observation.time * weights[-1]

    return Body(init, apply)


class _MLP(nn.Module):
    widths: Sequence[int]
    num_outputs: int

    @nn.compact
    def __call__(self, observation: Array) -> Array:
        x = observation.reshape(-1)
        for width in self.widths:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.num_outputs)(x)


def mlp(widths: Sequence[int]) -> Body:
    """Dense layers with relu, for observations that are arrays."""

    def init(key: Array, observation: Any, num_outputs: int) -> Any:
        return _MLP(tuple(widths), num_outputs).init(key, observation)["params"]

    def apply(params: Any, observation: Any) -> Array:
        num_outputs = params[f"Dense_{len(widths)}"]["bias"].shape[0]
        return jnp.asarray(_MLP(tuple(widths), num_outputs).apply({"params": params}, observation))

    return Body(init, apply)


class Optimizers(NamedTuple):
    """Of the policy, and of the predictions (and of the value critic of meta-gradients).

    Published: `sgd(40.0, max_norm=0.5)` and `sgd(4.0, max_norm=0.5)` for tabular agents, and
    `adam(5e-4)` twice for agents with networks, all of `jaxtrain.optimizers`. For the latter the
    official code states a clip that it does not apply.
    """

    actor: optax.GradientTransformation
    critic: optax.GradientTransformation


class Setting(NamedTuple):
    """What all lifetimes share.

    Attributes:
      env: the environment, whose params are levels; actions are discrete.
      rule: the learning rule.
      body: network of policy and predictions (two of them, nothing shared).
      optimizers: of the agents.
      num_workers: W, environments per agent.
      num_steps: T, steps per worker and update.
      alpha_y: weight of the predictions' loss.
    """

    env: Environment
    rule: Rule
    body: Body
    optimizers: Optimizers
    num_workers: int = 64
    num_steps: int = 20
    alpha_y: float = 0.5


# --- Agents ---------------------------------------------------------------------------------------


class AgentState(NamedTuple):
    """An agent in the middle of its life.

    Attributes:
      actor, critic: parameters of the policy and of the predictions y.
      actor_opt, critic_opt: states of their optimisers.
      workers: environments, every leaf `[W, ...]`; they go on across updates.
      num_updates: n, `[]`, int32.
    """

    actor: Any
    critic: Any
    actor_opt: Any
    critic_opt: Any
    workers: Worker
    num_updates: Array


class UpdateStats(NamedTuple):
    """What happened in one update, means over the rollout; all `[]`.

    Attributes:
      pi_hat_square, y_hat_square: mean pi_hat^2 and mean sum_j y_hat_j^2.
      policy_entropy, prediction_entropy: of the updated agent, nats.
      pi_hat_size: mean |pi_hat|.
      prediction_gap: mean over entries of ``abs(y_hat - y)``.
      policy_step: mean KL(old policy || new policy), nats.
      reward: mean reward per step.
    """

    pi_hat_square: Array
    y_hat_square: Array
    policy_entropy: Array
    prediction_entropy: Array
    pi_hat_size: Array
    prediction_gap: Array
    policy_step: Array
    reward: Array


def init_agent(setting: Setting, key: Array, level: Any) -> AgentState:
    """A new agent, its environments at the start of an episode.

    Raises:
      ValueError: actions are not discrete, or the setting has no workers or steps.
    """
    check_counts(num_workers=setting.num_workers, num_steps=setting.num_steps)
    if not isinstance(setting.env.action, Discrete):
        raise ValueError("learned objectives need discrete actions; this environment has a box.")
    key_workers, key_actor, key_critic = jax.random.split(key, 3)
    keys = jax.random.split(key_workers, setting.num_workers)
    workers = jax.vmap(lambda k: new_worker(setting.env, level, k))(keys)
    example = jax.tree.map(lambda x: x[0], workers.observation)
    actor = setting.body.init(key_actor, example, setting.env.action.num_actions)
    critic = setting.body.init(key_critic, example, setting.rule.num_predictions)
    agent = AgentState(
        actor,
        critic,
        setting.optimizers.actor.init(actor),
        setting.optimizers.critic.init(critic),
        workers,
        jnp.int32(0),
    )
    return mark_varying_like(agent, key)


def interact(
    setting: Setting, agent: AgentState, level: Any, key: Array
) -> tuple[Worker, Transition]:
    """One rollout with the agent's policy; steps `[W, T]`."""

    def act(key: Array, observation: Any) -> tuple[Array, tuple[()]]:
        return Categorical(setting.body.apply(agent.actor, observation)).sample(key), ()

    keys = jax.random.split(key, setting.num_workers)
    return jax.vmap(lambda k, w: rollout(setting.env, level, act, k, w, setting.num_steps))(
        keys, agent.workers
    )


def probabilities(setting: Setting, params: Any, observations: Any) -> Array:
    """Softmax outputs for observations `[W, T]`."""
    logits = jax.vmap(jax.vmap(lambda o: setting.body.apply(params, o)))(observations)
    return nn.softmax(logits)


def _chosen(p: Array, action: Array) -> Array:
    return jnp.take_along_axis(p, action[..., None], axis=-1)[..., 0] + FLOOR


def rule_inputs(setting: Setting, agent: AgentState, steps: Transition) -> RuleInputs:
    """What the rule is told of a rollout of the agent, `[W, T]`."""
    policy = probabilities(setting, agent.actor, steps.observation)
    return RuleInputs(
        steps.reward,
        steps.done,
        _chosen(policy, steps.action),
        probabilities(setting, agent.critic, steps.observation),
        probabilities(setting, agent.critic, steps.next_observation),
    )


def update_agent(
    setting: Setting, eta: Any, agent: AgentState, level: Any, lifetime: Array, key: Array
) -> tuple[AgentState, UpdateStats]:
    """One rollout and one gradient step on the loss that the rule makes of it.

    Differentiable in `eta`: no gradient flows through the rule's inputs or the rollout.

    Args:
      setting: what all lifetimes share.
      eta: parameters of the rule.
      agent: before.
      level: params of the environment.
      lifetime: N, `[]`, at least 1; a traced N below is taken as 1.
      key: consumed.

    Raises:
      ValueError: N is known and below 1.
    """
    check_counts(lifetime=lifetime)
    workers, steps = interact(setting, agent, level, key)
    steps = jax.lax.stop_gradient(steps)

    before = probabilities(setting, agent.actor, steps.observation)
    inputs = rule_inputs(setting, agent, steps)
    n = agent.num_updates
    said = jax.vmap(lambda x: setting.rule.apply(eta, x, n, lifetime))(inputs)

    def actor_loss(params: Any) -> Array:
        p = probabilities(setting, params, steps.observation)
        return jnp.mean(jnp.log(_chosen(p, steps.action)) * said.pi_hat)

    def critic_loss(params: Any) -> Array:
        y = probabilities(setting, params, steps.observation)
        return setting.alpha_y * jnp.mean(categorical_kl(y, said.y_hat, FLOOR))

    actor_grad, critic_grad = jax.grad(actor_loss)(agent.actor), jax.grad(critic_loss)(agent.critic)
    actor_step, actor_opt = setting.optimizers.actor.update(actor_grad, agent.actor_opt)
    critic_step, critic_opt = setting.optimizers.critic.update(critic_grad, agent.critic_opt)
    agent = AgentState(
        optax.apply_updates(agent.actor, actor_step),
        optax.apply_updates(agent.critic, critic_step),
        actor_opt,
        critic_opt,
        workers,
        n + 1,
    )
    after = probabilities(setting, agent.actor, steps.observation)
    predicted = probabilities(setting, agent.critic, steps.observation)
    stats = UpdateStats(
        jnp.mean(said.pi_hat**2),
        jnp.mean(jnp.sum(said.y_hat**2, axis=-1)),
        jnp.mean(categorical_entropy(after, FLOOR)),
        jnp.mean(categorical_entropy(predicted, FLOOR)),
        jnp.mean(jnp.abs(said.pi_hat)),
        jnp.mean(jnp.abs(said.y_hat - inputs.prediction)),
        jnp.mean(categorical_kl(before, after, FLOOR)),
        jnp.mean(steps.reward),
    )
    return agent, stats


def update_while_alive(
    setting: Setting, eta: Any, agent: AgentState, level: Any, lifetime: Array, key: Array
) -> tuple[AgentState, UpdateStats]:
    """`update_agent`, discarded (environments included) once the agent has had its N updates."""
    new, stats = update_agent(setting, eta, agent, level, lifetime, key)
    alive = agent.num_updates < lifetime
    return jax.tree.map(lambda a, b: jnp.where(alive, a, b), new, agent), stats


def live(
    setting: Setting, eta: Any, agent: AgentState, level: Any, lifetime: Array, key: Array
) -> AgentState:
    """All remaining updates of an agent. Under `vmap` the loop ends with the longest lifetime, and
    agents that are done stay as they are: so does one whose traced N is below 1. Not
    differentiable in reverse mode.

    Raises:
      ValueError: N is known and below 1.
    """
    check_counts(lifetime=lifetime)

    def body(agent: AgentState) -> AgentState:
        key_update = jax.random.fold_in(key, agent.num_updates)
        return update_agent(setting, eta, agent, level, lifetime, key_update)[0]

    return jax.lax.while_loop(lambda a: a.num_updates < lifetime, body, agent)


def history(
    setting: Setting,
    eta: Any,
    agent: AgentState,
    level: Any,
    lifetime: Array,
    key: Array,
    num_updates: int,
) -> tuple[AgentState, UpdateStats]:
    """As `live`, with the stats of every update, `[num_updates]`; those after N are not finite."""

    def body(agent: AgentState, _: None) -> tuple[AgentState, UpdateStats]:
        alive = agent.num_updates < lifetime
        key_update = jax.random.fold_in(key, agent.num_updates)
        agent, stats = update_while_alive(setting, eta, agent, level, lifetime, key_update)
        return agent, jax.tree.map(lambda x: jnp.where(alive, x, jnp.nan), stats)

    return jax.lax.scan(body, agent, length=num_updates)


def final_return(
    setting: Setting,
    agent: AgentState,
    level: Any,
    key: Array,
    *,
    max_steps: int,
    num_episodes: int = 64,
) -> Array:
    """Mean undiscounted return of fresh episodes, `[]`.

    Raises:
      ValueError: no steps or episodes.
    """
    check_counts(max_steps=max_steps, num_episodes=num_episodes)

    def act(key: Array, observation: Any) -> tuple[Array, tuple[()]]:
        return Categorical(setting.body.apply(agent.actor, observation)).sample(key), ()

    keys = jax.random.split(key, num_episodes)
    play = lambda k: episode(setting.env, level, act, k, max_steps)[0]
    return jax.vmap(play)(keys).mean()
