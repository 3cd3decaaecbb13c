"""Commands and flags: what a command does not implement it refuses."""

from pathlib import Path

import pytest

from experiments import (
    continual,
    gpicl,
    halfspaces,
    lm_base,
    lm_judges,
    lm_reward,
    lm_search,
    lpn_arc,
    lpn_patterns,
    lr_schedules,
    memory,
    meta_rl,
    ppo,
    self_supervised,
    tta_clip,
    tta_dense,
    tta_images,
    tta_vision_language,
)
from jaxtrain.host.command import RUN_FLAGS

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "continual": continual,
    "gpicl": gpicl,
    "halfspaces": halfspaces,
    "lm_base": lm_base,
    "lm_judges": lm_judges,
    "lm_reward": lm_reward,
    "lm_search": lm_search,
    "lpn_arc": lpn_arc,
    "lpn_patterns": lpn_patterns,
    "lr_schedules": lr_schedules,
    "memory": memory,
    "meta_rl": meta_rl,
    "ppo": ppo,
    "self_supervised": self_supervised,
    "tta_clip": tta_clip,
    "tta_dense": tta_dense,
    "tta_images": tta_images,
    "tta_vision_language": tta_vision_language,
}
# In one process, by jit.
ALONE = (
    "continual",
    "halfspaces",
    "lm_search",
    "lr_schedules",
    "tta_clip",
    "tta_dense",
    "tta_images",
    "tta_vision_language",
)
PROCESSES = ("coordinator", "num_processes", "process_id", "join_timeout", "partner_timeout")
UNSWEPT = tuple(name for name in ALONE if name != "tta_images")
UNTRAINED = tuple(name for name in ALONE if name != "lr_schedules")
# A value that asks for something -> commands that have no such thing. All others implement it.
REFUSED = {
    "sweep=seed=0:2": UNSWEPT,
    "profile=0:1": UNTRAINED,
    "parallel=pmap": ALONE,
    "parallel=shard_map": ALONE,
    **{f"{name}=1": ALONE for name in PROCESSES},
    "workdir=runs/x": (),
    "allow_config_change": (),
    "debug_nans": (),
    "disable_jit": (),
}


def test_the_table_has_every_flag_of_runs():
    assert {flag.partition("=")[0] for flag in REFUSED} == {flag.name for flag in RUN_FLAGS}


@pytest.mark.parametrize(
    ("flag", "command"), [(flag, name) for flag, names in REFUSED.items() for name in names]
)
def test_what_a_command_does_not_implement_is_refused(tmp_path, monkeypatch, capsys, flag, command):
    config = f"{ROOT}/configs/{command}.py:debug"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        COMMANDS[command].main(argv=[f"--config={config}", f"--{flag}"])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1
    assert command in said or f"--{flag}" in said
    assert not list(tmp_path.iterdir())


def test_help_lists_only_what_a_command_implements(capsys):
    tta_images.main(argv=["--help"])
    said = capsys.readouterr().out
    assert "--sweep" in said and "--profile" not in said and "--coordinator" not in said
