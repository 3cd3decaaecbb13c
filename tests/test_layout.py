"""Where files live: commands, the length of a file, and tests that mirror the tree."""

import ast
from pathlib import Path

import pytest

from tests.source_tree import PRODUCT, sources

MAX_LINES = 400
# Files that are still longer. A file that is no longer too long leaves this set.
PENDING: set[str] = set()
# Test file without a product file of its name -> why.
NO_MIRROR = {
    "tests/experiments/test_configs.py": "the configs, by the commands that read them",
    "tests/experiments/test_flags.py": "every command beside every flag of a run",
    "tests/jaxrl/envs/test_control.py": "cart-pole and pendulum beside one independent physics",
    "tests/jaxtrain/nets/test_networks.py": "every network beside NumPy and PyTorch numbers",
    "tests/jaxtta/images/test_group_norm.py": "methods on networks without batch statistics",
    "tests/jaxtta/images/test_pixels.py": "methods on networks that classify pixels",
    "tests/jaxtta/images/test_held_arrays.py": "what several methods keep in their states",
    "tests/jaxtta/images/test_single_images.py": "every method on a batch of one image",
    "tests/jaxtta/in_context/test_learners.py": "every learner behind the one interface",
    "tests/jaxtta/lpn/test_reference.py": "all of LPN beside the authors' numbers",
}


def no_commands(tree: dict[Path, str]) -> list[str]:
    """A sentence per file directly in experiments/ that cannot be run."""
    return [
        f"{path} is no command: give it a `__main__` block, or move it into the folder of the "
        f"command it is a part of."
        for path, source in tree.items()
        if path.parent == Path("experiments") and not path.name.startswith("__")
        if not any(
            isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
            for node in ast.parse(source).body
        )
    ]


def too_long(tree: dict[Path, str]) -> set[str]:
    return {str(path) for path, text in tree.items() if len(text.splitlines()) > MAX_LINES}


def without_mirror(tests: dict[Path, str], product: dict[Path, str]) -> set[str]:
    """Files tests/<folder>/test_<name>.py for which <folder>/<name> does not exist.

    A file that tests a part of a module is called `test_<module>_<part>.py`, that of `__main__.py`
    `test_main.py`.
    """
    files = {path.with_name(path.stem.strip("_")) for path in product}
    known = {str(place) for file in files for place in (file, *file.parents)}
    found = set()
    for path in tests:
        folder, words = Path(*path.parts[1:-1]), path.stem.split("_")[1:]
        names = {str(folder / "_".join(words[:n])) for n in range(1, len(words) + 1)}
        if path.name.startswith("test_") and path.parts[1] in PRODUCT and not names & known:
            found.add(str(path))
    return found


def test_every_file_in_experiments_is_a_command():
    assert not no_commands(sources("experiments"))


@pytest.mark.parametrize("source", ["import jax", "def main():\n    if __name__ == '__main__': 1"])
def test_a_file_that_is_no_command_is_named(source):
    planted = {Path("experiments/helpers.py"): source, Path("experiments/lpn/parts.py"): source}
    (sentence,) = no_commands({**sources("experiments"), **planted})
    assert sentence.startswith("experiments/helpers.py is no command")


def test_no_product_file_is_too_long():
    found = too_long(sources(*PRODUCT))
    assert not found - PENDING, f"over {MAX_LINES} lines, cut at a seam: {sorted(found - PENDING)}"
    assert not PENDING - found, f"short enough, take out of PENDING: {sorted(PENDING - found)}"


def test_a_file_that_is_too_long_is_found():
    tree = {Path("jaxtta/a.py"): "x\n" * (MAX_LINES + 1), Path("jaxtta/b.py"): "x\n" * MAX_LINES}
    assert too_long(tree) == {"jaxtta/a.py"}


def test_tests_mirror_the_tree():
    found = without_mirror(sources("tests"), sources(*PRODUCT))
    excepted = set(NO_MIRROR)
    assert not found - excepted, f"no product file of this name: {sorted(found - excepted)}"
    assert not excepted - found, f"take out of NO_MIRROR: {sorted(excepted - found)}"


@pytest.mark.parametrize(
    ("path", "mirrors"),
    [
        ("tests/jaxtta/images/test_lame.py", True),
        ("tests/jaxtta/test_lpn.py", True),
        ("tests/jaxtta/lpn/test_search_budget.py", True),
        ("tests/experiments/test_main.py", True),
        ("tests/jaxtta/images/test_nothing.py", False),
        ("tests/jaxtta/test_lame.py", False),
        ("tests/experiments/test_lame.py", False),
        ("tests/jaxtta/images/reference.py", True),
        ("tests/contract/test_battery.py", True),
    ],
)
def test_a_test_at_the_wrong_place_is_found(path, mirrors):
    product = {**sources("jaxtta", "experiments"), Path("experiments/__main__.py"): ""}
    found = without_mirror({Path(path): ""}, product)
    assert found == (set() if mirrors else {path})
