"""The third way to advance, an update in Python: against a plain loop, killed, stopped, refused."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain import Core, HostCore, StepOutput
from jaxtrain.host import loop
from jaxtrain.host.checkpoint import Checkpoints, load_arrays
from jaxtrain.host.data import Generated, arrays
from jaxtrain.host.metrics import Writer, read
from jaxtrain.parallel import Execution, make_mesh
from tests.contract.cores_host import ANSWERS, PROBLEMS, self_training

KEY = jax.random.key(7)
EXECUTION = Execution("jit", make_mesh({"data": 1}))


def drawn(key: jax.Array, index: jax.Array) -> dict[str, jax.Array]:
    one = lambda i: jax.random.randint(jax.random.fold_in(key, i), (), 0, PROBLEMS)
    return {"problems": jax.vmap(one)(index)}


TABLE = np.random.default_rng(0).integers(0, PROBLEMS, 10).astype(np.int32)
DATA = {
    "generated": Generated(drawn, batch_size=4),
    "host": arrays({"problems": TABLE}, batch_size=4, seed=0),
    "nothing": None,
}


def core_for(kind: str) -> HostCore:
    """Without data, the core makes its problems itself."""
    core = self_training()
    if kind != "nothing":
        return core

    def update(state: Any, batch: Any, key: jax.Array) -> Any:
        assert batch == ()
        return core.update(state, drawn(key, jnp.arange(4)), key)

    return HostCore(core.init, update)


def train(
    folder: Path | None = None, kind: str = "host", core: Any = None, **options: Any
) -> tuple[Any, int]:
    core = core or core_for(kind)
    arguments: dict[str, Any] = {"num_steps": 20, "log_every": 5, "execution": EXECUTION}
    arguments |= {"data": DATA[kind], "key": KEY} | options
    if folder is None:
        return loop.train(core, core.init(KEY), **arguments)
    with Checkpoints(folder / "checkpoints", every=10, keep=9) as checkpoints:
        state, start, meta = checkpoints.restore_or(core.init(KEY))
        with Writer(folder, start, tensorboard=False) as writer:
            arguments |= {"start": start, "meta": meta}
            return loop.train(core, state, checkpoints=checkpoints, writer=writer, **arguments)


def saved(folder: Path, step: int) -> dict[str, bytes]:
    found = load_arrays(folder / f"checkpoints/{step}")
    return {name: x.tobytes() for name, x in found.items()}


@pytest.mark.parametrize("kind", DATA)
def test_equals_a_plain_loop_with_a_short_last_window(tmp_path, kind):
    core, data = core_for(kind), DATA[kind]
    expected, rows = core.init(KEY), []
    for i in range(13):
        batch: Any = ()
        if kind == "generated":
            key_data = jax.random.fold_in(jax.random.fold_in(KEY, 1), i)
            batch = drawn(key_data, jnp.arange(4))
        elif kind == "host":
            batch = data.batch(i)
        key_update = jax.random.fold_in(jax.random.fold_in(KEY, 0), i)
        expected, output = core.update(expected, batch, key_update)
        rows.append(output.metrics)
    state, step = train(tmp_path, kind, num_steps=13)
    assert step == 13 and state.replay.added > 0
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(state))
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    log = read(tmp_path / "metrics.jsonl")
    assert [record["step"] for record in log] == [5, 10, 13]
    for record, window in zip(log, (rows[:5], rows[5:10], rows[10:]), strict=True):
        for name in ("loss", "right"):
            mean = np.mean([np.float64(row[name]) for row in window])
            np.testing.assert_allclose(record[name], mean, rtol=1e-12)


def test_it_learns_to_pass_the_verifier():
    state, _ = train(num_steps=200, log_every=100)
    answers = np.asarray(state.logits.argmax(axis=1))
    seen = np.unique(TABLE)
    np.testing.assert_array_equal(answers[seen], (np.arange(PROBLEMS) % ANSWERS)[seen])


@pytest.mark.parametrize("kind", DATA)
def test_a_run_in_pieces_has_the_same_bits_and_the_same_log(tmp_path, kind):
    for end in (10, 20, 33):
        train(tmp_path / "pieces", kind, num_steps=end)
    train(tmp_path / "whole", kind, num_steps=33)
    assert saved(tmp_path / "pieces", 33) == saved(tmp_path / "whole", 33)
    logs = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("pieces", "whole")]
    assert logs[0] == logs[1]


KILLED = """
import os, signal, sys
from pathlib import Path
from jaxtrain import HostCore
from tests.jaxtrain.host import test_advance as t

core, calls = t.core_for("host"), []

def update(state, batch, key):
    calls.append(1)
    if len(calls) == 18:
        os.kill(os.getpid(), signal.SIGKILL)
    return core.update(state, batch, key)

