"""The command that builds a cache: once, and refusals in one sentence."""

import pytest

from experiments import build_rearc_cache
from experiments.data.arc import rearc_cache
from tests.experiments.data.arc.rearc_cases import FAST, TINY, installed


@installed
def test_build_command(tmp_path, capsys):
    arguments = [f"--out={tmp_path}", f"--tasks={','.join(FAST)}", "--workers=1"]
    assert build_rearc_cache.main([*arguments, "--samples=5"]) == 0
    assert "15/15 pairs (100%)" in capsys.readouterr().out
    assert build_rearc_cache.main([*arguments, "--samples=5"]) == 0
    assert "15/15 pairs are there already" in capsys.readouterr().out
    assert rearc_cache.Cache(tmp_path, TINY).num_pairs == (5, 5, 5)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--out=x"],
        ["--out=x", "--samples=0"],
        ["--out=x", "--samples=ten"],
        ["--out=x", "--samples=1", "--tasks=first:x"],
        ["--out=x", "--samples=1", "--tasks=first:0"],
        ["--out=x", "--samples=1", "--max_difficulty=2"],
        ["--out=x", "--samples=1", "--bogus=1"],
    ],
)
def test_build_command_refuses_in_one_sentence(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        build_rearc_cache.main(arguments)
    printed = capsys.readouterr()
    assert caught.value.code == 2
    assert len(printed.err.strip().splitlines()) == 1 and not list(tmp_path.iterdir())
