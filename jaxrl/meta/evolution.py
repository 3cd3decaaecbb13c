r"""Antithetic evolution strategies (OpenES) on any pytree of parameters.

    eps_i ~ N(0, I), candidates mu + sigma eps_i and mu - sigma eps_i,        i = 1 .. num_pairs
    g = 1 / (pop sigma) sum_i (s_i+ - s_i-) eps_i,                            pop = 2 num_pairs
    mu <- optimiser ascent on g;  sigma <- max(sigma * sigma_decay, sigma_limit)

with s the shaped fitness. `evolution(...)` is a `Core`: `init(key) -> EvolutionState` and
`update(state, pairs, key)`, where the batch is the places of all pairs, `arange(num_pairs)`, or a
device's even share of them. Noise, task and run of a pair come from keys that belong to its place,
so every device makes its own noise twice (for the candidates, then for g) and never sends it; with
`pair_rank` the only communication of a generation is one sum of g and a few numbers.

References:
  Salimans et al., Evolution Strategies as a Scalable Alternative to Reinforcement Learning, arXiv
  1703.03864.
  Jackson et al., Discovering Temporally-Aware Reinforcement Learning Algorithms, arXiv 2402.05828
  (antithetic task sampling: both members of a pair meet the same task).
  Official code: EmptyJackson/groove (meta/train.py). There the second member wins a tie; here both
  get 0.5.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from jaxrl.rollout import check_places, put_workers
from jaxtrain.core import Core, StepOutput
from jaxtrain.parallel import AxisName, mark_varying, psum
from jaxtrain.schedules.checks import check_counts, check_rates, known

Shape = Callable[[Array], Array]  # fitness [pairs, 2] -> shaped fitness [pairs, 2]


class EvolutionState(NamedTuple):
    """State of `evolution`.

    Attributes:
      params: mu.
      opt_state: of the optimiser.
      sigma: standard deviation of the noise, `[]`.
      generation: generations done, `[]`, int32.
    """

    params: Any
    opt_state: Any
    sigma: Array
    generation: Array


class Pairs(NamedTuple):
    """Random numbers of antithetic pairs, every leaf `[pairs, ...]` of keys.

    Attributes:
      noise: makes eps, see `Candidates`.
      task: what both members meet: level, lifetime, initial agent.
      run: of each member's rollouts, `[pairs, 2]`; equal for both with common random numbers.
    """

    noise: Array
    task: Array
    run: Array


Candidates = Callable[[Array], Any]  # key of the noise -> both members, every leaf [2, ...]
Evaluate = Callable[[Candidates, Pairs], Array]  # -> fitness [pairs, 2]


# --- Fitness shaping ------------------------------------------------------------------------------


def _finite_or_worst(fitness: Array) -> Array:
    return jnp.where(jnp.isfinite(fitness), fitness, -jnp.inf)


def pair_rank(fitness: Array) -> Array:
    """1 for the better member of each pair, 0 for the other, 0.5 for both in a tie.

    Does not change when the fitness of a task is scaled, so tasks of any reward scale weigh the
    same.
    """
    fitness = _finite_or_worst(fitness)
    other = fitness[:, ::-1]
    return 0.5 * (fitness > other) + 0.5 * (fitness >= other)


def centred_rank(fitness: Array) -> Array:
    """Rank among all candidates from -0.5 (worst) to 0.5; ties share the mean of their ranks."""
    flat = _finite_or_worst(fitness).reshape(-1)
    below = (flat[None] < flat[:, None]).sum(1) + 0.5 * (flat[None] == flat[:, None]).sum(1) - 0.5
    return (below / (flat.size - 1) - 0.5).reshape(fitness.shape)


def z_score(fitness: Array) -> Array:
    """(fitness - mean) / standard deviation over all candidates."""
    good = jnp.isfinite(fitness)
    worst = jnp.min(jnp.where(good, fitness, jnp.inf))
    fitness = jnp.where(good, fitness, jnp.where(jnp.isfinite(worst), worst, 0.0))
    return (fitness - fitness.mean()) / (fitness.std() + 1e-8)


SHAPINGS: dict[str, Shape] = {
    "pair_rank": pair_rank,
    "centred_rank": centred_rank,
    "z_score": z_score,
}

# --- The strategy ---------------------------------------------------------------------------------


def decaying_adam(
    learning_rate: ArrayLike, decay: ArrayLike = 0.999, limit: ArrayLike = 1e-5
) -> optax.GradientTransformation:
    """Adam whose rate is max(learning_rate * decay^generation, limit).

    Not made by `jaxtrain.optimizers`, whose optimisers keep a scheduled rate in their state for a
    metric that evolution does not have.

    Raises:
      ValueError: a number is negative or not finite.
    """
    check_rates(learning_rate=learning_rate, decay=decay, limit=limit)
    schedule: Any = lambda count: jnp.maximum(learning_rate * decay**count, limit)
    return optax.adam(schedule)


def noise(key: Array, params: Any) -> Any:
    """eps ~ N(0, I) like `params`; the same again for the same key."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def each(fitness: Callable[[Any, Array, Array], Array], batch_size: int | None = None) -> Evaluate:
    """Evaluates every candidate by itself.

    Args:
      fitness: `(params, key_task, key_run) -> []`, larger is better.
      batch_size: pairs at a time; None for all at once.
    """

    def evaluate(candidates: Candidates, pairs: Pairs) -> Array:
        def of_pair(pair: Pairs) -> Array:
            return jax.vmap(fitness, (0, None, 0))(candidates(pair.noise), pair.task, pair.run)

        return jax.lax.map(of_pair, pairs, batch_size=batch_size or pairs.noise.shape[0])

    return evaluate


