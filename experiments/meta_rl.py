"""Meta-learned reinforcement learning: LPG and TA-LPG (the whole rule), LPO and TA-LPO (the drift).

Meta-trains a rule by evolution or, for LPG, by truncated meta-gradients; then meta-tests it on
held-out levels over several horizons (LPG) or on the same environment over several horizons against
PPO (LPO), and draws how it behaves along a lifetime.
"""

import functools
from typing import Any

import jax
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict

from experiments.rl import environments, meta_test, rule_files
from jaxrl import drift
from jaxrl.actor_critic import adam, ppo
from jaxrl.envs import FAMILIES, grid_world, sample_level, sample_lifetime
from jaxrl.envs.grid_levels import Family
from jaxrl.meta import lifetime
from jaxrl.meta.evolution import SHAPINGS, decaying_adam, each, evolution
from jaxrl.meta.learned_drift import fitness_of_drift
from jaxrl.meta.learned_objective import fitness_of_lives, meta_gradient, updates_run
from jaxrl.meta.learned_rule import CELLS, Rule, recurrent_rule
from jaxrl.networks import mlp
from jaxtrain.core import Core
from jaxtrain.host import cli
from jaxtrain.host.begin import fit, started
from jaxtrain.host.config import UsageError
from jaxtrain.host.data import Generated
from jaxtrain.parallel import AxisName, compile_update

METHODS = ("lpg", "lpo")
TRAINERS = ("evolution", "meta_gradient")


def build_family(config: ConfigDict) -> Family:
    """The levels and lifetimes of meta-training."""
    family = FAMILIES[config.levels.family]
    return family._replace(lifetime=tuple(config.levels.lifetime) or family.lifetime)


def rule_settings(config: ConfigDict) -> dict[str, Any]:
    """Arguments of `recurrent_rule`."""
    rule = dict(config.rule)
    return rule | {"temporal": config.temporal, "gamma_input": rule["gamma_input"] or None}


def build_setting(config: ConfigDict, family: Family, rule: Rule) -> lifetime.Setting:
    """What all agents share."""
    agent = config.agent
    if family.tabular:
        body = lifetime.tabular(family.shape.num_states)
        optimizers = lifetime.sgd(agent.actor_rate, agent.critic_rate, agent.max_norm)
    else:
        body = lifetime.mlp(tuple(agent.widths))
        optimizers = lifetime.adam(agent.adam_rate, agent.max_norm if agent.clip_adam else None)
    env = grid_world(family.shape)
    return lifetime.Setting(
        env, rule, body, optimizers, agent.num_workers, agent.num_steps, agent.alpha_y
    )


def build_learner(config: ConfigDict, horizon: int, the_drift: drift.Drift) -> Core:
    """PPO with a drift, the inner loop of LPO."""
    env, inner = environments.make(config.ppo.env), config.ppo
    rate, steps = inner.learning_rate, horizon * inner.num_epochs * inner.num_minibatches
    return ppo(
        env,
        mlp(env.action, tuple(inner.widths), inner.activation),
        adam(optax.linear_schedule(rate, 0.0, steps) if inner.anneal else rate),
        num_workers=inner.num_workers,
        num_steps=inner.num_steps,
        num_epochs=inner.num_epochs,
        num_minibatches=inner.num_minibatches,
        gamma=inner.gamma,
        lambda_=inner.gae_lambda,
        entropy_coef=inner.entropy_coef,
        drift=the_drift,
        horizon=horizon,
    )


def build_core(config: ConfigDict, axis_name: AxisName | None = None) -> Core:
    """The meta-training."""
    search = config.evolution
    strategy = functools.partial(
        evolution,
        optimizer=decaying_adam(
            search.learning_rate, search.learning_rate_decay, search.learning_rate_limit
        ),
        num_pairs=config.batch_size,
        sigma=search.sigma,
        sigma_decay=search.sigma_decay,
        sigma_limit=search.sigma_limit,
        shape=SHAPINGS[search.shaping],
        share_run_keys=search.share_run_keys,
        axis_name=axis_name,
    )
    if config.method == "lpo":
        build = functools.partial(build_learner, config, config.ppo.horizon)
        fitness = fitness_of_drift(
            build, num_workers=config.ppo.num_workers, horizon=config.ppo.horizon
        )
        start = lambda key: drift.zero_weights(config.rule.width, temporal=config.temporal)
        return strategy(start, each(fitness, search.pairs_at_a_time or None))
    family = build_family(config)
    rule = recurrent_rule(**rule_settings(config))
    setting = build_setting(config, family, rule)

    def sample(key: Array) -> Any:
        key_level, key_lifetime = jax.random.split(key)
        return sample_level(family, key_level), sample_lifetime(family, key_lifetime)

    if config.trainer == "meta_gradient":
        options = dict(config.meta_gradient)
        return meta_gradient(
            setting,
            sample,
            optax.adam(options.pop("learning_rate")),
            num_lifetimes=config.batch_size,
            axis_name=axis_name,
            **options,
        )
    fitness = fitness_of_lives(
        setting,
        sample,
        max_steps=family.max_steps[1],
        num_episodes=config.agent.num_episodes,
        num_buckets=search.num_buckets,
    )

    def start(key: Array) -> Any:
        return jax.tree.map(lambda x: 0.0 * x, rule.init(key))  # the zero vector

    return strategy(start, fitness)


