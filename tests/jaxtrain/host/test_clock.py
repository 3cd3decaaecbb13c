"""Where the seconds of a run go, by a clock that is told the time."""

from types import SimpleNamespace

from jaxtrain.host import clock as clock_


def test_seconds_of_training_compiling_and_evaluating(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(clock_, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def passes(seconds):
        now[0] += seconds

    clock = clock_.Clock(elapsed_before=50.0)
    with clock.training(steps=4):
        with clock.compiling():
            passes(30.0)
        passes(8.0)
    assert clock.speed == 4 / 8
    with clock.training(steps=2):
        passes(7.0)
    assert clock.remaining(6, evaluations=3) == 6 * (8 + 7) / 6
    for seconds in (20.0, 5.0, 6.0):  # the first one compiles
        with clock.evaluating():
            passes(seconds)
    assert clock.remaining(6, evaluations=3) == 15 + 3 * 5
    assert clock.numbers() == {
        "seconds": 7,
        "steps_per_second": 2 / 7,
        "compile_seconds": 30,
        "elapsed_seconds": 50 + 30 + 8 + 7 + 20 + 5 + 6,
    }
