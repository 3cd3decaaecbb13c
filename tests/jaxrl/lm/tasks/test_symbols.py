"""Writing and reading of symbols against strings."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.lm.tasks import symbols
from tests.jaxrl.lm.tasks import drill

RNG = np.random.default_rng(0)


def test_numbers_are_written_in_decimal():
    values = np.array([0, 7, 10, 999, -1, -40])
    found = jax.vmap(lambda x: symbols.signed(x, 3))(jnp.array(values))
    assert [symbols.text(*row) for row in zip(*found, strict=True)] == list(map(str, values))
    parts = symbols.joined(symbols.written("a="), symbols.number(jnp.array(5), 3))
    assert symbols.text(*parts) == "a=5" and parts.tokens.shape == (5,)
    assert symbols.text(*symbols.only_if(jnp.array(False), parts)) == ""
    assert len(set(symbols.ALPHABET)) == len(symbols.ALPHABET) <= 64
    with pytest.raises(ValueError, match="are no symbols"):
        symbols.ids("A")


def test_lines_are_those_of_split():
    """Any text in slots with gaps: its lines, how many, which are too long, whether it ends."""
    texts = ["".join(RNG.choice(list("ab12;;$"), RNG.integers(0, 20))) for _ in range(200)]
    texts += ["", "$", ";", "a;b$c;d", "abcdefg;x", "a;b;c;d;e$"]
    cut = jax.jit(jax.vmap(lambda t, v: symbols.lines(t, v, 4, 5)))
    found = jax.tree.map(np.asarray, cut(*drill.slotted(texts, 24, RNG)))
    for i, text in enumerate(texts):
        expected = text.split("$")[0].split(";")
        expected = expected if "$" in text else expected[:-1]
        assert found.number[i] == len(expected) and found.ended[i] == ("$" in text)
        for n in range(4):
            there = n < len(expected) and len(expected[n]) <= 5
            assert found.whole[i, n] == there
            if there:
                line = found.tokens[i, n]
                assert symbols.text(line, line != symbols.NOTHING) == expected[n]


def test_equations_are_those_of_a_regular_expression():
    texts = ["".join(RNG.choice(list("1203+-="), RNG.integers(1, 9))) for _ in range(150)]
    texts += [
        "12+3=15",
        "1+1=2",
        "1+1=2 ",
        "+1=2",
        "1+=2",
        "1+1",
        "1234567890+1=2",
        "7-123456789=0",
    ]
    texts += [f"{a}{op}{b}={c}" for a, b, c in RNG.integers(0, 99, (20, 3)) for op in "+-"]

    def read(line):
        return symbols.equation(symbols.reader(line, jnp.array(True)), "-+")

    rows = np.full((len(texts), 20), symbols.NOTHING)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = symbols.ids(text)
    found = jax.tree.map(np.asarray, jax.jit(jax.vmap(read))(jnp.array(rows)))
    for i, text in enumerate(texts):
        expected = re.fullmatch(r"(\d{1,9})([-+])(\d{1,9})=(\d{1,9})", text)
        assert found.ok[i] == bool(expected), text
        if expected:
            parts = found.left[i], found.right[i], found.result[i]
            assert parts == tuple(int(expected[k]) for k in (1, 3, 4))
            assert found.op[i] == "-+".index(expected[2])


def test_signed_numbers_are_read():
    def read(line):
        value, at = symbols.reader(line, jnp.array(True)).signed()
        return value, at.end()

    cases = {"-12": -12, "7": 7, "--1": None, "-": None, "1-": None}
    rows = np.full((len(cases), 5), symbols.NOTHING)
    for row, text in zip(rows, cases, strict=True):
        row[: len(text)] = symbols.ids(text)
    found = zip(*map(np.asarray, jax.jit(jax.vmap(read))(jnp.array(rows))), strict=True)
    for (value, ok), expected in zip(found, cases.values(), strict=True):
        assert ok == (expected is not None) and (not ok or value == expected)
