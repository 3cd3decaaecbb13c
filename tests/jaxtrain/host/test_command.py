"""What the command line accepts, what it says when it refuses, and its help."""

import re
import shutil
from pathlib import Path

import pytest
from absl import flags as absl_flags

from jaxtrain.host import command, files, workdir
from jaxtrain.host.config import UsageError, load, plain
from jaxtrain.host.settings import above

TINY = Path(__file__).parents[1] / "tiny"
CONFIG = TINY / "config.py"
SMALL = f"{CONFIG}:small"
FAULT = command.define_enum("fault", "none", ("none", "usage"), "what goes wrong")
TABLE = (*command.CONFIG_FLAGS, FAULT, *command.RUN_FLAGS)


def parse(*argv, config=SMALL):
    """The tiny experiment's command line, parsed."""
    argv = [*([f"--config={config}"] if config else []), *argv]
    return command.parse_command(
        argv, TABLE, program="python -m experiment", doc="Fits a line.\n\nSecond paragraph."
    )


USAGE = [
    ([], "", "--config is missing; give a config file, such as --config=configs/x.py:small"),
    ([], "", "such as --config=configs/x.py:small, or the --workdir of a run"),
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
    (["--wrkdir=x"], SMALL, "unknown flag --wrkdir; did you mean 'workdir'?"),
    (["--zzzz=x"], SMALL, "unknown flag --zzzz (see --help)"),
    (["--batch_size=4"], SMALL, "unknown flag --batch_size; the config has it, write --config.bat"),
    (["--learning_rate=4"], SMALL, "write --config.optimizer.learning_rate=VALUE"),
    (["small"], SMALL, "unexpected argument 'small'; settings are given as --flag=value"),
    (["--parallel=both"], SMALL, "--parallel=both: value should be one of <jit|pmap|shard_map>"),
    (["--num_processes=two"], SMALL, "--num_processes=two"),
    (["--fault=loud"], SMALL, "--fault=loud: value should be one of <none|usage>"),
]


@pytest.mark.parametrize(("argv", "config", "message"), USAGE, ids=[" ".join(u[0]) for u in USAGE])
def test_wrong_usage_is_refused_in_one_sentence(argv, config, message):
    with pytest.raises(UsageError) as refused:
        parse(*argv, config=config)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_a_run_in_the_folder_stands_in_for_the_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    shutil.copy(CONFIG, own := "configs/config.py")
    given, _ = load(f"{own}:small,model.width=6")
    about = workdir.About("experiment", "small", plain(given), "seed=0:2", {}, own)
    files.write_json(tmp_path / "config.json", about._asdict())
    found = parse(f"--workdir={tmp_path}", "--config.model.sizes=(5,)", config="")
    assert found.config.model.width == 6 and found.config.model.sizes == (5,)
    assert (found.variant, found.config_file) == ("small", own)
    assert found.changed == ("model.sizes",) and found.flags["sweep"] == "seed=0:2"
    assert parse(f"--workdir={tmp_path}", "--sweep=seed=4", config="").flags["sweep"] == "seed=4"
    for flag, sentence in (
        ("--config.optimizer.learning_rate=-1", "it must be at least 0"),
        ("--config.model.widht=3", "did you mean 'model.width'?"),
    ):
        with pytest.raises(UsageError, match=re.escape(sentence)):
            parse(f"--workdir={tmp_path}", flag, config="")
    with pytest.raises(UsageError, match="holds no run yet"):
        parse(f"--workdir={tmp_path / 'new'}", config="")


def test_suggests_the_config_file_with_the_nearest_name():
    with pytest.raises(UsageError, match=re.escape(f"did you mean '{CONFIG}'?")):
        parse(config=str(TINY / "confg.py"))


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
def test_files_that_are_no_configs(tmp_path, source, message):
    file = tmp_path / "c.py"
    file.write_text(source)
    with pytest.raises(UsageError, match=re.escape(message)):
        parse(config=f"{file}:small")


