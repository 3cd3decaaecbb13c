"""Adaptive blocks between the stages of a network, driven by a learned consistency: ITTA.

The consistency is that of two passes, one of which has the style (mean and deviation per channel)
of its features mixed with that of another image. `training` learns, on source domains, how to
measure it; `itta` lowers it at test time.

References:
  Chen et al., Improved Test-Time Adaptation for Domain Generalization, CVPR 2023. Official code:
  liangchen527/ITTA.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel, trees
from jaxtrain.core import Core, Held, StepOutput, is_held
from jaxtrain.nets.classifier import ClassifierFn, classifier
from jaxtrain.nets.norm import SOURCE, Norm
from jaxtta import adaptation, batches, draws
from jaxtta.adaptation import AdaptState
from jaxtta.images.changes.mixstyle import Mixing, draw_mixing, mixed_style
from jaxtta.images.source_features import features_of

AxisName = parallel.AxisName
StagedFn = ClassifierFn
"""A `ClassifierFn` with one more argument `after`: `(k, x) -> x`, called on the output of stage
k = 0, 1, ..., whose result goes on in its place."""


def staged(module: nn.Module) -> StagedFn:
    """A Linen network whose stages are its direct submodules `stage1`, `stage2`, ..."""
    plain = classifier(module)

    def apply(
        params: Any, model_state: Any, inputs: Array, *, after: Any = None, **options: Any
    ) -> Any:
        def change(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            x = call(*args, **kwargs)
            path, number = context.module.path, (context.module.name or "").removeprefix("stage")
            is_stage = len(path) == 1 and path[0].startswith("stage") and number.isdecimal()
            if after is None or not is_stage or context.method_name != "__call__":
                return x
            return after(int(number) - 1, x)

        with nn.intercept_methods(change):
            return plain(params, model_state, inputs, **options)

    return apply


class Chain(NamedTuple):
    """Elementwise affine layers with ReLU in between: `scale` and `bias`, `[depth, ...]`."""

    scale: Array
    bias: Array


def identity_chain(depth: int, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Chain:
    """Layers that change no number that is not negative."""
    return Chain(jnp.ones((depth, *shape), dtype), jnp.zeros((depth, *shape), dtype))


def run_chain(chain: Chain, x: Array) -> Array:
    """Applies the layers to every row, `[B, ...]`; the last one has no ReLU behind it."""
    depth = len(chain.scale)
    for i in range(depth):
        x = chain.scale[i][None] * x + chain.bias[i][None]
        x = jax.nn.relu(x) if i < depth - 1 else x
    return x


# --- Two passes -----------------------------------------------------------------------------------


def _two_passes(
    apply: Callable[..., Any],
    inputs: Array,
    mixing: Mixing,
    block: Callable[[int, Array], Array],
    axis_name: AxisName | None,
) -> tuple[Any, Any]:
    """Results of the plain pass and of the one with mixed styles, blocks after every stage."""

    def with_style(k: int, x: Array) -> Array:
        if k < 2:
            x = jnp.where(mixing.stage == k, mixed_style(x, mixing, axis_name), x)
        return block(k, x)

    return apply(inputs, after=block)[0], apply(inputs, after=with_style)[0]


def _inconsistency(
    head: Chain, plain: Any, mixed: Any, mask: Array, axis_name: AxisName | None
) -> Array:
    """Mean over rows and features of f_w(z' - z)^2, `[]`."""
    difference = features_of(mixed, "ITTA") - features_of(plain, "ITTA")
    return parallel.masked_mean((run_chain(head, difference) ** 2).mean(-1), mask, axis_name)


def _shapes(apply_fn: StagedFn, params: Any, model_state: Any, image: tuple[int, ...]) -> Any:
    """Shapes of the stages' outputs and of the features, without the batch.

    Raises:
      ValueError: fewer than two stages, or no features.
    """
    stages: dict[int, tuple[int, ...]] = {}

    def after(k: int, x: Array) -> Array:
        stages[k] = x.shape[1:]
        return x

    run = lambda x: apply_fn(params, model_state, x, norm=SOURCE, mask=None, after=after)[0]
    dtype = jnp.result_type(*jax.tree.leaves(params))
    found = jax.eval_shape(run, jax.ShapeDtypeStruct((1, *image), dtype))
    if sorted(stages) != list(range(len(stages))) or len(stages) < 2:
        raise ValueError(
            f"ITTA works behind the stages of a network, at least two of them, but found "
            f"{sorted(stages)}; `staged` looks for submodules stage1, stage2, ..."
        )
    return [stages[k] for k in range(len(stages))], features_of(found, "ITTA").shape[1], dtype


# --- Test time ------------------------------------------------------------------------------------


def itta(
    apply_fn: StagedFn,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    *,
    depth: int = 5,
    weight: ArrayLike = 1e-6,
    norm: Norm = SOURCE,
    axis_name: AxisName | None = None,
) -> Core:
    """ITTA: one step of adaptive blocks on the learned consistency, then the prediction.

    1. A block of `depth` elementwise affine layers [H, W, C] with ReLU in between stands behind
    every stage, the identity on outputs that are not negative. 2. z and z' are features of a plain
    pass and of one in which, before the first or the second block, styles are mixed. 3. One step of
    the blocks, and of nothing else, on weight * mean f_w(z' - z)^2. 4. The same batch is predicted
    with the new blocks.

    Args:
      apply_fn: the network, from `staged`.
      optimizer: of the blocks; Adam 5e-6, a tenth of the rate of training.
      image_shape: `(H, W, C)`; blocks belong to one size of image.
      depth: layers of a block.
      weight: 1e-6, and 0.1 for DomainNet. Under Adam it acts through epsilon only; where weighted
        gradients are far below 1e-8, steps next to 1 round to nothing in float32. May be traced.
      norm: which batch statistics are used; batch norm is frozen in the official code.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(params, model_state, head=None)`: f_w from `training`, or the identity, the
      naive consistency. Its state's `params` are the blocks, and its update takes a key or
      `Mixing`, as `draw_mixing` makes it. Scored: logits after the step.
      Metrics: `loss` (before the weight), `num_selected`, `num_nonfinite`, `did_update`, `stage`.
      Without a row that counts nothing moves.

    Raises:
      ValueError: (in `init`) a network without two stages or without features.

    Note:
      Styles come from the batch: with one image z' = z and nothing is learned; the official
      evaluation takes batches of one, where only rounding is left of the difference. It also never
      resets the blocks; here `evaluation` does, per domain if the stream says so. Networks whose
      stages end without ReLU (pre-activation) are changed by the blocks from the start.
    """

    def init(params: Any, model_state: Any, head: Chain | None = None) -> AdaptState:
        shapes, size, dtype = _shapes(apply_fn, params, model_state, image_shape)
        if head is not None and head.scale.shape[1:] != (size,):
            raise ValueError(
                f"the consistency head is for features of shape {head.scale.shape[1:]} but the "
                f"network's have length {size}; train it with this network."
            )
        blocks = tuple(identity_chain(depth, shape, dtype) for shape in shapes)
        copied = adaptation.copied
        known = () if head is None else Held(copied(head))
        return AdaptState(
            blocks,
            copied(optimizer.init(blocks)),
            copied(params),
            copied(model_state),
            (),
            (),
            known,
        )

    def update(state: AdaptState, batch: Any, key: Array | Mixing) -> tuple[AdaptState, StepOutput]:
        inputs, rows, valid = batches.given(batch)
        mixing = draws.either(key, Mixing, lambda key: draw_mixing(key, valid, axis_name))
        apply = lambda x, after: apply_fn(
            state.frozen, state.model_state, x, norm=norm, mask=valid, after=after
        )

        def loss(blocks: tuple[Chain, ...]) -> tuple[Array, tuple[Array, Array]]:
            block = lambda k, x: run_chain(blocks[k], x)
            plain, mixed = _two_passes(apply, inputs, mixing, block, axis_name)
            if is_held(state.known):
                measure = state.known.arrays
            else:
                measure = identity_chain(1, plain.features.shape[1:], plain.features.dtype)
            counted, _ = batches.sound(valid, plain.logits)
            value = _inconsistency(measure, plain, mixed, counted, axis_name)
            return jnp.asarray(weight) * value, (jnp.asarray(value, jnp.float32), counted)

        (_, (value, counted)), grads = parallel.local_value_and_grad(loss, axis_name, has_aux=True)(
            state.params
        )
        value, grads = parallel.pmean((value, grads), axis_name)
        number = adaptation.count(counted, axis_name)
        state, moved = adaptation.descend(state, value, grads, optimizer, number > 0)
        found, _ = apply(inputs, lambda k, x: run_chain(state.params[k], x))
        metrics = {
            "loss": value,
            "num_selected": number,
            "num_nonfinite": adaptation.count(rows & ~counted, axis_name),
            "did_update": moved,
            "stage": mixing.stage,
        }
        return state, adaptation.report(metrics, found.logits, counted & moved)

    return Core(init, update)


# --- Before deployment ----------------------------------------------------------------------------


class TrainState(NamedTuple):
    """Network, consistency head, and the states of their optimisers."""

    params: Any
    opt_state: Any
    head: Chain
    head_opt_state: Any
    model_state: Any


def _standardised(tree: Any) -> Array:
    """All numbers as a vector, less their mean, over their deviation; these two are constants."""
    flat = jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)])
    mean, deviation = jax.lax.stop_gradient((flat.mean(), flat.std(ddof=1)))
    return (flat - mean) / jnp.maximum(deviation, jnp.finfo(flat.dtype).tiny)


