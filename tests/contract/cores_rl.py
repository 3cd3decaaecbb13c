"""Reinforcement learning and the learning of its objectives."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxtrain
from jaxrl import actor_critic, drift, envs
from jaxrl.actor_critic_state import Relabel
from jaxrl.control import protected, slim, spo
from jaxrl.control.srl import sequence_mlp, srl
from jaxrl.envs import quota
from jaxrl.envs.pusher import pusher, seen
from jaxrl.memory_networks import CELLS, agent, recurrent
from jaxrl.memory_ppo import memory_ppo
from jaxrl.meta import learned_objective, learned_rule, lifetime
from jaxrl.meta.evolution import Shape, centred_rank, decaying_adam, each, evolution, pair_rank
from jaxrl.networks import mlp
from jaxrl.soft_actor_critic import soft_actor_critic, soft_mlp
from jaxtrain import parallel
from jaxtrain.optimizers import adam, sgd
from tests.contract.row import BATCH_SIZE, Row, key_only, places


def reinforcement_learner(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    """Proximal policy optimisation with everything that is carried from update to update."""
    env = envs.pendulum()
    weights = drift.random_weights(jax.random.key(3), 4, temporal=True)
    return actor_critic.ppo(
        env,
        mlp(env.action, (4,)),
        adam(1e-3, max_norm=0.5, eps=1e-5),
        num_workers=BATCH_SIZE,
        num_steps=6,
        num_epochs=2,
        num_minibatches=1,
        drift=drift.learned(weights),
        horizon=10,
        normalise_observations=True,
        scale_rewards=True,
        axis_name=axis_name,
    )


def self_player(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    """Learning from win rates, and from a model of them, whose state is carried too."""
    env = quota.quota()
    judge = dict(flips=0.2, axis_name=axis_name)
    rates = spo.self_play(quota.earned, quota.prefers, **judge)
    features = lambda observation, action: observation * action
    model = spo.reward_model(
        quota.earned, quota.prefers, features, quota.STEPS, adam(1e-2), **judge
    )

    def both(kept: Any, steps: Any, key: jax.Array) -> Any:
        first, second = jax.random.split(key)
        told, kept, said = model.apply(kept, steps, first)
        return told + rates.apply((), steps, second)[0], kept, said

    return actor_critic.a2c(
        env,
        mlp(env.action, ()),
        adam(1e-3),
        num_workers=BATCH_SIZE,
        num_steps=quota.STEPS,
        relabel=Relabel(model.init, both),
        axis_name=axis_name,
    )


def defenders(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    """A bandit of each place among two of three policies, against attacks that come and go."""
    payoff = jnp.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.2]])
    return protected.defence(
        lambda key, policy, attacker: jax.random.uniform(key) * payoff[policy, attacker],
        payoff,
        protected.switching(1, 0.5),
        pool=jnp.array([True, True, False]),
        num_defenders=BATCH_SIZE,
        num_rounds=10,
        axis_name=axis_name,
    )


def learner_of_skills(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    """Three rewards with a critic of each, and a space that is learned with them."""
    env = slim.with_skill(pusher(), 2)
    rewards = slim.several(
        lambda observation: seen(observation).disc,
        lambda steps: steps.action,
        adam(1e-2),
        sizes=(2, 3, 2),
        scales=(1.0, 1.0, 1.0),
        num_updates=1,
        axis_name=axis_name,
    )
    return actor_critic.a2c(
        env,
        mlp(env.action, (2,), num_critics=3),
        adam(1e-3),
        num_workers=BATCH_SIZE,
        num_steps=2,
        normalise_advantages=True,
        scale_rewards=True,
        relabel=rewards,
        reward_weights=jnp.ones(3),
        axis_name=axis_name,
    )


def learner_with_memory(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    """Episodes of three steps in segments of two, so that some begin in the middle of one."""
    env = envs.recall(2, delay=1)
    return memory_ppo(
        env,
        agent(env.action, recurrent(CELLS["gru"](3)), (4,)),
        adam(1e-3, max_norm=0.5, eps=1e-5),
        num_workers=BATCH_SIZE,
        num_steps=4,
        segment=2,
        num_epochs=2,
        num_minibatches=1,
        scale_rewards=True,
        axis_name=axis_name,
    )


def off_policy_learner(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    """A buffer that is full in the second update, and actions at random in the first."""
    env = envs.pendulum()
    return soft_actor_critic(
        env,
        soft_mlp(env.action, (4,)),
        adam(1e-3),
        num_workers=BATCH_SIZE,
        num_updates=2,
        batch_size=BATCH_SIZE,
        capacity=BATCH_SIZE + 4,
        random_steps=BATCH_SIZE,
        axis_name=axis_name,
    )


def learner_of_sequences(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    """Sequences of two actions, one of which is cut by the first update's end."""
    env = envs.pendulum()
    return srl(
        env,
        sequence_mlp(env.action, (4,), size=3, model_widths=(4,)),
        adam(1e-3),
        length=2,
        num_workers=BATCH_SIZE,
        batch_size=BATCH_SIZE,
        capacity=BATCH_SIZE + 4,
        random_steps=BATCH_SIZE,
        axis_name=axis_name,
    )


