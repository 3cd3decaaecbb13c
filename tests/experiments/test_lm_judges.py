"""The judges end to end, as small as they can be."""

import json

import pytest

from experiments import lm_judges

SYSTEMS = {
    "p_ik": ("own_auroc", "known_after_1_wrong_lines", "rise_by_right_line_1"),
    "p_true": ("own_told_auroc", "across_auroc_gain_told_of_others"),
    "critique": ("neutral_confidence", "doubt_critique", "copied_relative"),
}
FIGURES = {
    "p_ik": ("reliability", "hints"),
    "p_true": ("reliability",),
    "critique": ("plane",),
}


@pytest.mark.parametrize(
    "system", [s if s == "critique" else pytest.param(s, marks=pytest.mark.ci) for s in SYSTEMS]
)
def test_a_judge_is_trained_and_examined(system, tmp_path, capsys):
    variant = "debug" if system == "p_ik" else f"{system}_debug"
    config = f"--config=configs/lm_judges.py:{variant}"
    lm_judges.main(argv=[config, f"--workdir={tmp_path}", "--sweep=seed=0:2"])
    final = json.loads((tmp_path / "summary.json").read_text())["final"]
    trained = final["trained"]
    said = capsys.readouterr().out
    for name in SYSTEMS[system]:
        assert set(trained[name]) == {"value", "low", "high"} and name in said
    for name in FIGURES[system]:
        assert (tmp_path / "plots" / f"{name}.png").stat().st_size > 1000
    if system == "critique":
        copied = trained["copied_relative"]["value"]
        assert copied is None or copied == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("base=huge", "there is no base model 'huge'"),
        ("base=untrained:huge", "huge"),
        ("optimizer.schedule=autolrs(min_lr=1e-4,max_lr=1e-3)", "choose another schedule"),
        ("kept=0.5", "kept would have no effect"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(setting, sentence, tmp_path, capsys):
    key, _, value = setting.partition("=")
    argv = ["--config=configs/lm_judges.py:debug", f"--config.{key}={value}"]
    with pytest.raises(SystemExit) as stop:
        lm_judges.main(argv=[*argv, f"--workdir={tmp_path / 'w'}"])
    assert stop.value.code == 2 and sentence in capsys.readouterr().err
    assert not (tmp_path / "w").exists()