class TrainingDraws(NamedTuple):
    """Mixed styles of the network's step and of the head's."""

    network: Mixing
    head: Mixing


def training_draws(key: Array, mask: Array, axis_name: AxisName | None = None) -> TrainingDraws:
    """The draws that `training` makes of the key of an update: `draw_mixing` of two halves.

    Args:
      key: of the update.
      mask: rows that count, `[B]`, bool.
      axis_name: mapped device axis, `None` for global arrays.
    """
    return TrainingDraws(*(draw_mixing(k, mask, axis_name) for k in jax.random.split(key)))


def training(
    apply_fn: StagedFn,
    optimizer: optax.GradientTransformation,
    head_optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    *,
    depth: int = 10,
    alignment: ArrayLike = 0.1,
    norm: Norm = SOURCE,
    axis_name: AxisName | None = None,
) -> Core:
    """Training on source domains: the network, and a measure of consistency aligned with its task.

    With logits and features (l, z) of a plain pass and (l', z') of one with mixed styles:
    1. one step of the network on CE(l) + CE(l') + mean f_w(z' - z)^2. 2. With new draws and the new
    parameters, g_w and g_y, the gradients of the consistency and of the two cross-entropies with
    respect to everything below the head, flattened and standardised; one step of w alone on
    alignment * mean (g_w - g_y)^2, g_y fixed: a gradient of a gradient.

    Args:
      apply_fn: the network, from `staged`; its layer `head` is the classifier.
      optimizer: of the network; Adam 5e-5. `optax.set_to_zero()` leaves it as it is and trains w
        alone, for a network that was trained otherwise (not in the paper).
      head_optimizer: of w; Adam 5e-6.
      image_shape: `(H, W, C)`.
      depth: layers of f_w, each with as many numbers as there are features.
      alignment: may be traced.
      norm: which batch statistics are used; batch norm is frozen in the official code.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(params, model_state)` on batches `{"inputs", "labels"}`, officially 32 of
      each domain. Its state's `head` is f_w, and its update takes a key or `TrainingDraws`, as
      `training_draws` makes them. Metrics: `loss`, `consistency`, `misalignment`,
      `num_nonfinite` (rows that were left out).

    Raises:
      ValueError: (in `init`) as for `itta`; (when called) a batch without labels.
    """

    def init(params: Any, model_state: Any) -> TrainState:
        _, size, dtype = _shapes(apply_fn, params, model_state, image_shape)
        copied = lambda tree: jax.tree.map(jnp.copy, tree)
        head = identity_chain(depth, (size,), dtype)
        return TrainState(
            copied(params),
            copied(optimizer.init(params)),
            head,
            copied(head_optimizer.init(head)),
            copied(model_state),
        )

    def update(
        state: TrainState, batch: Any, key: Array | TrainingDraws
    ) -> tuple[TrainState, StepOutput]:
        if not hasattr(batch, "get") or {"inputs", "labels"} - set(batch):
            raise ValueError("training takes batches with 'inputs' and 'labels'; one is missing.")
        inputs, every = batches.finite_images(batch["inputs"])
        labels = batch["labels"]

        def losses(params: Any, head: Chain, mixing: Mixing) -> tuple[Array, Array, Array]:
            apply = lambda x, after: apply_fn(
                params, state.model_state, x, norm=norm, mask=every, after=after
            )
            plain, mixed = _two_passes(apply, inputs, mixing, lambda k, x: x, axis_name)
            each = sum(
                optax.softmax_cross_entropy_with_integer_labels(found.logits, labels)
                for found in (plain, mixed)
            )
            task = parallel.masked_mean(each, every, axis_name)
            return task, _inconsistency(head, plain, mixed, every, axis_name), plain.logits

        def main(params: Any) -> tuple[Array, Any]:
            task, consistency, logits = losses(params, state.head, now)
            return task + consistency, (consistency, logits)

        now, then = draws.either(
            key, TrainingDraws, lambda key: training_draws(key, every, axis_name)
        )
        (value, (consistency, logits)), grads = parallel.local_value_and_grad(
            main, axis_name, has_aux=True
        )(state.params)
        value, consistency, grads = parallel.pmean((value, consistency, grads), axis_name)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        below, above = trees.partition(params, lambda names: names[0] != "head")

        def misalignment(head: Chain) -> Array:
            part = lambda i: lambda p: losses(trees.merge(p, above), head, then)[i]
            of = lambda i: parallel.pmean(
                parallel.local_value_and_grad(part(i), axis_name)(below)[1], axis_name
            )
            fixed = jax.lax.stop_gradient(_standardised(of(0)))
            return jnp.asarray(alignment) * ((_standardised(of(1)) - fixed) ** 2).mean()

        apart, head_grads = parallel.value_and_grad(misalignment, axis_name)(state.head)
        head_updates, head_opt_state = head_optimizer.update(
            head_grads, state.head_opt_state, state.head
        )
        head = optax.apply_updates(state.head, head_updates)
        metrics = {
            "loss": value,
            "consistency": consistency,
            "misalignment": apart,
            "num_nonfinite": adaptation.count(~every, axis_name),
        }
        after = TrainState(params, opt_state, head, head_opt_state, state.model_state)
        return after, adaptation.report(metrics, logits, every)

    return Core(init, update)
