"""Benchmarks say what they have spent while they run, and count the calls after the first."""

import time

from benchmarks import timing


def test_something_is_said_while_a_benchmark_runs_and_at_its_end(capsys, monkeypatch):
    monkeypatch.setattr(timing.sys.stdout, "reconfigure", lambda **_: None, raising=False)
    with timing.told(every=0.02):
        time.sleep(0.1)
    said = capsys.readouterr().out.splitlines()
    assert len(said) >= 2 and all(line.endswith("so far") for line in said[:-1])
    assert said[-1].startswith("in all 0.1")


def test_the_first_call_is_not_counted_and_sleep_is_no_cpu_time():
    calls = []

    def slow_first():
        calls.append(time.sleep(0.02 if calls else 0.5))
        return len(calls)

    spent, result = timing.timed(slow_first, repeats=3)
    assert result == 4
    assert 0.02 <= spent.wall < 0.4 and spent.cpu < spent.wall


def test_functions_take_turns_and_their_first_round_is_not_counted():
    calls = []

    def called(name, slow):
        calls.append(name)
        time.sleep(slow if len(calls) > 2 else 0.5)
        return len(calls)

    sides = {"a": lambda: called("a", 0.02), "b": lambda: called("b", 0.0)}
    spent, results = timing.in_turns(sides, 2)
    assert calls == ["a", "b"] * 3 and results == {"a": 5, "b": 6}
    assert 0.02 <= spent["a"].wall < 0.4 and spent["b"].wall < 0.02
