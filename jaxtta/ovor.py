"""OVOR: classes learned task after task with one prompt, and no image of earlier tasks is kept.

A vision transformer stays as it is. What learns is one prompt, shared by all tasks, and a linear
head over all classes. For every task: 1. `prompt_phase`: cross-entropy among the classes of the
task trains both. 2. `ovor`: the head alone goes on with the features of the task, and with
`virtual_outliers` just outside of them. The energy E = -logsumexp of the task's logits is drawn
below -15 at features and above -3 at outliers, so that a task's part of the head is sure of its own
images and says little about others. Images are classified among all classes seen so far.

Both phases use the part of the head of their task only, so that later prompts do not depend on
whether there was a second phase.

References:
  Huang, Chen and Hsu, OVOR: OnePrompt with Virtual Outlier Regularization for Rehearsal-Free
  Class-Incremental Learning, ICLR 2024, arXiv 2402.04129. Official code: jpmorganchase/ovor.
  Tao, Du, Zhu and Li, Non-Parametric Outlier Synthesis, ICLR 2023.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel
from jaxtrain.core import Core, Held, StepOutput
from jaxtrain.known_numbers import check_whole
from jaxtrain.nets.two_tower import unit
from jaxtta.prompts import Network


class Head(NamedTuple):
    """The linear head: `kernel` `[F, C]` and `bias` `[C]`."""

    kernel: Any
    bias: Any


class Learned(NamedTuple):
    """What learns, and what the optimiser keeps of it: `prompts`, any pytree, and `head`."""

    prompts: Any
    head: Any


class OvorState(NamedTuple):
    """State of both phases.

    Attributes:
      params: `Learned`.
      opt_state: of the optimiser, for each of the two by itself.
      weights: of the network, `Held`.
      task: which task is learned, `[]`, int32.
    """

    params: Learned
    opt_state: Learned
    weights: Held
    task: Array


def new_head(key: Array, size: int, num_classes: int) -> Head:
    """A linear layer as PyTorch draws it, uniform up to 1 / sqrt(size)."""
    reach = size**-0.5
    draw = lambda k, *shape: jax.random.uniform(k, shape, minval=-reach, maxval=reach)
    keys = jax.random.split(key)
    return Head(draw(keys[0], size, num_classes), draw(keys[1], num_classes))


def logits_of(
    head: Head, features: Array, task: Array, classes_per_task: int, *, seen: bool = False
) -> Array:
    """Logits `[B, C]`, -inf for the classes of other tasks.

    Args:
      head: over all classes; class c belongs to the task c // classes_per_task.
      features: `[B, F]`.
      task: `[]`.
      classes_per_task: as many in every task.
      seen: keeps those of earlier tasks too, as images are classified.
    """
    owner = jnp.arange(len(head.bias)) // classes_per_task
    kept = owner <= task if seen else owner == task
    logits = features @ head.kernel + head.bias[None]
    return jnp.where(kept[None], logits, -jnp.inf)


def energy_loss(inside: Array, outside: Array, low: ArrayLike, high: ArrayLike) -> Array:
    """Huber losses of what is above `low` among energies inside `[B]`, and below `high` among those
    outside `[O]`; means over rows, added."""
    above, below = jax.nn.relu(inside - low), jax.nn.relu(high - outside)
    return optax.huber_loss(above).mean() + optax.huber_loss(below).mean()


# --- Outliers -------------------------------------------------------------------------------------


def neighbour_distance(queries: Array, points: Array, which: int, at_once: int = 1000) -> Array:
    """Squared distance of each query `[Q, F]` to its `which`-th nearest point of `[N, F]`, `[Q]`.

    A query that is one of the points is its own first neighbour.
    """
    squares = (points**2).sum(1)

    def one(x: Array) -> Array:
        distances = squares - 2 * points @ x + (x**2).sum()
        return -jax.lax.top_k(-distances, which)[0][-1]

    return jax.lax.map(one, queries, batch_size=min(at_once, len(queries)))


def virtual_outliers(
    key: Array,
    features: Array,
    number: int,
    *,
    num_boundary: int = 50,
    num_neighbors: int = 50,
    num_offsets: int = 600,
    scale: ArrayLike = 0.1,
    around_origin: bool = False,
) -> Array:
    """Points just outside of where the features lie, `[number, F]`.

    1. Boundary points are the features farthest from their `num_neighbors`-th neighbour. 2. Around
    each of them, candidates are normally distributed with deviation `scale`. 3. Outliers are the
    candidates farthest from their neighbour of that order among the features. Distances are those
    of vectors at length 1.

    Args:
      key: of the offsets.
      features: of one task, `[N, F]`; where there are fewer than asked for, all are boundary points
        and neighbours.
      number: outliers, 40 per class in the paper.
      num_boundary: boundary points.
      num_neighbors: order of the neighbour; a feature is the first neighbour of itself.
      num_offsets: candidates around each boundary point.
      scale: in the space of the features; 0 puts outliers on boundary points. May be traced.
      around_origin: as the released code, which leaves out the boundary points: the same offsets
        from the origin for each of them, whose distances are taken at their own lengths. The same
        few points are then outliers many times over.

    Raises:
      ValueError: numbers below 1, or more outliers than candidates.
    """
    size, width = features.shape
    boundary, which = min(num_boundary, size), min(num_neighbors, size)
    check_whole(1, 2**20, num_boundary=boundary, num_neighbors=which, num_offsets=num_offsets)
    check_whole(1, boundary * num_offsets, number=number)
    points = unit(features)
    far = neighbour_distance(points, points, which)
    edge = features[jax.lax.top_k(far, boundary)[1]]
    if around_origin:
        offsets = scale * jax.random.normal(key, (num_offsets, width))
        candidates = queries = jnp.tile(offsets, (boundary, 1))
    else:
        offsets = scale * jax.random.normal(key, (boundary, num_offsets, width))
        candidates = (edge[:, None] + offsets).reshape(-1, width)
        queries = unit(candidates)
    distance = neighbour_distance(queries, points, which)
    return candidates[jax.lax.top_k(distance, number)[1]]


# --- The two phases -------------------------------------------------------------------------------


def quarter_cosine(rate: ArrayLike, num_epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """rate cos(0.495 pi e / (num_epochs - 1)) in epoch e of a task, both phases together."""

    def schedule(count: ArrayLike) -> Array:
        epoch = jnp.minimum(jnp.asarray(count) // steps_per_epoch, num_epochs - 1)
        return jnp.multiply(rate, jnp.cos(0.495 * jnp.pi * epoch / max(num_epochs - 1, 1)))

    return schedule


def _phase(
    loss: Callable[[Learned, OvorState, Any], Any],
    optimizer: optax.GradientTransformation,
    learning: tuple[str, ...],
    axis_name: parallel.AxisName | None,
) -> Core:
    """One step of the parts that are learning; the others and their moments stay."""

    def init(weights: Any, prompts: Any, head: Head, task: ArrayLike = 0) -> OvorState:
        params, held = jax.tree.map(jnp.copy, (Learned(prompts, head), Held(weights)))
        moments = jax.tree.map(jnp.copy, Learned(*map(optimizer.init, params)))
        return OvorState(params, moments, held, jnp.array(task, jnp.int32))

    def update(state: OvorState, batch: Any, key: Array) -> tuple[OvorState, StepOutput]:
        of_shard = lambda params: loss(params, state, batch)
        step = parallel.value_and_grad(of_shard, axis_name, has_aux=True)
        (value, metrics), grads = step(state.params)
        params, moments = state.params, state.opt_state
        for name in learning:
            old, kept, slope = (getattr(x, name) for x in (params, moments, grads))
            updates, new = optimizer.update(slope, kept, old)
            params = params._replace(**{name: optax.apply_updates(old, updates)})
            moments = moments._replace(**{name: new})
        state = state._replace(params=params, opt_state=moments)
        return state, StepOutput({"loss": value} | metrics)

    return Core(init, update)


def _parts(batch: Any, *names: str) -> list[Array]:
    if not isinstance(batch, dict) or set(batch) != set(names):
        given = sorted(batch) if isinstance(batch, dict) else f"a {type(batch)}"
        raise ValueError(f"this phase takes a dict of {', '.join(names)}, but got {given}.")
    return [batch[name] for name in names]


def _cross_entropy(logits: Array, labels: Array) -> tuple[Array, dict[str, Array]]:
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    right = logits.argmax(1) == labels
    return losses.mean(), {"accuracy": right.mean(dtype=jnp.float32)}


def prompt_phase(
    network: Network,
    optimizer: optax.GradientTransformation,
    *,
    classes_per_task: int,
    axis_name: parallel.AxisName | None = None,
) -> Core:
    """The first phase of a task: prompts and head learn its images.

    Args:
      network: `one_prompt` or `prompt_pool` of a transformer, or another.
      optimizer: Adam 1e-3 with the rates of `quarter_cosine` in the paper. Weight decay would move
        the parts of the head of other tasks.
      classes_per_task: class c belongs to the task c // classes_per_task.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(weights, prompts, head, task)`, which begins a task, the optimiser anew.
      Batches are dicts of `inputs` `[B, ...]` and `labels` `[B]`, all of that task. Metrics:
      `loss`, `accuracy` among the classes of the task, `pull`.

    Raises:
      ValueError: `classes_per_task` below 1, or (when called) another batch.
    """
    check_whole(1, 2**20, classes_per_task=classes_per_task)

    def loss(params: Learned, state: OvorState, batch: Any) -> Any:
        inputs, labels = _parts(batch, "inputs", "labels")
        features, pull = network(state.weights.arrays, params.prompts, inputs, state.task)
        logits = logits_of(params.head, features, state.task, classes_per_task)
        value, metrics = _cross_entropy(logits, labels)
        return value + pull.mean(), metrics | {"pull": pull.mean()}

    return _phase(loss, optimizer, ("prompts", "head"), axis_name)


def ovor(
    optimizer: optax.GradientTransformation,
    *,
    classes_per_task: int,
    weight: ArrayLike = 0.1,
    low: ArrayLike = -15.0,
    high: ArrayLike = -3.0,
    axis_name: parallel.AxisName | None = None,
) -> Core:
    """The second phase of a task: its part of the head learns where the task ends.

    Args:
      optimizer: that of the first phase, whose state of the head goes on.
      classes_per_task: as in `prompt_phase`.
      weight: of `energy_loss` beside the cross-entropy; 0 only goes on training. May be traced.
      low, high: of `energy_loss`; may be traced.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with the `init` of the first phase, whose states it takes over. Batches are dicts of
      `features` `[B, F]` and `labels` `[B]` of the task, and `outliers` `[O, F]`. Metrics:
      `loss`, `accuracy`, and the mean energies `inside` and `outside`.

    Raises:
      ValueError: `classes_per_task` below 1, or (when called) another batch.
    """
    check_whole(1, 2**20, classes_per_task=classes_per_task)

    def loss(params: Learned, state: OvorState, batch: Any) -> Any:
        features, labels, outliers = _parts(batch, "features", "labels", "outliers")
        asked = lambda x: logits_of(params.head, x, state.task, classes_per_task)
        logits = asked(features)
        inside, outside = (-jax.nn.logsumexp(x, axis=1) for x in (logits, asked(outliers)))
        value, metrics = _cross_entropy(logits, labels)
        metrics |= {"inside": inside.mean(), "outside": outside.mean()}
        return value + weight * energy_loss(inside, outside, low, high), metrics

    return _phase(loss, optimizer, ("head",), axis_name)