def evolution(
    init_params: Callable[[Array], Any],
    evaluate: Evaluate,
    optimizer: optax.GradientTransformation,
    *,
    num_pairs: int,
    sigma: ArrayLike = 0.1,
    sigma_decay: ArrayLike = 1.0,
    sigma_limit: ArrayLike = 0.0,
    shape: Shape = pair_rank,
    share_run_keys: bool = True,
    axis_name: AxisName | None = None,
) -> Core:
    """OpenES with antithetic pairs.

    Args:
      init_params: key -> mu at the start.
      evaluate: fitness of candidates, larger is better; `each(...)` makes one. A fitness that is
        not finite counts as the worst.
      optimizer: any Optax transformation, e.g. `decaying_adam(1e-2)`.
      num_pairs: pairs over all devices.
      sigma: standard deviation of the noise at the start.
      sigma_decay: factor per generation.
      sigma_limit: least sigma.
      shape: `pair_rank`, or `centred_rank` or `z_score`, which compare all candidates and cost one
        more (small) communication.
      share_run_keys: common random numbers: both members of a pair get the same key for their
        rollouts, which lowers the variance of their difference.
      axis_name: mapped device axis, None for global arrays.

    Returns:
      A core whose batch is pair places `[p]`, int32. Metrics: `fitness` (mean over candidates with
      a finite one), `fitness_std`, `num_failed` (not finite), `grad_norm` and `sigma`. Where all
      candidates failed nothing is known: the first two are NaN, and mu is moved by the optimiser's
      momentum alone. Outputs: fitness `[p, 2]`.

    Raises:
      ValueError: no pairs, or a sigma that is not positive; (when called) the batch is not the
        places of all pairs.
    """
    check_counts(num_pairs=num_pairs)
    if known(sigma) and not sigma > 0:  # type: ignore[operator]
        raise ValueError(f"sigma is {sigma}, but the noise of evolution must be above 0.")

    def init(key: Array) -> EvolutionState:
        params = init_params(key)
        state = EvolutionState(
            params, optimizer.init(params), jnp.asarray(sigma, jnp.float32), jnp.int32(0)
        )
        return jax.tree.map(jnp.copy, state)

    def update(
        state: EvolutionState, batch: Array, key: Array
    ) -> tuple[EvolutionState, StepOutput]:
        check_places(batch, "pairs", num_pairs, axis_name)

        def of_pair(place: Array) -> Pairs:
            key_noise, key_task, key_run = jax.random.split(jax.random.fold_in(key, place), 3)
            twice = (key_run, jax.random.clone(key_run))
            runs = jnp.stack(twice) if share_run_keys else jax.random.split(key_run)
            return Pairs(key_noise, key_task, runs)

        def candidates(key_noise: Array) -> Any:
            def members(mean: Array, eps: Array) -> Array:
                return jnp.stack([mean + state.sigma * eps, mean - state.sigma * eps])

            return jax.tree.map(members, state.params, noise(key_noise, state.params))

        pairs = jax.vmap(of_pair)(batch)
        fitness = evaluate(candidates, pairs)
        if shape is pair_rank:
            shaped = pair_rank(fitness)
        else:
            nothing = jnp.zeros((num_pairs, 2))
            shaped = shape(put_workers(nothing, batch, fitness, axis_name))[batch]
        weight = (shaped[:, 0] - shaped[:, 1]) / (2 * num_pairs * state.sigma)

        def add(total: Any, pair: tuple[Array, Array]) -> tuple[Any, None]:
            key_noise, w = pair
            eps = noise(key_noise, state.params)
            return jax.tree.map(lambda t, e: t + w * e, total, eps), None

        zeros = mark_varying(jax.tree.map(jnp.zeros_like, state.params), axis_name)
        gradient, _ = jax.lax.scan(add, zeros, (jax.random.clone(pairs.noise), weight))
        good = jnp.isfinite(fitness)
        kept = jnp.where(good, fitness, 0.0)
        numbers = (gradient, good.sum() * 1.0, kept.sum(), (kept**2).sum())
        vector, unravel = ravel_pytree(numbers)
        gradient, count, total, squares = unravel(psum(vector, axis_name))

        ascent = jax.tree.map(jnp.negative, gradient)
        updates, opt_state = optimizer.update(ascent, state.opt_state, state.params)
        mean = jnp.where(count > 0, total / jnp.maximum(count, 1.0), jnp.nan)
        metrics = {
            "fitness": mean,
            "fitness_std": jnp.sqrt(jnp.maximum(squares / jnp.maximum(count, 1.0) - mean**2, 0.0)),
            "num_failed": 2.0 * num_pairs - count,
            "grad_norm": optax.tree.norm(gradient),
            "sigma": state.sigma,
        }
        new_sigma = jnp.maximum(state.sigma * sigma_decay, sigma_limit)
        state = EvolutionState(
            optax.apply_updates(state.params, updates), opt_state, new_sigma, state.generation + 1
        )
        return state, StepOutput(metrics, fitness)

    return Core(init, update)
