"""Meta-learned reinforcement learning: LPG and TA-LPG (the whole rule), LPO and TA-LPO (the drift).

Meta-trains a rule by evolution or, for LPG, by truncated meta-gradients; then meta-tests it on
held-out levels over several horizons (LPG) or on the same environment over several horizons against
PPO (LPO), and draws how it behaves along a lifetime.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax import Array
from ml_collections import ConfigDict

from experiments.rl import environments, meta_test
from jaxrl import drift
from jaxrl.actor_critic import ppo
from jaxrl.envs import FAMILIES, grid_world, sample_level, sample_lifetime
from jaxrl.envs.grid_levels import Family
from jaxrl.meta import lifetime, rule_files
from jaxrl.meta.evolution import SHAPINGS, decaying_adam, each, evolution
from jaxrl.meta.learned_drift import fitness_of_drift
from jaxrl.meta.learned_objective import fitness_of_lives, meta_gradient, updates_run
from jaxrl.meta.learned_rule import Rule, recurrent_rule
from jaxrl.networks import ACTIVATIONS, mlp
from jaxtrain.core import Core
from jaxtrain.host import cli, experiment, sweep
from jaxtrain.host.config import UsageError
from jaxtrain.host.experiment import Finished, Results, Training
from jaxtrain.optimizers import adam, sgd
from jaxtrain.parallel import AxisName

SWEEPABLE = (
    "evolution.learning_rate",
    "evolution.learning_rate_decay",
    "evolution.learning_rate_limit",
    "evolution.sigma",
    "evolution.sigma_decay",
    "evolution.sigma_limit",
    "meta_gradient.learning_rate",
    "meta_gradient.policy_entropy_coef",
    "meta_gradient.prediction_entropy_coef",
    "meta_gradient.pi_hat_coef",
    "meta_gradient.y_hat_coef",
    "agent.alpha_y",
    "agent.actor_rate",
    "agent.critic_rate",
    "agent.max_norm",
    "agent.adam_rate",
    "ppo.learning_rate",
    "ppo.gamma",
    "ppo.gae_lambda",
    "ppo.entropy_coef",
)


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
        optimizers = lifetime.Optimizers(
            sgd(agent.actor_rate, max_norm=agent.max_norm),
            sgd(agent.critic_rate, max_norm=agent.max_norm),
        )
    else:
        body = lifetime.mlp(tuple(agent.widths))
        both = adam(agent.adam_rate, max_norm=agent.max_norm if agent.clip_adam else None)
        optimizers = lifetime.Optimizers(both, both)
    env = grid_world(family.shape)
    return lifetime.Setting(
        env, rule, body, optimizers, agent.num_workers, agent.num_steps, agent.alpha_y
    )


def build_learner(
    horizon: int,
    the_drift: drift.Drift,
    *,
    env: str,
    learning_rate: float,
    anneal: bool,
    gae_lambda: float,
    widths: tuple[int, ...],
    activation: str,
    num_epochs: int,
    num_minibatches: int,
    **settings: Any,
) -> Core:
    """PPO with a drift, the inner loop of LPO; the settings are the group `ppo` but `horizon`."""
    made, steps = environments.make(env), horizon * num_epochs * num_minibatches
    rate = optax.linear_schedule(learning_rate, 0.0, steps) if anneal else learning_rate
    return ppo(
        made,
        mlp(made.action, tuple(widths), ACTIVATIONS[activation]),
        adam(rate, max_norm=0.5, eps=1e-5),
        num_epochs=num_epochs,
        num_minibatches=num_minibatches,
        lambda_=gae_lambda,
        drift=the_drift,
        horizon=horizon,
        **settings,
    )


def learner_of(config: ConfigDict) -> Callable[[int, drift.Drift], Core]:
    """`build_learner` with the settings of `config.ppo`."""
    settings = config.ppo.to_dict()
    settings.pop("horizon")
    return functools.partial(build_learner, **settings)


def build_strategy(config: ConfigDict, axis_name: AxisName | None) -> Callable[..., Core]:
    """The evolution strategy, but for what it evolves."""
    search = config.evolution
    return functools.partial(
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


def drift_core(
    config: ConfigDict,
    learner: Callable[[int, drift.Drift], Core],
    axis_name: AxisName | None = None,
) -> Core:
    """Meta-training of a drift by evolution, from the drift that is zero."""
    horizon = config.ppo.horizon
    fitness = fitness_of_drift(
        functools.partial(learner, horizon), num_workers=config.ppo.num_workers, horizon=horizon
    )
    start = lambda key: drift.zero_weights(config.rule.width, temporal=config.temporal)
    evaluate = each(fitness, config.evolution.pairs_at_a_time or None)
    return build_strategy(config, axis_name)(start, evaluate)


def rule_core(
    config: ConfigDict, family: Family, rule: Rule, axis_name: AxisName | None = None
) -> Core:
    """Meta-training of a rule, by evolution from the zero vector or by meta-gradients."""
    setting = build_setting(config, family, rule)

    def sample(key: Array) -> Any:
        key_level, key_lifetime = jax.random.split(key)
        return sample_level(family, key_level), sample_lifetime(family, key_lifetime)

    if config.trainer == "meta_gradient":
        options = config.meta_gradient.to_dict()
        optimizer = optax.adam(options.pop("learning_rate"))
        return meta_gradient(
            setting,
            sample,
            optimizer,
            num_lifetimes=config.batch_size,
            axis_name=axis_name,
            **options,
        )
    fitness = fitness_of_lives(
        setting,
        sample,
        max_steps=family.max_steps[1],
        num_episodes=config.agent.num_episodes,
        num_buckets=config.evolution.num_buckets,
    )
    start = lambda key: jax.tree.map(lambda x: 0.0 * x, rule.init(key))
    return build_strategy(config, axis_name)(start, fitness)


def rule_test(config: ConfigDict, family: Family, setting: lifetime.Setting) -> meta_test.MetaTest:
    """The meta-test of a rule that `config.evaluation` describes."""
    options = config.evaluation
    return meta_test.rule_test(
        setting,
        family,
        seed=options.seed,
        num_levels=options.num_levels,
        horizons=options.horizons,
        num_episodes=config.agent.num_episodes,
        temporal=config.temporal,
    )


def drift_test(
    config: ConfigDict, learner: Callable[[int, drift.Drift], Core]
) -> meta_test.MetaTest:
    """The meta-test of a drift that `config.evaluation` describes."""
    options = config.evaluation
    return meta_test.drift_test(
        learner,
        num_workers=config.ppo.num_workers,
        num_seeds=options.num_seeds,
        horizons=options.horizons,
    )


def rule_training(config: ConfigDict, axes: sweep.Axes | None) -> Training:
    """LPG: a rule is meta-trained and saved, then meta-tested on held-out levels."""
    family, settings = build_family(config), rule_settings(config)
    rule = recurrent_rule(**settings)
    test_of = lambda config: rule_test(config, family, build_setting(config, family, rule))

    def save(run: Finished) -> None:
        write = lambda path, params: rule_files.save(path, params, settings)
        save_trials(run, "rule.npz", write)

    evolves = config.trainer == "evolution"
    if evolves:
        report_saving(family, config.batch_size, config.evolution.num_buckets)
    return tested(
        Training(
            core=lambda config, axis_name: rule_core(config, family, rule, axis_name),
            show=("fitness", "grad_norm") if evolves else ("reward", "meta_loss"),
            save=save,
        ),
        tests_of(config, axes, test_of),
        axes,
    )


def drift_training(config: ConfigDict, axes: sweep.Axes | None) -> Training:
    """LPO: a drift is meta-trained and saved, then agents are trained with it and with PPO's."""
    core = lambda config, axis_name: drift_core(config, learner_of(config), axis_name)

    def save(run: Finished) -> None:
        save_trials(run, "drift.npz", lambda path, params: rule_files.save_drift(path, params, {}))

    training = Training(core=core, show=("fitness", "grad_norm"), save=save)
    test_of = lambda config: drift_test(config, learner_of(config))
    return tested(training, tests_of(config, axes, test_of), axes)


