"""Heads that follow the label distribution of the test stream: the label-shift adapter.

Two parts: `train_adapter` trains, on the source and before deployment, a small network from a
degree of label shift to changes of the classifier's head; `with_adapter` puts it into a network and
`following` lets any adapter of `jaxtta` run on that network while the label distribution is
estimated.

References:
  Park et al., Label Shift Adapter for Test-Time Adaptation under Covariate and Label Shifts, ICCV
  2023. The structure is the paper's; there is no official code, and what is marked (ours) below
  could not be confirmed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel, trees
from jaxtrain.core import Core, Held, StepOutput
from jaxtrain.nets.classifier import Classified, ClassifierFn
from jaxtrain.nets.norm import BATCH, Norm
from jaxtrain.protocol import Scan
from jaxtta import adaptation, batches, draws
from jaxtta.adaptation import mean_rows
from jaxtta.check_apply import checked
from jaxtta.images.source_features import features_of

# Where the model state keeps the estimated label distribution, and the adapter (held).
ESTIMATE, ADAPTER = "label_distribution", "label_shift_adapter"


class Head(NamedTuple):
    """A linear classifier: `kernel` `[D, C]`, `bias` `[C]`."""

    kernel: Array
    bias: Array


class Adapter(NamedTuple):
    """A two-layer network from the degree of label shift to changes of a head.

    Attributes:
      prior: label distribution of the source, `[C]`.
      hidden: `(weight [H], bias [H])`.
      output: `(weight [H, 2 D + D C + C], bias [2 D + D C + C])`, for gamma - 1, beta, the changes
        of kernel and bias.
    """

    prior: Array
    hidden: tuple[Array, Array]
    output: tuple[Array, Array]


def head_of(params: Any) -> Head:
    """The layer `head` of a network.

    Raises:
      ValueError: there is none with a kernel and a bias.
    """
    layer = params.get("head", {}) if hasattr(params, "get") else {}
    if {"kernel", "bias"} - set(layer):
        raise ValueError(
            "the label-shift adapter changes a linear layer 'head' with kernel and bias but the "
            f"network has {', '.join(trees.path_names(params)[:4])}, ...; pass head= for others."
        )
    return Head(layer["kernel"], layer["bias"])


def prior_of(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Share of every class, on the host, `[C]`.

    Raises:
      ValueError: a class without an example, or a uniform source.
    """
    counts = np.bincount(labels, minlength=num_classes)
    if counts.min() == 0 or counts.min() == counts.max():
        raise ValueError(
            f"the source has {counts.min()} to {counts.max()} examples per class; the label-shift "
            "adapter needs some of every class and not equally many, for example a long-tailed set."
        )
    return counts / counts.sum()


def degree(distribution: Array, prior: Array) -> Array:
    """How much a label distribution leans to the source's: 1 like it, 0 uniform, -1 reversed.

    <l, distribution> / <l, prior> with l = log prior minus its mean, within [-1, 1] (ours; the
    paper feeds a scalar). 0 for a uniform source, which leaves nothing to tell.

    Args:
      distribution: `[C]`; may hold zeros.
      prior: of the source, `[C]`, positive.
    """
    lean = jnp.log(prior) - jnp.log(prior).mean()
    whole = (lean * prior).sum()
    share = (lean * distribution).sum() / jnp.where(whole > 0, whole, 1)
    return jnp.where(whole > 0, jnp.clip(share, -1, 1), 0)


def target_prior(prior: Array, exponent: ArrayLike) -> Array:
    """prior^exponent, normalised: 1 the source's, 0 uniform, -1 its reverse, `[C]`."""
    return jax.nn.softmax(exponent * jnp.log(prior))


def identity(prior: Array, head: Head, weight: Array) -> Adapter:
    """An adapter that changes nothing yet: a given first layer, a second one of zeros.

    Args:
      prior: of the source, `[C]`.
      head: of the source model.
      weight: of the H hidden units, `[H]`.
    """
    features, classes = head.kernel.shape
    size, dtype, (width,) = 2 * features + features * classes + classes, weight.dtype, weight.shape
    zeros = lambda *shape: jnp.zeros(shape, dtype)
    return Adapter(prior.astype(dtype), (weight, zeros(width)), (zeros(width, size), zeros(size)))


