"""What is wrong with an environment, in a sentence, before anything is compiled."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.envs.environment import Box, Discrete, Environment, Step


def check_env(env: Any, params: Any = None) -> None:
    """Refuses an environment that rollouts could not use, or would use wrongly.

    Traces `reset` and one `step` and looks at shapes and types; nothing is computed. What it cannot
    see is whether `step` begins a new episode by itself: `step` must return the last observation of
    an episode, and `step_and_reset` begins the next one. (`from_brax` refuses the wrappers that do
    otherwise by their names.)

    Args:
      env: to be an `Environment`.
      params: of the environment; None for its default ones.

    Raises:
      ValueError: it is no `Environment`; its action space is impossible; `reset` or `step` cannot
        be traced or returns another form; the reward is not one floating-point number; `terminated`
        or `truncated` is missing or not one bool; observation or state change their structure,
        shapes or kind of number from the reset to a step.
    """
    if not isinstance(env, Environment):
        raise ValueError(
            "an environment is jaxrl.envs.Environment(reset, step, action, params), but this is a "
            f"{type(env).__name__}; from_gymnax and from_brax make one of another package's."
        )
    action = _action(env.action)
    params = env.params if params is None else params
    key = jax.eval_shape(lambda: jax.random.key(0))
    start = _traced("reset(key, params)", env.reset, key, params)
    if not (isinstance(start, (tuple, list)) and len(start) == 2):
        raise ValueError(f"reset must return (observation, state), but returns {_form(start)}.")
    observation, state = start
    step = _traced("step(key, state, action, params)", env.step, key, state, action, params)
    if not isinstance(step, Step):
        raise ValueError(
            "step must return jaxrl.envs.Step(observation, state, reward, terminated, truncated, "
            f"info), but returns {_form(step)}; a single flag done does not say whether an episode "
            "terminated or was cut by a time limit."
        )
    _check_number("reward", step.reward, jnp.floating, "a float32")
    for name, meaning in (
        ("terminated", "the episode ended in a state without a future"),
        ("truncated", "the episode was cut, usually by a time limit"),
    ):
        flag = getattr(step, name)
        if flag is None:
            raise ValueError(f"step gives no `{name}`; it is one bool, True where {meaning}.")
        _check_number(name, flag, np.bool_, f"a bool, True where {meaning}")
    if not isinstance(step.info, dict):
        raise ValueError(f"info must be a dict of arrays, but step returns {_form(step.info)}.")
    _check_same("observation", observation, step.observation)
    _check_same("state", state, step.state)


def _action(space: Any) -> jax.ShapeDtypeStruct:
    """Shape and type of an action."""
    if isinstance(space, Discrete):
        if space.num_actions < 1:
            raise ValueError(f"{space} has no actions; give at least one.")
        return jax.ShapeDtypeStruct((), jnp.int32)
    if isinstance(space, Box):
        if not -np.inf < space.low < space.high < np.inf:
            raise ValueError(f"{space} must have finite bounds, the lower one first.")
        return jax.ShapeDtypeStruct(tuple(space.shape), jnp.float32)
    raise ValueError(f"action must be jaxrl.envs.Discrete or Box, but is a {type(space).__name__}.")


def _traced(call: str, fun: Any, *args: Any) -> Any:
    try:
        return jax.eval_shape(fun, *args)
    except Exception as error:
        said = str(error).partition("\n")[0]
        raise ValueError(f"{call} cannot be traced: {type(error).__name__}: {said}") from error


def _form(value: Any) -> str:
    if isinstance(value, jax.ShapeDtypeStruct):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def _check_number(name: str, value: Any, kind: Any, wanted: str) -> None:
    is_array = isinstance(value, jax.ShapeDtypeStruct)
    if not is_array or value.shape != () or not jnp.issubdtype(value.dtype, kind):
        raise ValueError(f"{name} must be {wanted}, of shape [], but step returns {_form(value)}.")


def _check_same(name: str, start: Any, after: Any) -> None:
    """Structure, shapes and kinds of numbers; their width may differ, and is that of the start."""
    before, behind = (str(jax.tree.structure(x)) for x in (start, after))
    if before != behind:
        raise ValueError(
            f"the {name} has structure {before} at the reset but {behind} after a step; return the "
            "same one."
        )
    pairs = zip(jax.tree_util.tree_leaves_with_path(start), jax.tree.leaves(after), strict=True)
    for (path, x), y in pairs:
        kinds = (jnp.floating, jnp.integer)
        alike = any(jnp.issubdtype(x.dtype, k) and jnp.issubdtype(y.dtype, k) for k in kinds)
        if x.shape != y.shape or not (x.dtype == y.dtype or alike):
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)} is {_form(x)} at the reset but {_form(y)} "
                "after a step; loops need one type."
            )
