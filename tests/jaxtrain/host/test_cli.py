"""What the command line accepts, what it says when it refuses, and what it leaves in the folder."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from absl import flags as absl_flags
from ml_collections import ConfigDict, config_dict

from jaxtrain.host import cli, startup, workdir
from jaxtrain.host.config import as_text, differences, parse_variant, set_value
from jaxtrain.host.loop import Preempted

TINY = Path(__file__).parent / "tiny"
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


@pytest.fixture
def call(tiny, capsys, monkeypatch, tmp_path):
    """Runs the tiny experiment in an empty folder; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def start(*argv, run=None, config=str(CONFIG)):
        options = {"sweepable": SWEEPABLE, "validate": tiny.validate, "may_change": ("model.note",)}
        options["unused"] = lambda c: {} if c.optimizer.clip else {"model.sizes": "clip is off"}
        fault = cli.define_enum("fault", "none", ("none", "usage"), "what goes wrong")
        argv = [*([f"--config={config}"] if config else []), *argv]
        code = 0
        try:
            cli.main(run or tiny.run, flags=(fault,), argv=argv, **options)
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return start


# --- Usage errors ---------------------------------------------------------------------------------

SMALL = f"{CONFIG}:small"
USAGE = [
    ([], "", "--config is missing; give a config file, such as --config=configs/x.py:small"),
    ([], "nothere.py", "config file 'nothere.py' does not exist in "),
    ([], f"{CONFIG}:huge", "unknown variant 'huge'; the variants are full, small, wide, and"),
    (["--config.optimzer.learning_rate=1"], SMALL, "did you mean 'optimizer.learning_rate'?"),
    ([], f"{CONFIG}:small,optimzer.lr=1", "no key 'optimzer.lr'; did you mean 'optimizer.learning"),
    (["--config.learning_rate=1"], SMALL, "did you mean 'optimizer.learning_rate'?"),
    (["--config.model.widht", "3"], SMALL, "no key 'model.widht'; did you mean 'model.width'?"),
    (["--config.model.qqqqqq=1"], SMALL, "'model' has the keys noise, note, sizes, width"),
    (["--config.qqqqqq=1"], SMALL, "no key 'qqqqqq' (--print_config lists the keys)"),
    (["--config.num_steps=1.5"], SMALL, "'num_steps' must be a whole number, but got '1.5'"),
    ([], f"{CONFIG}:num_steps=ten", "'num_steps' must be a whole number, but got 'ten'"),
    (["--config.optimizer.learning_rate=fast"], SMALL, "must be a number, but got 'fast'"),
    (["--config.optimizer.clip=2"], SMALL, "'optimizer.clip' must be true or false, but got '2'"),
    (["--config.model.sizes=(1,'a')"], SMALL, "must be a tuple such as (1,2), like the present"),
    (["--config.model=3"], SMALL, "'model' is a group of keys and takes no value; its keys: model"),
    (["--config.num_steps=0"], SMALL, "num_steps=0 is impossible; it must be at least 1"),
    (["--config.batch_size=-4"], SMALL, "batch_size=-4 is impossible; it must be at least 1"),
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
        "model.sizes would have no effect, because clip is off; leave it out",
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
    (["--config.mesh.data=0"], SMALL, "mesh {'data': 0} is impossible"),
    (["--config.resume_from=nothere"], SMALL, "resume_from='nothere' does not exist"),
    (
        ["--config.experiment=other"],
        SMALL,
        "is for experiment 'other'; run it with python -m other",
    ),
    (["--wrkdir=x"], SMALL, "unknown flag --wrkdir; did you mean 'workdir'?"),
    (["--zzzz=x"], SMALL, "unknown flag --zzzz (see --help)"),
    (["small"], SMALL, "unexpected argument 'small'; settings are given as --flag=value"),
    (["--parallel=both"], SMALL, "--parallel=both: value should be one of <jit|pmap|shard_map>"),
    (["--num_processes=two"], SMALL, "--num_processes=two"),
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
    (["--fault=loud"], SMALL, "--fault=loud: value should be one of <none|usage>"),
]


