"""Adaptation from a memory of timely, sure and balanced samples: RoTTA."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel, trees
from jaxtrain.core import Core, StepOutput
from jaxtrain.nets.classifier import ClassifierFn
from jaxtrain.nets.norm import SOURCE, Norm
from jaxtta import adaptation, batches, draws
from jaxtta.adaptation import AdaptState
from jaxtta.check_apply import checked
from jaxtta.images.mean_teacher import Augmentation, cross_entropy, standard_augmentation
from jaxtta.selection import Predicate, norm_parameters

# --- Memory bank ----------------------------------------------------------------------------------


class Bank(NamedTuple):
    """Memory bank of N slots.

    Attributes:
      images: `[N, H, W, C]`.
      label: pseudo-label, `[N]`, int32.
      uncertainty: entropy of the prediction when the image came, in nats, `[N]`.
      age: samples seen since then, `[N]`, int32.
      used: slots that hold an image, `[N]`, bool.
    """

    images: Array
    label: Array
    uncertainty: Array
    age: Array
    used: Array


class Sample(NamedTuple):
    """What the bank is told about an image: `[H, W, C]`, `[]` int32, `[]` in nats."""

    image: Array
    label: Array
    uncertainty: Array


def empty_bank(capacity: int, image_shape: tuple[int, ...]) -> Bank:
    """A bank without images."""
    whole = jnp.zeros(capacity, jnp.int32)
    return Bank(
        jnp.zeros((capacity, *image_shape)), whole, jnp.zeros(capacity), whole, whole.astype(bool)
    )


def insert(bank: Bank, sample: Sample, num_classes: int) -> Bank:
    """Offers one sample to the bank; afterwards everything in it is one sample older.

    Every class may hold N / C images. While its class is below that and a slot is free, the sample
    is stored. Otherwise it competes with the images of its own class if that is full, or with those
    of the largest class(es) if the bank is: the one with the highest score 1 / (1 + exp(-age / N))
    + uncertainty / ln C goes if its score exceeds that of the sample at age 0, else the sample is
    dropped.

    Args:
      bank: the bank.
      sample: without batch axis.
      num_classes: C.
    """
    capacity = len(bank.used)
    count = jnp.where(
        bank.used[:, None], jax.nn.one_hot(bank.label, num_classes, dtype=jnp.int32), 0
    ).sum(0)
    score = lambda age, u: 1 / (1 + jnp.exp(-age / capacity)) + u / math.log(num_classes)
    below_quota = count[sample.label] < capacity / num_classes
    free = below_quota & ~bank.used.all()
    own, largest = bank.label == sample.label, (count == count.max())[bank.label]
    rivals = bank.used & jnp.where(below_quota, largest, own)
    scores = jnp.where(rivals, score(bank.age, bank.uncertainty), -jnp.inf)
    stored = free | (scores.max() > score(jnp.zeros(()), sample.uncertainty))
    slot = jnp.where(free, bank.used.argmin(), scores.argmax())
    new = Bank(*sample, jnp.zeros((), jnp.int32), jnp.ones((), bool))

    def put(x: Array, value: Array) -> Array:
        return x.at[slot].set(jnp.where(stored, value.astype(x.dtype), x[slot]))

    bank = Bank(*(put(x, value) for x, value in zip(bank, new, strict=True)))
    return bank._replace(age=jnp.where(bank.used, bank.age + 1, bank.age))


# --- Draws ----------------------------------------------------------------------------------------


class RottaDraws(NamedTuple):
    """`draws.Augmenting` of the bank for every update that may fall into a batch, `[G, ...]`."""

    augmentations: draws.Augmenting


def num_groups(batch_size: int, update_every: int) -> int:
    """G, the most groups of `update_every` images that a batch can touch."""
    return (batch_size + update_every - 2) // update_every + 1


def rotta_draws(
    key: Array, batch_size: int, *, capacity: int = 64, update_every: int = 64
) -> RottaDraws:
    """The draws that `rotta` makes of the key of an update; group g those of `fold_in(key, g)`.

    Args:
      key: of the update.
      batch_size: rows, of all devices.
      capacity, update_every: of the method.
    """

    def group(i: Array) -> draws.Augmenting:
        shared, rows = jax.random.split(jax.random.fold_in(key, i))
        return draws.Augmenting(shared, jax.random.split(rows, capacity))

    return RottaDraws(jax.vmap(group)(jnp.arange(num_groups(batch_size, update_every))))


# --- The method -----------------------------------------------------------------------------------


class RottaMemory(NamedTuple):
    """Memory of RoTTA: teacher, its statistics, the bank, and samples since the last update."""

    teacher: Any
    teacher_state: Any
    bank: Bank
    num_waiting: Array


def rotta(
    apply_fn: ClassifierFn,
    optimizer: optax.GradientTransformation,
    num_classes: int,
    image_shape: tuple[int, ...],
    *,
    capacity: int = 64,
    update_every: int = 64,
    momentum: ArrayLike = 0.05,
    teacher_decay: ArrayLike = 0.999,
    augmentation: Augmentation | None = None,
    select: Predicate = norm_parameters,
    axis_name: parallel.AxisName | None = None,
) -> Core:
    """RoTTA: a student learns from a bank of remembered images, for streams of correlated classes.

    1. The teacher predicts the batch with its stored statistics: these are the scored logits, and
    give each image a pseudo-label and the uncertainty -sum p log(p + 1e-6). 2. The images are
    offered to the bank one after the other (`insert`). 3. After every `update_every` images, within
    a batch if need be: a_j = age_j / N, loss = mean over the bank of exp(-a) / (1 + exp(-a)) *
    CE(softmax(teacher(image)) -> student(T(image))); an optimiser step; teacher <- decay teacher +
    (1 - decay) student, parameters only.

    Robust batch norm: in step 3 the stored statistics of either network first become (1 - momentum)
    of themselves + momentum of the bank's (biased variance), and normalise by the result; the
    gradient flows through the second part. Layer and group norm have no statistics.

    Args:
      apply_fn: the network.
      optimizer: Adam 1e-3.
      num_classes: C, at least 2.
      image_shape: `(H, W, C)` of one image.
      capacity: N, slots of the bank.
      update_every: images between updates.
      momentum: of the statistics; may be traced.
      teacher_decay: may be traced.
      augmentation: T, `(images, key, row_keys) -> images`; `None`: `standard_augmentation()`.
      select: adapted parameters, by path.
      axis_name: mapped device axis, `None` for global arrays. The bank is the same on all devices:
        it sees the rows of all of them in order, and every device computes the updates.

    Returns:
      A core with `init(params, model_state)`; its update takes a key or `RottaDraws`, as
      `rotta_draws` makes them. Metrics: `loss` of the last update in the batch (0
      without one), `num_updates`, `num_remembered`, `num_nonfinite`. `selected` marks rows offered
      to the bank.

    Raises:
      ValueError: fewer than two classes, or a size below 1; (when called) images of another shape.

    References:
      Yuan et al., Robust Test-Time Adaptation in Dynamic Scenarios, CVPR 2023. Official code:
      BIT-DA/RoTTA.

    Note:
      Between images of equal score the official code evicts the last of its lists, here the first
      slot goes; ages in the bank differ, so that this needs equal sums of different terms.
    """
    if num_classes < 2 or capacity < 1 or update_every < 1:
        raise ValueError(
            f"num_classes={num_classes}, capacity={capacity} and update_every={update_every}; "
            "RoTTA needs two classes or more, a bank of 1 or more, and an update after 1 or more "
            "images."
        )
    change = augmentation or standard_augmentation()
    robust = Norm(momentum, momentum, unbiased=False, unbiased_stored=False)
    apply_fn = checked(apply_fn, num_classes)

    def init(params: Any, model_state: Any) -> AdaptState:
        teacher, _ = adaptation.split(params, select)
        bank = empty_bank(capacity, image_shape)
        memory = RottaMemory(teacher, model_state, bank, jnp.zeros((), jnp.int32))
        return adaptation.start(params, model_state, optimizer, select, memory=memory)

    def learn(state: AdaptState, one: draws.Augmenting) -> tuple[AdaptState, Array, Array]:
        """Step 3 on the bank as it is."""
        memory, bank = state.memory, state.memory.bank
        changed = change(bank.images, one.shared, one.rows)

        def found(params: Any, model_state: Any, x: Array) -> tuple[Array, Any]:
            whole = trees.merge(params, state.frozen)
            out, stats = apply_fn(whole, model_state, x, norm=robust, mask=bank.used)
            return out.logits, stats

        target, teacher_state = found(memory.teacher, memory.teacher_state, bank.images)
        fresh = jnp.exp(-bank.age.astype(target.dtype) / capacity)

        def objective(params: Any) -> tuple[Array, Any]:
            logits, model_state = found(params, state.model_state, changed)
            each = fresh / (1 + fresh) * cross_entropy(target, logits)
            return parallel.masked_mean(each, bank.used, axis_name), model_state

        (value, model_state), grads = parallel.local_value_and_grad(
            objective, axis_name, has_aux=True
        )(state.params)
        value, grads = parallel.pmean((value, grads), axis_name)
        statistics = (model_state, teacher_state)
        sound = batches.stays_finite(statistics, (state.model_state, memory.teacher_state))
        stepped, moved = adaptation.descend(state, value, grads, optimizer, sound)
        teacher = trees.ema(memory.teacher, stepped.params, teacher_decay)
        memory = memory._replace(teacher=teacher, teacher_state=teacher_state)
        after = stepped._replace(model_state=model_state, memory=memory)
        return adaptation.where(moved, after, state), value, moved

    def update(
        state: AdaptState, batch: Any, key: Array | RottaDraws
    ) -> tuple[AdaptState, StepOutput]:
        inputs, rows, valid = batches.given(batch)
        if inputs.shape[1:] != image_shape:
            raise ValueError(
                f"the bank was made for images of shape {image_shape} but got {inputs.shape[1:]}; "
                "give rotta the shape of the images."
            )
        whole = trees.merge(state.memory.teacher, state.frozen)
        logits = apply_fn(whole, state.memory.teacher_state, inputs, norm=SOURCE, mask=valid)[0]
        logits = logits.logits
        valid, safe = batches.sound(valid, logits)
        p = jax.nn.softmax(safe)
        uncertainty = -(p * jnp.log(p + 1e-6)).sum(-1)
        offered = Sample(jnp.asarray(inputs), safe.argmax(-1).astype(jnp.int32), uncertainty)
        offered, counted = parallel.gather((offered, valid), axis_name)
        # Rows that count come first, and go on filling the group that the last batch began.
        order = jnp.argsort(~counted, stable=True)
        number = counted.sum()
        drawn = draws.either(
            key,
            RottaDraws,
            lambda key: rotta_draws(
                key, len(counted), capacity=capacity, update_every=update_every
            ),
        )
        waiting = state.memory.num_waiting

        def group(carry: tuple[AdaptState, Array, Array], given: Any) -> tuple[Any, None]:
            (state, value, num_updates), (i, one) = carry, given

            def offer(bank: Bank, j: Array) -> tuple[Bank, None]:
                place = i * update_every + j - waiting
                row = order[jnp.clip(place, 0, len(order) - 1)]
                sample = jax.tree.map(lambda x: x[row], offered)
                there = (place >= 0) & (place < number)
                return adaptation.where(there, insert(bank, sample, num_classes), bank), None

            bank, _ = jax.lax.scan(offer, state.memory.bank, jnp.arange(update_every))
            state = state._replace(memory=state.memory._replace(bank=bank))
            full = (i + 1) * update_every <= waiting + number
            state, value, moved = jax.lax.cond(
                full,
                lambda s: learn(s, one),
                lambda s: (s, value, jnp.zeros((), bool)),
                state,
            )
            return (state, value, num_updates + moved), None

        zero = jnp.zeros((), jnp.promote_types(logits.dtype, jnp.float32))
        start = (state, zero, jnp.zeros((), jnp.int32))
        (state, value, num_updates), _ = jax.lax.scan(
            group,
            start,
            (jnp.arange(num_groups(len(counted), update_every)), drawn.augmentations),
        )
        after = (waiting + number) % update_every
        memory = state.memory._replace(num_waiting=after.astype(waiting.dtype))
        metrics = {
            "loss": value,
            "num_updates": num_updates,
            "num_remembered": memory.bank.used.sum(),
            "num_nonfinite": adaptation.count(rows & ~valid, axis_name),
        }
        return state._replace(memory=memory), adaptation.report(metrics, logits, valid)

    return Core(init, update)
