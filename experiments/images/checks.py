"""What settings of `tta_images` must have to do with each other."""

from ml_collections import ConfigDict

from experiments.data.images import corruptions, loader
from experiments.images import diffusion, methods
from experiments.images.controls import check_controls
from experiments.images.own_network import is_own
from experiments.images.source import TRANSFORMERS
from experiments.images.stream import severities
from jaxtrain.host.config import UsageError


def validate(config: ConfigDict) -> None:
    """Refuses impossible settings before anything is made.

    Raises:
      UsageError: names the setting.
    """
    check_names(config)
    check_data(config)
    check_stream(config)
    check_network(config)
    check_methods(config)
    check_controls(config)


def refuse_if(impossible: object, sentence: str) -> None:
    """Raises UsageError with this sentence if the condition holds."""
    if impossible:
        raise UsageError(sentence)


def check_names(config: ConfigDict) -> None:
    """The data sets exist."""
    for field, name in (("data.name", config.data.name), ("stream.unknown", config.stream.unknown)):
        refuse_if(name and not loader.is_known(name), f"{field}={name!r}; known are {loader.KNOWN}")


def check_data(config: ConfigDict) -> None:
    """There are images of these corruptions at this size."""
    group = config.data
    if group.target:
        wrong = config.stream.setting in ("gradual", "open_set") or config.stream.order >= 0
        refuse_if(
            wrong or group.corrupted_dir,
            "data.target is one domain without corruptions; leave data.corrupted_dir empty and "
            "stream.order at -1, and choose another stream.setting than gradual and open_set",
        )
        return
    refuse_if(not group.corruptions, "data.corruptions is empty; name at least one")
    refuse_if(
        group.corrupted_dir and config.stream.setting == "open_set",
        "data.corrupted_dir holds no images of unknown classes; with an open-set stream leave it "
        "empty",
    )
    refuse_if(
        not group.corrupted_dir and group.size != 32 and any(severities(config)),
        f"corruptions made here have the constants of 32 x 32 images; for data.size={group.size} "
        "name the folder of published ones in data.corrupted_dir, or choose data.severity=0",
    )


def check_stream(config: ConfigDict) -> None:
    """The stream can be built, and its batches are those that it needs."""
    group, size = config.stream, config.batch_size
    refuse_if(
        group.order >= 0 and tuple(config.data.corruptions) != corruptions.STANDARD,
        "stream.order needs the 15 standard corruptions in their usual order",
    )
    refuse_if(
        group.setting == "open_set" and size % 2,
        f"open-set batches are half and half; batch_size={size} is odd",
    )
    refuse_if(
        group.window and size != 1,
        f"stream.window={group.window} must be 0, or the size of a window over single images with "
        "batch_size=1",
    )


def check_network(config: ConfigDict) -> None:
    """The network can be built for these images."""
    name = config.model.name
    if is_own(name):
        return
    network = config.model[name]
    refuse_if(
        name in TRANSFORMERS and config.data.size % network.get("patch", 1),
        f"data.size={config.data.size} does not divide into patches of "
        f"model.{name}.patch={network.get('patch')}",
    )
    groups, channels = network.get("groups", 0), 64 if name in ("resnet18", "resnet50") else 16
    refuse_if(
        groups and channels % groups,
        f"model.{name}.groups={groups} must divide the {channels} channels of the first layer",
    )


def check_methods(config: ConfigDict) -> None:
    """The methods can run on this network and with this source."""
    name, chosen = config.model.name, set(config.methods)
    is_transformer = name in TRANSFORMERS
    wrong = ", ".join(sorted({"nhl", "itta"} & chosen))
    refuse_if(
        (is_transformer or is_own(name)) and wrong,
        f"methods holds {wrong}, which need the stages of a residual network, but model.name is "
        f"{name}",
    )
    wrong = ", ".join(sorted(set(methods.STATISTICS_ONLY) & chosen))
    refuse_if(
        (is_transformer or config.model.get(name, {}).get("groups", 0)) and wrong,
        f"methods holds {wrong}, which choose the statistics of batch norm, but this {name} has "
        "none: they would be the source model",
    )
    refuse_if(
        "label_shift_adapter" in chosen and config.source.imbalance == 1,
        "label_shift_adapter needs a source model trained on a long-tailed set; say how long the "
        "tail is with source.imbalance",
    )
    refuse_if(
        "adanpc" in chosen and 0 < config.method.adanpc.growth < config.batch_size,
        "method.adanpc.growth must be 0 or at least batch_size",
    )
    if set(diffusion.NEEDED_BY) & chosen:
        diffusion.validate(config)
