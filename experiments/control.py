"""Control from more than one reward: SPO with reward models beside it, PROTECTED, and SLIM.

spo, reward_model, timed_reward_model: a task with a quota, where who wins is told between whole
trajectories, by playing against oneself, or from a reward of single steps that is fitted to the
same comparisons, blind to the time or told it; the judge may be wrong now and then (flips).
protected: defenders who choose among policies while what they see is attacked. slim: skills of
pushing a disc, from three rewards with a critic of each.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from experiments.rl import defending, pushing
from jaxrl.actor_critic import a2c, acting
from jaxrl.actor_critic_state import Relabel
from jaxrl.control.spo import reward_model, self_play
from jaxrl.envs.quota import STEPS, earned, prefers, quota
from jaxrl.networks import mlp
from jaxrl.rollout import new_worker, rollout
from jaxtrain.core import Core
from jaxtrain.host import cli, experiment, report, schedules
from jaxtrain.host.experiment import Finished, Results, Training
from jaxtrain.optimizers import adam
from jaxtrain.parallel import AxisName

SWEEPABLE = (
    "optimizer.learning_rate",
    "flips",
    "model.learning_rate",
    "entropy_coef",
    "defence.scale",
    "defence.chance",
    "skills.scale_skill",
    "skills.scale_near",
    "skills.scale_safe",
)
COMPARING = ("spo", "reward_model", "timed_reward_model")
BUILDS = {"protected": defending.build, "slim": pushing.build}
METHODS = (*COMPARING, *BUILDS)


def action_only(observation: Array, action: Array) -> Array:
    """Features of a reward that does not see the time, `[1]`."""
    return action[None].astype(jnp.float32)


def action_in_time(observation: Array, action: Array) -> Array:
    """Features of a reward for every step of the episode, `[16]`."""
    return observation * action


def relabel_of(config: ConfigDict, axis_name: AxisName | None) -> Relabel:
    """The rewards of the config's method; numbers may be traced."""
    judge = dict(flips=config.flips, axis_name=axis_name)
    if config.method == "spo":
        return self_play(earned, prefers, **judge)
    is_timed = config.method == "timed_reward_model"
    features, number = (action_in_time, STEPS) if is_timed else (action_only, 1)
    optimizer = adam(config.model.learning_rate)
    return reward_model(earned, prefers, features, number, optimizer, **judge)


def build_core(config: ConfigDict, axis_name: AxisName | None = None) -> Core:
    """The learner: one step of the policy's gradient per rollout of whole episodes."""
    env = quota()
    return a2c(
        env,
        mlp(env.action, ()),
        adam(schedules.from_config(config)),
        num_workers=config.batch_size,
        num_steps=STEPS,
        gamma=1.0,
        lambda_=1.0,
        entropy_coef=config.entropy_coef,
        normalise_advantages=True,
        relabel=relabel_of(config, axis_name),
        axis_name=axis_name,
    )


def build(config: ConfigDict, setup: cli.Setup) -> Training:
    """The run of the config's method."""
    return BUILDS.get(config.method, build_quota)(config, setup)


def build_quota(config: ConfigDict, setup: cli.Setup) -> Training:
    """Trains, and measures what the trained policy earns and whether it keeps the quota."""
    env, number = quota(), config.evaluation.num_episodes
    network = mlp(env.action, ())

    def measured(state: Any, key: Array) -> dict[str, Array]:
        act = acting(network, state.params)

        def one(key: Array) -> Any:
            worker = new_worker(env, env.params, key)
            return earned(rollout(env, env.params, act, key, worker, STEPS)[1].reward)

        of_all = jax.vmap(one)(jax.random.split(key, number))
        kept = of_all.keeps_quota.mean()
        return {"early": of_all.early.mean(), "late": of_all.late.mean(), "kept": kept}

    measure = jax.jit(measured if setup.sweep is None else jax.vmap(measured, (0, None)))

    def watch(state: Any, step: int, key: Array) -> Results:
        return jax.device_get(measure(state, key))

    def draw(run: Finished, results: Results) -> None:
        experiment.show(results, digits=2)
        groups = report.group(report.read_trials(run.workdir))
        for name in ("early", "kept"):
            if any(f"eval/{name}" in group.curves for group in groups):
                file = run.workdir / "plots" / f"{name}.png"
                report.learning_curves(groups, f"eval/{name}", file)

    return Training(
        core=build_core,
        show=("loss", "episode_return"),
        watch=watch,
        watched=("early", "late", "kept"),
        evaluate=lambda run: watch(run.state, -1, run.key),
        report=draw,
    )


def validate(config: ConfigDict) -> None:
    """Raises UsageError for settings that do not go together."""
    if config.method in COMPARING and config.batch_size < 2:
        raise cli.UsageError("batch_size=1; there must be two or more trajectories to compare")
    rollouts = config.rollout
    samples = config.batch_size * rollouts.num_steps
    if config.method == "slim" and samples % rollouts.num_minibatches:
        raise cli.UsageError(
            f"rollout.num_minibatches={rollouts.num_minibatches} does not divide the {samples} "
            "samples of an update (batch_size x rollout.num_steps)"
        )
    schedules.check_own_batches(config)


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
