"""Meta-training of LPO and TA-LPO: PPO whose drift is evolved.

    core = evolution(
        lambda key: zero_weights(temporal=True),
        each(fitness_of_drift(build, num_workers=64, horizon=100)),
        decaying_adam(0.03, 0.99, 1e-3), num_pairs=32, sigma=0.03, shape=centred_rank)

References:
  As in `drift.py`; settings of AlexGoldie/learn-rl-algorithms. For TA-LPO n is the index of the
  rollout, constant within its epochs (whether the authors count mini-batches is not confirmed).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from jaxrl.drift import Drift, DriftWeights, learned
from jaxtrain.core import Core
from jaxtrain.parallel import mark_varying_like
from jaxtrain.schedules.checks import check_counts


def learning_curve(
    core: Core, key_init: Array, key_run: Array, num_workers: int, num_updates: int
) -> Array:
    """Mean episode return after every update of a training from scratch, `[num_updates]`.

    Args:
      core: from `ppo` or `a2c`.
      key_init: makes the agent.
      key_run: makes its rollouts; update i uses `fold_in(key_run, i)`.
      num_workers: of the core.
      num_updates: length of the training.

    Raises:
      ValueError: no workers or updates.
    """
    check_counts(num_workers=num_workers, num_updates=num_updates)
    places = jnp.arange(num_workers)

    def one(state: object, i: Array) -> tuple[object, Array]:
        state, out = core.update(state, places, jax.random.fold_in(key_run, i))
        return state, out.metrics["episode_return"]

    start = mark_varying_like(core.init(key_init), (key_init, key_run))
    return jax.lax.scan(one, start, jnp.arange(num_updates))[1]


def fitness_of_drift(
    build: Callable[[Drift], Core], *, num_workers: int, horizon: int, window: int = 5
) -> Callable[[DriftWeights, Array, Array], Array]:
    """Fitness for `evolution.each`: mean episode return over the last updates of a training.

    Args:
      build: makes the learner of a drift, e.g. `lambda d: ppo(..., drift=d, horizon=horizon)`.
      num_workers: of that learner.
      horizon: N, updates of the training.
      window: last updates that count, all of a training that is shorter.

    Raises:
      ValueError: a number below 1.
    """
    check_counts(num_workers=num_workers, horizon=horizon, window=window)

    def fitness(weights: DriftWeights, key_task: Array, key_run: Array) -> Array:
        # The task of a pair is its initial agent.
        core = build(learned(weights))
        curve = learning_curve(core, key_task, key_run, num_workers, horizon)
        return curve[-window:].mean()

    return fitness
