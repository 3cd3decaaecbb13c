"""Rules of config keys, and which keys a run reads."""

import jax
import pytest

from jaxtrain.host.config import UsageError, parse_variant, set_value
from jaxtrain.host.settings import (
    above,
    at_least,
    between,
    check,
    choice,
    filled,
    free,
    keyed,
    path,
    recorded,
    settings,
    share,
    size,
    some_of,
    standard,
    was_read,
)
from jaxtrain.host.sweep import overlay, parse


def config():
    return settings(
        standard("x", num_steps=7, checkpoint=dict(every=5)),
        method=choice("ppo", "dpo"),
        names=some_of(("a", "b", "c"), ("a",)),
        loss=dict(gamma=between(0, 1, 0.9), rate=above(0, 1e-3), widths=at_least(1, (4, 4))),
        free="anything",
        file=path(""),
        mark=free(3.0),
        none=size(()),
        many=filled(size((3,))),
        part=share(0.5),
    )


def test_rules_become_plain_values():
    found = config()
    assert found.method == "ppo" and found.loss.widths == (4, 4) and found.names == ("a",)
    assert (found.num_steps, found.checkpoint.every, found.checkpoint.keep) == (7, 5, 2)
    check(found)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("num_steps", 0, "num_steps=0 is impossible; it must be at least 1"),
        ("checkpoint.every", 0, "checkpoint.every=0 is impossible; it must be at least 1"),
        ("method", "pop", "method='pop' is impossible; choose ppo, dpo; did you mean 'ppo'?"),
        ("names", ("a", "d"), r"names=\('a', 'd'\) is impossible; choose among a, b, c"),
        ("loss.gamma", 1.5, "loss.gamma=1.5 is impossible; it must be from 0 to 1"),
        ("loss.gamma", float("nan"), "loss.gamma=nan is impossible"),
        ("loss.rate", 0.0, "loss.rate=0.0 is impossible; it must be above 0"),
        ("part", 0.0, "part=0.0 is impossible; it must be above 0 and at most 1"),
        ("part", 1.5, "part=1.5 is impossible; it must be above 0 and at most 1"),
        ("loss.widths", (4, 0), r"loss.widths=\(4, 0\) is impossible; it must be at least 1"),
        ("loss.rate", float("inf"), "loss.rate=inf is impossible; it must be a finite number, and"),
        ("loss.rate", 1e39, r"loss.rate=1e\+39 is impossible; it must be a finite number"),
        ("loss.rate", 1e-46, "loss.rate=1e-46 is impossible; numbers other than 0 may be as small"),
        ("mark", float("nan"), "mark=nan is impossible; it must be a finite number$"),
        (
            "seed",
            2**32,
            "seed=4294967296 is impossible; whole numbers may be as large as",
        ),
        (
            "mesh.data",
            0,
            "mesh.data=0 is impossible; it must be -1, for all devices",
        ),
        (
            "none",
            (1.5,),
            r"none=\(1.5,\) is impossible; it must be whole, and it must be",
        ),
        ("none", (70_000,), "it must be from 1 to 65536"),
        ("many", (), r"many=\(\) is impossible; give at least one value"),
        ("file", "a/" + 256 * "b", "impossible; name a file, folder or set in at most 255"),
        ("free", "a\0b", "impossible; text may not have the character of code 0"),
        ("experiment", "y", "experiment='y' is impossible; choose x"),
    ],
)
def test_a_value_that_breaks_its_rule_is_named(key, value, sentence):
    changed = config()
    set_value(changed, key, value)
    with pytest.raises(UsageError, match=sentence):
        check(changed)
    with pytest.raises(UsageError, match=sentence):
        check(changed.copy_and_resolve_references())  # copies keep the rules


def test_swept_values_obey_the_rules():
    with pytest.raises(UsageError, match="loss.gamma=.* must be from 0 to 1"):
        parse("loss.gamma=0.5,1.5", ("loss.gamma",), config())
    with pytest.raises(UsageError, match="loss.rate=.*inf.* must be a finite number"):
        parse("loss.rate=1e-3,inf", ("loss.rate",), config())
    with pytest.raises(UsageError, match="loss.rate=.*nan.* must be a finite number"):
        parse("loss.rate=nan,1e-2", ("loss.rate",), config())
    assert parse("loss.gamma=0.5,0.6", ("loss.gamma",), config()).num_trials == 2


def test_help_sees_values_and_rules():
    rows = {key: (value, says) for key, value, says in keyed(config())}
    assert rows["method"] == ("ppo", "choose ppo, dpo")
    assert rows["free"] == ("anything", "")


def test_reads_are_recorded_by_key_group_and_copy():
    watched, reads = recorded(parse_variant("", {}, config()))
    assert not reads.keys
    assert watched.method == "ppo"
    assert reads.keys == {"method"}
    assert was_read(watched, "method") and not was_read(watched, "loss.gamma")
    assert was_read(config(), "method"), "nothing is recorded"
    dict(**watched.checkpoint)
    assert reads.keys == {"method", "checkpoint.every", "checkpoint.keep", "checkpoint.keep_best"}
    copy = watched.copy_and_resolve_references()
    assert reads.keys.isdisjoint({"loss.gamma", "free"})
    assert copy.loss.gamma == 0.9
    assert "loss.gamma" in reads.keys and "free" not in reads.keys
    assert "free" in watched and "free" not in reads.keys  # asking for presence is no read


def test_late_reads_of_other_keys_are_errors():
    watched, reads = recorded(config())
    assert watched.method
    reads.close()
    assert watched.method
    with pytest.raises(RuntimeError, match="'free' is read after the run was built"):
        _ = watched.free


def test_overlay_replaces_numbers_by_traced_ones_without_reading():
    watched, reads = recorded(config())

    @jax.jit
    def twice(x):
        changed = overlay(watched, {"loss.gamma": x})
        return 2 * changed.loss.gamma, changed.loss.rate

    assert twice(3.0)[0] == 6.0
    assert reads.keys == {"loss.gamma", "loss.rate"}
    assert watched.loss.gamma == 0.9
