"""The table of faults is true: every edit is possible, and the tests it names exist."""

from collections import Counter
from collections.abc import Iterable

import pytest

from tests.faults.__main__ import alone, killers
from tests.faults.table import FAULTS, Fault
from tests.source_tree import ROOT, sources

# Product file without a fault -> why.
NO_FAULTS = {
    "experiments/in_context/figures.py": "it draws",
    "experiments/lpn/prediction.py": "its tests are of the tier ci",
    "jaxtrain/host/context.py": "two records",
    "jaxtrain/parallel.py": "a face",
    "jaxtrain/protocol.py": "types",
}


def wrong(fault: Fault) -> str:
    """A sentence about an entry that cannot be planted, empty if it can."""
    count = (ROOT / fault.file).read_text().count(fault.old)
    if count != 1:
        return f"{fault.name}: {fault.old!r} occurs {count} times; give text that occurs once."
    if fault.old.strip() == fault.new.strip():
        return f"{fault.name}: nothing changes."
    if missing := [path for path in fault.tests if not (ROOT / path).is_file()]:
        return f"{fault.name}: there is no {' and no '.join(missing)}."
    return ""


def untouched(files: Iterable[str]) -> list[str]:
    """A sentence per product file that has no fault."""
    known = {*NO_FAULTS, *(fault.file for fault in FAULTS)}
    return [
        f"{file} has no fault: plant two that its tests see, or say in NO_FAULTS why there is none."
        for file in files
        if file not in known and not file.endswith("__init__.py")
    ]


def test_every_product_file_has_faults():
    files = set(map(str, sources("jaxtrain", "jaxtta", "jaxrl", "experiments")))
    assert not untouched(sorted(files))
    assert files >= set(NO_FAULTS) and not set(NO_FAULTS) & {fault.file for fault in FAULTS}


def test_a_file_without_a_fault_is_named():
    (sentence,) = untouched(["jaxtrain/new.py", "jaxtrain/__init__.py", "jaxtrain/trees.py"])
    assert sentence.startswith("jaxtrain/new.py has no fault: plant two")


def test_every_fault_can_be_planted():
    assert not list(filter(None, map(wrong, FAULTS)))


def test_names_are_unique_and_every_file_has_two_faults():
    assert not [name for name, count in Counter(f.name for f in FAULTS).items() if count > 1]
    assert not [file for file, count in Counter(f.file for f in FAULTS).items() if count < 2]
    assert len(FAULTS) >= 80


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"old": "text that is nowhere"}, "occurs 0 times"),
        ({"old": "\n"}, "occurs"),
        ({"new": FAULTS[0].old}, "nothing changes"),
        ({"tests": ("tests/test_nothing.py",)}, "there is no tests/test_nothing.py"),
    ],
)
def test_an_entry_that_has_rotted_is_named(change, sentence):
    assert sentence in wrong(FAULTS[0]._replace(**change))


def test_what_killed_a_fault_is_read_from_what_was_printed():
    fault = FAULTS[0]._replace(tests=("tests/a/test_a.py", "tests/b/test_b.py"))
    printed = f"""2 rows
killed       3 s  {fault.name}  test_a.py::test_of_before
killed      11 s  {fault.name}  test_b.py::test_it[1 of a/b-True]
killed 4 s x/y.py: a gap: one less test_y.py::test_cut[in
SURVIVED     8 s  x/y.py: lives
killed    1200 s  x/y.py: runs on  no end within 1200 s
3 faults, 2 killed, 1 survived
"""
    found = killers(printed)
    assert found == {
        fault.name: "test_b.py::test_it",
        "x/y.py: a gap: one less": "test_y.py::test_cut",
    }
    assert alone(fault, found[fault.name]) == ["tests/b/test_b.py::test_it"]
    assert alone(fault, "test_moved.py::test_it") == alone(fault, "") == []