# jax.debug_key_reuse takes keys that a scan under vmap runs over for used ones: test_battery.
SCANNED = "the checker refuses every vmap of a scan over keys"
MADE_AGAIN = "noise is made again from its keys, and a pair shares those of its run"


def no_places(core: jaxtrain.Core, state: Any) -> Any:
    return core.update(state, {}, jax.random.key(0))


def evolution_strategy(axis_name: parallel.AxisName | None, shape: Shape) -> jaxtrain.Core:
    def fitness(params: jax.Array, key_task: jax.Array, key_run: jax.Array) -> jax.Array:
        target = jax.random.normal(key_task, (3,))
        return -((params - target) ** 2).sum() + 0.1 * jax.random.normal(key_run)

    return evolution(
        lambda key: jax.random.normal(key, (3,)),
        each(fitness),
        decaying_adam(0.1),
        num_pairs=BATCH_SIZE,
        sigma_decay=0.9,
        shape=shape,
        axis_name=axis_name,
    )


def learned_objectives(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    family = envs.FAMILIES["debug"]._replace(lifetime=(1, 3))
    rule = learned_rule.recurrent_rule(2, width=3, embed_width=2, temporal=True)
    setting = lifetime.Setting(
        envs.grid_world(family.shape),
        rule,
        lifetime.tabular(family.shape.num_states),
        lifetime.Optimizers(sgd(1.0, max_norm=0.5), sgd(1.0, max_norm=0.5)),
        num_workers=2,
        num_steps=3,
    )

    def life(key: jax.Array) -> Any:
        key_level, key_length = jax.random.split(key)
        return envs.sample_level(family, key_level), envs.sample_lifetime(family, key_length)

    return learned_objective.meta_gradient(
        setting,
        life,
        optax.adam(1e-3),
        num_lifetimes=BATCH_SIZE,
        num_updates=2,
        num_chunks=2,
        axis_name=axis_name,
    )


def row(name: str, build: Callable[[Any], jaxtrain.Core], owners: str, unchecked: str) -> Row:
    """A core that makes its data from places and keys; `unchecked` says why keys are not."""
    return Row(
        name,
        build,
        key_only,
        places,
        no_places,
        f"places of the {owners}",
        random=True,
        exceptions={"keys": unchecked},
    )


def evolved(shape: Shape) -> Callable[[Any], jaxtrain.Core]:
    return functools.partial(evolution_strategy, shape=shape)


ROWS = [
    row("ta_lpo", reinforcement_learner, "workers", SCANNED),
    row("spo", self_player, "workers", SCANNED)._replace(
        exceptions={
            "keys": SCANNED,
            "order": "pairs are judged wrongly by their places",
        }
    ),
    row("soft_actor_critic", off_policy_learner, "workers", SCANNED),
    row("protected", defenders, "defenders", SCANNED)._replace(exceptions={}),
    row("slim", learner_of_skills, "workers", SCANNED),
    row("srl", learner_of_sequences, "workers", SCANNED),
    row("memory_ppo", learner_with_memory, "workers", SCANNED),
    row("evolution", evolved(pair_rank), "pairs", MADE_AGAIN),
    row("evolution_centred_rank", evolved(centred_rank), "pairs", MADE_AGAIN),
    row("ta_lpg_meta_gradient", learned_objectives, "lifetimes", SCANNED),
]
