"""Skills from trajectories without reward: HILP, a space whose distances are steps.

Learns from play in a maze, or from a file of the user's (data.path), then compares distances of
latents with those of the maze and goes to far goals by their direction alone, by planning in the
latents, and, as the control, in random directions.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict
from scipy.stats import spearmanr

from experiments.data import trajectories
from experiments.data.trajectories import Dataset
from experiments.offline import mazes
from jaxrl.offline import windows
from jaxrl.offline.hilp import Hilp, direction, distance, draw, hilp, midpoint
from jaxtrain.core import Core
from jaxtrain.host import arrays, cli, experiment, schedules
from jaxtrain.host.data import Generated
from jaxtrain.host.experiment import Finished, Results, Training
from jaxtrain.optimizers import adam
from jaxtrain.parallel import AxisName

SWEEPABLE = (
    "optimizer.learning_rate",
    "loss.gamma",
    "loss.expectile",
    "loss.skill_expectile",
    "loss.temperature",
    "loss.tau",
)
WAYS = ("direct", "plan", "random")


def build_core(config: ConfigDict, net: Hilp, axis_name: AxisName | None = None) -> Core:
    """The learner; numbers of the config may be traced."""
    optimizer = adam(schedules.from_config(config), max_norm=config.optimizer.max_grad_norm)
    return hilp(net, optimizer, **config.loss, axis_name=axis_name)


def acting(net: Hilp, params: Any, found: Dataset, way: str, known: Array, plan: Any) -> mazes.Act:
    """The policy of trained parameters on one of `WAYS`; its memory is a fixed random z."""

    def act(memory: Array, key: Array, position: Array, goal: Array) -> tuple[Array, Array]:
        here = found.seen(position)
        begin, end = net.latent(params, here), net.latent(params, found.seen(goal))
        if way == "plan":
            end = midpoint(begin, end, known, **plan)
        skill = memory if way == "random" else direction(begin, end)
        return memory, net.policy(params, here, skill).mode()

    return act


def build(config: ConfigDict, setup: cli.Setup) -> Training:
    """Trains and evaluates; the final numbers are one per trial."""
    found = trajectories.load(config.data)
    data, begins = found.data, windows.starts(found.data, 2)
    net = Hilp(data.observation.shape[1], data.action.shape[1], **config.network)
    drawn = functools.partial(draw, latent_size=net.latent_size, **config.goals)
    each = (lambda f: f) if setup.sweep is None else (lambda f: jax.vmap(f, (0, None)))
    measure = each(steps_and_distances(net, config.evaluation.num_pairs))
    trials = in_maze(config.evaluation, found, net) if found.maze else None

    def evaluate(run: Finished) -> Results:
        key_pairs, key_trips = jax.random.split(run.key)
        pairs = (data, begins, key_pairs)
        steps, apart = jax.device_get(jax.jit(measure)(run.state.params, pairs))
        results: Results = {"rho_steps": correlation(apart, steps)}
        if trials is not None:
            results |= trials(run, data, key_trips, each)
        return results | {"provenance": found.provenance}

    def save(run: Finished) -> None:
        latents = jax.jit(each(lambda params, x: net.latent(params, x)))
        arrays.write(
            run.workdir / "latents.npz", {"latents": latents(run.state.params, data.observation)}
        )

    return Training(
        core=lambda config, axis_name: build_core(config, net, axis_name),
        data=Generated(windows.by_place(drawn), config.batch_size, (data, begins)),
        show=("loss", "representation_loss", "learning_rate"),
        save=save,
        evaluate=evaluate,
        report=lambda run, results: experiment.show(results, digits=3),
    )


def steps_and_distances(net: Hilp, number: int) -> Any:
    """`(params, (data, begins, key)) -> steps, |phi - phi'|`, `[number]`, of rows of trajectories.

    The steps that a trajectory took are at least as many as are needed.
    """

    def measure(params: Any, given: tuple[Any, Array, Array]) -> tuple[Array, Array]:
        data, begins, key = given
        keys = jax.random.split(key, (number, 2))
        row = jax.vmap(windows.pick, (0, None))(keys[:, 0], begins)
        end = jax.vmap(windows.later, (0, 0, None))(keys[:, 1], row, data.last)
        at = lambda rows: net.latent(params, data.observation[rows])
        return end - row, distance(at(row), at(end))

    return measure


def correlation(found: Any, true: Any) -> Any:
    """Spearman's of each trial, `[trials]` or one number; `found` has the trials in front."""
    found, true = np.asarray(found), np.asarray(true)
    if found.ndim == 1:
        return float(spearmanr(found, true).statistic)
    every = np.broadcast_to(true, found.shape)
    return np.array([correlation(a, b) for a, b in zip(found, every, strict=True)])


