"""Which signals ask a run to stop, and what they find afterwards."""

import os
import signal

import pytest

from jaxtrain.host.signals import stop_signals


@pytest.fixture
def hang_up():
    """Sets what a hang-up does, and puts it back."""
    before = signal.getsignal(signal.SIGHUP)
    yield lambda handler: signal.signal(signal.SIGHUP, handler)
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_first_signal_is_told_and_a_second_acts_as_before(number, hang_up):
    hang_up(signal.SIG_DFL)
    heard = []
    before = signal.signal(number, lambda n, frame: heard.append(n))
    try:
        with stop_signals() as caught:
            os.kill(os.getpid(), number)
            assert caught == [number] and not heard
            os.kill(os.getpid(), number)
        assert caught == [number] == heard
    finally:
        signal.signal(number, before)


def test_a_hang_up_that_was_ignored_stays_ignored(hang_up):
    hang_up(signal.SIG_IGN)
    with stop_signals() as caught:
        os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    assert not caught
