"""The loop: numbers against a plain Python loop, one program, windows, signals, refusals."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.core import Core, StepOutput
from jaxtrain.host import loop
from jaxtrain.host.checkpoint import Checkpoints, load_arrays
from jaxtrain.host.data import Generated, arrays
from jaxtrain.host.metrics import Writer, read
from jaxtrain.parallel import Execution, make_mesh, pmean, value_and_grad

KEY = jax.random.key(7)


class State(NamedTuple):
    w: jax.Array
    count: jax.Array


def make_core(traces: list[int] | None = None, axis_name: str | None = None) -> Core:
    """Least squares with noise in every step, so that each key matters."""

    def init() -> State:
        return State(jnp.arange(3.0) + jnp.zeros(3), jnp.zeros((), jnp.int32))

    def update(state: State, batch: Any, key: jax.Array) -> tuple[State, StepOutput]:
        if traces is not None:
            traces.append(1)

        def loss_fn(w: jax.Array) -> jax.Array:
            return jnp.mean((batch["x"] @ w - batch["y"]) ** 2)

        loss, grad = value_and_grad(loss_fn, axis_name)(state.w)
        noise = jax.random.normal(key, (3,))
        state = State(state.w - 0.1 * grad + 0.01 * noise, state.count + 1)
        mean_x = pmean(jnp.mean(batch["x"]), axis_name)
        return state, StepOutput({"loss": loss, "x": mean_x}, outputs=batch["y"])

    return Core(init, update)


def sample(key: jax.Array, index: jax.Array) -> dict[str, jax.Array]:
    def example(i: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, i), (3,))

    x = jax.vmap(example)(index)
    return {"x": x, "y": x.sum(axis=1)}


GENERATED = Generated(sample, batch_size=4)
TABLE = {"x": np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)}
TABLE["y"] = TABLE["x"].sum(axis=1)
HOST = arrays(TABLE, batch_size=4, seed=0)
DATA = {"generated": GENERATED, "host": HOST}


def one_device() -> Execution:
    return Execution("jit", make_mesh({"data": 1}))


def train(folder: Path | None = None, core: Core | None = None, **options: Any) -> Any:
    core = core or make_core()
    arguments = {"data": GENERATED, "key": KEY, "num_steps": 20, "log_every": 5} | options
    arguments.setdefault("execution", one_device())
    every = arguments.pop("every", 10)
    keep = arguments.pop("keep", 9)
    if folder is None:
        return loop.train(core, core.init(), **arguments)
    with Checkpoints(folder / "checkpoints", every=every, keep=keep) as checkpoints:
        state, start, meta = checkpoints.restore_or(core.init())
        with Writer(folder, start, tensorboard=False) as writer:
            return loop.train(
                core,
                state,
                start=start,
                meta=meta,
                checkpoints=checkpoints,
                writer=writer,
                **arguments,
            )


def plain_loop(data: Any, num_steps: int) -> tuple[State, list[dict[str, jax.Array]]]:
    """The definition: one update after the other, keys folded by hand."""
    core = make_core()
    state, rows = core.init(), []
    run_key, data_key = jax.random.fold_in(KEY, 0), jax.random.fold_in(KEY, 1)
    for i in range(num_steps):
        if isinstance(data, Generated):
            batch = data.sample(jax.random.fold_in(data_key, i), jnp.arange(data.batch_size))
        else:
            batch = data.batch(i)
        state, output = core.update(state, batch, jax.random.fold_in(run_key, i))
        rows.append(output.metrics)
    return state, rows


def test_arrays_of_generated_data_are_arguments_of_the_program():
    """The same run as with a closure."""
    table = jnp.asarray(np.random.default_rng(1).normal(size=(50, 3)), jnp.float32)

    def rows(key: jax.Array, index: jax.Array, table: jax.Array) -> dict[str, jax.Array]:
        draw = lambda i: table[jax.random.randint(jax.random.fold_in(key, i), (), 0, len(table))]
        x = jax.vmap(draw)(index)
        return {"x": x, "y": x.sum(axis=1)}

    closed = Generated(lambda key, index: rows(key, index, table), 4)
    given = Generated(rows, 4, arrays=(table,))
    (expected, _), (found, _) = train(data=closed), train(data=given)
    np.testing.assert_array_equal(found.w, expected.w)


@pytest.mark.parametrize("kind", DATA)
def test_equals_a_plain_loop_with_a_short_last_window(tmp_path, kind):
    state, step = train(tmp_path, data=DATA[kind], num_steps=13)
    expected, rows = plain_loop(DATA[kind], 13)
    assert step == 13 and int(state.count) == 13
    np.testing.assert_allclose(state.w, expected.w, rtol=1e-5)
    found = read(tmp_path / "metrics.jsonl")
    assert [record["step"] for record in found] == [5, 10, 13]
    for record, window in zip(found, (rows[:5], rows[5:10], rows[10:]), strict=True):
        for name in ("loss", "x"):
            mean = np.mean([np.float64(row[name]) for row in window])
            np.testing.assert_allclose(record[name], mean, rtol=1e-5, atol=1e-7)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["10", "13"]


@pytest.mark.parametrize("kind", DATA)
def test_one_trace_for_every_window_length(tmp_path, kind):
    traces: list[int] = []
    train(core=make_core(traces), data=DATA[kind], num_steps=23)
    assert len(traces) == 1


@pytest.mark.parametrize("kind", DATA)
def test_a_run_in_pieces_has_the_same_bits_and_the_same_log(tmp_path, kind):
    evaluate = lambda state, step, key: {"sum": state.w.sum(), "u": jax.random.uniform(key)}
    options = {"data": DATA[kind], "evaluate": evaluate, "eval_every": 10}
    train(tmp_path / "whole", num_steps=33, **options)
    for end in (10, 20, 33):
        train(tmp_path / "pieces", num_steps=end, **options)
    whole, pieces = (
        load_arrays(tmp_path / name / "checkpoints/33") for name in ("whole", "pieces")
    )
    assert whole.keys() == pieces.keys()
    assert all(whole[name].tobytes() == pieces[name].tobytes() for name in whole)
    log = (tmp_path / "whole/metrics.jsonl").read_bytes()
    assert log == (tmp_path / "pieces/metrics.jsonl").read_bytes()
    assert [json.loads(line)["step"] for line in log.splitlines()].count(20) == 2


def test_evaluation_sees_the_state_and_its_own_key(tmp_path):
    seen = {}

    def evaluate(state: State, step: int, key: jax.Array) -> dict[str, Any]:
        seen[step] = (int(state.count), jax.random.key_data(key).tolist())
        return {"count": state.count, "all": np.arange(2)}

    train(tmp_path, evaluate=evaluate, eval_every=10, num_steps=25)
    fold = lambda step: jax.random.fold_in(jax.random.fold_in(KEY, 2), step)
    assert seen == {s: (s, jax.random.key_data(fold(s)).tolist()) for s in (10, 20)}
    found = [r for r in read(tmp_path / "metrics.jsonl") if "eval/count" in r]
    assert found == [{"step": s, "eval/all": [0, 1], "eval/count": s} for s in (10, 20)]


def test_metrics_are_on_disk_before_their_checkpoint_is_begun(tmp_path, monkeypatch):
    events = []
    for owner, name in ((Writer, "write"), (Writer, "flush"), (Checkpoints, "maybe_save")):
        original = getattr(owner, name)

        def record(
            self: Any, *args: Any, _f: Any = original, _n: str = name, **options: Any
        ) -> Any:
            events.append((_n, args[0] if args else None))
            return _f(self, *args, **options)

        monkeypatch.setattr(owner, name, record)
    train(tmp_path, evaluate=lambda *_: {"a": 1.0}, eval_every=10, num_steps=15)
    assert events[:5] == [
        ("write", 5),
        ("write", 10),
        ("write", 10),
        ("flush", None),
        ("maybe_save", 10),
    ]
    assert events[5:8] == [("write", 15), ("flush", None), ("maybe_save", 15)]


def test_best_and_latest_checkpoints_are_kept_together(tmp_path):
    core = make_core()
    score = {5: 1.0, 10: 3.0, 15: 2.0, 20: 0.0}
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder, every=5, keep=1, keep_best="eval/score") as checkpoints:
        loop.train(
            core,
            core.init(),
            data=GENERATED,
            key=KEY,
            num_steps=20,
            log_every=5,
            execution=one_device(),
            checkpoints=checkpoints,
            evaluate=lambda state, step, key: {"score": score[step]},
            eval_every=5,
        )
    assert sorted(os.listdir(folder)) == ["10", "20"]


def test_a_mean_over_events_is_missing_where_there_were_none(tmp_path):
    """Not 0 before the first episode ended, nor old afterwards; nothing is best by it."""
    returns, ended = jnp.array([0, 0, -4, -8, -8, -8.0]), jnp.array([0, 0, 1, 3, 0, 0])

    def update(state: State, batch: Any, key: jax.Array) -> tuple[State, StepOutput]:
        i = state.count
        metrics = {"episode_return": returns[i], "num_episodes": ended[i]}
        return state._replace(count=i + 1), StepOutput(metrics)

    core = Core(make_core().init, update)
    folder = tmp_path / "checkpoints"
    options = dict(data=GENERATED, key=KEY, num_steps=6, log_every=2, execution=one_device())
    with (
        Writer(tmp_path, tensorboard=False) as writer,
        Checkpoints(folder, every=2, keep=1, keep_best="episode_return") as checkpoints,
    ):
        loop.train(core, core.init(), checkpoints=checkpoints, writer=writer, **options)
    assert [row["episode_return"] for row in read(tmp_path / "metrics.jsonl")] == [None, -7, None]
    assert sorted(os.listdir(folder)) == ["4", "6"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("kind", DATA)
def test_a_signal_finishes_the_window_saves_and_stops(tmp_path, kind, number):
    before = signal.getsignal(number)

    @contextmanager
    def send(start: int, stop: int) -> Any:
        if start == 5:
            os.kill(os.getpid(), number)
        yield

    with pytest.raises(loop.Preempted) as stop:
        train(tmp_path, data=DATA[kind], bracket=send)
    assert stop.value.step == 10 and str(stop.value) == "step 10"
    assert signal.getsignal(number) is before
    assert os.listdir(tmp_path / "checkpoints") == ["10"]
    assert [record["step"] for record in read(tmp_path / "metrics.jsonl")] == [5, 10]
    with pytest.raises(loop.Preempted, match="step 10, without a checkpoint"):
        train(data=DATA[kind], bracket=send)


def test_a_signal_between_saves_saves_there_and_one_in_the_last_window_is_no_stop(tmp_path):
    evaluated = []

    def send_at(step: int) -> Any:
        def evaluate(state: State, at: int, key: jax.Array) -> dict[str, float]:
            evaluated.append(at)
            if at == step:
                os.kill(os.getpid(), signal.SIGTERM)
            return {}

        return {"evaluate": evaluate, "eval_every": 5}

    with pytest.raises(loop.Preempted):
        train(tmp_path, **send_at(5))
    assert os.listdir(tmp_path / "checkpoints") == ["5"]
    assert train(tmp_path, **send_at(20))[1] == 20
    assert evaluated == [5, 10, 15, 20]


def test_a_finished_run_is_returned_as_it_is(tmp_path):
    first, _ = train(tmp_path)
    log = (tmp_path / "metrics.jsonl").read_bytes()
    again, step = train(tmp_path)
    assert step == 20 and again.w.tobytes() == first.w.tobytes()
    assert (tmp_path / "metrics.jsonl").read_bytes() == log


def test_no_device_is_waited_for_inside_a_window(monkeypatch):
    fetched = []
    original = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda x: fetched.append(1) or original(x))
    for data in DATA.values():
        fetched.clear()
        train(data=data, num_steps=20)
        assert len(fetched) == 4  # once per window


def test_the_given_state_is_donated():
    core = make_core()
    state = jax.device_put(core.init())
    loop.train(
        core, state, data=GENERATED, key=KEY, num_steps=1, log_every=1, execution=one_device()
    )
    assert state.w.is_deleted()


def test_elapsed_time_goes_on_and_timing_leaves_out_the_compiler(tmp_path):
    train(tmp_path, num_steps=10)
    first = read(tmp_path / "timing.jsonl")
    assert all(r["compile_seconds"] > 5 * r["seconds"] > 0 for r in first)
    for record in first:
        assert record["steps_per_second"] == pytest.approx(5 / record["seconds"])
    with Checkpoints(tmp_path / "checkpoints", every=10) as checkpoints:
        meta = checkpoints.restore_or(make_core().init())[2]
    assert meta["elapsed_seconds"] >= first[-1]["elapsed_seconds"] > 0
    train(tmp_path, num_steps=20)
    elapsed = [r["elapsed_seconds"] for r in read(tmp_path / "timing.jsonl")]
    assert len(elapsed) == 4 and elapsed == sorted(elapsed)


def test_windows_end_at_multiples_wherever_a_run_resumes(tmp_path):
    for end in (13, 22):
        train(tmp_path, num_steps=end)
    steps = [record["step"] for record in read(tmp_path / "metrics.jsonl")]
    assert steps == [5, 10, 13, 15, 20, 22]


def test_batches_of_several_sizes_compile_once_each(tmp_path):
    class Growing:
        def batch(self, step: int) -> dict[str, np.ndarray]:
            return jax.tree.map(lambda x: x[: 2 + 2 * (step % 3)], TABLE)

    traces: list[int] = []
    train(tmp_path, make_core(traces), data=Growing(), num_steps=20)
    assert len(traces) == 3
    expected, rows = plain_loop(Growing(), 20)
    found = read(tmp_path / "metrics.jsonl")[-1]["loss"]
    np.testing.assert_allclose(found, np.mean([r["loss"] for r in rows[15:]]), rtol=1e-5)
    first, last = (read(tmp_path / "timing.jsonl")[i] for i in (0, -1))
    assert first["compile_seconds"] == last["compile_seconds"] > 5 * first["seconds"]


def exploding(at: int, leaf_only: bool = False, trials: int = 0) -> Core:
    def update(state: State, batch: Any, key: jax.Array) -> tuple[State, StepOutput]:
        bad = jnp.where(state.count + 1 >= at, jnp.nan, 1.0)
        loss = jnp.ones(()) if leaf_only else bad
        if trials:
            loss = jnp.where(jnp.arange(trials) < max(trials - 1, 1), loss, 1.0)
        return State(state.w * bad, state.count + 1), StepOutput({"loss": loss})

    return Core(make_core().init, update)


def test_a_metric_that_is_not_finite_stops_the_run(tmp_path):
    message = r"metric 'loss' is not finite at step 13 and state leaf 'w' holds NaN"
    with pytest.raises(FloatingPointError, match=message):
        train(tmp_path, exploding(13))
    assert os.listdir(tmp_path / "checkpoints") == ["10"]
    assert [record["step"] for record in read(tmp_path / "metrics.jsonl")] == [5, 10]


def test_a_state_with_nan_is_not_saved(tmp_path):
    with pytest.raises(FloatingPointError, match=r"state leaf 'w' holds NaN at step 20"):
        train(tmp_path, exploding(20, leaf_only=True))
    assert os.listdir(tmp_path / "checkpoints") == ["10"]


def test_a_sweep_goes_on_while_one_trial_is_finite(tmp_path):
    train(tmp_path, exploding(13, trials=3))
    last = read(tmp_path / "metrics.jsonl")[-1]
    assert last == {"step": 20, "loss": [None, None, 1.0]}
    with pytest.raises(FloatingPointError, match="at step 13"):
        train(tmp_path / "one", exploding(13, trials=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps is 0"),
        ({"log_every": 0}, "log_every is 0"),
        ({"eval_every": 7}, "eval_every is 7, which is not a multiple of log_every = 5"),
        ({"every": 8}, "checkpoint.every is 8, which is not a multiple of log_every = 5"),
    ],
)
def test_impossible_lengths(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        train(tmp_path, evaluate=lambda *_: {}, **options)


def test_an_error_in_the_data_is_raised(tmp_path):
    class Broken:
        def batch(self, step: int) -> Any:
            if step == 7:
                raise OSError("file is gone")
            return HOST.batch(step)

    with pytest.raises(OSError, match="file is gone"):
        train(data=Broken())


MODES = """
    import os
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
    import sys
    import numpy as np, jax
    sys.path.insert(0, sys.argv[2])
    from pathlib import Path
    import test_loop as t
    from jaxtrain.host import sweep
    from jaxtrain.parallel import place

    folder = Path(sys.argv[1])
    t.train(folder / "few", num_steps=10)
    for mode in t.MODES_OF_CORES:
        for kind, data in t.DATA.items():
            execution = t.Execution(mode, t.make_mesh({"data": -1}))
            axis = execution.axis_name
            traces = []
            state, _ = t.train(
                folder / mode / kind, t.make_core(traces, axis), data=data, execution=execution
            )
            np.savez(folder / f"{mode}-{kind}.npz", w=state.w, traces=len(traces))
        try:
            odd = t.Generated(t.sample, 6)
            t.train(core=t.make_core(None, axis), data=odd, execution=execution)
        except ValueError as error:
            assert "a batch of 6 does not divide over 4 devices" in str(error)
        else:
            raise AssertionError(mode)
    state, start = t.train(folder / "few", execution=t.Execution("jit", t.make_mesh({"data": -1})))
    assert len(state.w.sharding.device_set) == 4
    np.savez(folder / "more.npz", w=state.w)

    axes = sweep.parse("seed=0:4", ())
    for name, shape in (("sharded", {"seed": 2, "data": 2}), ("whole", {"data": 1})):
        mesh, traces = t.make_mesh(shape), []
        spec = sweep.state_spec(axes, mesh)
        core = t.make_core(traces)
        trials = sweep.swept(lambda _: t.Core(lambda key: core.init(), core.update), axes)
        start = place(trials.init(t.KEY), mesh, spec)
        trials = trials._replace(init=lambda: jax.tree.map(jax.numpy.copy, start))
        for end in (10, 20):
            traces.clear()
            state, _ = t.train(
                folder / name, trials, num_steps=end, execution=t.Execution("jit", mesh)
            )
            assert len(traces) == 1 and state.w.sharding.spec == spec, (state.w.sharding, spec)
        np.savez(folder / f"{name}.npz", w=state.w)
