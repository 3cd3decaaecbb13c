"""Low-rank and high-rank adapters whose weights follow the teacher's uncertainty: ViDA."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel, trees
from jaxtrain.core import Core, StepOutput
from jaxtrain.nets.classifier import Classified, ClassifierFn
from jaxtrain.nets.norm import BATCH, SOURCE, TRAIN, Norm
from jaxtrain.protocol import Scan
from jaxtta import adaptation, batches, draws
from jaxtta.adaptation import AdaptState
from jaxtta.check_apply import checked
from jaxtta.images.mean_teacher import (
    Augmentation,
    CottaDraws,
    cotta_draws,
    cross_entropy,
    restored,
    standard_augmentation,
)
from jaxtta.selection import Predicate

# --- Adapters -------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """A product of two matrices beside a linear layer: `down` `[in, rank]`, `up` `[rank, out]`."""

    down: Array
    up: Array


class Adapter(NamedTuple):
    """The pairs of one layer: y = W x + b + low U1 D1 x + high U2 D2 x, without biases."""

    low: Pair
    high: Pair


class Scales(NamedTuple):
    """Weights of the low-rank and the high-rank pairs, `[]` each, shared by all layers."""

    low: ArrayLike = 1.0
    high: ArrayLike = 1.0


def attention_kernels(path: tuple[str, ...]) -> bool:
    """Weights of all linear layers inside a module named `...attention...`."""
    return path[-1] == "kernel" and any("attention" in name for name in path[:-1])


def new_adapters(
    key: Array,
    params: Any,
    *,
    low_rank: int = 1,
    high_rank: int = 128,
    where: Predicate = attention_kernels,
) -> dict[str, Adapter]:
    """Adapters that change nothing yet: `up` is 0, `down` normal with deviation 1 / rank^2.

    Args:
      key: of the draws.
      params: of the network.
      low_rank, high_rank: 1 and 128 in the paper's ViT-B.
      where: which weights get one, by path. A convolution `[h, w, in, out]` counts as a linear
        layer with h w in inputs.

    Returns:
      The adapters by the name of their weight.

    Raises:
      ValueError: no weight is chosen, or a rank is below 1.
    """
    chosen, _ = trees.partition(params, where)
    names, leaves = trees.path_names(chosen), jax.tree.leaves(chosen)
    if not leaves or min(low_rank, high_rank) < 1:
        raise ValueError(
            f"{len(leaves)} weights are chosen for adapters of ranks {low_rank} and {high_rank}; "
            "the default takes linear layers inside modules named 'attention'. Pass where= for "
            "other networks, and ranks of at least 1."
        )

    def pair(key: Array, kernel: Array, rank: int) -> Pair:
        size = kernel.size // kernel.shape[-1]
        down = jax.random.normal(key, (size, rank), kernel.dtype) / rank**2
        return Pair(down, jnp.zeros((rank, kernel.shape[-1]), kernel.dtype))

    found = {}
    for i, (name, kernel) in enumerate(zip(names, leaves, strict=True)):
        keys = jax.random.split(jax.random.fold_in(key, i))
        found[name] = Adapter(pair(keys[0], kernel, low_rank), pair(keys[1], kernel, high_rank))
    return found


def merged(params: Any, adapters: dict[str, Adapter], scales: Scales | None = None) -> Any:
    """Parameters whose weights include their adapters: the same function without extra layers."""

    by_low, by_high = scales or Scales()

    def one(name: str, kernel: Array) -> Array:
        if name not in adapters:
            return kernel
        low, high = adapters[name]
        change = by_low * (low.down @ low.up) + by_high * (high.down @ high.up)
        return (kernel + change.reshape(kernel.shape)).astype(kernel.dtype)

    leaves, structure = jax.tree.flatten(params)
    return jax.tree.unflatten(structure, map(one, trees.path_names(params), leaves))


def with_adapters(apply_fn: ClassifierFn) -> ClassifierFn:
    """The network on parameters `{"network": ..., "adapters": ...}`, both scales 1."""

    def apply(
        params: Any,
        model_state: Any,
        inputs: Array,
        *,
        norm: Norm = SOURCE,
        mask: Array | None = None,
    ) -> tuple[Classified, Any]:
        whole = merged(params["network"], params["adapters"])
        return apply_fn(whole, model_state, inputs, norm=norm, mask=mask)

    return apply


class Pretrained(NamedTuple):
    """A network with adapters that were trained on the source."""

    params: Any
    model_state: Any
    adapters: dict[str, Adapter]


def pretrain(
    apply_fn: ClassifierFn,
    optimizer: optax.GradientTransformation,
    params: Any,
    model_state: Any,
    adapters: dict[str, Adapter],
    images: Array,
    labels: Array,
    *,
    norm: Norm = TRAIN,
    scan: Scan = jax.lax.scan,
) -> Pretrained:
    """Trains network and adapters together on labelled source images, a step per batch.

    Args:
      apply_fn: the network.
      optimizer: over both.
      params, model_state: of the source.
      adapters: from `new_adapters`.
      images: `[N, B, H, W, C]` in [0, 1].
      labels: `[N, B]`.
      norm: statistics, and their momentum.
      scan: runs the steps, see `jaxtrain.protocol.Scan`.
    """
    apply = with_adapters(apply_fn)

    def step(carry: Any, given: tuple[Array, Array]) -> tuple[Any, None]:
        part, stats, opt_state = carry

        def loss(part: Any) -> tuple[Array, Any]:
            found, new = apply(part, stats, given[0], norm=norm)
            each = optax.softmax_cross_entropy_with_integer_labels(found.logits, given[1])
            return each.mean(), new

        grads, stats = jax.grad(loss, has_aux=True)(part)
        updates, opt_state = optimizer.update(grads, opt_state, part)
        return (optax.apply_updates(part, updates), stats, opt_state), None

    start = {"network": params, "adapters": adapters}
    carry = (start, model_state, optimizer.init(start))
    (trained, stats, _), _ = scan(step, carry, (images, labels))
    return Pretrained(trained["network"], stats, trained["adapters"])


# --- The method -----------------------------------------------------------------------------------


class VidaMemory(NamedTuple):
    """Memory of ViDA: the teacher's network and adapters, and the scales of the last batch."""

    teacher: Any
    scales: Scales


