"""Sharpness-aware entropy minimisation: SAR."""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel, trees
from jaxtrain.core import Core, StepOutput
from jaxtrain.nets.classifier import ClassifierFn
from jaxtrain.nets.norm import BATCH, Norm
from jaxtta import adaptation, batches
from jaxtta.adaptation import AdaptState
from jaxtta.check_apply import checked
from jaxtta.selection import Predicate, norm_parameters


class MeanEntropy(NamedTuple):
    """Memory of SAR: moving average m of the second entropies `[]`, and whether there is one."""

    value: Array
    known: Array


def sar(
    apply_fn: ClassifierFn,
    optimizer: optax.GradientTransformation,
    num_classes: int,
    *,
    radius: ArrayLike = 0.05,
    threshold: ArrayLike | None = None,
    reset_below: ArrayLike = 0.2,
    empty: Literal["skip", "momentum"] = "skip",
    after_reset: Literal["clear", "stale"] = "clear",
    norm: Norm = BATCH,
    select: Predicate = norm_parameters,
    axis_name: parallel.AxisName | None = None,
) -> Core:
    """SAR: reliable entropy minimisation that seeks a flat minimum, and recovers from collapse.

    1. M1 = rows with H < threshold; g1 = gradient of the mean H over M1. 2. theta' = theta +
    radius * g1 / (|g1| + 1e-12), the norm over all adapted parameters. 3. A second forward pass at
    theta' gives H2; M2 = M1 with H2 < threshold; g2 = gradient at theta' of the mean H2 over M2.
    4. One optimiser step on theta with g2. 5. If M2 is not empty, m becomes mean(H2) at first, else
    0.9 m + 0.1 mean(H2). When m < reset_below, parameters and optimiser return to the start.

    Args:
      apply_fn: the network.
      optimizer: SGD, momentum 0.9; rate 2.5e-4 for ResNet-50 at 64 rows, 1e-3 / 64 per row for
        ViT-B.
      num_classes: C.
      radius: rho; may be traced.
      threshold: E0 in nats; `None`: 0.4 ln C. May be traced.
      reset_below: in nats; may be traced.
      empty: with M2 empty, `skip` the update, or let the optimiser step on a zero gradient
        (`momentum`), as the official code does.
      after_reset: `clear` m, or keep it (`stale`), as the official code does: further resets follow
        until m has climbed back.
      norm: which batch statistics are used.
      select: adapted parameters, by path; the authors use
        `jaxtta.selection.shallow_norm_parameters(params)`.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(params, model_state)`. Metrics: `loss` (mean H2 over M2), `num_selected`,
      `num_nonfinite`, `did_update`, `did_reset`, `mean_entropy` (m).

    Raises:
      ValueError: unknown `empty` or `after_reset`; (when called) as in `tent`.

    References:
      Niu et al., Towards Stable Test-Time Adaptation in Dynamic Wild World, ICLR 2023. Official
      code: mr-eggplant/SAR.
    """
    if empty not in ("skip", "momentum") or after_reset not in ("clear", "stale"):
        raise ValueError(
            f"empty={empty!r} and after_reset={after_reset!r}; empty is skip or momentum and "
            "after_reset is clear or stale."
        )
    apply_fn = checked(apply_fn, num_classes)
    limit = 0.4 * math.log(num_classes) if threshold is None else threshold
    memory = MeanEntropy(jnp.zeros(()), jnp.zeros((), bool))

    def init(params: Any, model_state: Any) -> AdaptState:
        return adaptation.start(
            params, model_state, optimizer, select, keep_source=True, memory=memory
        )

    def update(state: AdaptState, batch: Any, key: Array) -> tuple[AdaptState, StepOutput]:
        inputs, rows, valid = batches.given(batch)

        def loss(params: Any, candidates: Array) -> tuple[Array, tuple[Array, Array, Array]]:
            whole = trees.merge(params, state.frozen)
            found, _ = apply_fn(whole, state.model_state, inputs, norm=norm, mask=valid)
            counted, logits = batches.sound(candidates, found.logits)
            uncertainty = adaptation.entropy(logits)
            selected = counted & (jax.lax.stop_gradient(uncertainty) < limit)
            value = parallel.masked_mean(uncertainty, selected, axis_name)
            return value, (found.logits, counted, selected)

        gradient = parallel.local_value_and_grad(loss, axis_name, has_aux=True)
        (_, (logits, counted, reliable)), first = gradient(state.params, valid)
        first = parallel.pmean(first, axis_name)
        length = trees.global_norm(first)
        climb = lambda x, g: x + (radius * g / (length + 1e-12)).astype(x.dtype)
        (value, (_, _, selected)), second = gradient(
            jax.tree.map(climb, state.params, first), reliable
        )
        value, second = parallel.pmean((value, second), axis_name)

        number = adaptation.count(selected, axis_name)
        some = number > 0
        state, moved = adaptation.descend(
            state, value, second, optimizer, some if empty == "skip" else True
        )
        old = state.memory
        mean = jnp.where(old.known, 0.9 * old.value + 0.1 * value, value)
        seen = adaptation.where(some & moved, MeanEntropy(mean, jnp.ones_like(old.known)), old)
        collapsed = seen.known & (seen.value < reset_below)
        original = (state.source, optimizer.init(state.source))
        params, opt_state = adaptation.where(collapsed, original, (state.params, state.opt_state))
        kept = seen
        if after_reset == "clear":
            kept = adaptation.where(collapsed, memory, seen)
        metrics = {
            "loss": value,
            "num_selected": number,
            "num_nonfinite": adaptation.count(rows & ~counted, axis_name),
            "did_update": moved,
            "did_reset": collapsed,
            "mean_entropy": seen.value,
        }
        state = state._replace(params=params, opt_state=opt_state, memory=kept)
        return state, adaptation.report(metrics, logits, selected & moved)

    return Core(init, update)
