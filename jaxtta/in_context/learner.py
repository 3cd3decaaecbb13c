"""What every in-context learner is: five pure functions and a count of what it remembers.

A learner reads labelled examples one after the other and predicts the label of each from those
before it. `logits` does a whole sequence at once; `start` and `step` do the same online, where
`step` predicts first and then takes the label in. Because the prediction of a step does not depend
on the label given with it, answering a query is a step whose new memory is dropped.

What does not fit is refused where it is known and visible where it is not. Shapes, lengths and
types of labels are known when a function is traced: a ValueError. So are, outside of compiled
programs, the labels themselves and how full a memory is. Inside, where both are traced, a step
beyond the last place gives NaN logits, leaves the memory as it is and goes on counting, so that
`position > max_length` tells; `predict` and `online` give NaN for a sequence with a label outside
0 .. C - 1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from jaxtrain.parallel import mark_varying_like

Params = Any


class Memory(NamedTuple):
    """What a learner carries from one example to the next.

    Attributes:
      state: its accessible state, leaves `[B, ...]`; `Learner.state_size` numbers per sequence.
      label: label of the last example, which travels in the token of the next one, `[B]`, int32;
        -1 before the first.
      position: number of examples read, `[]`, int32.
    """

    state: Any
    label: Array
    position: Array


class Learner(NamedTuple):
    """An in-context learner.

    Attributes:
      init: `key -> params`.
      start: `(params, batch_size) -> Memory` of nothing.
      step: `(params, memory, x [B, N], y [B]) -> (memory, logits [B, C])`, predicts x from the
        memory, then remembers (x, y).
      read: `(params, x [B, T, N], y [B, T]) -> Memory` of T examples.
      logits: `(params, x [B, T, N], y [B, T]) -> [B, T, C]`; the t-th depends on x up to t and y
        before t.
      state_size: accessible state: numbers that are carried and can influence the next prediction.
      num_inputs: N.
      num_classes: C.
      max_length: most examples it can read; None for any number.
      max_context: most examples after which it can still predict one; None for any number. Less
        than `max_length` where a prediction needs a place of its own.
    """

    init: Callable[[Array], Params]
    start: Callable[[Params, int], Memory]
    step: Callable[[Params, Memory, Array, Array], tuple[Memory, Array]]
    read: Callable[[Params, Array, Array], Memory]
    logits: Callable[[Params, Array, Array], Array]
    state_size: int
    num_inputs: int
    num_classes: int
    max_length: int | None = None
    max_context: int | None = None


def known(x: Any) -> bool:
    """Whether the numbers of an array are known here and now."""
    return not isinstance(x, jax.core.Tracer) and getattr(x, "is_fully_addressable", True)


def check_labels(num_classes: int, y: Any) -> None:
    """Raises ValueError unless labels are integers, and 0 .. C - 1 where they are known."""
    kind = jnp.result_type(y)
    if not jnp.issubdtype(kind, jnp.integer):
        raise ValueError(
            f"labels must be integers from 0 to {num_classes - 1} but are {kind}; convert them "
            "after checking that they are whole."
        )
    if known(y) and np.size(y):
        numbers = np.asarray(y)  # not JAX's min, which a surrounding jit would trace
        least, greatest = numbers.min(), numbers.max()
        if least < 0 or greatest >= num_classes:
            raise ValueError(
                f"labels must be from 0 to {num_classes - 1} but go from {least} to {greatest}; "
                "number the classes from 0."
            )


def check(learner: Learner, x: Array, y: Array | None = None) -> None:
    """Raises ValueError unless the sequences fit the learner."""
    if x.ndim != 3 or x.shape[-1] != learner.num_inputs:
        raise ValueError(
            f"inputs need shape [B, T, {learner.num_inputs}] but have {x.shape}; project or resize "
            "them to what the learner was built for."
        )
    if y is not None and y.shape != x.shape[:2]:
        raise ValueError(f"labels need shape {x.shape[:2]}, one per input, but have {y.shape}.")
    if not x.shape[1]:
        raise ValueError(
            "the sequences hold no example; give at least one, or begin with the memory of "
            "`learner.start`."
        )
    if y is not None:
        check_labels(learner.num_classes, y)
    if learner.max_length is not None and x.shape[1] > learner.max_length:
        raise ValueError(
            f"the sequences hold {x.shape[1]} examples but the learner has places for "
            f"{learner.max_length}; shorten them or build it with a larger length."
        )


def check_step(learner: Learner, memory: Memory, x: Array, y: Array) -> None:
    """Raises ValueError unless one example per sequence fits the learner and its memory."""
    size = memory.label.shape[0]
    if x.shape != (size, learner.num_inputs):
        raise ValueError(
            f"the inputs of a step need shape [{size}, {learner.num_inputs}], one example per "
            f"sequence of the memory, but have {x.shape}."
        )
    if y.shape != (size,):
        raise ValueError(f"the labels of a step need shape [{size}] but have {y.shape}.")
    check_labels(learner.num_classes, y)
    check_room(learner, memory)


def check_room(learner: Learner, memory: Memory) -> None:
    """Raises ValueError if it is known that the memory is too full for another prediction."""
    if learner.max_context is not None and known(memory.position):
        if int(memory.position) > learner.max_context:
            raise ValueError(
                f"the memory has read {memory.position} examples but the learner can predict after "
                f"at most {learner.max_context}; build it with a larger length."
            )


def empty(state: Any, batch_size: int) -> Memory:
    """A memory with this state and no examples."""
    return Memory(state, jnp.full((batch_size,), -1, jnp.int32), jnp.int32(0))


def from_step(
    init: Callable[[Array], Params],
    start: Callable[[Params, int], Memory],
    step: Callable[[Params, Memory, Array, Array], tuple[Memory, Array]],
    *,
    state_size: int,
    num_inputs: int,
    num_classes: int,
) -> Learner:
    """A recurrent learner: `read` and `logits` are scans of `step`."""

    def checked(params: Params, memory: Memory, x: Array, y: Array) -> tuple[Memory, Array]:
        check_step(learner, memory, x, y)
        return step(params, memory, x, y)

    def scan(params: Params, x: Array, y: Array) -> tuple[Memory, Array]:
        check(learner, x, y)
        memory = mark_varying_like(start(params, x.shape[0]), x)

        def body(memory: Memory, example: tuple[Array, Array]) -> tuple[Memory, Array]:
            return step(params, memory, *example)

        memory, logits = jax.lax.scan(body, memory, (x.swapaxes(0, 1), y.swapaxes(0, 1)))
        return memory, logits.swapaxes(0, 1)

    learner = Learner(
        init,
        start,
        checked,
        read=lambda params, x, y: scan(params, x, y)[0],
        logits=lambda params, x, y: scan(params, x, y)[1],
        state_size=state_size,
        num_inputs=num_inputs,
        num_classes=num_classes,
    )
    return learner


def from_cell(
    cell: nn.Module, zeros: Any, *, state_size: int, num_inputs: int, num_classes: int
) -> Learner:
    """A recurrent learner from a Linen cell.

    Args:
      cell: `(state, x [B, N], label [B, C]) -> (state, logits [B, C])`, where `label` is the
        one-hot label of the example before, zeros for the first.
      zeros: initial state of one sequence, arrays.
      state_size: numbers in `zeros`.
      num_inputs: N.
      num_classes: C.
    """

    def start(params: Params, batch_size: int) -> Memory:
        state = jax.tree.map(lambda z: jnp.zeros((batch_size, *z.shape), z.dtype), zeros)
        return empty(state, batch_size)

    def step(params: Params, memory: Memory, x: Array, y: Array) -> tuple[Memory, Array]:
        label = jax.nn.one_hot(memory.label, num_classes)
        made: Any = cell.apply({"params": params}, memory.state, x, label)
        state, logits = made
        return Memory(state, y.astype(jnp.int32), memory.position + 1), logits

    def init(key: Array) -> Params:
        memory = start(None, 1)
        x, label = jnp.zeros((1, num_inputs)), jnp.zeros((1, num_classes))
        return cell.init(key, memory.state, x, label)["params"]

    return from_step(
        init,
        start,
        step,
        state_size=state_size,
        num_inputs=num_inputs,
        num_classes=num_classes,
    )
