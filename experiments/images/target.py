"""A target domain of the user's, `data.target`, in place of corrupted test images."""

from pathlib import Path

from ml_collections import ConfigDict

from experiments.data.images import archives, classes, folders, loader
from experiments.data.images.checked import checked
from jaxtrain.host.config import UsageError


def target_images(config: ConfigDict) -> loader.Images:
    """The labelled images of the domain, `[N, size, size, 3]`.

    `data.target` is a folder of pictures `<class>/*`, an npz file with `images` and `labels`, or
    the name of a set as in `data.name`, whose test part is taken; at most `data.num_images` of
    them. Their classes are the first of the network's, or those that `data.classes` says.

    Raises:
      UsageError: no such images, or classes that the network does not have.
    """
    group, name = config.data, config.data.target
    path = Path(name).expanduser()
    file = loader.find(name, group.data_dir) if path.suffix == ".npz" else None
    if path.is_dir():
        folder = path.resolve()
        found = folders.in_turn(folder.name, str(folder.parent), 0, group.size)
    elif file is not None:
        found = checked(archives.part(file, path.name), "target")
    elif loader.is_known(name) and path.suffix != ".npz":
        options = dict(size=group.size, download=group.download)
        found = loader.read(name, "test", group.data_dir, **options)
    else:
        raise UsageError(
            f"data.target={name!r} was not found; name a folder of pictures <class>/*, an npz file "
            f"with images and labels, or one of {loader.KNOWN}"
        )
    if group.classes:
        found = classes.mapped(found, group.classes, group.data_dir)
    try:
        classes.check(found, config.model.num_classes, is_mapped=bool(group.classes))
    except UsageError as error:
        raise UsageError(f"data.target={name!r}: {error}") from error
    return loader.square(found.rows(slice(group.num_images or None)), group.size)