@pytest.mark.parametrize(("argv", "config", "message"), USAGE, ids=[" ".join(u[0]) for u in USAGE])
def test_usage_error_is_one_sentence_and_exit_code_2(call, tmp_path, argv, config, message):
    code, out, err = call(*argv, config=config)
    assert code == 2
    assert message in err
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n")
    assert "Traceback" not in err
    assert not out and not list(tmp_path.iterdir())  # nothing was started


def test_only_what_the_command_changes_is_refused_as_unused(call):
    same = ("--config.optimizer.clip=false", "--config.model.sizes=(2,2)", "--workdir=w")
    assert call(*same, config=SMALL)[0] == 0


def test_suggests_the_config_file_with_the_nearest_name(call):
    code, _, err = call(config=str(TINY / "confg.py"))
    assert code == 2 and f"did you mean '{CONFIG}'?" in err


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1", "is not a config file: it has no function get_config(arg)"),
        (
            "from ml_collections import ConfigDict\ndef get_config(): return ConfigDict({'a': 1})",
            "has no variants, so leave out ':small'",
        ),
    ],
)
def test_files_that_are_no_configs(call, tmp_path, source, message):
    file = tmp_path / "c.py"
    file.write_text(source)
    code, _, err = call(config=f"{file}:small")
    assert code == 2 and message in err


def test_usage_error_inside_the_run_is_one_line(call):
    code, _, err = call("--fault=usage", "--workdir=w", config=SMALL)
    assert (code, err) == (2, "error: the file of tasks is empty\n")


# --- Help and printing ----------------------------------------------------------------------------


def test_help_shows_docstring_own_flags_and_an_example(call):
    code, out, err = call("--help", config="")
    assert code == 0 and not err
    assert out.startswith("Fits a line; a whole experiment in a page")
    shown = re.findall(r"^  --(\w+)", out, re.M)
    assert shown == [
        *("config", "config", "print_config", "fault", "workdir", "allow_config_change", "sweep"),
        *("parallel", "coordinator", "num_processes", "process_id", "profile", "debug_nans"),
        "disable_jit",
    ]
    assert "--parallel=jit|pmap|shard_map" in out and "(default jit)" in out
    assert "python -m experiment --config=PATH:VARIANT --print_config" in out
    assert "Example\n  python -m experiment --config=PATH:small" in out
    assert max(map(len, out.splitlines())) <= 110


def test_print_config_prints_the_resolved_config(call, tmp_path):
    code, out, _ = call(
        "--config.optimizer.learning_rate=1e-3",
        "--noconfig.optimizer.clip",
        "--config.model.sizes",
        "(3, 4, 5)",
        "--print_config",
        config=f"{CONFIG}:small,wide,seed=7",
    )
    assert code == 0
    assert "seed: 7\n" in out and "num_steps: 4\n" in out
    assert "optimizer:\n  clip: false\n  learning_rate: 0.001\n" in out
    assert "  sizes: [3, 4, 5]\n" in out and "  width: 8\n" in out
    assert not list(tmp_path.iterdir())


# --- Variants and overrides -----------------------------------------------------------------------


def config():
    return ConfigDict(
        {
            "count": 1,
            "rate": 2.0,
            "on": False,
            "name": "x",
            "shape": (1, 2),
            "empty": (),
            "nothing": None,
            "size": config_dict.placeholder(int),
            "group": {"a": 1, "b": 2},
        }
    )


