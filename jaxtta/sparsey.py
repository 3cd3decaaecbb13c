"""Sparsey: a memory of sparse codes that is written once per item, and finds similar items by it.

A macrocolumn has Q modules of K binary units; a code is one winner per module. The weights of a
module's units from the inputs, all 0 at first, say how well an input fits each unit. If it fits
well, the old winners win again; if it does not, winners are drawn evenly, so that the new code has
little in common with any other; in between, codes overlap as inputs do. What was seen before, and
how similar it is, so comes from one pass whose cost does not depend on how much is stored.

For an input with n active features, per macrocolumn: 1. outside the band of n it has no code.
2. U = active weights / n, at most 1. In a sequence also H, the same from the code before; evidence
V = U^a H^b. 3. Familiarity G = mean over modules of the largest V. 4. Expansion
eta = 1 + chi ((G - threshold) / (1 - threshold))^gamma. 5. mu = max(eta / (1 + exp(-slope (V -
centre))), 1). 6. Each module draws its winner from mu / sum mu, or, when it only recognises, takes
the largest V. 7. Weights from active features to winners become 1, unless the winner is frozen: as
soon as a share of its weights is 1. Labels are units too: a code votes for those it was seen with.

Sources: the papers, and two public ports (jacobeverist/dcc-sparsey, SashwatAnagolum's sparseypy);
the author's code is not public. One level of macrocolumns; weights that decay with age, and levels
above with weights down, are not included.

References:
  Rinkus, A Cortical Sparse Distributed Coding Model Linking Mini- and Macrocolumn-Scale
  Functionality, Frontiers in Neuroanatomy 2010.
  Rinkus and Leveille, Superposed Episodic and Semantic Memory via Sparse Distributed
  Representation, 2017, arXiv 1710.07829.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel
from jaxtrain.core import Core, StepOutput
from jaxtrain.known_numbers import check_known, check_whole


class Sizes(NamedTuple):
    """Structure of a memory.

    Attributes:
      num_modules: Q, of a macrocolumn.
      num_units: K, of a module.
      fields: features that each macrocolumn sees, `[M, n]`, int; -1 for places that are empty.
      num_labels: how many labels there are; 0 for none.
      recurrent: whether items are sequences, and codes depend on the code before.
    """

    num_modules: int
    num_units: int
    fields: np.ndarray
    num_labels: int = 0
    recurrent: bool = False


class Rule(NamedTuple):
    """Numbers by which winners are drawn and weights are written; all may be traced.

    Attributes:
      chi: most that familiarity expands; 0 draws every code evenly.
      threshold: familiarity at which expansion begins.
      gamma: its exponent.
      slope, centre: of the sigmoid over evidence.
      last_centre: where the centre goes, a hundredth of the way with every item, once the mean
        familiarity of the items so far is above `moves_at`.
      moves_at: 1 for never.
      up_exponent, across_exponent: a and b.
      freeze: share of a unit's weights at which they stay as they are; 1 for never.
      band: least and greatest share of active features of a macrocolumn that has a code.
    """

    chi: ArrayLike = 100.0
    threshold: ArrayLike = 0.2
    gamma: ArrayLike = 1.0
    slope: ArrayLike = 28.0
    centre: ArrayLike = 0.5
    last_centre: ArrayLike = 0.5
    moves_at: ArrayLike = 1.0
    up_exponent: ArrayLike = 1.0
    across_exponent: ArrayLike = 1.0
    freeze: ArrayLike = 1.0
    band: tuple[ArrayLike, ArrayLike] = (0.0, 1.0)


RULE = Rule()


class Memory(NamedTuple):
    """State. Weights are 0 or 1, float32.

    Attributes:
      up: from features, `[M, n, Q, K]`.
      across: from the winners of the item before, `[M, Q, K, Q, K]`; `()` without sequences.
      labels: to labels, `[M, Q, K, labels]`; `()` without labels.
      previous: winners of the item before, `[M, Q]`, int32, -1 for none; `()` without sequences.
      centre: of the sigmoid, `[M]`.
      familiarity: sum over the items so far, `[M]`.
      presented: items so far, `[]`, int32.
    """

    up: Array
    across: Any
    labels: Any
    previous: Any
    centre: Array
    familiarity: Array
    presented: Array


class Codes(NamedTuple):
    """What items are coded as.

    Attributes:
      winners: of every module, `[..., M, Q]`, int32; -1 where the macrocolumn has no code.
      familiarity: G, `[..., M]`; 0 where it has no code.
    """

    winners: Array
    familiarity: Array


def _previous(memory: Memory, previous: Array) -> Array:
    """H of every unit, `[M, Q, K]`, from the winners before `[M, Q]`; 1 where there were none."""
    across = memory.across
    macs, modules = np.ogrid[: across.shape[0], : across.shape[1]]
    sums = across[macs, modules, jnp.maximum(previous, 0)].sum(1)
    return jnp.where((previous >= 0).all(-1)[:, None, None], sums / across.shape[1], 1)


def evidence(
    memory: Memory, sizes: Sizes, rule: Rule, x: Array, previous: Array | None = None
) -> tuple[Array, Array, Array]:
    """How well an item fits each unit.

    Args:
      memory: the state.
      sizes: its structure.
      rule: exponents, and the band.
      x: 0 or 1, `[N]`.
      previous: winners of the item before, `[M, Q]`; None to leave them out.

    Returns:
      V `[M, Q, K]`, the features that each macrocolumn sees `[M, n]`, and whether it has a code,
      `[M]`, bool.
    """
    fields = jnp.asarray(sizes.fields)
    seen = jnp.where(fields >= 0, x[jnp.maximum(fields, 0)], 0).astype(jnp.float32)
    count, room = seen.sum(-1), (fields >= 0).sum(-1)
    active = (count > 0) & (count >= rule.band[0] * room) & (count <= rule.band[1] * room)
    support = jnp.einsum("mn,mnqk->mqk", seen, memory.up)
    value = jnp.minimum(support / jnp.maximum(count, 1)[:, None, None], 1) ** rule.up_exponent
    if previous is not None and sizes.recurrent:
        value = value * _previous(memory, previous) ** rule.across_exponent
    return value, seen, active


def familiarity(value: Array) -> Array:
    """G, the mean over modules of the largest evidence, `[M, Q, K] -> [M]`."""
    return value.max(-1).mean(-1)


def expected(value: Array, rule: Rule, centre: Array) -> Array:
    """Chance of every unit to win its module while the memory learns, `[M, Q, K]`.

    Args:
      value: V.
      rule: of drawing.
      centre: of the sigmoid now, `[M]`.
    """
    above = jnp.clip((familiarity(value) - rule.threshold) / (1 - jnp.asarray(rule.threshold)), 0)
    # The base of a power is kept from 0, where its derivative is not needed but 0 ** 0 is 1.
    eta = 1 + rule.chi * jnp.where(above > 0, jnp.maximum(above, 1e-9) ** rule.gamma, 0)
    around = centre[:, None, None]
    mu = jnp.maximum(eta[:, None, None] * jax.nn.sigmoid(rule.slope * (value - around)), 1)
    return mu / mu.sum(-1, keepdims=True)


def _coded(winners: Array, known: Array, active: Array) -> Codes:
    return Codes(
        jnp.where(active[:, None], winners, -1).astype(jnp.int32), jnp.where(active, known, 0)
    )


def present(
    memory: Memory,
    sizes: Sizes,
    rule: Rule,
    x: Array,
    label: Array,
    first: Array,
    key: Array,
) -> tuple[Memory, Codes]:
    """Writes one item.

    Args:
      memory: the state.
      sizes: its structure.
      rule: of drawing and writing.
      x: 0 or 1, `[N]`.
      label: `[]`, int; -1 for none.
      first: whether it begins a sequence, `[]`, bool.
      key: of the draw.
    """
    previous = jnp.where(first, -1, memory.previous) if sizes.recurrent else None
    value, seen, active = evidence(memory, sizes, rule, x, previous)
    known = familiarity(value)
    chances = expected(value, rule, memory.centre)
    winners = jax.random.categorical(key, jnp.log(chances))
    codes = _coded(winners, known, active)

    macs, modules = np.ogrid[: chances.shape[0], : chances.shape[1]]
    mine = memory.up[macs, :, modules, winners]  # [M, Q, n]
    room = (jnp.asarray(sizes.fields) >= 0).sum(-1)
    frozen = mine.sum(-1) >= rule.freeze * room[:, None]
    writes = (active[:, None] & ~frozen)[..., None] * seen[:, None]
    up = memory.up.at[macs, :, modules, winners].set(jnp.maximum(mine, writes))

    across, labels, before = memory.across, memory.labels, memory.previous
    if sizes.recurrent:
        assert previous is not None
        linked = (active & (previous >= 0).all(-1))[:, None, None].astype(jnp.float32)
        place = (macs[..., None], modules[..., None], jnp.maximum(previous, 0)[..., None])
        across = across.at[(*place, modules[:, None], winners[:, None])].max(linked)
        before = codes.winners
    if sizes.num_labels:
        one = jax.nn.one_hot(label, sizes.num_labels)[None, None] * active[:, None, None]
        labels = labels.at[macs, modules, winners].max(one)

    total = memory.familiarity + codes.familiarity
    moves = total / (memory.presented + 1) > rule.moves_at
    way = jnp.asarray(rule.last_centre) - rule.centre
    nearer = jnp.where(moves, memory.centre + way / 100, memory.centre)
    past = jnp.abs(nearer - rule.centre) > jnp.abs(way)
    centre = jnp.where(past, rule.last_centre, nearer).astype(memory.centre.dtype)
    return Memory(up, across, labels, before, centre, total, memory.presented + 1), codes


def recognise(
    memory: Memory,
    sizes: Sizes,
    rule: Rule,
    x: Array,
    key: Array,
    previous: Array | None = None,
    back_off: ArrayLike | None = None,
) -> Codes:
    """The code of one item; nothing is written, ties are broken at random.

    Args:
      memory: the state.
      sizes: its structure.
      rule: exponents, and the band.
      x: 0 or 1, `[N]`.
      key: of the ties.
      previous: winners of the item before, `[M, Q]`, in a sequence.
      back_off: where the familiarity with both kinds of evidence is below, the more familiar kind
        alone is used; None for never.
    """
    value, _, active = evidence(memory, sizes, rule, x, previous)
    if back_off is not None and previous is not None:
        up, _, _ = evidence(memory, sizes, rule, x)
        across = _previous(memory, previous) ** rule.across_exponent
        before = (previous >= 0).all(-1)  # without a code before there is one kind of evidence
        alone = before & (familiarity(across) > familiarity(up))
        better = jnp.where(alone[:, None, None], across, up)
        enough = (familiarity(value) >= back_off)[:, None, None]
        value = jnp.where(enough, value, better)
    largest = value == value.max(-1, keepdims=True)
    winners = jnp.where(largest, jax.random.uniform(key, value.shape), -1).argmax(-1)
    return _coded(winners, familiarity(value), active)


def label_of(memory: Memory, winners: Array) -> Array:
    """The label that a code `[M, Q]` votes for, `[]`: every winner has one vote to share out."""
    macs, modules = np.ogrid[: winners.shape[0], : winners.shape[1]]
    votes = memory.labels[macs, modules, jnp.maximum(winners, 0)]
    shared = votes / jnp.maximum(votes.sum(-1, keepdims=True), 1)
    return jnp.where((winners >= 0)[..., None], shared, 0).sum((0, 1)).argmax()


def similarity(one: Array, other: Array) -> Array:
    """Share of the winners that codes `[..., M, Q]` have in common, `[...]`.

    Macrocolumns that have a code in neither do not count.
    """
    known = ((one >= 0) | (other >= 0)).sum((-2, -1))
    return ((one == other) & (one >= 0)).sum((-2, -1)) / jnp.maximum(known, 1)


def overlap_correlation(inputs: Array, winners: Array) -> Array:
    """Similar inputs, similar codes: correlation of both over all pairs of items, `[]`.

    Args:
      inputs: 0 or 1, `[I, N]`; the similarity of two is the share of active features in common.
      winners: `[I, M, Q]`.
    """
    x = inputs.astype(jnp.float32)
    sums = jnp.maximum(x.sum(1), 1)
    near = (x @ x.T) / jnp.sqrt(sums[:, None] * sums[None])
    alike = jax.lax.map(lambda one: similarity(one[None], winners), winners)
    above = np.triu_indices(len(x), 1)
    return jnp.corrcoef(near[above], alike[above])[0, 1]


def sparsey(sizes: Sizes, *, rule: Rule = RULE, axis_name: parallel.AxisName | None = None) -> Core:
    """A memory as a core: an update writes the items of its batch, one after the other.

    There is no optimiser; the order of the items matters. With several devices, all of them write
    all items.

    Args:
      sizes: its structure.
      rule: numbers of drawing and writing; may be traced.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(key)`, which needs no randomness. A batch is a dict with `inputs` `[B, N]`,
      0 or 1; `labels` `[B]`, -1 for none, where the memory has labels; and `first` `[B]`, whether
      an item begins a sequence, where it is recurrent. Outputs are the `Codes` of the items.
      Metrics: `familiarity`, `fill` (share of weights that are 1), `coded` (share of macrocolumns
      that had a code).

    Raises:
      ValueError: impossible sizes or numbers, or (when called) a batch of other shapes.
    """
    fields = np.asarray(sizes.fields)
    largest = dict(num_modules=sizes.num_modules, num_units=sizes.num_units)
    check_whole(1, 2**16, **largest)
    check_whole(0, 2**16, num_labels=sizes.num_labels)
    if fields.ndim != 2 or not np.issubdtype(fields.dtype, np.integer) or fields.min() < -1:
        raise ValueError(
            "fields are places of features [macrocolumns, n], whole numbers from 0 or -1 for "
            f"none, but have shape {fields.shape} and type {fields.dtype}."
        )
    check_known(lambda v: v >= 0, "at least 0", chi=rule.chi, gamma=rule.gamma, slope=rule.slope)
    check_known(lambda v: 0 <= v < 1, "from 0 to below 1", threshold=rule.threshold)
    check_known(lambda v: 0 < v <= 1, "above 0 and at most 1", freeze=rule.freeze)
    (macs, places), q, k = fields.shape, sizes.num_modules, sizes.num_units

    def init(key: Array) -> Memory:
        return Memory(
            jnp.zeros((macs, places, q, k)),
            jnp.zeros((macs, q, k, q, k)) if sizes.recurrent else (),
            jnp.zeros((macs, q, k, sizes.num_labels)) if sizes.num_labels else (),
            jnp.full((macs, q), -1, jnp.int32) if sizes.recurrent else (),
            jnp.full(macs, rule.centre, jnp.float32),
            jnp.zeros(macs),
            jnp.zeros((), jnp.int32),
        )

    def update(state: Memory, batch: Any, key: Array) -> tuple[Memory, StepOutput]:
        x = batch["inputs"]
        if x.ndim != 2 or x.shape[1] <= fields.max():
            raise ValueError(
                f"items have shape {x.shape}, but the memory sees features up to {fields.max()}; "
                "give rows [batch, features]."
            )
        number = len(x)
        none, never = jnp.full(number, -1), jnp.zeros(number, bool)
        items = (
            x,
            batch["labels"] if sizes.num_labels else none,
            batch["first"] if sizes.recurrent else never,
        )
        start = 0 if axis_name is None else number * jax.lax.axis_index(axis_name)
        items = parallel.gather(items, axis_name)

        def body(memory: Memory, item: Any) -> tuple[Memory, Codes]:
            place, (row, label, first) = item
            own = jax.random.fold_in(key, place)
            return present(memory, sizes, rule, row, label, first, own)

        state, codes = jax.lax.scan(body, state, (jnp.arange(len(items[0])), items))
        metrics = {
            "familiarity": codes.familiarity.mean(),
            "fill": state.up.mean(),
            "coded": (codes.winners[..., 0] >= 0).mean(dtype=jnp.float32),
        }
        own = jax.tree.map(lambda c: jax.lax.dynamic_slice_in_dim(c, start, number), codes)
        return state, StepOutput(metrics, own)

    return Core(init, update)
