"""Hebbian learning of the first layer, steered by a modulator behind it: NHL."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel, trees
from jaxtrain.core import Core, StepOutput
from jaxtrain.nets.classifier import ClassifierFn, standardised
from jaxtrain.nets.convolution import conv_general_dilated
from jaxtrain.nets.norm import BATCH, Norm
from jaxtta import adaptation, batches
from jaxtta.adaptation import AdaptState
from jaxtta.check_apply import checked
from jaxtta.selection import Predicate


class FirstLayer(NamedTuple):
    """The linear layer that sees the images, and what the network does to them before it.

    Attributes:
      path: of its parameters; `kernel` `[h, w, channels, K]`, or `[channels, K]` for pixels alone.
      stride: of the convolution.
      padding: on all sides; `None`: half the size of the kernel.
      mean, std: by which the network standardises the channels.
    """

    path: tuple[str, ...] = ("conv",)
    stride: int = 1
    padding: int | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def outputs(self, images: Array, kernel: Array) -> Array:
        """What the filters say to every patch, without bias, `[B, ..., K]`."""
        x = standardised(images, self.mean, self.std)
        if kernel.ndim == 2:
            return x @ kernel
        margin = kernel.shape[0] // 2 if self.padding is None else self.padding
        return conv_general_dilated(
            x,
            kernel.astype(x.dtype),
            (self.stride, self.stride),
            [(margin, margin)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


UNSCALED = FirstLayer()


def _norms(kernel: Array) -> Array:
    """Length of every filter, `[1, ..., K]`."""
    return jnp.sqrt((kernel**2).sum(tuple(range(kernel.ndim - 1)), keepdims=True))


def hebbian_change(
    images: Array,
    kernel: Array,
    mask: Array,
    layer: FirstLayer = UNSCALED,
    temperature: ArrayLike = 1.0,
    axis_name: parallel.AxisName | None = None,
) -> Array:
    """Soft winner-take-all: mean over patches x of y_k (x - u_k w_k), u_k = w_k . x.

    y = softmax(u / temperature) over the filters. For a filter of length 1 that always wins this is
    the part of x orthogonal to it; Oja's rule is the same with u in place of y.

    Args:
      images: `[B, H, W, channels]` in [0, 1].
      kernel: the filters w.
      mask: rows that count, `[B]`, bool.
      layer: where they are applied.
      temperature: tau; may be traced.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      Like the kernel; 0 when no row counts.
    """
    local = parallel.mark_varying(kernel, axis_name)
    # The sum of y_k x over patches is the gradient of sum(y u) with y held fixed.
    u, back = jax.vjp(lambda w: layer.outputs(images, w), local)
    counts = mask.reshape(-1, *(1,) * (u.ndim - 1))
    y = jnp.where(counts, jax.nn.softmax(u / temperature), 0)
    (seen,) = back(y)
    answered = (y * u).sum(tuple(range(u.ndim - 1)))
    number = mask.sum(dtype=u.dtype) * (u[0, ..., 0].size)
    seen, answered, number = parallel.psum((seen, answered, number), axis_name)
    lead = (1,) * (kernel.ndim - 1)
    return (seen - kernel * answered.reshape(*lead, -1)) / jnp.maximum(number, 1)


def _changed(tree: Any, path: tuple[str, ...], change: Any) -> Any:
    """The tree with one leaf changed."""
    part, rest = trees.partition(tree, lambda names: names == path)
    return trees.merge(jax.tree.map(change, part), rest)


def _modulated(params: Any, layer: FirstLayer, modulator: Array) -> Any:
    """Parameters of the network with the modulator behind its first layer.

    A linear map of the layer's channels is folded into kernel and bias.
    """

    def change(x: Array) -> Array:
        weights = modulator.astype(x.dtype)
        if weights.ndim == 2:
            return x @ weights
        return x * weights.reshape(*(1,) * (x.ndim - 1), -1)

    for name in ("kernel", "bias"):
        params = _changed(params, (*layer.path, name), change)
    return params


def nhl(
    apply_fn: ClassifierFn,
    optimizer: optax.GradientTransformation,
    *,
    layer: FirstLayer = UNSCALED,
    rate: ArrayLike = 1e-3,
    temperature: ArrayLike = 1.0,
    relative: bool = True,
    renormalise: bool = False,
    modulator: Literal["mixing", "scale"] = "mixing",
    norm: Norm = BATCH,
    select: Predicate | None = None,
    axis_name: parallel.AxisName | None = None,
) -> Core:
    """NHL: feed-forward Hebbian learning of the first layer, feedback to a modulator behind it.

    1. w_k <- w_k + rate |w_k| `hebbian_change`; no backpropagation. 2. A linear map of the layer's
    channels, the identity at first, makes one optimiser step on the mean entropy of the predictions
    with the new filters. 3. The batch is predicted after both: the one method here that scores a
    second forward pass. The classifier stays as it is.

    Args:
      apply_fn: the network.
      optimizer: of the modulator; Adam 1e-3.
      layer: which layer learns; `FirstLayer(mean=..., std=...)` for `jaxtrain.nets.resnet`.
      rate: eta, 1e-3 to 1e-2 suggested. May be traced.
      temperature: tau. May be traced.
      relative: whether the rate is multiplied by the length of each filter.
      renormalise: gives every filter the length back that it had in the source; for large rates.
      modulator: `mixing`, K x K numbers, or `scale`, one per channel. Directly before batch norm a
        scale changes nothing but the weight of epsilon, and a shift nothing at all, so that there
        is none.
      norm: which batch statistics are used.
      select: more parameters that follow the entropy, by path, for example
        `jaxtta.selection.norm_parameters`; never those of the layer.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(params, model_state)`. Its state's `params` are `{"modulator", "network"}`;
      the learned filters are in `frozen`. Metrics: `loss` (entropy before the feedback, nats),
      `num_selected`, `num_nonfinite`, `did_update`, `change` (length of the filters' change).
      Without a row nothing moves.

    Raises:
      ValueError: unknown modulator, or a network without such a layer.

    References:
      Tang et al., Neuro-Modulated Hebbian Learning for Fully Test-Time Adaptation, CVPR 2023. The
      idea is the paper's; the rule is that of SoftHebb (Journé et al., ICLR 2023); constants and
      the form of the modulator could not be confirmed.
    """
    if modulator not in ("mixing", "scale"):
        raise ValueError(f"modulator is {modulator!r}; it is mixing or scale.")
    path = (*layer.path, "kernel")
    follows = lambda names: (
        select is not None and names[: len(layer.path)] != layer.path and select(names)
    )
    apply_fn = checked(apply_fn)

    def kernel_of(params: Any) -> Array:
        found = jax.tree.leaves(trees.partition(params, lambda names: names == path)[0])
        if len(found) != 1:
            known = trees.path_names(params)[:4]
            raise ValueError(
                f"the network has no {'/'.join(path)}; it has {', '.join(known)}, ...; name the "
                "layer that sees the images with layer=FirstLayer(path=...)."
            )
        return found[0]

    def init(params: Any, model_state: Any) -> AdaptState:
        kernel = kernel_of(params)
        size = kernel.shape[-1]
        start = jnp.eye(size) if modulator == "mixing" else jnp.ones(size)
        network, frozen = trees.partition(jax.tree.map(jnp.copy, params), follows)
        trained = {"modulator": start.astype(kernel.dtype), "network": network}
        return AdaptState(
            trained,
            jax.tree.map(jnp.copy, optimizer.init(trained)),
            frozen,
            jax.tree.map(jnp.copy, model_state),
            (),
            _norms(kernel),
        )

    def update(state: AdaptState, batch: Any, key: Array) -> tuple[AdaptState, StepOutput]:
        inputs, rows, valid = batches.given(batch)
        kernel = kernel_of(state.frozen)
        towards = rate * hebbian_change(inputs, kernel, valid, layer, temperature, axis_name)
        if relative:
            towards = towards * _norms(kernel)
        learned = kernel + towards
        if renormalise:
            learned = learned * (state.memory / jnp.maximum(_norms(learned), 1e-12))
        sound = (adaptation.count(valid, axis_name) > 0) & batches.stays_finite(learned, kernel)
        learned = adaptation.where(sound, learned, kernel)
        frozen = _changed(state.frozen, path, lambda _: learned)

        def predict(trained: Any, frozen: Any) -> Array:
            whole = trees.merge(trained["network"], frozen)
            whole = _modulated(whole, layer, trained["modulator"])
            return apply_fn(whole, state.model_state, inputs, norm=norm, mask=valid)[0].logits

        def loss(trained: Any) -> tuple[Array, Array]:
            counted, logits = batches.sound(valid, predict(trained, frozen))
            return parallel.masked_mean(adaptation.entropy(logits), counted, axis_name), counted

        (value, counted), grads = parallel.local_value_and_grad(loss, axis_name, has_aux=True)(
            state.params
        )
        value, grads = parallel.pmean((value, grads), axis_name)
        number = adaptation.count(counted, axis_name)
        stepped, moved = adaptation.descend(state, value, grads, optimizer, sound & (number > 0))
        learned = adaptation.where(moved, learned, kernel)
        state = stepped._replace(frozen=_changed(frozen, path, lambda _: learned))
        metrics = {
            "loss": value,
            "num_selected": number,
            "num_nonfinite": adaptation.count(rows & ~counted, axis_name),
            "did_update": moved,
            "change": jnp.sqrt(((learned - kernel) ** 2).sum()),
        }
        logits = predict(state.params, state.frozen)
        return state, adaptation.report(metrics, logits, counted & moved)

    return Core(init, update)
