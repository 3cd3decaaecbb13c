"""What a network must do to be adapted: looked at on every call, and tried out once by users.

`checked` compares what a network returns with what a method needs while a program is traced, so a
running program pays nothing. `check_apply` calls a network of one's own several times and says what
is missing, before any method is built on it.
"""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxtrain import trees
from jaxtrain.nets.classifier import Classified, ClassifierFn
from jaxtrain.nets.norm import SOURCE, Norm
from jaxtta.selection import Predicate, norm_layers, norm_parameters

SIGNATURE = "apply_fn(params, model_state, inputs, *, norm, mask)"


def checked(
    apply_fn: ClassifierFn, num_classes: int | None = None, *, dense: bool = False
) -> ClassifierFn:
    """The same network, whose arguments and results are looked at whenever it is traced.

    Args:
      apply_fn: the network.
      num_classes: C, if the method was told.
      dense: whether the method takes predictions for pixels too, logits `[B, H, W, C]`.

    Raises:
      ValueError: the network takes no `norm` or `mask`; (when called) it returns something else
        than `(Classified(logits [B, C], features), model_state)`.
    """
    check_arguments(apply_fn)

    def apply(
        params: Any,
        model_state: Any,
        inputs: jax.Array,
        *,
        norm: Norm = SOURCE,
        mask: jax.Array | None = None,
    ) -> tuple[Classified, Any]:
        answer = apply_fn(params, model_state, inputs, norm=norm, mask=mask)
        check_answer(answer, len(inputs), num_classes, dense=dense)
        return answer

    return apply


def check_arguments(apply_fn: Any) -> None:
    """Raises ValueError for what cannot be called as methods call a network."""
    try:
        signature = inspect.signature(apply_fn)
    except (TypeError, ValueError) as error:
        if callable(apply_fn):  # it tells nothing about its arguments
            return
        raise ValueError(f"the network is a function {SIGNATURE} but got {apply_fn!r}.") from error
    try:
        signature.bind(None, None, None, norm=SOURCE, mask=None)
    except TypeError as error:
        raise ValueError(
            f"the network cannot be called as {SIGNATURE}: {error}; norm says which batch "
            "statistics to use and mask which rows count in them, and a network without such "
            "statistics takes both and ignores them. jaxtrain.nets.classifier(module) makes such a "
            "function of a Flax Linen module."
        ) from error


def check_answer(
    answer: Any, num_rows: int, num_classes: int | None = None, *, dense: bool = False
) -> None:
    """Raises ValueError if a network returned something else than a method needs; looks at shapes.

    Args:
      answer: what it returned.
      num_rows: B.
      num_classes: C, if known.
      dense: whether there may be a prediction for every pixel.
    """
    if not (isinstance(answer, tuple) and len(answer) == 2 and hasattr(answer[0], "logits")):
        raise ValueError(
            f"the network returned {_shown(answer)}; let it return (jaxtrain.nets.Classified("
            "logits, features), model_state), with features=() if it gives none."
        )
    shape: tuple[int, ...] = getattr(answer[0].logits, "shape", ())
    if len(shape) == 4 and not dense:
        raise ValueError(
            f"the network returned logits of shape {shape}, a prediction for every pixel; this "
            "method adapts classifiers of whole images, logits [batch, classes], while source, "
            "batch_norm, alpha_norm, ema_norm, tent, cotta and petal take pixels too."
        )
    if len(shape) not in (2, 4) or shape[0] != num_rows:
        raise ValueError(
            f"the network returned logits of shape {shape} for {num_rows} inputs; a classifier "
            f"returns one row per input, ({num_rows}, classes)."
        )
    if num_classes is not None and shape[-1] != num_classes:
        raise ValueError(
            f"the network has {shape[-1]} classes but the method was made for "
            f"num_classes={num_classes}; pass num_classes={shape[-1]}."
        )