def save_trials(run: Finished, name: str, write: Callable[[Path, Any], None]) -> None:
    """Writes the parameters of every trial into its folder."""
    every = sweep.trials(run.state.params, run.sweep)
    for folder, params in zip(sweep.folders(run.workdir, run.sweep), every, strict=True):
        if jax.process_index() == 0:
            folder.mkdir(exist_ok=True)
            write(folder / name, params)


def tests_of(
    config: ConfigDict,
    axes: sweep.Axes | None,
    test_of: Callable[[ConfigDict], meta_test.MetaTest],
) -> list[meta_test.MetaTest]:
    """The meta-test of every trial; trials that differ in their seed only share one."""
    every = sweep.settings_of(config, axes)
    made = {id(settings): test_of(settings) for settings in {id(x): x for x in every}.values()}
    return [made[id(settings)] for settings in every]


def tested(
    training: Training, tests: list[meta_test.MetaTest], axes: sweep.Axes | None
) -> Training:
    """Adds the meta-tests while training and after it, and their figures; numbers are one per
    trial in a sweep, and figures lie in the folder of the trial."""

    def measured(params: Any, key: Array) -> Results:
        trials = zip(tests, sweep.trials(params, axes), strict=True)
        found = [test.numbers(one, key) for test, one in trials]
        if axes is None:
            return dict(found[0])
        return {name: np.stack([trial[name] for trial in found]) for name in found[0]}

    def draw(run: Finished, results: Results) -> None:
        experiment.show(results)
        trials = zip(tests, sweep.trials(run.state.params, axes), strict=True)
        for folder, (test, params) in zip(sweep.folders(run.workdir, axes), trials, strict=True):
            (folder / "plots").mkdir(parents=True, exist_ok=True)
            test.draw(params, run.key, folder / "plots")

    return training._replace(
        watch=lambda state, step, key: measured(state.params, key),
        evaluate=lambda run: measured(run.state.params, run.key),
        report=draw,
    )


