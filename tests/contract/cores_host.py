"""Cores whose update is Python: samples that Python verifies, kept in a replay buffer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtrain import HostCore, StepOutput, parallel
from tests.contract.row import BATCH_SIZE, Row, key_only

PROBLEMS, ANSWERS, CAPACITY = 6, 4, 32


class Replay(NamedTuple):
    """The last `CAPACITY` verified answers, and how many there have been, `[]` int32."""

    problems: Any
    answers: Any
    added: Any


class State(NamedTuple):
    logits: jax.Array  # [PROBLEMS, ANSWERS]
    replay: Replay


def is_right(problem: str, answer: str) -> bool:
    """The verifier: reads text."""
    return eval(f"{problem} % {ANSWERS} == {answer}")


def self_training(axis_name: parallel.AxisName | None = None) -> HostCore:
    """Answers every problem of the batch, keeps right answers, trains on eight of those kept."""
    del axis_name

    def init(key: jax.Array) -> State:
        kept = [jnp.zeros(CAPACITY, jnp.int32) for _ in range(2)]
        return State(jnp.zeros((PROBLEMS, ANSWERS)), Replay(*kept, jnp.zeros((), jnp.int32)))

    @jax.jit
    def answered(logits: jax.Array, problems: jax.Array, key: jax.Array) -> jax.Array:
        return jax.random.categorical(key, logits[problems])

    @jax.jit
    def trained(logits: jax.Array, replay: Replay, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows = jax.random.randint(key, (8,), 0, jnp.clip(replay.added, 1, CAPACITY))

        def loss(logits: jax.Array) -> jax.Array:
            found, labels = logits[replay.problems[rows]], replay.answers[rows]
            return optax.softmax_cross_entropy_with_integer_labels(found, labels).mean()

        value, grad = jax.value_and_grad(loss)(logits)
        return logits - jnp.where(replay.added > 0, 0.5, 0.0) * grad, value

    def update(state: State, batch: Any, key: jax.Array) -> tuple[State, StepOutput]:
        problems = np.asarray(batch["problems"])
        if problems.ndim != 1:
            raise ValueError(f"problems must be [batch] but have the shape {problems.shape}.")
        key_answers, key_rows = jax.random.split(key)
        answers = np.asarray(answered(state.logits, problems, key_answers))
        replay = jax.tree.map(np.array, state.replay)
        right = [is_right(str(p), str(a)) for p, a in zip(problems, answers, strict=True)]
        for place in np.flatnonzero(right):
            row = replay.added % CAPACITY
            replay.problems[row], replay.answers[row] = problems[place], answers[place]
            replay.added[...] += 1
        logits, loss = trained(state.logits, replay, key_rows)
        metrics = {"loss": loss, "right": np.float32(np.mean(right))}
        return State(logits, replay), StepOutput(metrics)

    return HostCore(init, update)


def problems(i: int) -> dict[str, np.ndarray]:
    return {"problems": np.random.default_rng(i).integers(0, PROBLEMS, BATCH_SIZE).astype(np.int32)}


PYTHON = {
    name: "its update is Python"
    for name in (
        "eager",
        "scan_of_vmap",
        "closures",
        "trace_and_donation",
        "devices",
        "unchecked_shard_map",
    )
}

ROWS = [
    Row(
        "self_training",
        self_training,
        key_only,
        problems,
        lambda core, state: core.update(state, {"problems": np.zeros((2, 2))}, jax.random.key(0)),
        r"problems must be \[batch\]",
        random=True,
        exceptions=PYTHON | {"order": "a draw belongs to a place in the batch"},
    ),
]
