"""Config of the tiny experiment."""

from ml_collections import ConfigDict

from jaxtrain.host import cli
from jaxtrain.host.settings import at_least, choice, settings, standard


def _wide(config):
    config.model.width = 8


VARIANTS = {
    "full": {},
    "small": {"num_steps": 4, "checkpoint.every": 2},
    "wide": _wide,
}


def get_config(arg: str = "full") -> ConfigDict:
    config = settings(
        standard(
            "experiment",
            num_steps=8,
            batch_size=4,
            log_every=2,
            checkpoint=dict(every=4),
            tensorboard=False,
        ),
        optimizer=dict(learning_rate=at_least(0, 0.1), clip=True),
        model=dict(width=4, noise=0.0, sizes=at_least(1, (2, 2)), note="plain"),
        kind=choice("line", "curve"),
    )
    return cli.parse_variant(arg, VARIANTS, config)
