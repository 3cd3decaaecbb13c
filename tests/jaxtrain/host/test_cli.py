"""The life of a run: what is refused before it, what it leaves in the folder, how it ends."""

import contextlib
import errno
import functools
import importlib.util
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType
from ml_collections import ConfigDict

from jaxtrain.host import cli, files, workdir
from jaxtrain.host.loop import Preempted
from jaxtrain.host.settings import flatten
from jaxtrain.host.stored import CheckpointError

TINY = Path(__file__).parents[1] / "tiny"
CONFIG = TINY / "config.py"
ROOT = Path(__file__).resolve().parents[3]
SWEEPABLE = ("optimizer.learning_rate",)


@pytest.fixture(scope="module")
def tiny():
    """The module of the tiny experiment, imported as `experiment`."""
    spec = importlib.util.spec_from_file_location("experiment", TINY / "experiment.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["experiment"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["experiment"]


def built(run, config, setup):
    """Work that reads the whole config."""
    flatten(config)
    return lambda context: run(config, context)


@pytest.fixture
def call(tiny, capsys, monkeypatch, tmp_path):
    """Runs the tiny experiment in an empty folder; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def start(*argv, run=None, config=str(CONFIG), without=None, **options):
        options |= {"sweepable": SWEEPABLE, "validate": tiny.validate, "without": without}
        options["may_change"] = ("model.note",)
        fault = cli.define_enum("fault", "none", ("none", "none-mine", "usage"), "what goes wrong")
        argv = [*([f"--config={config}"] if config else []), *argv]
        options["evaluates"] = lambda flags: "of/mine" if flags["fault"] == "none-mine" else ""
        code = 0
        try:
            build = tiny.build if run is None else functools.partial(built, run)
            build.__module__ = "experiment"
            cli.main(build, flags=(fault,), argv=argv, **options)
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return start


SMALL = f"{CONFIG}:small"
# What is found after the parsing; the rest is in test_command.py.
USAGE = [
    ([], "", "--config is missing"),
    (["--config.num_steps=0"], SMALL, "num_steps=0 is impossible; it must be at least 1"),
    (["--config.batch_size=-4"], SMALL, "batch_size=-4 is impossible; it must be from 1 to 65536"),
    (["--config.checkpoint.every=0"], SMALL, "checkpoint.every=0 is impossible; it must be at le"),
    (["--config.eval_every=3"], SMALL, "eval_every=3 must be a multiple of log_every=2"),
    (
        ["--config.checkpoint.every=5"],
        SMALL,
        "checkpoint.every=5 must be a multiple of log_every=2",
    ),
    (["--config.model.width=9"], SMALL, "model.width=9 is larger than 8; choose a smaller one"),
    (
        ["--config.optimizer.clip=false", "--config.model.sizes=(3,4)"],
        SMALL,
        "model.sizes would have no effect, because nothing in this run reads it; leave it out",
    ),
    (
        ["--config.model.sizes=(3,4)"],
        f"{CONFIG}:small,optimizer.clip=no",
        "model.sizes would have no effect",
    ),
    (
        ["--config.optimizer.learning_rate=-1"],
        SMALL,
        "optimizer.learning_rate=-1.0 is impossible; it must be at least 0",
    ),
    (["--config.optimizer.learning_rate=nan"], SMALL, "optimizer.learning_rate=nan is impossible"),
    (["--config.mesh.data=3"], SMALL, "mesh {'data': 3} needs 3 devices but there are 1"),
    (["--config.mesh.data=0"], SMALL, "mesh.data=0 is impossible; it must be -1"),
    (["--config.resume_from=nothere"], SMALL, "resume_from='nothere' does not exist"),
    (["--config.experiment=other"], SMALL, "experiment='other' is impossible; choose experiment"),
    ([], f"{ROOT}/configs/ppo.py:debug", "for experiment 'ppo'; run it with python -m ppo"),
    (["--profile=4:5"], SMALL, "--profile=4:5 begins after the last of the 4 steps"),
    (["--profile=1:2", "--fault=none-mine"], SMALL, "this run trains nothing"),
    (["--coordinator=localhost:1"], SMALL, "go together; give all or none"),
    (
        ["--coordinator=localhost:1", "--num_processes=2", "--process_id=2"],
        SMALL,
        "--process_id=2 must be from 0 to 1, because --num_processes=2",
    ),
    (["--profile=7"], SMALL, "--profile='7' must be FROM:TO, two steps such as 100:120"),
    (["--profile=9:3"], SMALL, "--profile='9:3' must be FROM:TO"),
    (["--sweep=model.width=1,2"], SMALL, "inside one program, only seed, optimizer.learning_rate;"),
    (["--sweep=seed"], SMALL, "--sweep cannot read 'seed'; write it like 'seed=0:8;"),
    (["--sweep=seed=0.5"], SMALL, "needs whole numbers that are not negative for 'seed'"),
]


@pytest.mark.parametrize(("argv", "config", "message"), USAGE, ids=[" ".join(u[0]) for u in USAGE])
def test_usage_error_is_one_sentence_and_exit_code_2(call, tmp_path, argv, config, message):
    code, out, err = call(*argv, config=config)
    assert code == 2
    assert message in err
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n")
    assert "Traceback" not in err
    assert not out and not list(tmp_path.iterdir())  # nothing was started


def test_a_flag_that_a_command_goes_without_is_refused_with_what_to_do_instead(call, tmp_path):
    without = {"sweep": "a study is a sweep by itself"}
    for given in (("--sweep=seed=0:2",), ("--sweep", "seed=0:2"), ("-sweep=seed=0:2",)):
        code, out, err = call("--workdir=w", *given, config=SMALL, without=without)
        assert (code, out) == (2, "") and not list(tmp_path.iterdir())
        assert err == "error: experiment has no --sweep; a study is a sweep by itself\n"
    shown = call("--help", config="", without=without)[1]
    assert "--parallel" in shown and "--sweep" not in shown


def test_a_batch_divides_over_the_devices_that_share_it():
    """Trials of a sweep have devices of their own; on real devices: test_sweep.py."""
    axes = {"seed": 3, "data": 2, "fsdp": 4}
    mesh = AbstractMesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * 3)
    cli.check_batch_divides(ConfigDict({"batch_size": 16}), mesh)
    cli.check_batch_divides(ConfigDict(), mesh)
    with pytest.raises(cli.UsageError, match=r"batch_size=12 .* over the 8 .*a multiple of 8, or"):
        cli.check_batch_divides(ConfigDict({"batch_size": 12}), mesh)


def test_a_value_that_is_left_to_the_devices_is_printed_and_recorded(call, tmp_path):
    def settled(config, mesh):
        config = config.copy_and_resolve_references()
        config.model.width += mesh.size
        return config

    code, out, err = call("--workdir=w", config=SMALL, settled=settled)
    assert code == 0, err
    about = json.loads((tmp_path / "w" / "config.json").read_text())
    width = about["config"]["model"]["width"]
    assert f"\nfor these devices model.width: {width - 1} -> {width}\n" in out
    code, out, err = call("--workdir=w", config=SMALL)
    assert code == 2 and f"model.width: {width} -> {width - 1}" in err


def test_only_what_the_command_changes_is_refused_as_unused(call):
    same = ("--config.optimizer.clip=false", "--config.model.sizes=(2,2)", "--workdir=w")
    assert call(*same, config=SMALL)[0] == 0


def test_help_shows_the_docstring_of_the_module_and_starts_nothing(call, tmp_path):
    code, out, err = call("--help", config="")
    assert code == 0 and not err and not list(tmp_path.iterdir())
    assert out.startswith("Fits a line; a whole experiment in a page")


def test_usage_error_inside_the_run_is_one_line_and_leaves_no_folder(call, tmp_path):
    code, _, err = call("--fault=usage", "--workdir=w", config=SMALL)
    assert (code, err) == (2, "error: the file of tasks is empty\n")
    assert not list(tmp_path.iterdir())


def test_run_writes_the_folder_and_resumes_in_it(call, tmp_path):
    code, out, err = call("--workdir=w", config=SMALL)
    folder = tmp_path / "w"
    assert code == 0, err
    assert out.startswith("experiment:small on 1 cpu device, work folder w\n")
    assert re.search(r"Done in 0:00:\d\d; everything is in w\n$", out)

    about = json.loads((folder / "config.json").read_text())
    assert (about["experiment"], about["variant"], about["sweep"]) == ("experiment", "small", "")
    assert about["config"]["num_steps"] == 4 and about["config"]["optimizer"]["clip"] is True
    (start,) = json.loads((folder / "environment.json").read_text())["starts"]
    assert start["versions"]["jax"] == jax.__version__
    assert start["devices"] == {"platform": "cpu", "kind": "cpu", "count": 1}
    assert start["command"] == f"python -m experiment --config={SMALL} --workdir=w"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["seeds"] == [0] and summary["final"]["steps"] == 4
    assert isinstance(summary["final"]["error"], float)
    assert summary["starts"] == 1 and 0 < summary["wall_seconds"] < 120
    # Rounded separately: hours to 4 digits, seconds to 1.
    cores = start["cores"] * summary["wall_seconds"] / 3600
    assert summary["core_hours"] == pytest.approx(cores, abs=2e-4)
    assert not list(folder.glob("*.part"))

    # Changed mathematics stops the resume; every differing key is listed with both values.
    changed = ["--config.optimizer.learning_rate=0.5", "--config.num_steps=6"]
    code, _, err = call("--workdir=w", *changed, config=SMALL)
    assert code == 2 and err.count("\n") == 1
    assert "(num_steps: 4 -> 6; optimizer.learning_rate: 0.1 -> 0.5)" in err
    assert "--allow_config_change" in err
    code, _, err = call("--workdir=w", "--sweep=seed=0:2", config=SMALL)
    assert code == 2 and "(--sweep: '' -> 'seed=0:2')" in err
    assert len(json.loads((folder / "environment.json").read_text())["starts"]) == 1

    # Keys that only say what is written may change; so may those the experiment names.
    files.write_json(folder / "environment.json", {"starts": [start | {"seconds": 3600.0}]})
    code, out, err = call(
        *("--workdir=w", "--config.checkpoint.keep=1", "--config.log_every=1"),
        "--config.model.note=fancy",
        config=SMALL,
    )
    assert code == 0, err
    assert "resuming in w" in out
    assert re.search(r"Done in 0:00:\d\d, 1:00:\d\d in all 2 starts; everything is in w\n$", out)

    code, _, err = call("--workdir=w", "--allow_config_change", *changed, config=SMALL)
    assert code == 0, err
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6]
    assert json.loads((folder / "summary.json").read_text())["starts"] == 3


def test_evaluating_keeps_the_summary_and_the_config_of_the_training(call, tmp_path):
    folder = tmp_path / "w"
    assert call("--workdir=w", config=SMALL)[0] == 0
    before = [(folder / name).read_text() for name in ("summary.json", "config.json")]
    run = lambda config, context: {"score": 7}  # noqa: E731
    run.__module__ = "experiment"
    changed = ("--workdir=w", "--config.model.note=other", "--fault=none-mine")
    assert call(*changed, run=run, config=SMALL)[0] == 0
    assert [(folder / name).read_text() for name in ("summary.json", "config.json")] == before
    found = json.loads((folder / "of" / "mine").read_text())
    assert found["final"] == {"score": 7} and found["config"]["model"]["note"] == "other"
    assert call(*changed, "--workdir=new", run=run, config=SMALL)[0] == 0
    assert not (tmp_path / "new" / "summary.json").exists()
    assert json.loads((tmp_path / "new" / "config.json").read_text())["variant"] == "small"


def test_a_folder_in_use_is_refused(call, tmp_path):
    with workdir.claimed(tmp_path / "w"):
        code, out, err = call("--workdir=w", config=SMALL)
    assert code == 2 and not out
    assert err == (
        "error: --workdir='w' is in use by another process; wait until that has ended, or use "
        "another --workdir\n"
    )
    assert [file.name for file in (tmp_path / "w").iterdir()] == [".lock"]
    assert call("--workdir=w", config=SMALL)[0] == 0


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "w/plots/a.png"), "w/plots/a.png: No sp"),
        (
            CheckpointError("saving checkpoint 4 failed (disk)."),
            "saving checkpoint 4 failed (disk)",
        ),
    ],
)
def test_a_full_disk_is_one_sentence_and_loses_nothing(
    call, tmp_path, monkeypatch, error, sentence
):
    """Also when the end of the run cannot be noted either."""

    def run(config, context):
        (context.workdir / "result").write_text("mine")
        full = lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device"))
        monkeypatch.setattr(workdir, "write_json", full)
        raise error

    code, _, err = call("--workdir=w", run=run, config=SMALL)
    assert code == 2 and err.startswith(f"error: {sentence}") and err.count("\n") == 1
    assert "start the same command again" in err
    assert {"result", "config.json"} <= {file.name for file in (tmp_path / "w").iterdir()}


@contextlib.contextmanager
def file_sizes(limit):
    """No file may grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full")
def test_a_disk_that_is_full_at_any_moment_costs_nothing(call, tmp_path):
    """Refused by the kernel: at the first file, in the log, and when all but the summary is
    written."""
    assert call("--workdir=whole", config=SMALL)[0] == 0
    whole, folder = tmp_path / "whole", tmp_path / "w"
    with file_sizes((whole / "config.json").stat().st_size - 1):
        code, _, err = call("--workdir=w", config=SMALL)
    assert code == 2 and err == (
        "error: w/config.json: File too large; what was saved before is untouched, so mend that "
        "and start the same command again\n"
    )
    for name in ("environment", "summary"):
        (folder / f".{name}.part.json").symlink_to("/dev/full")
        code, _, err = call("--workdir=w", config=SMALL)
        assert code == 2 and err.count("\n") == 1
        assert err.startswith(f"error: w/{name}.json: No space left on device; what was saved")
    saved = (folder / "checkpoints" / "4").stat().st_mtime_ns
    assert call("--workdir=w", config=SMALL)[0] == 0
    assert (folder / "checkpoints" / "4").stat().st_mtime_ns == saved
    assert (folder / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    final = lambda path: json.loads((path / "summary.json").read_text())["final"]
    assert final(folder) == final(whole)


@contextlib.contextmanager
def without_rights(folder):
    """Nobody may write into the folder, nor does this process have the rights of root."""
    modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*"))}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        yield
    finally:
        os.seteuid(user)
        for path, mode in modes.items():
            path.chmod(mode)


def test_a_folder_that_cannot_be_written_is_one_sentence(call, monkeypatch):
    with tempfile.TemporaryDirectory() as place:  # which everybody may enter
        folder = Path(place)
        folder.chmod(0o755)
        monkeypatch.chdir(folder)
        assert call("--workdir=w", config=SMALL)[0] == 0
        files_of = lambda: {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        before = files_of()
        with without_rights(folder):
            found = [call(f"--workdir={name}", config=SMALL) for name in ("w", "new", "w/new")]
        for name, (code, _, err) in zip(("w", "new", "w/new"), found, strict=True):
            assert code == 2 and err == (
                f"error: --workdir='{name}' cannot be used (Permission denied); use another "
                "--workdir\n"
            )
        assert files_of() == before
        assert call("--workdir=w", config=SMALL)[0] == 0


def test_folder_of_another_experiment_is_refused(call, tmp_path):
    about = workdir.About("tta_images", "small", {}, "", {})
    files.write_json(tmp_path / "w" / "config.json", about._asdict())
    code, _, err = call("--workdir=w", config=SMALL)
    assert code == 2
    assert "belongs to experiment 'tta_images', not 'experiment'; use another --workdir" in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        (None, "has checkpoints but no config.json"),
    ],
)
def test_folder_that_cannot_be_understood_is_refused(call, tmp_path, content, message):
    (tmp_path / "w" / "checkpoints" / "4").mkdir(parents=True)
    if content is not None:
        (tmp_path / "w" / "config.json").write_text(content)
    code, _, err = call("--workdir=w", config=SMALL)
    assert code == 2 and message in err and err.count("\n") == 1


def test_workdir_that_is_a_file_is_refused(call, tmp_path):
    (tmp_path / "w").write_text("")
    code, _, err = call("--workdir=w", config=SMALL)
    assert code == 2 and "--workdir='w' is a file; name a folder" in err


def test_default_folder_is_fresh_and_named_after_experiment_and_variant(call, tmp_path):
    folders = []
    run = lambda config, context: folders.append(context.workdir)
    for _ in range(2):
        assert call(run=run, config=f"{CONFIG}:wide,seed=3")[0] == 0
    assert len(set(folders)) == 2
    for folder in folders:
        assert re.fullmatch(r"runs/experiment-wide-\d{8}-\d{6}", str(folder))
        assert (tmp_path / folder / "summary.json").exists()


def test_context_carries_execution_sweep_and_flags(call):
    seen = []

    def run(config, context):
        seen.append(context)
        return {"return": [0.5, 0.7, 0.9], "nested": {"name": "x"}}

    code, _, err = call(
        *("--workdir=w", "--sweep=seed=3:6", "--parallel=shard_map", "--profile=2:4"),
        run=run,
        config=SMALL,
    )
    assert code == 0, err
    (context,) = seen
    assert context.execution.mode == "shard_map" and dict(context.execution.mesh.shape) == {
        "data": 1
    }
    assert context.sweep.num_trials == 3 and context.flags["fault"] == "none"
    assert context.profile is not None
    summary = json.loads(Path("w/summary.json").read_text())
    assert summary["seeds"] == [3, 4, 5] and summary["trials"] == {"seed": [3, 4, 5]}
    final = summary["final"]
    assert final["nested"] == {"name": "x"}
    assert final["return"]["trials"] == [0.5, 0.7, 0.9]
    # t(0.975, 2 degrees of freedom) = 4.3027; standard error 0.2 / sqrt(3).
    assert final["return"]["mean"] == pytest.approx(0.7)
    assert final["return"]["low"] == pytest.approx(0.7 - 4.302653 * 0.2 / 3**0.5, abs=1e-5)


def test_debugging_flags_hold_during_the_run_only(call):
    seen = []

    def run(config, context):
        seen.append((jax.config.jax_debug_nans, jax.config.jax_disable_jit))

    call("--workdir=a", "--debug_nans", "--disable_jit", run=run, config=SMALL)
    call("--workdir=b", run=run, config=SMALL)
    assert seen == [(True, True), (False, False)]
    assert not jax.config.jax_debug_nans and not jax.config.jax_disable_jit


def test_preemption_exits_3_and_says_how_to_continue(call):
    def run(config, context):
        raise Preempted(40, True)

    code, _, err = call(run=run, config=SMALL)
    assert code == 3
    assert re.fullmatch(
        rf"Stopped at step 40; continue with: python -m experiment "
        rf"--config={re.escape(SMALL)} --workdir=runs/experiment-small-[\d-]+\n",
        err,
    )
    code, _, err = call("--workdir=my runs", run=run, config=SMALL)
    assert code == 3 and err.endswith("'--workdir=my runs'\n")
    assert not Path("my runs/summary.json").exists()


def start_process(*argv, **options):
    return subprocess.Popen(
        [sys.executable, str(TINY / "experiment.py"), *argv],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.ci
def test_exit_codes_of_real_processes(tmp_path):
    """Crash: 1 with a traceback. Folder in use: 2. SIGTERM: 3 after saving, one line."""
    long = f"{CONFIG}:num_steps=100000000,checkpoint.every=2000,log_every=1000"
    stopped = start_process(f"--config={long}", "--workdir=w", cwd=tmp_path)
    crashed = start_process(f"--config={SMALL}", "--fault=crash", "--workdir=c", cwd=tmp_path)
    _, err = crashed.communicate(timeout=100)
    assert crashed.returncode == 1
    assert "Traceback" in err and "RuntimeError: this experiment is broken" in err

    for line in stopped.stdout:  # the loop is running
        if line.startswith("step"):
            break
    second = start_process(f"--config={long}", "--workdir=w", cwd=tmp_path)
    _, err = second.communicate(timeout=100)
    assert second.returncode == 2 and err.count("\n") == 1
    assert f"error: --workdir='w' is in use by process {stopped.pid}; wait until that has" in err
    stopped.send_signal(signal.SIGTERM)
    _, err = stopped.communicate(timeout=100)
    assert stopped.returncode == 3, err
    assert re.search(r"Stopped at step \d+; continue with: python .*--workdir=w", err)
    assert err.count("\n") == 1
    assert list((tmp_path / "w" / "checkpoints").iterdir())
    (start,) = json.loads((tmp_path / "w" / "environment.json").read_text())["starts"]
    assert start["seconds"] > 0