@pytest.mark.parametrize(
    ("item", "key", "value"),
    [
        ("count=-3", "count", -3),
        ("count=1e6", "count", 1_000_000),
        ("count=12345678901234567", "count", 12345678901234567),  # beyond float precision
        ("rate=3", "rate", 3.0),
        ("rate=1e-3", "rate", 0.001),
        ("on=true", "on", True),
        ("on=0", "on", False),
        ("name=5", "name", "5"),
        ("name='a, b'", "name", "a, b"),
        ("name=a=b", "name", "a=b"),
        ("shape=(3,)", "shape", (3,)),
        ("shape=[4,5,6]", "shape", (4, 5, 6)),
        ("empty=(1,'a')", "empty", (1, "a")),
        ("nothing=3", "nothing", 3),
        ("nothing=word", "nothing", "word"),
        ("size=3", "size", 3),
        ("group.b=5", "group.b", 5),
    ],
)
def test_values_take_the_type_of_the_present_one(item, key, value):
    result = parse_variant(item, {}, config())
    for name in key.split("."):
        result = result[name]
    assert result == value and type(result) is type(value)


def test_variants_apply_from_left_to_right():
    variants = {"a": {"count": 5, "group": {"a": 6}}, "b": lambda c: c.update(count=7)}
    result = parse_variant("a,rate=9,b,group.b=8", variants, config())
    assert (result.count, result.rate) == (7, 9.0)
    assert result.group.to_dict() == {"a": 6, "b": 8}
    assert result.is_locked
    assert parse_variant("b,a", variants, config()).count == 5


@pytest.mark.parametrize("value", ["true", "1.5", "nan", "inf", True, 1.5, None, (1,)])
def test_what_is_no_whole_number(value):
    with pytest.raises(cli.UsageError, match="'count' must be a whole number, but got"):
        set_value(config(), "count", value)


def test_differences_name_old_and_new_value_and_leave_out_ignored_groups():
    new = config()
    new.count, new.rate, new.group.a = 2, 3.0, 9
    lines = differences(config(), new, ignore=("rate",))
    assert lines == ["count: 1 -> 2", "group.a: 1 -> 9"]
    assert differences(config(), new, ignore=("count", "group", "rat")) == ["rate: 2.0 -> 3.0"]
    assert differences({"a": 1}, {"b": (1, 2)}) == ["a: 1 -> absent", "b: absent -> [1, 2]"]
    assert differences(config(), json.loads(json.dumps(config().to_dict()))) == []


def test_as_text_indents_groups():
    assert as_text(ConfigDict({"a": {"b": "x", "c": {}}})) == 'a:\n  b: "x"\n  c: {}'


# --- A run and its folder -------------------------------------------------------------------------


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
    code, out, err = call(
        *("--workdir=w", "--config.checkpoint.keep=1", "--config.log_every=1"),
        "--config.model.note=fancy",
        config=SMALL,
    )
    assert code == 0, err
    assert "resuming in w" in out

    code, _, err = call("--workdir=w", "--allow_config_change", *changed, config=SMALL)
    assert code == 0, err
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6]
    assert json.loads((folder / "summary.json").read_text())["starts"] == 3


def test_folder_of_another_experiment_is_refused(call, tmp_path):
    about = workdir.About("tta_images", "small", {}, "", {})
    workdir.write_json(tmp_path / "w" / "config.json", about._asdict())
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
    run = lambda config, context: folders.append(context.workdir)  # noqa: E731
    run.__module__ = "experiment"
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
        return {"accuracy": [0.5, 0.7, 0.9], "nested": {"name": "x"}}

    run.__module__ = "experiment"
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
    assert final["accuracy"]["trials"] == [0.5, 0.7, 0.9]
    # t(0.975, 2 degrees of freedom) = 4.3027; standard error 0.2 / sqrt(3).
    assert final["accuracy"]["mean"] == pytest.approx(0.7)
    assert final["accuracy"]["low"] == pytest.approx(0.7 - 4.302653 * 0.2 / 3**0.5, abs=1e-5)


def test_debugging_flags_hold_during_the_run_only(call):
    seen = []

    def run(config, context):
        seen.append((jax.config.jax_debug_nans, jax.config.jax_disable_jit))

    run.__module__ = "experiment"
    call("--workdir=a", "--debug_nans", "--disable_jit", run=run, config=SMALL)
    call("--workdir=b", run=run, config=SMALL)
    assert seen == [(True, True), (False, False)]
    assert not jax.config.jax_debug_nans and not jax.config.jax_disable_jit


