"""Config of the tiny experiment."""

from ml_collections import ConfigDict

from jaxtrain.host import cli


def _wide(config):
    config.model.width = 8


VARIANTS = {
    "full": {},
    "small": {"num_steps": 4, "checkpoint.every": 2},
    "wide": _wide,
}


def get_config(arg: str = "full") -> ConfigDict:
    config = ConfigDict(
        {
            "experiment": "experiment",
            "seed": 0,
            "num_steps": 8,
            "batch_size": 4,
            "log_every": 2,
            "eval_every": 0,
            "checkpoint": {"every": 4, "keep": 2},
            "optimizer": {"learning_rate": 0.1, "clip": True},
            "model": {"width": 4, "noise": 0.0, "sizes": (2, 2), "note": "plain"},
            "mesh": {"data": -1},
            "resume_from": "",
            "init_from": "",
        }
    )
    return cli.parse_variant(arg, VARIANTS, config)
