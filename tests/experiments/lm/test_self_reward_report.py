"""What sharpening prints."""

import numpy as np

from experiments.lm.self_reward_report import show


def test_numbers_are_in_order_and_of_their_setting(capsys):
    ones = np.ones((4, 3))
    found = {"own_choice_of_16": ones, "own_choice_of_2": ones * np.arange(4)[:, None] / 4}
    show(found, {"N=1": [0, 2], "N=2": [1, 3]})
    *_, second, last = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert (second[0], last[0]) == ("own choice of 2", "own choice of 16")
    assert [cell.split()[0] for cell in second[1:] if cell] == ["0.250", "0.500"]
    assert [cell.strip() for cell in last[1:] if cell] == ["1.000 [1.000, 1.000]"] * 2