def test_preemption_exits_3_and_says_how_to_continue(call):
    def run(config, context):
        raise Preempted(40, True)

    run.__module__ = "experiment"
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


def test_json_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "deep" / "x.json"
    workdir.write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        workdir.write_json(file, {"a": object()})
    assert json.loads(file.read_text()) == {"a": 1}


def test_time_of_a_killed_start_is_counted_until_its_last_write(tmp_path):
    began = time.time() - 1000
    stamp = workdir.datetime.datetime.fromtimestamp(began, workdir.datetime.UTC)
    base = {"cores": 4, "processes": 2, "devices": {"count": 8}}
    start = base | {"started": stamp.isoformat(timespec="seconds"), "seconds": None}
    workdir.write_json(tmp_path / "environment.json", {"starts": [start]})
    (tmp_path / "metrics.jsonl").write_text("")
    os.utime(tmp_path / "environment.json", (began, began))
    os.utime(tmp_path / "metrics.jsonl", (began + 360, began + 360))
    totals = workdir.Clock(tmp_path, start | {"started": stamp.isoformat()}).stop()
    assert totals["starts"] == 2
    assert totals["wall_seconds"] == pytest.approx(360, abs=2)
    assert totals["core_hours"] == pytest.approx(0.8, abs=0.01)  # 0.1 h * 4 cores * 2 processes
    assert totals["device_hours"] == pytest.approx(0.8, abs=0.01)


# --- Start-up -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4"}, False),  # an allocation without srun
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "JAX_PLATFORMS": "cpu"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_SKIP_MDS_QUERY": "1"}, False),
        ({"MEGASCALE_COORDINATOR_ADDRESS": "a"}, True),
    ],
)
def test_start_joins_a_cluster_only_where_the_environment_names_one(
    monkeypatch, environment, expected
):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "TPU_", "MEGASCALE_", "JAX_PLATFORMS")):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args: joined.append(args))
    startup.start()
    assert joined == ([()] if expected else [])


def test_launcher_without_a_meeting_point_is_a_usage_error(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")

    def refuse():
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    with pytest.raises(cli.UsageError, match="names several processes but not where they meet"):
        startup.start()


def test_importing_the_command_line_defines_no_flags():
    names = {name for name in absl_flags.FLAGS.flags_by_module_dict() if "jaxtrain" in name}
    assert not names
    assert not {"config", "workdir", "sweep", "parallel"} & set(absl_flags.FLAGS)


def start_process(*argv, **options):
    return subprocess.Popen(
        [sys.executable, str(TINY / "experiment.py"), *argv],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.slow
def test_exit_codes_of_real_processes(tmp_path):
    """Crash: 1 with a traceback. SIGTERM: 3 after saving, one line."""
    long = f"{CONFIG}:num_steps=100000000,checkpoint.every=2000,log_every=1000"
    stopped = start_process(f"--config={long}", "--workdir=w", cwd=tmp_path)
    crashed = start_process(f"--config={SMALL}", "--fault=crash", "--workdir=c", cwd=tmp_path)
    _, err = crashed.communicate(timeout=100)
    assert crashed.returncode == 1
    assert "Traceback" in err and "RuntimeError: this experiment is broken" in err

    for line in stopped.stdout:  # the loop is running
        if line.startswith("step"):
            break
    stopped.send_signal(signal.SIGTERM)
    _, err = stopped.communicate(timeout=100)
    assert stopped.returncode == 3, err
    assert re.search(r"Stopped at step \d+; continue with: python .*--workdir=w", err)
    assert err.count("\n") == 1
    assert list((tmp_path / "w" / "checkpoints").iterdir())
    (start,) = json.loads((tmp_path / "w" / "environment.json").read_text())["starts"]
    assert start["seconds"] > 0
