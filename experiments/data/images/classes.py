"""Which classes a set has, and which of them a network means by its outputs."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from experiments.data.images.labelled import Images, find
from jaxtrain.host import arrays
from jaxtrain.host.config import UsageError

_IGNORED = ("__MACOSX", "@eaDir", "lost+found")


def folders(top: Path) -> list[str]:
    """The class folders in `top`, in the order of their labels: names that are all numbers as
    numbers, others as text. Hidden folders and those that systems leave behind are none.

    Raises:
      UsageError: two of them are the same number.
    """
    names = [p.name for p in top.glob("*") if not is_hidden(p) and p.is_dir()]
    if not all(name.isascii() and name.isdecimal() for name in names):
        return sorted(names)
    if len({int(name) for name in names}) < len(names):
        raise UsageError(f"two class folders of {top} are the same number, such as 1 and 01")
    return sorted(names, key=int)


def is_hidden(path: Path) -> bool:
    """Whether a file or folder is not of the set, such as `.ipynb_checkpoints` or `__MACOSX`."""
    return path.name.startswith(".") or path.name in _IGNORED


def mapped(found: Images, name: str, data_dir: str = "") -> Images:
    """The same set with the labels that a network has for its classes.

    Args:
      found: a set.
      name: a text file. Either it holds, line by line, the network's number of each class of the
        set; or the names of the network's classes in their order, of which those of the set are
        some (the first word of a line, or all of it).
      data_dir: where to look first.

    Raises:
      UsageError: no such file, or one that does not say it for every class.
    """
    file = find(name, data_dir)
    if file is None:
        raise UsageError(f"data.classes={name!r} was not found")
    with arrays.one_sentence(file, "text file of classes"):
        lines = [x.strip() for x in file.read_text("utf-8-sig").splitlines() if x.strip()]
    own = found.classes
    number = int(found.labels.max()) + 1 if own is None else len(own)
    enough = len(lines) >= number if own is None else len(lines) == number
    if enough and all(x.isascii() and x.isdecimal() for x in lines):
        table = np.array([int(x) for x in lines])
    elif own is None:
        raise UsageError(
            f"{file} has {len(lines)} lines, but the classes of {found.provenance} are numbers "
            f"only; give the network's number of each of the {number}, a line each"
        )
    else:
        index = _unambiguous((x.split()[0], i) for i, x in enumerate(lines))
        index |= _unambiguous((x, i) for i, x in enumerate(lines))
        if missing := [x for x in own.values() if index.get(x) is None]:
            raise UsageError(
                f"{file} does not say which class {missing[0]!r} of {found.provenance} is, nor "
                f"{len(missing) - 1} others of its {len(own)}; give the name of one class of the "
                "network a line, or the number of each class of the set"
            )
        table = np.array([index[x] for x in own.values()])
    renamed = None if own is None else {int(table[i]): x for i, x in own.items()}
    return found._replace(labels=table[found.labels], classes=renamed)


def _unambiguous(pairs: Iterable[tuple[str, int]]) -> dict[str, int | None]:
    index: dict[str, int | None] = {}
    for name, i in pairs:
        index[name] = None if name in index else i
    return index


def check(
    found: Images, num_classes: int, *, is_mapped: bool = False, is_open: bool = False
) -> None:
    """Compares the classes of a set with those of a network.

    Args:
      found: the set.
      num_classes: of the network.
      is_mapped: whether its labels are those of `mapped`.
      is_open: whether it may have classes that the network does not know.

    Raises:
      UsageError: it has another number of classes, or labels that the network has no output for.
    """
    hint = (
        "say which they are in the file that data.classes names (the network's class names in "
        "order, or its number of each class of the set), or change model.num_classes"
    )
    own = found.classes
    if own is not None and not is_mapped and not is_open and len(own) != num_classes:
        raise UsageError(
            f"{found.provenance} has {len(own)} classes, which would be the outputs 0 to "
            f"{len(own) - 1} of a network with model.num_classes={num_classes}; {hint}"
        )
    unknown = np.count_nonzero(found.labels >= num_classes)
    if unknown and not is_open:
        raise UsageError(
            f"{unknown} of {len(found.labels)} images of {found.provenance} have labels up to "
            f"{found.labels.max()}, but model.num_classes={num_classes}; {hint}"
        )


def shown(found: Images, number: int = 3) -> str:
    """The first classes with their numbers, to be printed with a run."""
    if not found.has_labels:
        return "not known"
    if found.classes is None:
        return f"{len(np.unique(found.labels))} without names"
    some = [f"{i} {name}" for i, name in sorted(found.classes.items())[:number]]
    return f"{len(found.classes)} ({', '.join(some)}{', ...' * (len(found.classes) > number)})"
