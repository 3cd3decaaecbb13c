"""Pictures in folders: `<split>/<class>/<file>`; classes are numbered in the order of their names.

A file is a PNG, JPEG or WebP picture of any size, see `cropping`; which folders are classes, and in
which order, says `classes.folders`.
"""

from pathlib import Path

import numpy as np

from experiments.data.images import classes as classes_
from experiments.data.images import cropping
from experiments.data.images.labelled import Images, roots
from jaxtrain.host.config import UsageError

KINDS = (".png", ".jpg", ".jpeg", ".webp")
TEST = ("test", "validation", "val")  # names of the test part


def _pictures(folder: Path) -> list[Path]:
    files = (file for file in folder.iterdir() if not classes_.is_hidden(file))
    return sorted(file for file in files if file.suffix.lower() in KINDS)


def by_class(root: Path, name: str, split: str) -> Images | None:
    """The pictures of `root/<split>` class by class, 32 x 32, if there are any."""
    classes = dict(enumerate(classes_.folders(root / split)))
    files = [(file, label) for label, c in classes.items() for file in _pictures(root / split / c)]
    if not files:
        return None
    images = cropping.stacked(((file, "") for file, _ in files), len(files), 32)
    labels = np.array([label for _, label in files])
    return Images(images, labels, f"{name}/folders", classes=classes)


def without_classes(folder: Path, size: int) -> Images | None:
    """The pictures of a folder that holds no folders of classes, without labels; None otherwise.

    Raises:
      UsageError: it holds pictures beside folders of classes.
    """
    files, classes = _pictures(folder), classes_.folders(folder)
    if files and classes:
        raise UsageError(
            f"{folder} holds pictures such as {files[0].name} beside folders such as {classes[0]}; "
            "put all pictures into folders of classes, or none"
        )
    if not files:
        return None
    images = cropping.stacked(((file, "") for file in files), len(files), size)
    return Images(images, np.full(len(files), -1), f"folder {folder.name}")


def in_turn(split: str, data_dir: str, number: int, size: int) -> Images:
    """The first picture of every class, the second one of every class, ...

    Args:
      split: `train`, or `test`, whose folder may have any name of `TEST`.
      data_dir: where to look first.
      number: how many; 0 for all. No others are read.
      size: to which they are fitted.

    Raises:
      UsageError: no such folder, no pictures, or other classes in the other parts.
    """
    names = TEST if split == "test" else (split,)
    tries = [root / name for root in roots(data_dir) for name in names]
    top = next((folder for folder in tries if classes_.folders(folder)), None)
    if top is None:
        raise UsageError(
            f"data.name=folder needs pictures {' or '.join(names)}/<class>/*.JPEG (or .png, .webp) "
            "in the data folder of the config or of JAXTTA_DATA"
        )
    classes = classes_.folders(top)
    for other in ("train", *TEST):
        theirs = set(classes_.folders(top.parent / other))
        if theirs and (odd := theirs ^ set(classes)):
            raise UsageError(
                f"{top} and {top.parent / other} must have the same classes, but {min(odd)!r} is "
                "in one of them only"
            )
    ranked = sorted(
        (rank, label, file)
        for label, name in enumerate(classes)
        for rank, file in enumerate(_pictures(top / name))
    )
    if not ranked:
        raise UsageError(f"no class folder of {top} holds a picture ({', '.join(KINDS)})")
    chosen = ranked[: number or None]
    images = cropping.stacked(((file, "") for *_, file in chosen), len(chosen), size)
    labels = np.array([label for _, label, _ in chosen])
    found = np.array([f"{file.parent.name}/{file.name}" for *_, file in chosen])
    about = f"folder {top.name} of {len(classes)} classes"
    return Images(images, labels, about, names=found, classes=dict(enumerate(classes)))