def changed_logits(adapter: Adapter, distribution: Array, head: Head, features: Array) -> Array:
    """(W + dW) (gamma h + beta) + b + db, with (gamma, beta, dW, db) = g(degree), `[B, C]`."""
    d = degree(distribution.astype(features.dtype), adapter.prior)
    hidden = jax.nn.relu(d * adapter.hidden[0] + adapter.hidden[1])
    found = hidden @ adapter.output[0] + adapter.output[1]
    size, classes = head.kernel.shape
    gamma, beta, kernel, bias = jnp.split(found, [size, 2 * size, 2 * size + size * classes])
    moved = features * (1 + gamma)[None] + beta[None]
    return moved @ (head.kernel + kernel.reshape(size, classes)) + (head.bias + bias)[None]


# --- Before deployment ----------------------------------------------------------------------------


def adapter_loss(
    adapter: Adapter, head: Head, features: Array, labels: Array, target: Array
) -> Array:
    """Cross-entropy of source examples on z + log prior - log target, `[]`.

    z = `changed_logits` for the target; the two priors turn its posterior into that of the source,
    under which the examples were drawn. They are applied in training only.
    """
    logits = changed_logits(adapter, target, head, features)
    logits = logits + (jnp.log(adapter.prior) - jnp.log(target))[None]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


class AdapterDraws(NamedTuple):
    """Draws of `train_adapter`.

    Attributes:
      weight: of the hidden units at the start, `[H]`.
      rows: examples of every step, `[num_steps, batch_size]`.
      exponent: t of every step, `[num_steps]`.
    """

    weight: Array
    rows: Array
    exponent: Array


def adapter_draws(
    key: Array,
    num_examples: int,
    *,
    num_steps: int = 2000,
    batch_size: int = 200,
    width: int = 64,
    dtype: Any = jnp.float32,
) -> AdapterDraws:
    """The draws that `train_adapter` makes of its key.

    The first layer is that of `fold_in(key, 0)`, step i has `index, kind, u = split(fold_in(key,
    i + 1), 3)`: with equal chances t is u (like the source), 0 (uniform), or -u (reversed), u
    uniform in [0, 1].

    Args:
      key: of the training.
      num_examples: N.
      num_steps, batch_size, width: as in `train_adapter`.
      dtype: of the head.
    """
    weight = jax.random.normal(jax.random.fold_in(key, 0), (width,), dtype)

    def one(i: Array) -> tuple[Array, Array]:
        key_index, key_kind, key_u = jax.random.split(jax.random.fold_in(key, i + 1), 3)
        sign = 1 - jax.random.randint(key_kind, (), 0, 3)
        index = jax.random.randint(key_index, (batch_size,), 0, num_examples)
        return index, sign * jax.random.uniform(key_u)

    return AdapterDraws(weight, *jax.vmap(one)(jnp.arange(num_steps)))


def train_adapter(
    head: Head,
    prior: Array,
    features: Array,
    labels: Array,
    key: Array | AdapterDraws,
    *,
    optimizer: optax.GradientTransformation | None = None,
    num_steps: int = 2000,
    batch_size: int = 200,
    width: int = 64,
    scan: Scan = jax.lax.scan,
) -> tuple[Adapter, Array]:
    """Trains the adapter on source examples; the network stays as it is.

    A step draws examples and an exponent t, and lowers `adapter_loss` for the target distribution
    `target_prior(prior, t)`.

    Args:
      head: of the source model.
      prior: of the source, from `prior_of`, `[C]`.
      features: of the source model on source images, `[N, D]`.
      labels: true ones, `[N]`, long-tailed.
      key: of initialisation and draws; or `AdapterDraws`, as `adapter_draws` makes them, which
        say how many steps, examples and units there are.
      optimizer: `None`: Adam, 1e-3 (ours).
      num_steps: of training (ours).
      batch_size: examples per step.
      width: hidden units (ours).
      scan: runs the steps, see `jaxtrain.protocol.Scan`.

    Returns:
      The adapter, and the losses `[num_steps]`.
    """
    method = optax.adam(1e-3) if optimizer is None else optimizer
    sizes: Any = dict(num_steps=num_steps, batch_size=batch_size, width=width)
    sizes["dtype"] = head.kernel.dtype
    prior, features, labels = (jnp.asarray(x) for x in (prior, features, labels))
    drawn = draws.either(key, AdapterDraws, lambda key: adapter_draws(key, len(labels), **sizes))
    start = identity(prior, head, drawn.weight)

    def body(carry: Any, given: tuple[Array, Array]) -> tuple[Any, Array]:
        (layers, opt_state), (index, exponent) = carry, given
        target = target_prior(start.prior, exponent)
        loss = lambda layers: adapter_loss(
            Adapter(start.prior, *layers), head, features[index], labels[index], target
        )
        value, grads = jax.value_and_grad(loss)(layers)
        updates, opt_state = method.update(grads, opt_state, layers)
        return (optax.apply_updates(layers, updates), opt_state), value

    layers = start[1:]
    carry = (layers, method.init(layers))
    (layers, _), losses = scan(body, carry, (drawn.rows, drawn.exponent))
    return Adapter(start.prior, *layers), losses