def test_help_shows_docstring_own_flags_and_an_example(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no config has the command's name
    out = parse("--help", config="").show
    assert out.startswith("Fits a line.\n\nSecond paragraph.\n\nUsage: python -m experiment")
    shown = re.findall(r"^  --(\w+)", out, re.M)
    assert shown == [
        *("config", "config", "print_config", "fault", "workdir", "allow_config_change", "sweep"),
        *("parallel", "coordinator", "num_processes", "process_id", "join_timeout"),
        *("partner_timeout", "profile", "debug_nans", "disable_jit"),
    ]
    assert "--parallel=jit|pmap|shard_map" in out and "(default jit)" in out
    assert "Config keys\n  python -m experiment --config=PATH --help" in out
    assert "Example\n  python -m experiment --config=PATH:small" in out
    assert max(map(len, out.splitlines())) <= 110


def test_print_config_prints_the_resolved_config():
    out = (
        parse(
            "--config.optimizer.learning_rate=1e-3",
            "--noconfig.optimizer.clip",
            "--config.model.sizes",
            "(3, 4, 5)",
            "--print_config",
            config=f"{CONFIG}:small,wide,seed=7",
        ).show
        + "\n"
    )
    assert "seed: 7\n" in out and "num_steps: 4\n" in out
    assert "optimizer:\n  clip: false\n  learning_rate: 0.001\n" in out
    assert "  sizes: [3, 4, 5]\n" in out and "  width: 8\n" in out


HEADER = '''"""A line.

python -m experiment --config=configs/experiment.py:small --sweep="seed=0:3"
small: 2 minutes on one core; the error is 0.1.
wi*: hours, with 3 seeds. More text.
full: 100 images.
"""
'''


def test_help_describes_the_config_of_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = CONFIG.read_text().partition("\n")[2]
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "experiment.py").write_text(HEADER + source)
    out = parse("--help", config="").show
    assert (
        "\n\nVariants of configs/experiment.py\n"
        "  full\n  small  2 minutes on one core\n  wide   hours, with 3 seeds\n\n"
        "Config keys, with their values in full\n"
        "  batch_size               4; it must be from 1 to 65536\n"
    ) in out
    assert re.search(r"^  optimizer.learning_rate +0.1; it must be at least 0$", out, re.M)
    assert re.search(r"^  kind +line; choose line, curve$", out, re.M)
    assert re.search(r"^  model.note +plain$", out, re.M)
    assert re.search(r'^  init_from +""; name a file, folder or set', out, re.M)
    assert out.endswith(
        "Examples\n"
        '  python -m experiment --config=configs/experiment.py:small --sweep="seed=0:3"\n'
        "  python -m experiment --config=configs/experiment.py:small --config.seed=1 "
        "--workdir=runs/first"
    )


def test_help_describes_the_config_that_is_named_beside_it():
    out = parse("--help", config=f"{CONFIG}:small,seed=7").show
    assert "Config keys, with their values in small\n" in out
    assert re.search(r"^  num_steps +4; it", out, re.M)
    assert re.search(r"^  seed +7; it", out, re.M)
    with pytest.raises(UsageError, match="unknown variant 'huge'"):
        parse("--help", config=f"{CONFIG}:huge")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("nan", "--rate=nan is impossible; it must be a finite number, and it must be above 0"),
        ("0", "--rate=0.0 is impossible; it must be above 0"),
        ("1e400", "--rate=inf is impossible; it must be a finite number"),
    ],
)
def test_a_flag_has_a_range(given, sentence):
    flag = command.define_number("rate", above(0, 0.5), "how fast")
    parsed = lambda *argv: command.parse_command(argv, [flag], program="python -m tool")
    assert parsed().flags["rate"] == 0.5 and parsed("--rate=2").flags["rate"] == 2
    with pytest.raises(UsageError, match=re.escape(sentence)):
        parsed(f"--rate={given}")
    assert "--rate=NUMBER  how fast; it must be above 0 (default 0.5)" in parsed("--help").show
    assert command.define_number("number", above(0, 5), "").kind == "N"


def test_help_of_a_tool_without_flags():
    out = command.parse_command(["--help"], (), program="python -m tool", doc="Does it.").show
    assert out == "Does it.\n\nUsage: python -m tool [flags]"


def test_importing_the_command_line_defines_no_flags():
    names = {name for name in absl_flags.FLAGS.flags_by_module_dict() if "jaxtrain" in name}
    assert not names
    assert not {"config", "workdir", "sweep", "parallel"} & set(absl_flags.FLAGS)
