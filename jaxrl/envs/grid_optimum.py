"""The best return a grid-world level allows, by value iteration over (cell, existing objects)."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxrl.envs.grid_world import NUM_ACTIONS, GridShape, Level, next_cell


def optimal_return(shape: GridShape, level: Level) -> Array:
    """Expected undiscounted return of the best policy within one episode.

    Backward induction over the level's `max_steps`:

        V_0 = 0
        V_{h+1}(c, S) = max_a  r(S, c') + (1 - p_end(S, c')) E_{S'} V_h(c', S'),   c' = next(c, a)

    with S the existing objects, r and p_end summed over those in c', and S' without the collected
    objects and with those that came back. Objects are independent, so the expectation is one
    two-state average per object instead of a sum over all pairs of subsets.

    Args:
      shape: array sizes; must be tabular.
      level: one level; vmap for several.

    Returns:
      V at the start, `[]`; at most 0 for a level without reachable reward.

    Raises:
      ValueError: objects of the level move, so that (cell, subset) is not the state.
    """
    if not shape.tabular:
        raise ValueError("the optimal return is defined for tabular levels only.")
    num_objects, num_cells = shape.max_objects, shape.max_size**2
    cells = jnp.arange(num_cells, dtype=jnp.int32)
    # Axis i of a table is whether object i exists, the last one is the cell.
    subsets, ones = (2,) * num_objects, (1,) * num_objects
    exists = jnp.indices(subsets).astype(bool)[..., None]
    here = level.object_used[:, None] & (level.object_cell[:, None] == cells[None])
    collected = exists & here.reshape(num_objects, *ones, num_cells)
    collected = collected.astype(jnp.float32)
    per_object = lambda numbers: jnp.tensordot(numbers[level.object_type], collected, 1)
    reward = per_object(level.reward)
    go_on = 1.0 - jnp.minimum(per_object(level.p_terminate), 1.0)
    back = jnp.where(level.object_used, level.p_respawn[level.object_type], 0.0)
    targets = jax.vmap(lambda a: jax.vmap(lambda c: next_cell(level, c, a))(cells))(
        jnp.arange(NUM_ACTIONS)
    )

    def expected(value: Array) -> Array:
        """E V(c', S') as a table over S before the step and c'."""
        for i in range(num_objects):
            absent, present = (jnp.take(value, k, axis=i) for k in (0, 1))
            in_cell = jnp.broadcast_to(here[i], present.shape)
            came_back = absent + back[i] * (present - absent)
            stayed = jnp.where(in_cell, absent, present)  # unless collected
            value = jnp.stack([came_back, stayed], axis=i)
        return value

    def backup(_: Array, value: Array) -> Array:
        entered = reward + go_on * expected(value)
        return entered[..., targets].max(axis=-2)

    value = jax.lax.fori_loop(0, level.max_steps, backup, jnp.zeros((*subsets, num_cells)))
    return value[(*jnp.unstack(level.object_used.astype(jnp.int32)), level.start)]
