"""HILP: states as points whose distances are steps, and skills that move along directions there.

`hilp(...)` is a `Core` whose batch holds what `draw` makes of trajectories, one example per place:
a step, a goal and a direction z. One update is one Adam step on the sum of

    representation_loss     phi: |phi(s) - phi(g)| is the number of steps from s to g
    skill_loss              pi(a | s, z), by IQL on the reward <phi(s') - phi(s), z>

Trained once, it is told what to do by z alone: by its `direction` to a goal, or by way
of `midpoint`.

References:
  Park, Kreiman and Levine, Foundation Policies with Hilbert Representations, ICML 2024, arXiv
  2402.15567, with the order of computation of its code (seohongpark/HILP, hilp_gcrl): targets move
  towards the parameters before the step, the skills' critic bootstraps from V and not from its
  target, the reward uses the first of the two nets. Differences: weights are orthogonal at first,
  and z is drawn anew for every example of every batch (the published runs had one set of z for all
  batches; the authors have put that right since); the critics' loss is the mean over both, where
  the code has the sum.
  Kostrikov, Nair and Levine, Offline Reinforcement Learning with Implicit Q-Learning, ICLR 2022,
  arXiv 2110.06169.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxrl.distributions import DiagonalNormal
from jaxrl.minibatches import gradient_step
from jaxrl.networks import MLP
from jaxrl.offline import windows
from jaxrl.offline.windows import Trajectories
from jaxtrain import trees
from jaxtrain.core import Core, StepOutput
from jaxtrain.parallel import AxisName
from jaxtrain.schedules import applied_rate

LARGEST_WEIGHT = 100.0  # of an action in the policy's loss
LEAST_LOG_STD = -5.0
BATCH = ("observation", "action", "next_observation", "goal", "is_goal", "skill")


class HilpState(NamedTuple):
    """State of `hilp`.

    Attributes:
      params: `phi` (two nets), `value`, `critic` (two nets), `actor`, `log_std`.
      target: slowly following copies of `phi` and `critic`.
      opt_state: of the optimiser.
    """

    params: dict[str, Any]
    target: dict[str, Any]
    opt_state: Any


class Hilp(NamedTuple):
    """The networks: sizes of an observation, an action and a latent; hidden units per layer."""

    observation_size: int
    action_size: int
    latent_size: int = 32
    widths: tuple[int, ...] = (512, 512, 512)

    def net(self, num_outputs: int, *, gain: float = 1.0, layer_norm: bool = True) -> MLP:
        """GELU layers, with a LayerNorm behind each but in the actor."""
        return MLP(self.widths, num_outputs, jax.nn.gelu, gain, layer_norm)

    def init(self, key: Array) -> dict[str, Any]:
        """Parameters; the pairs of nets have a leading axis of 2."""
        keys = jax.random.split(key, 6)
        state, act, z = (jnp.zeros(n) for n in self[:3])
        made = lambda net, key, *inputs: net.init(key, jnp.concatenate(inputs))["params"]
        pair = lambda net, keys, *inputs: jax.vmap(lambda k: made(net, k, *inputs))(keys)
        actor = self.net(self.action_size, gain=0.01, layer_norm=False)
        return {
            "phi": pair(self.net(self.latent_size), keys[:2], state),
            "critic": pair(self.net(1), keys[2:4], state, act, z),
            "value": made(self.net(1), keys[4], state, z),
            "actor": made(actor, keys[5], state, z),
            "log_std": jnp.zeros(self.action_size),
        }

    def latents(self, phi: Any, observation: Array) -> Array:
        """phi of both nets, `[2, ..., d]`, of observations `[..., S]`."""
        return jax.vmap(lambda p: _apply(self.net(self.latent_size), p, observation))(phi)

    def latent(self, params: Any, observation: Array) -> Array:
        """phi of the first net, `[..., d]`: what skills and prompts are made of."""
        first = jax.tree.map(lambda x: x[0], params["phi"])
        return _apply(self.net(self.latent_size), first, observation)

    def policy(self, params: Any, observation: Array, skill: Array) -> DiagonalNormal:
        """pi(a | s, z) of one state `[S]` and one z `[d]`; actions are not bounded."""
        net = self.net(self.action_size, layer_norm=False)
        mean = _apply(net, params["actor"], observation, skill)
        return DiagonalNormal(mean, jnp.maximum(params["log_std"], LEAST_LOG_STD))


def _apply(net: MLP, params: Any, *inputs: Array) -> Array:
    """Outputs `[..., n]` of joined inputs `[..., k]`."""
    joined = jnp.concatenate(inputs, axis=-1)
    flat = joined.reshape(-1, joined.shape[-1])
    out = jax.vmap(lambda x: jnp.asarray(net.apply({"params": params}, x)))(flat)
    return out.reshape(*joined.shape[:-1], -1)


def distance(a: Array, b: Array) -> Array:
    """|a - b| of latents `[..., d]`, at least 1e-3, which keeps its gradient finite."""
    return jnp.sqrt(jnp.maximum(((a - b) ** 2).sum(-1), 1e-6))


def direction(a: Array, b: Array) -> Array:
    """From latent a to latent b, of length 1, `[..., d]`."""
    return (b - a) / jnp.maximum(jnp.linalg.norm(b - a, axis=-1, keepdims=True), 1e-6)


def expectile(residual: Array, weight_of: Array, share: ArrayLike) -> Array:
    """residual^2 times `share` where `weight_of` is not negative and 1 - `share` where it is."""
    return jnp.abs(share - (weight_of < 0)) * residual**2


# --- Draws ----------------------------------------------------------------------------------------


def draw(
    key: Array,
    data: Trajectories,
    starts: Array,
    *,
    latent_size: int,
    gamma: ArrayLike = 0.99,
    future_share: ArrayLike = 0.625,
) -> dict[str, Array]:
    """One example: a uniform step, its goal and a z that is uniform on the unit sphere.

    The goal is a geometric future of the step with chance `future_share`, else any row of the data.

    Args:
      key: consumed.
      data: the trajectories.
      starts: rows with one behind them, `windows.starts(data, 2)`.
      latent_size: d.
      gamma: of the futures.
      future_share: in [0, 1].
    """
    key_row, key_kind, key_future, key_other, key_skill = jax.random.split(key, 5)
    row = windows.pick(key_row, starts)
    other = jax.random.randint(key_other, (), 0, len(data.last))
    ahead = windows.future(key_future, row, data.last, gamma)
    goal = jnp.where(jax.random.bernoulli(key_kind, future_share), ahead, other)
    skill = jax.random.normal(key_skill, (latent_size,))
    return {
        "observation": data.observation[row],
        "action": data.action[row],
        "next_observation": data.observation[row + 1],
        "goal": data.observation[goal],
        "is_goal": goal == row,
        "skill": direction(jnp.zeros_like(skill), skill),
    }


# --- Losses ---------------------------------------------------------------------------------------


def representation_loss(
    net: Hilp, phi: Any, target: Any, batch: Any, *, gamma: ArrayLike, share: ArrayLike
) -> Array:
    """Goal-conditioned IQL with V_i(s, g) = -|phi_i(s) - phi_i(g)|, `[]`, in steps squared.

    q_i = -1[s != g] + gamma 1[s != g] V'_i(s', g)
    A   = -1[s != g] + gamma 1[s != g] min_i V'_i(s', g) - mean_i V'_i(s, g)
    sum_i mean( |share - 1[A < 0]| (q_i - V_i(s, g))^2 )        with V' of the target nets
    """
    values = lambda p, s: -distance(net.latents(p, s), net.latents(p, batch["goal"]))
    going = 1.0 - batch["is_goal"][None]
    q = -going + gamma * going * values(target, batch["next_observation"])
    least = q.min(0)
    advantage = least - values(target, batch["observation"]).mean(0)
    residual = q - values(phi, batch["observation"])
    return expectile(residual, advantage[None], share).mean(1).sum()


def skill_loss(
    net: Hilp,
    params: Any,
    critic_target: Any,
    batch: Any,
    *,
    gamma: ArrayLike,
    share: ArrayLike,
    temperature: ArrayLike,
) -> dict[str, Array]:
    """IQL of pi(a | s, z) on r = <phi(s') - phi(s), z>, no gradient into phi; its parts, `[]`.

    Returns:
      `value_loss` mean( |share - 1[Q' < V]| (Q' - V)^2 ) with Q' the lesser target critic at the
      action of the data; `critic_loss` mean over both of (r + gamma V(s', z) - Q)^2; `actor_loss`
      -mean( min(exp(temperature (Q' - V)), 100) log pi(a | s, z) ); and the mean `skill_reward`.
    """
    s, a, z = batch["observation"], batch["action"], batch["skill"]
    value = functools.partial(_apply, net.net(1), params["value"])
    critics = lambda p: jax.vmap(lambda one: _apply(net.net(1), one, s, a, z)[..., 0])(p)
    step = net.latent(params, batch["next_observation"]) - net.latent(params, s)
    reward = (step * z).sum(-1)
    v, ahead = value(s, z)[..., 0], value(batch["next_observation"], z)[..., 0]
    target = jax.lax.stop_gradient(reward + gamma * ahead)
    advantage = critics(critic_target).min(0) - v
    weight = jnp.minimum(jnp.exp(temperature * jax.lax.stop_gradient(advantage)), LARGEST_WEIGHT)
    log_prob = jax.vmap(lambda s, a, z: net.policy(params, s, z).log_prob(a))(s, a, z)
    return {
        "value_loss": expectile(advantage, advantage, share).mean(),
        "critic_loss": ((target[None] - critics(params["critic"])) ** 2).mean(),
        "actor_loss": -(weight * log_prob).mean(),
        "skill_reward": reward.mean(),
    }


# --- The learner ----------------------------------------------------------------------------------


def hilp(
    net: Hilp,
    optimizer: optax.GradientTransformation,
    *,
    gamma: ArrayLike = 0.99,
    expectile: ArrayLike = 0.95,
    skill_expectile: ArrayLike = 0.9,
    temperature: ArrayLike = 10.0,
    tau: ArrayLike = 0.005,
    axis_name: AxisName | None = None,
) -> Core:
    """Learns a representation of distances and the skills in it from trajectories without reward.

    Args:
      net: the networks, `Hilp(observation_size, action_size)`.
      optimizer: any Optax transformation; the authors' is Adam at 3e-4.
      gamma: discount of both losses.
      expectile: of the representation, in (0.5, 1): how much better than the data the best way is.
      skill_expectile: of the skills' value.
      temperature: of the weights of actions.
      tau: how far targets move towards the parameters at every update.
      axis_name: mapped device axis, None for global arrays.

    Returns:
      A core with `init(key)` and the state `HilpState`. A batch holds `observation`, `goal` and
      `next_observation` `[B, S]`, `action` `[B, A]`, `is_goal` `[B]` bool (the goal is this very
      row) and `skill` `[B, d]`, as `windows.by_place(draw)` makes it; its update draws nothing.
      Metrics: `loss`, `representation_loss` and what `skill_loss` returns.

    Raises:
      ValueError: (when called) a batch without them.
    """

    def init(key: Array) -> HilpState:
        params = net.init(key)
        target = {name: params[name] for name in ("phi", "critic")}
        return jax.tree.map(jnp.copy, HilpState(params, target, optimizer.init(params)))

    def update(state: HilpState, batch: Any, key: Array) -> tuple[HilpState, StepOutput]:
        if not isinstance(batch, dict) or set(BATCH) - set(batch):
            given = sorted(batch) if isinstance(batch, dict) else type(batch).__name__
            raise ValueError(f"a batch of hilp is a dict with {', '.join(BATCH)}, not {given}.")
        before = {name: state.params[name] for name in state.target}
        target = trees.ema(state.target, before, 1 - tau)

        def loss(params: Any, batch: Any) -> tuple[Array, dict[str, Array]]:
            of_phi = representation_loss(
                net, params["phi"], target["phi"], batch, gamma=gamma, share=expectile
            )
            parts = skill_loss(
                net,
                params,
                target["critic"],
                batch,
                gamma=gamma,
                share=skill_expectile,
                temperature=temperature,
            )
            total = of_phi + parts["value_loss"] + parts["critic_loss"] + parts["actor_loss"]
            return total, {"representation_loss": of_phi} | parts

        carry = state.params, state.opt_state
        (params, opt_state), metrics = gradient_step(
            loss, optimizer, carry, batch, axis_name=axis_name
        )
        return HilpState(params, target, opt_state), StepOutput(metrics | applied_rate(opt_state))

    return Core(init, update)


# --- Prompts --------------------------------------------------------------------------------------


def midpoint(
    here: Array, goal: Array, known: Array, *, rounds: int = 3, nearest: int = 50
) -> Array:
    """A nearer goal on the way, `[d]`: planning by the geometry of the latents alone.

    `rounds` times the goal becomes the mean of the `nearest` known latents w whose
    max(|w - here|, |w - goal|) is least.

    Args:
      here: phi(s), `[d]`.
      goal: phi(g), `[d]`.
      known: latents of states of the data, `[W, d]`.
      rounds: halvings of the way; 0 gives the goal back.
      nearest: at most W.
    """
    if not 0 < nearest <= len(known):
        raise ValueError(f"nearest is {nearest}, but {len(known)} latents are known.")
    for _ in range(rounds):
        worst = jnp.maximum(distance(known, here[None]), distance(known, goal[None]))
        goal = known[jax.lax.top_k(-worst, nearest)[1]].mean(0)
    return goal
