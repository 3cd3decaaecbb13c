"""The command that builds a cache: once, and refusals in one sentence."""

import contextlib

import pytest

from experiments import build_rearc_cache
from experiments.data.arc import rearc, rearc_cache
from tests.experiments.data.arc.rearc_cases import FAST, TINY, installed


@installed
def test_build_command(tmp_path, capsys):
    arguments = [f"--out={tmp_path}", f"--tasks={','.join(FAST)}", "--workers=1"]
    assert build_rearc_cache.main([*arguments, "--samples=5"]) == 0
    assert "15/15 pairs (100%)" in capsys.readouterr().out
    assert build_rearc_cache.main([*arguments, "--samples=5"]) == 0
    assert "15/15 pairs are there already" in capsys.readouterr().out
    assert rearc_cache.Cache(tmp_path, TINY).num_pairs == (5, 5, 5)


def test_flags_are_the_options_of_the_cache(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(build_rearc_cache, "Pool", lambda workers: contextlib.nullcontext())
    monkeypatch.setattr(build_rearc_cache, "_build", lambda *arguments: given.append(arguments))
    flags = "--samples=7 --seed=5 --tasks=first:3 --max_side=9 --max_difficulty=0.5 --verify"
    assert build_rearc_cache.main([f"--out={tmp_path}", *flags.split()]) == 0
    options = rearc.Options(
        only_n_tasks=3, max_rows=9, max_cols=9, difficulty=(0.0, 0.5), verify=True
    )
    assert given == [(str(tmp_path), options, 5, 7, None)]


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
        ["--out=", "--samples=1"],
        ["--out=x", "--samples=100000000000"],
        ["--out=x", "--samples=1", "--workers=100000"],
        ["--out=x", "--samples=1", "--max_side=31"],
        ["--out=x", "--samples=1", "--max_difficulty=nan"],
        ["--out=x", "--samples=1", "--tasks=first:\u00b2"],
        ["--out=x", "--samples=1", "--tasks="],
        ["--out=x", "--samples=1", "--seed=1.5"],
    ],
)
def test_build_command_refuses_in_one_sentence(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        build_rearc_cache.main(arguments)
    printed = capsys.readouterr()
    assert caught.value.code == 2
    assert len(printed.err.strip().splitlines()) == 1 and not list(tmp_path.iterdir())
