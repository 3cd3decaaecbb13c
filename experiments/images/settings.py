"""What a run of `tta_images` reads of its config; it never sees the rest.

So a setting of a method that is not chosen, of a stream that is not shown or of a statistic that no
method asks for is known to have no effect before anything is computed.
"""

from typing import Any

from ml_collections import ConfigDict

from experiments.images.methods import BASELINES

SHARED = ("seed", "num_seeds", "batch_size", "methods", "rescored")
# Keys of `data` that a target of the user's makes meaningless.
OF_CORRUPTIONS = ("corruptions", "severity", "corrupted_dir")
# Group of the config -> the methods that ask for what it describes.
NEEDED_BY = {
    "fisher": ("eata",),
    "clean": ("rmt", "petal", "vida"),
    "posterior": ("petal",),
    "features": ("adanpc", "cafa", "label_shift_adapter", "itta"),
    "diffusion": ("projected", "dda", "sda"),
    "projection": ("projected", "dda", "sda"),
}
# Setting of a stream -> its own keys.
STREAM_KEYS = {
    "gradual": ("first_falls",),
    "correlated": ("concentration",),
    "label_shift": ("ratio",),
    "long_tailed": ("imbalance",),
    "open_set": ("unknown",),
}


def chosen_methods(config: ConfigDict) -> list[str]:
    """The methods of the run, the baselines first."""
    return list(dict.fromkeys((*BASELINES, *config.methods)))


def own_settings(config: ConfigDict) -> ConfigDict:
    """The part of the config that this run reads."""
    names, stream, model = chosen_methods(config), config.stream, config.model
    groups = [group for group, users in NEEDED_BY.items() if set(users) & set(names)]
    stream_keys = ("setting", "rounds", "order", "window", *STREAM_KEYS.get(stream.setting, ()))
    source_keys: Any = ("seed", "imbalance") if groups else ()
    if not model.weights:
        source_keys = config.source.keys()
    return ConfigDict(
        {
            **{key: _plain(config[key]) for key in (*SHARED, *groups)},
            "data": {
                key: _plain(value)
                for key, value in config.data.items()
                if not (config.data.target and key in OF_CORRUPTIONS)
            },
            "stream": {key: stream[key] for key in stream_keys},
            "source": {key: config.source[key] for key in source_keys},
            "model": {
                key: _plain(model[key])
                for key in ("name", "weights", "num_classes", model.name)
                if key in model
            },
            "method": {
                name: _plain(config.method[name]) for name in names if name in config.method
            },
            "controls": {name: config.controls[name] for name in names if name in config.controls},
        }
    ).lock()


def _plain(value: Any) -> Any:
    return value.to_dict() if isinstance(value, ConfigDict) else value
