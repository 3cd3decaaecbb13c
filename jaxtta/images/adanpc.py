"""Classification by the nearest entries of a memory that grows at test time: AdaNPC."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel
from jaxtrain.core import Core, Held, StepOutput
from jaxtrain.nets.classifier import ClassifierFn
from jaxtrain.nets.norm import SOURCE, Norm
from jaxtta import adaptation, batches
from jaxtta.check_apply import checked
from jaxtta.images.source_features import features_of


class Entries(NamedTuple):
    """Entries of the memory: `features` of length 1, `[M, D]`, and their `labels` `[M]`, int32."""

    features: Array
    labels: Array


class Fixed(NamedTuple):
    """What stays as it is: the network's `params` and `model_state`, and the source's entries."""

    params: Any
    model_state: Any
    source: Entries


class MemoryState(NamedTuple):
    """State of AdaNPC.

    Attributes:
      fixed: `Fixed`, held.
      ring: test rows taken up, `growth` places.
      num_added: test rows taken up so far, `[]`, int32; the ring holds the last of them.
    """

    fixed: Held
    ring: Entries
    num_added: Array


def unit(features: Array) -> Array:
    """Rows divided by their length, `[N, D]`."""
    return features / jnp.maximum(jnp.linalg.norm(features, axis=-1, keepdims=True), 1e-12)


def votes(
    similarity: Array,
    labels: Array,
    num_classes: int,
    num_neighbors: int,
    temperature: ArrayLike,
    ball: Array | None = None,
) -> Array:
    """Weight of every class among the entries that vote, `[B, M] -> [B, C]`.

    The `num_neighbors` most similar entries vote (those in `ball` if given) with the weights
    softmax(similarity / temperature).

    Args:
      similarity: to all entries, `[B, M]`; -inf where there is none.
      labels: of the entries, `[M]`.
      num_classes: C.
      num_neighbors: k; as many as there are when the memory is smaller.
      temperature: T; may be traced.
      ball: entries that vote in place of the nearest, `[B, M]`, bool.

    Returns:
      Rows sum to 1.
    """
    if ball is None:
        near, index = jax.lax.top_k(similarity, min(num_neighbors, similarity.shape[1]))
        classes = labels[index]
    else:
        near, classes = jnp.where(ball, similarity, -jnp.inf), labels[None]
    weights = jax.nn.softmax(near / temperature, axis=-1)
    belongs = classes[..., None] == jnp.arange(num_classes)[None, None]
    return jnp.where(belongs, weights[..., None], 0).sum(1)


def adanpc(
    apply_fn: ClassifierFn,
    num_classes: int,
    *,
    num_neighbors: int = 50,
    temperature: ArrayLike = 0.1,
    min_confidence: ArrayLike = 0.0,
    radius: ArrayLike | None = None,
    growth: int = 10_000,
    norm: Norm = SOURCE,
    axis_name: parallel.AxisName | None = None,
) -> Core:
    """AdaNPC: nearest neighbours among source features and test features taken up on the way.

    1. v = features / length. 2. The `num_neighbors` entries with the largest cosine vote with the
    weights softmax(cosine / T): s_c; then s <- min(s + 1e-5, 1). 3. Rows whose confidence, the
    largest softmax(s), is at least `min_confidence` join the memory as (v, argmax s). All rows of a
    batch look at the memory as it was before the batch. No gradient; the model stays as it is.

    Args:
      apply_fn: the network; must return features.
      num_classes: C.
      num_neighbors: k. The official search, on test data, was over 1 to 200; 50 is a fixed choice.
      temperature: T, fixed likewise; 0.01 to 0.5 were searched. May be traced.
      min_confidence: beta. Confidence is the softmax of votes, at most e / (e + C - 1), so that 1.1
        never adds a row and 0 adds all; 0, 0.25, 0.75 and 1.1 were searched. May be traced.
      radius: epsilon of the ball variant: if every row of the batch has an entry with at least
        this cosine, all such entries vote in place of the nearest. May be traced.
      growth: places for test rows, at least the global batch size, or 0 for a fixed memory.
      norm: which batch statistics are used; the authors evaluate with the stored ones.
      axis_name: mapped device axis, `None` for global arrays; rows are gathered over it.

    Returns:
      A core with `init(params, model_state, features, labels)`: features of the source model on
      labelled source images (`source_features.extracted` with the same `norm`), `[S, D]`, S at
      least 1, and their true classes, `[S]`, integers. The scored logits are log s; their softmax
      is s up to its sum. `selected` are the rows that joined. Metrics: `num_selected`,
      `num_nonfinite`, `confidence` (mean), `memory_size`, `num_overwritten` (test rows that the
      ring has lost so far).

    Raises:
      ValueError: (in `init`) no source entries, or features and labels of different number; (when
        called) a batch larger than `growth`, or a network without features.

    References:
      Zhang et al., AdaNPC: Exploring Non-Parametric Classifier for Test-Time Adaptation, ICML 2023.
      Official code: yfzhang114/AdaNPC.

    Note:
      Different from the official code: the memory does not start with a random entry of class 0,
      and it is a ring: beyond `growth` the oldest test rows are overwritten, source entries never.
      Not here: training the network for this classifier, and the variant with a batch norm.
    """
    apply_fn = checked(apply_fn, num_classes)

    def init(params: Any, model_state: Any, features: Array, labels: Array) -> MemoryState:
        if len(features) < 1 or len(labels) != len(features):
            raise ValueError(
                f"AdaNPC got {len(features)} source features and {len(labels)} labels; give one "
                "label for each of at least 1 feature."
            )
        source = Entries(unit(jnp.asarray(features)), jnp.array(labels, jnp.int32, copy=True))
        places = jnp.zeros((growth, source.features.shape[1]), source.features.dtype)
        return MemoryState(
            Held(Fixed(adaptation.copied(params), adaptation.copied(model_state), source)),
            Entries(places, jnp.zeros(growth, jnp.int32)),
            jnp.zeros((), jnp.int32),
        )

    def update(state: MemoryState, batch: Any, key: Array) -> tuple[MemoryState, StepOutput]:
        inputs, rows, valid = batches.given(batch)
        if 0 < growth < len(inputs) * parallel.axis_size(axis_name):
            raise ValueError(
                f"the memory has growth={growth} places for test rows but a batch has "
                f"{len(inputs) * parallel.axis_size(axis_name)} rows; give at least as many places."
            )
        fixed, ring = state.fixed.arrays, state.ring
        num_source = len(fixed.source.labels)
        found, _ = apply_fn(fixed.params, fixed.model_state, inputs, norm=norm, mask=valid)
        counted, v = batches.sound(valid, unit(features_of(found, "AdaNPC")))
        # One product over both: two products round differently.
        entries = jnp.concatenate([fixed.source.features, ring.features]).astype(v.dtype)
        classes = jnp.concatenate([fixed.source.labels, ring.labels])
        filled = jnp.arange(len(classes)) < num_source + jnp.minimum(state.num_added, growth)
        similarity = jnp.where(filled[None], v @ entries.T, -jnp.inf)
        vote = lambda ball: votes(
            similarity, classes, num_classes, num_neighbors, temperature, ball
        )
        s = vote(None)
        if radius is not None:
            ball = similarity >= radius
            without = adaptation.count(counted & ~ball.any(-1), axis_name)
            # A row without an entry keeps its nearest one, so that nothing is divided by 0.
            s = jnp.where(without == 0, vote(ball | (similarity == similarity.max(-1)[:, None])), s)
        s = jnp.minimum(s + 1e-5, 1)
        confidence = jax.nn.softmax(s).max(-1)
        selected = counted & (confidence >= min_confidence)
        if not growth:
            selected = jnp.zeros_like(valid)
        number = adaptation.count(selected, axis_name)
        metrics = {
            "num_selected": number,
            "num_nonfinite": adaptation.count(rows & ~counted, axis_name),
            "confidence": parallel.masked_mean(confidence, counted, axis_name),
        }
        if growth:
            joining, chosen, joins = parallel.gather((v, s.argmax(-1), selected), axis_name)
            place = (state.num_added + jnp.cumsum(joins) - 1) % growth
            place = jnp.where(joins, place, growth)  # out of range: dropped
            put = lambda memory, new: memory.at[place].set(new.astype(memory.dtype), mode="drop")
            state = state._replace(
                ring=Entries(put(ring.features, joining), put(ring.labels, chosen)),
                num_added=state.num_added + joins.sum(dtype=jnp.int32),
            )
        metrics["memory_size"] = num_source + jnp.minimum(state.num_added, growth)
        metrics["num_overwritten"] = jnp.maximum(state.num_added - growth, 0)
        return state, adaptation.report(metrics, jnp.log(s), selected)

    return Core(init, update)