def run(config: ConfigDict, context: cli.Context) -> dict[str, Any]:
    """Meta-trains, meta-tests, draws figures; returns the final numbers."""
    core = build_core(config, context.execution.axis_name)
    data = Generated(lambda key, index: index, config.batch_size)
    key_init, key_run, key_final = jax.random.split(jax.random.key(config.seed), 3)
    plots = context.workdir / "plots"
    if config.method == "lpo":
        learner = functools.partial(build_learner, config)
        test = meta_test.drift_test(config, learner)
    else:
        family = build_family(config)
        rule = recurrent_rule(**rule_settings(config))
        setting = build_setting(config, family, rule)
        test = meta_test.rule_test(config, setting, family)
        if config.trainer == "evolution":
            _report_saving(config, family)

    def evaluate(state: Any, step: int, key: Array) -> dict[str, Any]:
        return test.numbers(state.params, key)

    show = ("fitness", "grad_norm") if config.trainer == "evolution" else ("reward", "meta_loss")
    with started(lambda: core.init(key_init), config, context) as begun:
        state = fit(begun, core, data, key_run, show=show, evaluate=evaluate)
    results = test.numbers(state.params, key_final)
    if jax.process_index() == 0:
        for name, value in results.items():
            print(f"{name:<28} {value:.4f}")
        plots.mkdir(parents=True, exist_ok=True)
        test.draw(state.params, key_final, plots)
        if config.method == "lpg":
            rule_files.save(context.workdir / "rule.npz", state.params, rule_settings(config))
    return results


def _report_saving(config: ConfigDict, family: Family) -> None:
    keys = jax.random.split(jax.random.key(0), config.batch_size)
    lives = jax.vmap(functools.partial(sample_lifetime, family))(keys)
    cost = float(updates_run(lives, config.evolution.num_buckets))
    longest, least = family.lifetime[1] * config.batch_size, float(np.sum(lives))
    print(
        f"agent updates per generation: {2 * cost:,.0f} in {config.evolution.num_buckets} buckets "
        f"of lifetimes, {2 * longest:,} in one scan of the longest, {2 * least:,.0f} at least"
    )


def validate(config: ConfigDict) -> None:
    """Refuses impossible settings before anything is made.

    Raises:
      UsageError: names the setting.
    """
    for name, known in (
        ("method", METHODS),
        ("trainer", TRAINERS),
        ("levels.family", tuple(FAMILIES)),
        ("rule.cell", tuple(CELLS)),
        ("evolution.shaping", tuple(SHAPINGS)),
    ):
        value = functools.reduce(lambda group, key: group[key], name.split("."), config)
        if value not in known:
            raise UsageError(f"{name}={value!r} is unknown; choose {', '.join(known)}")
    if config.method == "lpo" and config.trainer != "evolution":
        raise UsageError("trainer=meta_gradient is for method=lpg; lpo is trained by evolution")
    if len(config.levels.lifetime) not in (0, 2):
        raise UsageError("levels.lifetime must be empty or the least and greatest lifetime")
    buckets, size = config.evolution.num_buckets, config.batch_size
    if config.trainer == "evolution" and config.method == "lpg" and size % buckets:
        raise UsageError(f"evolution.num_buckets={buckets} does not divide batch_size={size}")
    chunks = config.meta_gradient.num_chunks
    if config.trainer == "meta_gradient" and size % chunks:
        raise UsageError(f"meta_gradient.num_chunks={chunks} does not divide batch_size={size}")


def plan(config: ConfigDict, mesh: Mesh) -> tuple[Any, tuple[Any, ...]]:
    """Compiled meta-step and abstract arguments, for `python -m experiments.plan`."""
    core = build_core(config)
    key = jax.random.key(0)
    batch = jax.ShapeDtypeStruct((config.batch_size,), np.int32)
    step = compile_update(core.update, mode="jit", mesh=mesh)
    return step, (jax.eval_shape(core.init, key), batch, key)


if __name__ == "__main__":
    cli.main(run, validate=validate, may_change=("evaluation",))
