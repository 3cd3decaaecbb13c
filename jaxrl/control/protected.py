"""PROTECTED: a few policies, none of them superfluous, and a bandit that finds which one to use.

Policies stand against attackers on what they see. Who prepares for the worst attacker gives return
away against all others; who wants to answer every attacker must find out which one is there, which
takes the longer the more policies there are. `discover` keeps the policies that are ahead of all
others against some mixture of attackers, and `defence`, a `Core`, chooses among them by their
returns alone, an episode at a time.

    pool = discover(payoff).pool
    core = defence(play, payoff, attacked, pool=pool, num_defenders=64, num_rounds=2_000)

References:
  Liu, Deng, Sun, Liang and Huang, Beyond Worst-case Attacks: Robust RL with Adaptive Defense via
  Non-dominated Policies, ICLR 2024, arXiv 2402.12673, and their code. Differences: policies and
  attackers are enumerated and their returns known, where the paper learns both by PPO, so that the
  policy and the attack by which it is ahead are found exactly; weights are logarithms.
  Neu, Explore no more: Improved high-probability regret bounds for non-stochastic bandits, NeurIPS
  2015, arXiv 1506.03271 (the estimate of the bandit).
  Tammelin, Solving Large Imperfect Information Games Using CFR+, arXiv 1407.5042 (regrets).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxrl.rollout import check_places, put_workers, take_workers
from jaxtrain.core import Core, StepOutput
from jaxtrain.parallel import AxisName, pmean
from jaxtrain.schedules.checks import check_counts

# --- Which policies -------------------------------------------------------------------------------


class Discovered(NamedTuple):
    """What `discover` found.

    Attributes:
      pool: the policies that were kept, `[P]`, bool.
      joined: when each of them joined, 0 for the first, -1 for the others, `[P]`, int32.
      gap: by how much a policy outside is ahead of all inside at most, `[]`.
    """

    pool: Array
    joined: Array
    gap: Array


Regrets = tuple[Array, Array, Array]  # of attackers and rivals, and what was played


def hardest(ahead: Array, rivals: Array, num_steps: int = 1_000) -> tuple[Array, Array]:
    """The mixture of attackers under which a policy is ahead of all rivals by the most.

        max over mixtures nu of  min over rivals p of  sum_a nu_a ahead[p, a]

    A game of zero sum between who chooses attackers and who chooses the rival, played by regrets
    that are never negative; the mixture is the average of those played.

    Args:
      ahead: by how much it is ahead of each policy against each attacker, `[P, A]`.
      rivals: which policies count, `[P]`, bool; one at least.
      num_steps: rounds of the game.

    Returns:
      The mixture `[A]`, and by how much it is ahead under it, `[]`.
    """

    def mixed(regret: Array, allowed: Array) -> Array:
        total = regret.sum()
        return jnp.where(total > 0, regret / total, allowed / allowed.sum())

    anyone, every = rivals.astype(ahead.dtype), jnp.ones(ahead.shape[1], ahead.dtype)

    def step(carry: Regrets, time: Array) -> tuple[Regrets, None]:
        of_attack, of_rival, total = carry
        attack, rival = mixed(of_attack, every), mixed(of_rival, anyone)
        left = ahead @ attack
        of_rival = jnp.where(rivals, jnp.maximum(of_rival + rival @ left - left, 0), 0)
        gain = mixed(of_rival, anyone) @ ahead
        of_attack = jnp.maximum(of_attack + gain - attack @ gain, 0)
        return (of_attack, of_rival, total + (time + 1) * attack), None

    start = jnp.zeros_like(every), jnp.zeros_like(anyone), jnp.zeros_like(every)
    (_, _, total), _ = jax.lax.scan(step, start, jnp.arange(num_steps, dtype=ahead.dtype))
    attack = total / total.sum()
    return attack, jnp.where(rivals, ahead @ attack, jnp.inf).min()


def discover(
    payoff: Array,
    *,
    threshold: ArrayLike = 1e-3,
    tremble: ArrayLike = 1e-3,
    num_steps: int = 1_000,
) -> Discovered:
    """The policies that are ahead of all others against some mixture of attackers.

    The first is the best answer to all attackers alike. Then, again and again, the mixture under
    which a policy has the largest lead over all found so far, and the best answer to it, until none
    leads by the threshold. A best answer to a mixture in which every attacker has a part is not
    dominated, not even by one that is as good against some and better against others; and nobody
    does better with those left out, by more than the threshold.

    Args:
      payoff: return of each policy against each attacker, `[P, A]`.
      threshold: smallest lead with which a policy joins, in units of the payoff.
      tremble: part of every mixture that belongs to all attackers alike.
      num_steps: of `hardest`.
    """
    payoff = jnp.asarray(payoff)
    average = payoff.mean(1)
    mixed = payoff + tremble * (average[:, None] - payoff)

    def next_one(pool: Array) -> tuple[Array, Array]:
        """The best answer to the mixture with the largest lead over a pool, and that lead."""
        ahead = mixed[:, None] - mixed[None]
        attacks, leads = jax.vmap(lambda one: hardest(one, pool, num_steps))(ahead)
        found = leads.argmax()
        return (mixed @ attacks[found]).argmax(), leads[found]

    def grow(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        joined, policy, _ = carry
        joined = joined.at[policy].set(joined.max() + 1)
        return joined, *next_one(joined >= 0)

    first = jnp.full(len(payoff), -1), average.argmax(), jnp.asarray(jnp.inf, payoff.dtype)
    joined, _, lead = jax.lax.while_loop(lambda carry: carry[2] > threshold, grow, first)
    return Discovered(joined >= 0, joined, lead)


# --- Which of them now ----------------------------------------------------------------------------


class Exp3(NamedTuple):
    """A bandit over K arms; arms that it does not have weigh 0.

    Attributes:
      log_weights: `[K]`; -inf for arms that it does not have.
      rate: eta, `[]`; what is added for exploring is half of it.
    """

    log_weights: Array
    rate: Array

    @property
    def chances(self) -> Array:
        """Of playing each arm, `[K]`."""
        return jax.nn.softmax(self.log_weights)

    def after(self, arm: Array, reward: Array) -> "Exp3":
        """What it is after a reward `[]`, in [0, 1], of the arm played `[]`.

        log w_i <- log w_i - eta (1 - R) / (p_i + eta / 2)
        """
        lost = (1 - reward) / (self.chances[arm] + self.rate / 2)
        return self._replace(log_weights=self.log_weights.at[arm].add(-self.rate * lost))


def exp3(arms: Array, num_rounds: ArrayLike, scale: ArrayLike = 2.0) -> Exp3:
    """A bandit that has seen nothing, with eta = scale sqrt(log K / (K T)).

    Args:
      arms: which it has, `[K]`, bool; one at least.
      num_rounds: T, that will be played.
      scale: of the rate.
    """
    number = arms.sum()
    rate = jnp.asarray(scale) * jnp.sqrt(jnp.log(number) / (number * num_rounds))
    return Exp3(jnp.where(arms, 0.0, -jnp.inf), rate)


class DefenceState(NamedTuple):
    """State of `defence`; every leaf but the last `[D, ...]`, of its defenders.

    Attributes:
      bandit: who is to play.
      attacker: whom the defender meets when it is attacked, `[D]`, int32.
      attacked: whether it is, `[D]`, bool.
      earned: expected return of the rounds so far, `[D]`.
      possible: what each policy would have earned in them, `[D, P]`.
      num_rounds: rounds so far, `[]`, int32.
    """

    bandit: Exp3
    attacker: Array
    attacked: Array
    earned: Array
    possible: Array
    num_rounds: Array

    @property
    def regret(self) -> Array:
        """What the best single policy would have earned more, `[D]`."""
        return self.possible.max(-1) - self.earned


Play = Callable[[Array, Array, Array], Array]  # (key, policy, attacker) -> return in [0, 1]
Attacked = Callable[[Array, Array, Array], Array]  # (key, round, attacked before) -> attacked now


def periodic(period: int) -> Attacked:
    """Attacks for a period of rounds, then not for one, and so on; the first is without."""
    return lambda key, time, before: (time // period) % 2 == 1


def switching(period: int, chance: ArrayLike) -> Attacked:
    """At the end of every period of rounds attacks begin, or end, with the given chance."""

    def attacked(key: Array, time: Array, before: Array) -> Array:
        ends = (time > 0) & (time % period == 0)
        return before ^ (ends & jax.random.bernoulli(key, chance))

    return attacked


def defence(
    play: Play,
    payoff: Array,
    attacked: Attacked,
    *,
    pool: Array,
    num_defenders: int,
    num_rounds: int,
    scale: ArrayLike = 2.0,
    axis_name: AxisName | None = None,
) -> Core:
    """Defenders that do not know their attackers; an update is a round, an episode of each.

    Args:
      play: an episode, of which the bandit is told the return and nothing else.
      payoff: expected returns, `[P, A]`, by which regret is measured; attacker 0 does nothing.
      attacked: when there are attacks.
      pool: the policies to choose from, `[P]`, bool.
      num_defenders: D, over all devices; each meets another attacker.
      num_rounds: T, for the rate.
      scale: of the rate.
      axis_name: mapped device axis, None for global arrays.

    Returns:
      A core whose batch is the places of the defenders `[d]`, int32. Metrics, means over defenders:
      `return` of the round and `regret` of all rounds, in units of the payoff.

    Raises:
      ValueError: a size below 1; (when called) the batch is not the places of all defenders.
    """
    check_counts(num_defenders=num_defenders, num_rounds=num_rounds)
    payoff = jnp.asarray(payoff)
    size, number = payoff.shape

    def init(key: Array) -> DefenceState:
        fresh = exp3(pool, num_rounds, scale)
        return DefenceState(
            jax.tree.map(lambda x: jnp.broadcast_to(x, (num_defenders, *x.shape)), fresh),
            jax.random.randint(key, (num_defenders,), min(1, number - 1), number),
            jnp.zeros(num_defenders, bool),
            jnp.zeros(num_defenders),
            jnp.zeros((num_defenders, size)),
            jnp.int32(0),
        )

    def one_round(mine: DefenceState, key: Array, time: Array) -> tuple[DefenceState, Array]:
        key_attack, key_choice, key_play = jax.random.split(key, 3)
        now = attacked(key_attack, time, mine.attacked)
        attacker = jnp.where(now, mine.attacker, 0)
        chosen = jax.random.categorical(key_choice, mine.bandit.log_weights)
        returned = play(key_play, chosen, attacker)
        worth = payoff[:, attacker]
        after = mine._replace(
            bandit=mine.bandit.after(chosen, returned),
            attacked=now,
            earned=mine.earned + mine.bandit.chances @ worth,
            possible=mine.possible + worth,
        )
        return after, returned

    def update(state: DefenceState, batch: Array, key: Array) -> tuple[DefenceState, StepOutput]:
        check_places(batch, "defenders", num_defenders, axis_name)
        time, places = state.num_rounds, jnp.asarray(batch)
        everyone: Any = state
        everyone = everyone._replace(num_rounds=())
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, places)
        mine, returned = jax.vmap(one_round, (0, 0, None))(
            take_workers(everyone, places), keys, time
        )
        told = {"return": returned.mean(), "regret": mine.regret.mean()}
        state = put_workers(everyone, places, mine, axis_name)._replace(num_rounds=time + 1)
        return state, StepOutput({name: pmean(x, axis_name) for name, x in told.items()})

    return Core(init, update)