# --- At test time ---------------------------------------------------------------------------------


def with_adapter(apply_fn: ClassifierFn, *, head: Callable[[Any], Head] = head_of) -> ClassifierFn:
    """The network with a head that follows the distribution kept in the model state.

    The adapter is there too; `following` puts both in. Without them the network is what it was.
    Classes that it leaves out by logits of -inf stay left out.

    Args:
      apply_fn: the network; returns features.
      head: finds the head in the parameters.

    Raises:
      ValueError: (when called) the network returns no features or has no such head.
    """

    def apply(
        params: Any, model_state: Any, inputs: Array, **options: Any
    ) -> tuple[Classified, Any]:
        own = {name: model_state[name] for name in (ESTIMATE, ADAPTER) if name in model_state}
        rest = {name: value for name, value in model_state.items() if name not in own}
        found, after = apply_fn(params, rest, inputs, **options)
        if not own:
            return found, after
        features = features_of(found, "the label-shift adapter")
        logits = changed_logits(own[ADAPTER].arrays, own[ESTIMATE], head(params), features)
        logits = jnp.where(jnp.isneginf(found.logits), -jnp.inf, logits)
        return Classified(logits, features), {**after, **own}

    return apply


def following(
    core: Core,
    apply_fn: ClassifierFn,
    num_classes: int,
    *,
    decay: ArrayLike = 0.9,
    estimate_first: bool = True,
    norm: Norm = BATCH,
    axis_name: parallel.AxisName | None = None,
) -> Core:
    """Estimates the label distribution of the stream for the network under an adapter.

    estimate <- decay * estimate + (1 - decay) * mean of the batch's predictions, uniform at first;
    then `core` adapts and predicts as always. An empty batch changes nothing.

    Args:
      core: an adapter of `apply_fn` whose state has a `model_state`, for example `entropy.tent`.
      apply_fn: from `with_adapter`.
      num_classes: C.
      decay: a of the estimate, 0.9 (ours). May be traced.
      estimate_first: whether the estimate moves before the batch is predicted, the order of the
        paper; costs one more forward pass. Else after, from the predictions that are scored.
      norm: statistics of that pass, the same as in `core`.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(params, model_state, adapter)`, the adapter of `train_adapter`, and the
      state of `core`, whose model state also holds the adapter and the estimate `[C]`; one more
      metric `largest_share`, the estimate's largest entry.
    """
    apply_fn = checked(apply_fn, num_classes)

    def init(params: Any, model_state: Any, adapter: Adapter) -> Any:
        dtype = jnp.result_type(*jax.tree.leaves(params))
        uniform = jnp.full(num_classes, 1 / num_classes, dtype)
        return core.init(params, {**model_state, ESTIMATE: uniform, ADAPTER: Held(adapter)})

    def update(state: Any, batch: Any, key: Array) -> tuple[Any, StepOutput]:
        inputs, _, valid = batches.given(batch)
        old = state.model_state[ESTIMATE]

        def moved(logits: Array) -> Array:
            counted, safe = batches.sound(valid, logits)
            new = mean_rows(jax.nn.softmax(safe), counted, axis_name)
            some = adaptation.count(counted, axis_name) > 0
            return adaptation.where(some, decay * old + (1 - decay) * new, old)

        put = lambda s, value: s._replace(model_state={**s.model_state, ESTIMATE: value})
        if estimate_first:
            params = state.params
            if isinstance(state, adaptation.AdaptState):
                params = trees.merge(params, state.frozen)
            found, _ = apply_fn(params, state.model_state, inputs, norm=norm, mask=valid)
            state = put(state, moved(found.logits))
            state, out = core.update(state, batch, key)
        else:
            state, out = core.update(state, batch, key)
            state = put(state, moved(out.outputs.logits))
        share = jnp.asarray(state.model_state[ESTIMATE].max(), jnp.float32)
        return state, out._replace(metrics={**out.metrics, "largest_share": share})

    return Core(init, update)