def vida(
    apply_fn: ClassifierFn,
    optimizer: optax.GradientTransformation,
    adapter_optimizer: optax.GradientTransformation,
    *,
    num_augmentations: int = 10,
    threshold: ArrayLike = 0.05,
    teacher_decay: ArrayLike = 0.999,
    adapter_decay: ArrayLike = 0.999,
    restore_probability: ArrayLike | None = None,
    released_behaviour: bool = False,
    augmentation: Augmentation | None = None,
    norm: Norm = BATCH,
    axis_name: parallel.AxisName | None = None,
) -> Core:
    """ViDA: a student and its teacher with adapters weighted by how unsure the teacher is.

    1. The teacher predicts `num_augmentations` augmented batches, with the scales of the last batch
    (1 at first); U = 0.1 * mean over rows and classes of the variance of the logits over the
    augmentations (divided by their number - 1). 2. Where U >= threshold the scales are high = 1 + U
    and low = 1 - U, else low = 1 + U and high = 1 - U; for student and teacher. 3. z_t =
    teacher(x), z_s = student(x) on the batch as it is; loss = mean cross-entropy of z_s against
    softmax(z_t); an optimiser step on all parameters. 4. The teacher's average, adapters with their
    own rate. 5. Every number of the student returns to the source with `restore_probability`.
    Scored: z_t.

    Args:
      apply_fn: the network.
      optimizer: of the network; Adam 1e-4 for CIFAR-10 (ViT-B), 3e-4 for CIFAR-100, SGD 5e-7 for
        ImageNet-C.
      adapter_optimizer: of the adapters; 1e-5, 1e-6 and 2e-7.
      num_augmentations: at least 2.
      threshold: of U; may be traced.
      teacher_decay: of the network; may be traced.
      adapter_decay: of the adapters; 0.8 for ImageNet-C. May be traced.
      restore_probability: `None`: 0.01. May be traced.
      released_behaviour: the released code leaves the high-rank scale at 1, and restores with
        probability 0.1 unless one is given; so does this switch.
      augmentation: `(images, key, row_keys) -> images`; `None`: `standard_augmentation()`.
      norm: which batch statistics are used; no effect on vision transformers.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(params, model_state, adapters)`, `Pretrained` or adapters from
      `new_adapters`; adapted parameters are `{"network": ..., "adapters": ...}`. Its update takes
      a key or `CottaDraws`, as `cotta_draws` makes them. Metrics: `loss`,
      `uncertainty` (U), `low`, `high`, `num_selected`, `num_nonfinite`, `did_update`.

    Raises:
      ValueError: fewer than two augmentations.

    References:
      Liu et al., ViDA: Homeostatic Visual Domain Adapter for Continual Test Time Adaptation, ICLR
      2024. Official code: Yangsenqiao/vida.

    Note:
      Adapters are added to the weights, not applied beside them: the same numbers up to rounding,
      for any network. A batch without a valid row changes nothing, the scales included.
    """
    if num_augmentations < 2:
        raise ValueError(f"num_augmentations is {num_augmentations}; a variance needs at least 2.")
    change = augmentation or standard_augmentation()
    probability = restore_probability
    if probability is None:
        probability = 0.1 if released_behaviour else 0.01
    draw = functools.partial(
        cotta_draws,
        num_augmentations=num_augmentations,
        restore_probability=probability,
        axis_name=axis_name,
    )
    groups = {"network": optimizer, "adapters": adapter_optimizer}
    both = optax.partition(groups, {name: name for name in groups})
    apply_fn = checked(apply_fn)

    def init(params: Any, model_state: Any, adapters: dict[str, Adapter]) -> AdaptState:
        part = {"network": params, "adapters": adapters}
        memory = VidaMemory(part, Scales(jnp.ones(()), jnp.ones(())))
        return adaptation.start(
            part, model_state, both, lambda path: True, keep_source=True, memory=memory
        )

    def update(
        state: AdaptState, batch: Any, key: Array | CottaDraws
    ) -> tuple[AdaptState, StepOutput]:
        inputs, rows, valid = batches.given(batch)
        drawn = draws.either(key, CottaDraws, lambda key: draw(key, state.params, len(inputs)))
        before = state.memory.scales

        def predict(part: Any, scales: Scales, x: Array) -> Array:
            whole = merged(part["network"], part["adapters"], scales)
            return apply_fn(whole, state.model_state, x, norm=norm, mask=valid)[0].logits

        def shaken(one: draws.Augmenting) -> Array:
            return predict(state.memory.teacher, before, change(inputs, one.shared, one.rows))

        seen = jax.lax.map(shaken, drawn.augmentations)
        # Classes at -inf in all views do not vary.
        spread = jnp.where(jnp.isneginf(seen), 0, seen).var(0, ddof=1).mean(-1)
        counted = valid & jnp.isfinite(spread)
        unsure = 0.1 * parallel.masked_mean(spread, counted, axis_name)
        sign = jnp.where(unsure >= threshold, 1, -1)
        high = jnp.ones_like(unsure) if released_behaviour else 1 + sign * unsure
        scales = Scales(1 - sign * unsure, high)

        logits = predict(state.memory.teacher, scales, inputs)
        counted, target = batches.sound(counted, logits)

        def objective(part: Any) -> Array:
            each = cross_entropy(target, predict(part, scales, inputs))
            return parallel.masked_mean(each, counted, axis_name)

        value, grads = parallel.value_and_grad(objective, axis_name)(state.params)
        number = adaptation.count(counted, axis_name)
        stepped, moved = adaptation.descend(state, value, grads, both, number > 0)
        decays = {"network": teacher_decay, "adapters": adapter_decay}
        teacher = {
            name: trees.ema(state.memory.teacher[name], stepped.params[name], decay)
            for name, decay in decays.items()
        }
        student = restored(stepped.params, state.source, drawn.returning)
        new = (student, VidaMemory(teacher, scales))
        student, memory = adaptation.where(moved, new, (state.params, state.memory))
        metrics = {
            "loss": value,
            "uncertainty": unsure,
            "low": memory.scales.low,
            "high": memory.scales.high,
            "num_selected": number,
            "num_nonfinite": adaptation.count(rows & ~counted, axis_name),
            "did_update": moved,
        }
        state = stepped._replace(params=student, memory=memory)
        return state, adaptation.report(metrics, logits, counted & moved)

    return Core(init, update)