def _shown(x: Any) -> str:
    if isinstance(x, Classified):
        return "Classified alone, without the model state"
    if hasattr(x, "shape"):
        return f"an array of shape {x.shape} alone"
    if isinstance(x, tuple):
        return f"a tuple of {', '.join(type(item).__name__ for item in x) or 'nothing'}"
    return f"a {type(x).__name__}"


class Findings(NamedTuple):
    """What `check_apply` saw of a network.

    Attributes:
      num_classes: C.
      num_features: D; 0 if the network gives no features, which LAME, RMT, CAFA, AdaNPC and the
        label-shift adapter need.
      has_statistics: whether batch statistics change its predictions. Without, `batch_norm`,
        `alpha_norm` and `ema_norm` are the source model.
      num_adapted: how many numbers `select` chooses.
    """

    num_classes: int
    num_features: int
    has_statistics: bool
    num_adapted: int


def check_apply(
    apply_fn: ClassifierFn,
    params: Any,
    model_state: Any,
    inputs: jax.Array,
    *,
    num_classes: int | None = None,
    select: Predicate = norm_parameters,
) -> Findings:
    """Tries out a network of one's own, and says what keeps it from being adapted.

    Looked at are the inputs, the arguments and the result of the network, whether stored statistics
    keep rows apart, whether the statistics of a batch, a mixture of both, a momentum and the row
    mask have an effect, and whether the parameters to adapt are found. The network is compiled
    three times.

    Args:
      apply_fn: the network, see `jaxtrain.nets.ClassifierFn`.
      params: of the source.
      model_state: of the source; `{}` without batch statistics.
      inputs: a few test images, three or more, `[B, H, W, C]` in [0, 1].
      num_classes: C, if it should be a certain one.
      select: adapted parameters, by path, as methods take it.

    Raises:
      ValueError: says what is missing, a line for each fault.
    """
    _check_inputs(inputs)
    if isinstance(params, Mapping) and "params" in params:
        raise ValueError(
            "params has a key 'params', so it is all that module.init returned; pass its 'params' "
            "alone, and the rest as the model state."
        )
    network = checked(apply_fn, num_classes, dense=True)
    source = jax.jit(lambda x: network(params, model_state, x))
    mixture = jax.jit(lambda x, a, rows: network(params, model_state, x, norm=Norm(a), mask=rows))
    try:
        found, kept = source(inputs)
        everything = jnp.ones(len(inputs), bool)
        batch, same = mixture(inputs, 1.0, everything)
    except jax.errors.ConcretizationTypeError as error:
        raise ValueError(
            "the network asks in Python for the value of norm.weight or of the mask, which may be "
            "traced; compare norm.weight with None only, and choose by jax.numpy.where."
        ) from error
    faults = [
        *_of_state(network, params, model_state, inputs, kept, same),
        *_of_statistics(source, mixture, inputs, found.logits, batch.logits, model_state),
        *_of_selection(params, select),
    ]
    if not jnp.isfinite(found.logits).all():
        faults.append("the logits of these inputs are not finite.")
    if faults:
        raise ValueError("\n".join(["the network cannot be adapted as it is:", *faults]))
    return Findings(
        found.logits.shape[-1],
        0 if isinstance(found.features, tuple) else found.features.shape[-1],
        _differ(found.logits, batch.logits),
        trees.size(trees.partition(params, select)[0]),
    )


def _check_inputs(inputs: jax.Array) -> None:
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise ValueError(
            f"the inputs are {inputs.dtype}; methods give the network images in [0, 1] as "
            "floating-point numbers, so divide pixels by 255."
        )
    low, high = float(inputs.min()), float(inputs.max())
    if not 0 <= low <= high <= 1:
        raise ValueError(
            f"the inputs go from {low:.3g} to {high:.3g}; methods and their augmentations take "
            "images in [0, 1], so let the network standardise them itself."
        )
    if len(inputs) < 3:
        raise ValueError(f"there are {len(inputs)} inputs; give three or more to compare rows.")