def in_maze(options: ConfigDict, found: Dataset, net: Hilp) -> Any:
    """What is measured of a trained run in the maze of its data, as a function."""
    maze, num_trips, max_steps = found.maze, options.num_trips, options.max_steps
    least, num_known, plan = options.min_distance, options.num_known, options.plan.to_dict()
    assert maze is not None
    true = maze.distance.ravel()
    cells = jnp.asarray(maze.cells, jnp.float32)
    between = np.linalg.norm(maze.cells[:, None] - maze.cells[None], axis=-1)
    mazes.trips(maze, jax.random.key(0), 1, least)  # refuses impossible ones at once

    def distances(params: Any, cells: Array) -> Array:
        at = net.latent(params, jax.vmap(found.seen)(cells))
        return distance(at[:, None], at[None]).reshape(-1)

    def walked(way: str, params: Any, given: tuple[Array, mazes.Trips, Array]) -> Array:
        states, trips, key = given
        known = net.latent(params, states)
        random = jax.random.normal(key, (len(trips.keys), net.latent_size))
        random = direction(jnp.zeros_like(random), random)
        act = acting(net, params, found, way, known, plan)
        one = lambda skill, trip: mazes.paths(maze, act, skill, trip, max_steps)[0]
        single = jax.tree.map(lambda x: x[:, None], trips)
        return jax.vmap(one)(random, single)

    def trials(run: Finished, data: Any, key: Array, each: Any) -> Results:
        key_trips, key_known, key_skill = jax.random.split(key, 3)
        trips = mazes.trips(maze, key_trips, num_trips, least)
        rows = jax.random.randint(key_known, (num_known,), 0, len(data.last))
        given = data.observation[rows], trips, key_skill
        params, initial = run.state.params, jax.jit(lambda: run.initial().params)()
        apart = {
            name: np.asarray(jax.jit(each(distances))(p, cells))
            for name, p in (("rho", params), ("rho_untrained", initial))
        }
        results: Results = {name: correlation(x, true) for name, x in apart.items()}
        results["rho_straight"] = correlation(between.ravel(), true)
        paths = {
            way: np.asarray(jax.jit(each(functools.partial(walked, way)))(params, given))
            for way in WAYS
        }
        for way, path in paths.items():
            results[f"reach_{way}"] = mazes.reached(path, trips.goal).mean(-1)
        if jax.process_index() == 0:
            picture(run, apart["rho"], paths, trips)
        return results

    def picture(run: Finished, apart: Any, paths: Any, trips: mazes.Trips) -> None:
        number, goal = len(maze.cells), int(maze.distance.max(1).argmax())
        one = lambda x, shape: np.asarray(x).reshape(-1, *shape)[0]
        shown = {
            "steps of the maze": maze.distance[goal],
            "straight": between[goal],
            "latents": one(apart, (number, number))[goal],
        }
        few = {
            title: one(paths[way], paths[way].shape[-3:])[:6]
            for title, way in (
                ("along phi(g) - phi(s)", "direct"),
                ("planned", "plan"),
                ("random z", "random"),
            )
        }
        file = run.workdir / "plots" / "distances.png"
        mazes.distance_figure(maze, goal, shown, few, trips.goal[:6], file)

    return trials


def validate(config: ConfigDict) -> None:
    """Raises UsageError for settings that do not go together."""
    options = config.evaluation
    if options.plan.nearest > options.num_known:
        raise cli.UsageError(
            f"evaluation.plan.nearest={options.plan.nearest} is more than "
            f"evaluation.num_known={options.num_known}"
        )


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