t.train(Path(sys.argv[1]), core=HostCore(core.init, update))
"""


def test_a_killed_run_goes_on_with_the_same_bits(tmp_path):
    """Killed in the middle of an update, after the checkpoint of step 10 and the line of step 15"""
    root = Path(__file__).parents[3]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed")],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert killed.returncode == -signal.SIGKILL
    log = tmp_path / "killed/metrics.jsonl"
    assert [record["step"] for record in read(log)][:2] == [5, 10]
    state, step = train(tmp_path / "killed")
    whole, _ = train(tmp_path / "whole")
    assert step == 20
    jax.tree.map(np.testing.assert_array_equal, state, whole)
    assert saved(tmp_path / "killed", 20) == saved(tmp_path / "whole", 20)
    assert log.read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()


@pytest.mark.parametrize("kind", DATA)
def test_a_signal_finishes_the_window_saves_and_stops(tmp_path, kind):
    @contextmanager
    def send(start: int, stop: int) -> Any:
        if start == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        yield

    with pytest.raises(loop.Preempted, match="step 10"):
        train(tmp_path, kind, bracket=send)
    assert os.listdir(tmp_path / "checkpoints") == ["10"]


def test_a_pipeline_gives_numpy_arrays_and_its_batches_start_at_the_resumed_step():
    seen = []

    class Counting:
        def batch(self, step: int) -> np.ndarray:
            return np.full(2, step)

    def update(state: Any, batch: Any, key: jax.Array) -> Any:
        assert isinstance(batch, np.ndarray)
        seen.append(int(batch[0]))
        return state, StepOutput({"a": np.float32(0)})

    core = HostCore(lambda key: jnp.zeros(3), update)
    train(core=core, data=Counting(), start=15)
    assert seen == list(range(15, 20))


def aligned(size: int) -> np.ndarray:
    """Zeros [size] where JAX on the CPU takes memory over instead of copying it."""
    room = np.zeros(4 * size + 64, np.uint8)
    begin = -room.ctypes.data % 64
    return room[begin : begin + 4 * size].view(np.float32)


def test_a_core_may_fill_the_same_numpy_buffer_again():
    buffer, states = aligned(1 << 12), []

    def update(state: Any, batch: Any, key: jax.Array) -> Any:
        states.append(state)
        buffer[:] = np.asarray(state) + 1
        return buffer, StepOutput({"a": np.float32(0)})

    state, _ = train(core=HostCore(lambda key: jnp.zeros(1 << 12), update))
    assert [float(x[0]) for x in (*states, state)] == list(range(21))


def returning(state: Any, metrics: Any = None) -> HostCore:
    """Returns this from update 7 on."""

    def update(old: Any, batch: Any, key: jax.Array) -> Any:
        late = old["count"] >= 7
        new = state if late else {"count": old["count"] + 1, "w": old["w"]}
        named = metrics if late and metrics is not None else {"loss": np.float32(1)}
        return new, StepOutput(named)

    return HostCore(lambda key: {"count": jnp.zeros((), jnp.int32), "w": jnp.zeros(2)}, update)


GOOD = {"count": np.zeros((), np.int32), "w": np.zeros(2, np.float32)}


@pytest.mark.parametrize(
    ("core", "kind", "message"),
    [
        (
            returning(GOOD | {"count": np.zeros((), np.int64)}),
            ValueError,
            r"update 7 changed the kind of its state: count is int64\[\] where int32\[\] is exp",
        ),
        (returning(GOOD | {"w": np.zeros(3, np.float32)}), ValueError, r"w is float32\[3\] where"),
        (returning(GOOD | {"more": np.zeros(1)}), ValueError, "more is not expected"),
        (returning({"count": GOOD["count"]}), ValueError, "w is missing"),
        (returning(GOOD | {"gone": None}), ValueError, "its structure is .*gone.* where"),
        (returning(GOOD | {"count": 3}), TypeError, "count is a int; a state holds arrays only"),
        (
            returning(GOOD, {"reward": np.float32(1)}),
            ValueError,
            r"update 7 reports the metrics \['reward'\] but one before it \['loss'\]",
        ),
        (
            returning(GOOD, {"loss": np.float32(np.inf)}),
            FloatingPointError,
            "metric 'loss' is not finite at step 8; earlier",
        ),
        (
            returning(GOOD | {"w": np.full(2, np.nan, np.float32)}),
            FloatingPointError,
            "state leaf 'w' holds NaN at step 10",
        ),
    ],
)
def test_an_update_that_breaks_the_rules_is_stopped_and_not_saved(tmp_path, core, kind, message):
    with pytest.raises(kind, match=message):
        train(tmp_path, core=core)
    assert not (tmp_path / "checkpoints").exists()


def test_what_cannot_be_combined():
    core = Core(lambda key: jnp.zeros(2), lambda state, batch, key: (state, StepOutput({})))
    with pytest.raises(ValueError, match="a Core needs data; only a HostCore may go without"):
        train(core=core, data=None)
    with pytest.raises(ValueError, match="a HostCore runs in one process and in mode 'jit'"):
        train(execution=Execution("pmap", EXECUTION.mesh))