def _differ(a: jax.Array, b: jax.Array) -> bool:
    """Whether two results differ by more than rounding."""
    if not jnp.issubdtype(a.dtype, jnp.inexact):
        return bool((a != b).any())
    limit = 100 * jnp.finfo(a.dtype).eps * (1 + jnp.abs(a).max())
    return bool((jnp.abs(a - b) > limit).any())


def _of_state(
    network: ClassifierFn, params: Any, model_state: Any, inputs: jax.Array, *unmoved: Any
) -> list[str]:
    """Faults of the model state that comes back, without and with a momentum."""
    store = jax.jit(lambda x: network(params, model_state, x, norm=Norm(1.0, 0.1))[1])
    moved = store(inputs)
    about = lambda state: (jax.tree.structure(state), trees.describe(state))
    if wrong := [x for x in (*unmoved, moved) if about(x) != about(model_state)]:
        return [
            "the model state that comes back has another structure or other types than the one "
            f"that goes in, {trees.describe(wrong[0])} in place of {trees.describe(model_state)}."
        ]
    changed = lambda state: any(map(_differ, jax.tree.leaves(state), jax.tree.leaves(model_state)))
    if any(map(changed, unmoved)):
        return ["the model state changes without norm.momentum; return it as it came."]
    if jax.tree.leaves(model_state) and not changed(moved):
        return [
            "norm.momentum has no effect: Norm(1.0, momentum=0.1) leaves the model state as it "
            "was, so ema_norm and RoTTA would store nothing; return the moved statistics."
        ]
    return []


def _of_statistics(
    source: Any, mixture: Any, x: jax.Array, stored: jax.Array, batch: jax.Array, model_state: Any
) -> list[str]:
    """Faults of what norm and mask do, from what becomes of rows when another row changes."""
    other = x.at[-1].set(jnp.where(x[-1] < 0.5, 1, 0).astype(x.dtype))
    rows = jnp.ones(len(x), bool).at[-1].set(False)
    logits = lambda x, a, rows: mixture(x, a, rows)[0].logits
    faults = []
    if _differ(stored[:-1], source(other)[0].logits[:-1]):
        faults.append(
            "norm=Norm() mixes rows: a prediction changes with the other images of its batch; use "
            "the stored statistics, as in evaluation."
        )
    if jax.tree.leaves(model_state) and not _differ(stored, batch):
        faults.append(
            "norm has no effect: Norm(weight=1.0) predicts what Norm() does, so batch_norm would "
            "be the source model; normalise with the statistics of the batch."
        )
    half = logits(x, 0.5, jnp.ones(len(x), bool))
    if _differ(stored, batch) and not (_differ(half, batch) and _differ(half, stored)):
        faults.append(
            "a mixture has no effect: Norm(weight=0.5) predicts what one of its ends does, so "
            "alpha_norm would be batch_norm or the source model; normalise with (1 - weight) * "
            "stored + weight * batch, for mean and variance."
        )
    if _differ(logits(x, 1.0, rows)[:-1], logits(other, 1.0, rows)[:-1]):
        faults.append(
            "mask has no effect: a row that it leaves out changes the predictions of the others, "
            "as padding would; leave such rows out of mean and variance."
        )
    return faults


def _of_selection(params: Any, select: Predicate) -> list[str]:
    """Faults of the choice of parameters."""
    chosen = set(trees.path_names(trees.partition(params, select)[0]))
    if not chosen:
        return [
            "no parameter is selected; pass select=jaxtta.selection.norm_layers(params) for layers "
            "that are not named after what they are, or all_parameters without such layers."
        ]
    formed = set(trees.path_names(trees.partition(params, norm_layers(params))[0]))
    if select is norm_parameters and (missed := sorted(formed - chosen)):
        return [
            f"the names show {len(chosen)} of {len(formed)} parameters of normalisation layers, "
            f"not {missed[0]!r}; pass select=jaxtta.selection.norm_layers(params) to the methods."
        ]
    return []