"""
MODES_OF_CORES = ("jit", "pmap", "shard_map")


@pytest.mark.multidevice
@pytest.mark.ci
def test_all_modes_and_a_resume_on_other_devices_agree_with_one_device(tmp_path):
    """Four simulated devices in a process of their own."""
    script = textwrap.dedent(MODES)
    here = str(Path(__file__).parent)
    root = {"PYTHONPATH": str(Path(__file__).parents[3])}
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), here], check=True, env=os.environ | root
    )
    for kind, data in DATA.items():
        expected = plain_loop(data, 20)[0].w
        for mode in MODES_OF_CORES:
            found = np.load(tmp_path / f"{mode}-{kind}.npz")
            np.testing.assert_allclose(found["w"], expected, rtol=1e-5)
            assert found["traces"] == 1
            steps = [r["step"] for r in read(tmp_path / mode / kind / "metrics.jsonl")]
            assert steps == [5, 10, 15, 20]
    expected = plain_loop(GENERATED, 20)[0].w
    np.testing.assert_allclose(np.load(tmp_path / "more.npz")["w"], expected, rtol=1e-5)
    sharded, whole = (np.load(tmp_path / f"{name}.npz")["w"] for name in ("sharded", "whole"))
    assert sharded.shape == (4, 3) and len(np.unique(sharded[:, 0])) == 4
    np.testing.assert_allclose(sharded, whole, rtol=1e-5)


class Stuck:
    """Host data whose batch `at` never comes, after a signal to this process."""

    def __init__(self, at: int):
        self.at, self.never = at, threading.Event()

    def batch(self, step: int) -> dict[str, np.ndarray]:
        if step == self.at:
            os.kill(os.getpid(), signal.SIGINT)
            self.never.wait(20)
        return HOST.batch(step)


@pytest.mark.parametrize("at", [0, 5])
def test_a_signal_ends_the_wait_for_a_batch(tmp_path, at):
    data = Stuck(at)
    begin = time.monotonic()
    with pytest.raises(loop.Preempted) as stop:
        train(tmp_path, data=data)
    assert stop.value.step == at and time.monotonic() - begin < 15
    data.never.set()
    assert os.listdir(tmp_path / "checkpoints") == ["5"] if at else not any(tmp_path.glob("*/*"))
    resumed, step = train(tmp_path, data=HOST)
    whole, _ = train(data=HOST)
    assert step == 20 and resumed.w.tobytes() == whole.w.tobytes()
