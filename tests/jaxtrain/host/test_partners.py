"""Who is gone, in a sentence. Processes that really die are in tests/multihost."""

import jax
import pytest

from jaxtrain.host import partners, startup
from jaxtrain.host.config import UsageError


class Service:
    """The part of the coordination service that keeps values."""

    def __init__(self):
        self.values = {}

    def key_value_set(self, key, value, allow_overwrite):
        assert allow_overwrite
        self.values[key] = value

    def key_value_try_get(self, key):
        return self.values[key]  # raises where there is none


def test_a_process_that_stops_counting_is_the_silent_one(monkeypatch):
    now, service = [0.0], Service()
    monkeypatch.setattr(partners.time, "monotonic", lambda: now[0])
    watches = [
        partners.Watch(service, me, [i for i in range(3) if i != me], period=5) for me in range(3)
    ]
    for step in range(8):
        now[0] = 5.0 * step
        for watch in watches if step < 3 else [watches[0], watches[2]]:
            watch.look()
    assert watches[0].silent() == watches[2].silent() == [1]
    for step in range(8, 13):
        now[0] = 5.0 * step
        watches[0].look()
    assert watches[0].silent() == [1, 2]


def test_a_process_that_was_never_heard_of_and_a_service_that_is_gone():
    lonely = partners.Watch(None, 0, [1, 2], period=5)  # every call fails
    lonely.look()
    assert lonely.silent() == [1]  # all are silent for as long: one of them


def test_the_sentence_names_them():
    assert partners.lost([3]).startswith("process 3 of the run died or fell silent; start all")
    assert partners.lost([1, 2]).startswith("processes 1, 2 of the run died")


def test_processes_that_do_not_come_are_wrong_usage(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("DEADLINE_EXCEEDED: Barrier timed out\nmore")

    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    with pytest.raises(UsageError, match=r"of the run came to h:1 within 9 s; .*--join_timeout"):
        partners.join(9, 5, "h:1", 2, 0)


@pytest.mark.parametrize("name", ["join_timeout", "partner_timeout"])
def test_impossible_timeouts_are_named(name):
    with pytest.raises(UsageError, match=f"--{name}=0 must be from 1 to 86400"):
        startup.join_processes(**{name: 0})
