"""A target domain of the user's, `data.target`, in place of corrupted test images."""

from pathlib import Path

from ml_collections import ConfigDict

from experiments.data.images import archives, classes, folders, loader
from experiments.data.images.checked import checked
from jaxtrain.host import arrays
from jaxtrain.host.config import UsageError

BY_LABEL = ("correlated", "label_shift", "long_tailed")  # settings that order images by them


def target_images(config: ConfigDict) -> loader.Images:
    """The images of the domain, `[N, size, size, 3]`.

    `data.target` is a folder of pictures `<class>/*` or, without labels, of pictures alone, an npz
    file with `images` and perhaps `labels`, or the name of a set as in `data.name`, whose test part
    is taken; at most `data.num_images` of them. Their classes are the first of the network's, or
    those that `data.classes` says.

    Raises:
      UsageError: no such images, classes that the network does not have, or a stream that is
        ordered by labels which are not known.
    """
    group, name = config.data, config.data.target
    path = Path(name).expanduser()
    file = loader.find(name, group.data_dir) if path.suffix == ".npz" else None
    if path.is_dir():
        folder = path.resolve()
        alone = folders.without_classes(folder, group.size)
        found = alone or folders.in_turn(folder.name, str(folder.parent), 0, group.size)
    elif file is not None:
        is_labelled = "labels" in arrays.names(file)
        read = archives.part if is_labelled else archives.pictures
        found = checked(read(file, path.name), "target", is_labelled=is_labelled)
    elif loader.is_known(name) and path.suffix != ".npz":
        options = dict(size=group.size, download=group.download)
        found = loader.read(name, "test", group.data_dir, **options)
    else:
        raise UsageError(
            f"data.target={name!r} was not found; name a folder of pictures, an npz file with "
            f"images, or one of {loader.KNOWN}"
        )
    if not found.has_labels and config.stream.setting in BY_LABEL:
        raise UsageError(
            f"data.target={name!r} has no labels, by which stream.setting={config.stream.setting} "
            "orders its images; choose another stream.setting"
        )
    if group.classes and found.has_labels:
        found = classes.mapped(found, group.classes, group.data_dir)
    try:
        classes.check(found, config.model.num_classes, is_mapped=bool(group.classes))
    except UsageError as error:
        raise UsageError(f"data.target={name!r}: {error}") from error
    return loader.square(found.rows(slice(group.num_images or None)), group.size)
