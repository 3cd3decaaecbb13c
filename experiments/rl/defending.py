"""PROTECTED on the ledge: a bandit among policies that are not dominated, and the others beside it.

Parts of `experiments.control`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from jaxrl.control.protected import Attacked, defence, discover, periodic, switching
from jaxrl.envs.ledge import LedgeGame, episode_return, ledge_game
from jaxtrain.core import Core
from jaxtrain.host import cli, experiment, report
from jaxtrain.host.experiment import Finished, Results, Training
from jaxtrain.parallel import AxisName

TIES = 1e-3  # weight of the mean over attackers among policies that are equally good


def pool_of(name: str, payoff: np.ndarray) -> np.ndarray:
    """The policies to choose from, `[P]`, bool.

    Args:
      name: `discovered`: those that are not dominated; `all`; `natural`: the best one without an
        attack; `worst_case`: the one whose worst return is the best; of equals the best on average.
      payoff: `[P, A]`; attacker 0 does nothing.
    """
    if name == "discovered":
        return np.asarray(jax.jit(discover)(payoff).pool)
    if name == "all":
        return np.ones(len(payoff), bool)
    of_one = payoff[:, 0] if name == "natural" else payoff.min(1)
    of_one = of_one + TIES * payoff.mean(1)
    return np.arange(len(payoff)) == of_one.argmax()


def build_core(
    config: ConfigDict, game: LedgeGame, pool: np.ndarray, axis_name: AxisName | None = None
) -> Core:
    """The defenders; numbers of the config may be traced."""
    options = config.defence
    attacked: Attacked = periodic(options.period)
    if options.attacks == "switching":
        attacked = switching(options.period, options.chance)
    policies, attackers = jnp.asarray(game.policies), jnp.asarray(game.attackers)
    others = jnp.log(pool * 1.0)
    is_shuffled = options.feedback == "shuffled"

    def play(key: Array, chosen: Array, attacker: Array) -> Array:
        key_other, key_episode = jax.random.split(key)
        played = jax.random.categorical(key_other, others) if is_shuffled else chosen
        return episode_return(policies[played], attackers[attacker], key_episode)

    return defence(
        play,
        jnp.asarray(game.payoff),
        attacked,
        pool=jnp.asarray(pool),
        num_defenders=config.batch_size,
        num_rounds=config.num_steps,
        scale=options.scale,
        axis_name=axis_name,
    )


def build(config: ConfigDict, setup: cli.Setup) -> Training:
    """Plays, and says what was earned, what was possible, and which policies are still chosen."""
    game = ledge_game()
    found = game.payoff[pool_of("discovered", game.payoff)]
    kept = np.isclose(game.payoff[:, None], found, atol=1e-6).all(-1).any(1)  # or as good as one
    pool = pool_of(config.defence.pool, game.payoff)

    def watch(state: Any, step: int, key: Array) -> Results:
        share = state.bandit.chances @ (1.0 - kept)
        rounds = jnp.maximum(state.num_rounds, 1)[..., None]
        found = {
            "regret": state.regret,
            "mean_return": state.earned / rounds,
            "dominated": share,
        }
        return {name: jax.device_get(x.mean(-1)) for name, x in found.items()}

    def evaluate(run: Finished) -> Results:
        found = watch(run.state, -1, run.key)
        whole = jnp.broadcast_to(jnp.int32(pool.sum()), np.shape(found["regret"]))
        return found | {"num_policies": np.asarray(whole)}

    def draw(run: Finished, results: Results) -> None:
        experiment.show(results, digits=3)
        groups = report.group(report.read_trials(run.workdir))
        report.learning_curves(groups, "regret", run.workdir / "plots" / "regret.png")

    return Training(
        core=lambda config, axis_name: build_core(config, game, pool, axis_name),
        show=("return", "regret"),
        watch=watch,
        watched=("regret", "mean_return", "dominated"),
        evaluate=evaluate,
        report=draw,
    )
