"""Environments as pure functions.

    env = cart_pole()
    observation, state = env.reset(key, env.params)
    step = step_and_reset(env, key_step, key_reset, state, action, env.params)

`check_env(env)` says in a sentence what is wrong with one of your own. See `environment.py` for the
interface, `adapters.py` for gymnax, brax and the MuJoCo playground.
"""

from typing import TYPE_CHECKING

from jaxtrain.faces import lazy

if TYPE_CHECKING:
    from jaxrl.envs.adapters import from_brax as from_brax
    from jaxrl.envs.adapters import from_gymnax as from_gymnax
    from jaxrl.envs.bandit import bandit as bandit
    from jaxrl.envs.bandit import sample_bandit as sample_bandit
    from jaxrl.envs.cart_pole import cart_pole as cart_pole
    from jaxrl.envs.check_env import check_env as check_env
    from jaxrl.envs.environment import Box as Box
    from jaxrl.envs.environment import Discrete as Discrete
    from jaxrl.envs.environment import Environment as Environment
    from jaxrl.envs.environment import Step as Step
    from jaxrl.envs.environment import step_and_reset as step_and_reset
    from jaxrl.envs.grid_levels import FAMILIES as FAMILIES
    from jaxrl.envs.grid_levels import sample_level as sample_level
    from jaxrl.envs.grid_levels import sample_lifetime as sample_lifetime
    from jaxrl.envs.grid_optimum import optimal_return as optimal_return
    from jaxrl.envs.grid_world import GridShape as GridShape
    from jaxrl.envs.grid_world import Level as Level
    from jaxrl.envs.grid_world import TabularObservation as TabularObservation
    from jaxrl.envs.grid_world import grid_world as grid_world
    from jaxrl.envs.ledge import ledge as ledge
    from jaxrl.envs.ledge import ledge_game as ledge_game
    from jaxrl.envs.pendulum import pendulum as pendulum
    from jaxrl.envs.point_maze import point_maze as point_maze
    from jaxrl.envs.pusher import pusher as pusher
    from jaxrl.envs.recall import recall as recall
    from jaxrl.envs.trials import bandit_trials as bandit_trials
    from jaxrl.envs.trials import goal_trials as goal_trials
    from jaxrl.envs.trials import trials as trials

lazy(__name__)
