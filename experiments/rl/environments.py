"""Environments of the reinforcement-learning experiments, by name.

`cart_pole`, `pendulum`, `point_maze`, `bandit_<arms>` are ours; so are `recall`, `bandit_trials`,
`bandit_trials_100` (pulls) and `goal_trials`, which ask for a memory. `gymnax:<name>`,
`brax:<name>` and `playground:<name>` need the package of that name, which is imported here and
only then. Any other `module:function` is a function of the user's, without arguments, that makes
an `Environment`.
"""

from collections.abc import Callable

from jaxrl import envs
from jaxrl.envs import Environment
from jaxtrain.host.config import UsageError
from jaxtrain.host.extras import import_extra, import_function


def _gymnax(name: str) -> Environment:
    gymnax = import_extra("gymnax", "gymnax")
    try:
        return envs.from_gymnax(*gymnax.make(name))
    except ValueError as error:
        raise UsageError(f"gymnax: {error}") from error


def _brax(name: str) -> Environment:
    brax = import_extra("brax.envs", "brax")
    if name not in brax._envs:
        raise UsageError(
            f"brax has no environment {name!r}; it has {', '.join(sorted(brax._envs))}"
        )
    return envs.from_brax(brax.get_environment(name, backend="spring"), max_steps=1000)


def _playground(name: str) -> Environment:
    registry = import_extra("mujoco_playground", "playground").registry
    if name not in registry.ALL_ENVS:
        raise UsageError(f"the playground has no environment {name!r}")
    # The default physics is for GPUs only.
    env = registry.load(name, config_overrides={"impl": "jax"})
    return envs.from_brax(env, max_steps=registry.get_default_config(name).episode_length)


OURS: dict[str, Callable[[], Environment]] = {
    "cart_pole": envs.cart_pole,
    "pendulum": envs.pendulum,
    "point_maze": envs.point_maze,
    "bandit_2": lambda: envs.bandit(2),
    "bandit_10": lambda: envs.bandit(10),
    "recall": envs.recall,
    "bandit_trials": envs.bandit_trials,
    "bandit_trials_100": lambda: envs.bandit_trials(num_pulls=100),
    "bandit_trials_untold": lambda: envs.bandit_trials(tells=False),
    "goal_trials": envs.goal_trials,
    "goal_trials_untold": lambda: envs.goal_trials(tells=False),
}
PACKAGES = {"gymnax": _gymnax, "brax": _brax, "playground": _playground}


def make(name: str) -> Environment:
    """The environment called `name`, which `check_env` finds sound.

    Raises:
      UsageError: no such environment, its package is not installed, or `check_env` finds a fault.
    """
    package, colon, rest = name.partition(":")
    if not colon and name not in OURS:
        raise UsageError(
            f"env={name!r} is unknown; ours are {', '.join(OURS)}, others are written "
            f"{', '.join(f'{p}:NAME' for p in PACKAGES)} or, a function that makes your own, "
            "module:function"
        )
    try:
        if package in PACKAGES:
            env = PACKAGES[package](rest)
        else:
            env = (import_function(name, "env") if colon else OURS[name])()
        envs.check_env(env)
    except ValueError as error:
        raise UsageError(f"env={name!r}: {error}") from error
    return env