def build(config: ConfigDict, setup: cli.Setup) -> Training:
    """Meta-trains, meta-tests, draws figures."""
    training = drift_training if config.method == "lpo" else rule_training
    return training(config, setup.sweep)


def report_saving(family: Family, num_pairs: int, num_buckets: int) -> None:
    """Prints how many agent updates the buckets of lifetimes save."""
    keys = jax.random.split(jax.random.key(0), num_pairs)
    lives = jax.vmap(functools.partial(sample_lifetime, family))(keys)
    cost = float(updates_run(lives, num_buckets))
    longest, least = family.lifetime[1] * num_pairs, float(np.sum(lives))
    if jax.process_index() == 0:
        print(
            f"agent updates per generation: {2 * cost:,.0f} in {num_buckets} buckets of lifetimes, "
            f"{2 * longest:,} in one scan of the longest, {2 * least:,.0f} at least"
        )


def validate(config: ConfigDict) -> None:
    """Raises UsageError for settings that do not go together."""
    if config.method == "lpo" and config.trainer != "evolution":
        raise UsageError("trainer=meta_gradient is for method=lpg; lpo is trained by evolution")
    if len(config.levels.lifetime) not in (0, 2):
        raise UsageError("levels.lifetime must be empty or the least and greatest lifetime")
    if config.levels.lifetime and config.levels.lifetime[0] > config.levels.lifetime[1]:
        raise UsageError("levels.lifetime must name the least lifetime first")
    buckets, size = config.evolution.num_buckets, config.batch_size
    if config.trainer == "evolution" and config.method == "lpg" and size % buckets:
        raise UsageError(f"evolution.num_buckets={buckets} does not divide batch_size={size}")
    chunks = config.meta_gradient.num_chunks
    if config.trainer == "meta_gradient" and size % chunks:
        raise UsageError(f"meta_gradient.num_chunks={chunks} does not divide batch_size={size}")


main = functools.partial(
    cli.main,
    build,
    sweepable=SWEEPABLE,
    validate=validate,
    flags=(experiment.MODE,),
    evaluates=experiment.evaluates,
    may_change=("evaluation",),
)

if __name__ == "__main__":
    main()
