"""Imitation of demonstrations and play that go to goals: BESO, and behaviour cloning beside it.

Learns from demonstrations of two ways past a trap, from play in a maze, or from a file of the
user's (data.path), then goes to goals: with three and with more denoising steps, and, as the
control, without being told the goal.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from experiments.data import trajectories
from experiments.data.trajectories import Dataset
from experiments.offline import mazes
from jaxrl.envs import two_routes
from jaxrl.offline import windows
from jaxrl.offline.beso import DenoisingTransformer, act, beso, draw, no_memory
from jaxrl.offline.cloning import cloning, network
from jaxrl.offline.cloning import draw as draw_step
from jaxtrain import diffusion
from jaxtrain.core import Core, with_ema
from jaxtrain.host import cli, experiment, schedules
from jaxtrain.host.data import Generated
from jaxtrain.host.experiment import Finished, Results, Training
from jaxtrain.optimizers import adamw
from jaxtrain.parallel import AxisName

SWEEPABLE = ("optimizer.learning_rate", "optimizer.weight_decay")
# (memory, key, observation as the learner sees it, goal likewise) -> memory, action
Policy = Callable[[Any, Array, Array, Array], tuple[Any, Array]]


def build(config: ConfigDict, setup: cli.Setup) -> Training:
    """Trains and evaluates; the final numbers are one per trial."""
    found = trajectories.load(config.data)
    learner = learn_beso(config, found) if config.method == "beso" else learn_cloning(config, found)
    core, sample, begins, policies, params_of = learner
    data = found.data
    example = jax.tree.map(np.asarray, sample(jax.random.key(0), jnp.arange(2), data, begins))
    each = (lambda f: f) if setup.sweep is None else (lambda f: jax.vmap(f, (0, None)))
    options = config.evaluation
    tried = tried_in_maze(options, config.data.task, found) if found.maze else None
    number = options.num_pairs

    def build_core(config: ConfigDict, axis_name: AxisName | None) -> Core:
        made = core(config, axis_name)
        return Core(lambda key: made.init(key, example), made.update)

    def evaluate(run: Finished) -> Results:
        key_pairs, key_trips = jax.random.split(run.key)
        params, results = params_of(run.state), {}
        keys, given = step_pairs(data, key_pairs, number)
        for name, turn in (("error", 0), ("error_other_goal", 1)):
            compare = functools.partial(action_error, policies[""], turn)
            measured = jax.jit(each(compare))(params, (keys, given))
            results[name] = np.asarray(measured)
        if tried is not None:
            results |= tried(run, params, policies, key_trips, each)
        return results | {"provenance": found.provenance}

    return Training(
        core=build_core,
        data=Generated(sample, config.batch_size, (data, begins)),
        show=("loss", "learning_rate"),
        evaluate=evaluate,
        report=lambda run, results: experiment.show(results, digits=3),
    )


def optimizer_of(config: ConfigDict) -> Any:
    """AdamW as the config says; its numbers may be traced."""
    return adamw(schedules.from_config(config), weight_decay=config.optimizer.weight_decay)


def learn_beso(config: ConfigDict, found: Dataset) -> tuple[Any, Any, Array, Any, Any]:
    """Core, sampler, rows where windows begin, policies by name, and what they act with."""
    window, goals, ema = config.window, config.num_goals, config.ema
    low, high, deviation = config.sigma.least, config.sigma.most, config.sigma.data
    net = DenoisingTransformer(found.data.action.shape[1], **config.network)
    drawn = functools.partial(
        draw,
        window=window,
        num_goals=goals,
        sigma=(low, high),
        sigma_data=deviation,
        drop_goal=config.drop_goal,
    )
    sampler, more = config.sampler.to_dict(), config.evaluation.more_steps
    usual = {"num_steps": sampler.pop("num_steps"), "guidance": sampler.pop("guidance")}
    actions = np.asarray(found.data.action)
    bounds = float(actions.min()), float(actions.max())
    empty = no_memory(window, found.data.observation.shape[1], actions.shape[1])

    def policy(params: Any, num_steps: int, guidance: float) -> tuple[Policy, Any]:
        levels = diffusion.exponential_levels(num_steps, low, high)
        options = dict(guidance=guidance, sigma_data=deviation, bounds=bounds, **sampler)

        def step(memory: Any, key: Array, seen: Array, goal: Array) -> tuple[Any, Array]:
            repeated = jnp.broadcast_to(goal, (goals, *goal.shape))
            return act(net, params, memory, key, seen, repeated, levels=levels, **options)

        return step, empty

    policies = {
        "": functools.partial(policy, **usual),
        "_without_goal": functools.partial(policy, **usual | {"guidance": 0.0}),
        "_more_steps": functools.partial(policy, **usual | {"num_steps": more}),
    }

    def core(config: ConfigDict, axis_name: AxisName | None) -> Core:
        made = beso(net, optimizer_of(config), sigma_data=deviation, axis_name=axis_name)
        return with_ema(made, ema)

    windows.starts(found.data, window + goals)  # refuses data without goals behind windows
    begins = windows.starts(found.data, window)
    return core, windows.by_place(drawn), begins, policies, lambda state: state.ema


def learn_cloning(config: ConfigDict, found: Dataset) -> tuple[Any, Any, Array, Any, Any]:
    """The same of regression, the control."""
    model = network(found.data.action.shape[1], tuple(config.widths))

    def policy(params: Any) -> tuple[Policy, Any]:
        def step(memory: Any, key: Array, seen: Array, goal: Array) -> tuple[Any, Array]:
            inputs = {"observation": seen[None], "goal": goal[None]}
            return memory, model.apply(params, (), inputs, key=None, train=False)[0][0]

        return step, ()

    core = lambda config, axis_name: cloning(model, optimizer_of(config), axis_name=axis_name)
    begins = windows.starts(found.data, 2)
    return core, windows.by_place(draw_step), begins, {"": policy}, lambda state: state.params


def step_pairs(data: Any, key: Array, number: int) -> tuple[Array, Any]:
    """Steps of the data with a later state of their trajectory as goal, and keys to act with."""
    key_rows, key_act = jax.random.split(key)
    begins = windows.starts(data, 2)
    given = windows.by_place(draw_step)(key_rows, jnp.arange(number), data, begins)
    return jax.random.split(key_act, number), given


def action_error(policy: Any, turn: int, params: Any, pairs: tuple[Array, Any]) -> Array:
    """Mean |a - action of the data|^2, `[]`, of first actions; goals are taken `turn` steps on."""
    keys, given = pairs
    step, memory = policy(params)
    goals = jnp.roll(given["inputs"]["goal"], turn, axis=0)
    choose = lambda key, seen, goal: step(memory, key, seen, goal)[1]
    action = jax.vmap(choose)(keys, given["inputs"]["observation"], goals)
    return ((action - given["action"]) ** 2).sum(-1).mean()


def tried_in_maze(options: ConfigDict, task: str, found: Dataset) -> Any:
    """What policies reach in the maze of their data, as a function of a trained run."""
    maze, number, max_steps = found.maze, options.num_trips, options.max_steps
    least = options.min_distance if task == "play" else 0
    assert maze is not None
    mazes.trips(maze, jax.random.key(0), 1, least)  # refuses impossible ones at once

    def trips_of(key: Array) -> mazes.Trips:
        if task == "play":
            return mazes.trips(maze, key, number, least)
        key_start, key_goal, key_run = jax.random.split(key, 3)
        start = jax.vmap(two_routes.start)(jax.random.split(key_start, number))
        pocket = jax.random.randint(key_goal, (number,), 0, 2)
        goal = jnp.asarray(two_routes.POCKETS, jnp.float32)[pocket]
        return mazes.Trips(jax.random.split(key_run, number), start, goal)

    def walked(policy: Any, params: Any, trips: mazes.Trips) -> Array:
        step, memory = policy(params)
        seen = found.seen
        go = lambda memory, key, here, goal: step(memory, key, seen(here), seen(goal))
        return mazes.paths(maze, go, memory, trips, max_steps)

    def tried(run: Finished, params: Any, policies: Any, key: Array, each: Any) -> Results:
        trips, results, shown = trips_of(key), {}, {}
        for name, policy in policies.items():
            path = jax.jit(each(functools.partial(walked, policy)))(params, trips)
            path = np.asarray(path)
            arrived = mazes.reached(path, trips.goal)
            results[f"reach{name}"] = arrived.mean(-1)
            first = path.reshape(-1, *path.shape[-3:])[0]
            shown[f"goals{name}".replace("_", " ")] = first[:12]
            if task == "routes" and not name:
                flat = jnp.asarray(path.reshape(-1, *path.shape[-2:]))
                side = np.asarray(jax.vmap(two_routes.side_of)(flat)).reshape(arrived.shape)
                for word, which in (("left", -1), ("right", 1)):
                    results[word] = (arrived & (side == which)).mean(-1)
        if jax.process_index() == 0:
            mazes.walks_figure(maze, shown, trips.goal[:12], run.workdir / "plots" / "paths.png")
        return results

    return tried


def validate(config: ConfigDict) -> None:
    """Raises UsageError for settings that do not go together."""
    if config.method == "beso" and config.network.width % config.network.num_heads:
        raise cli.UsageError(
            f"network.num_heads={config.network.num_heads} does not divide "
            f"network.width={config.network.width}"
        )
    if config.sigma.least >= config.sigma.most:
        raise cli.UsageError(
            f"sigma.least={config.sigma.least} must be below sigma.most={config.sigma.most}"
        )


main = functools.partial(
    cli.main,
    build,
    sweepable=SWEEPABLE,
    validate=validate,
    flags=(experiment.MODE,),
    evaluates=experiment.evaluates,
    may_change=("evaluation", "sampler"),
)

if __name__ == "__main__":
    main()
