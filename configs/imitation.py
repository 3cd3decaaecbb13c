"""BESO and behaviour cloning on demonstrations, on play in a maze, or on a file of trajectories.

python -m experiments.imitation --config=configs/imitation.py:small --sweep="seed=0:3"
python -m experiments.imitation --config=configs/imitation.py:small,data.path=mine.npz

small: 80 s on one CPU core, three seeds. Two ways past a trap: expect nine of ten goals to
be reached, on both sides, half of that without being told the goal, and 7 to 28 % with
small_cloning, the control (20 s). full has the published sizes and settings of
intuitive-robots/beso for the kitchen, whose data are not to be had here, on play in a maze; its
rate falls by 1 % every 100 updates there and is constant here.
"""

from ml_collections import ConfigDict

from jaxtrain.host.config import parse_variant
from jaxtrain.host.settings import (
    above,
    at_least,
    between,
    choice,
    depth,
    free,
    path,
    settings,
    size,
    standard,
)

_ROUTES = {
    "data.task": "routes",
    "data.num_trajectories": 2_000,
    "data.length": 40,
    "data.noise": 0.15,
    "log_every": 200,
    "evaluation.num_trips": 200,
    "evaluation.max_steps": 30,
}
_SMALL = {
    **_ROUTES,
    "num_steps": 2_000,
    "batch_size": 128,
    "checkpoint.every": 1_000,
    "optimizer.learning_rate": 2e-3,
    "window": 3,
    "num_goals": 1,
    "ema": 0.99,
    "sigma.least": 0.05,
    "network.width": 32,
    "network.num_layers": 2,
    "network.num_heads": 4,
    "sampler.guidance": 1.0,
}
_CLONING = {"method": "cloning", "optimizer.learning_rate": 1e-3}

VARIANTS = {
    "full": {},
    "full_cloning": _CLONING,
    "small": _SMALL,
    # Control: regression, which averages the two ways.
    "small_cloning": {
        **_SMALL,
        **_CLONING,
        "num_steps": 3_000,
        "batch_size": 256,
        "widths": (64, 64),
    },
    "debug": {
        **_SMALL,
        "num_steps": 3,
        "batch_size": 8,
        "log_every": 1,
        "checkpoint.every": 3,
        "data.num_trajectories": 4,
        "data.length": 12,
        "network.width": 8,
        "network.num_layers": 1,
        "network.num_heads": 2,
        "widths": (8,),
        "evaluation.num_pairs": 8,
        "evaluation.num_trips": 4,
        "evaluation.max_steps": 4,
        "evaluation.more_steps": 4,
    },
}


def get_config(arg: str = "full") -> ConfigDict:
    """The published settings; `arg` is `variant,key=value,...`."""
    config = settings(
        standard(
            "imitation",
            num_steps=40_000,
            batch_size=1_024,
            log_every=1_000,
            checkpoint=dict(every=5_000),
        ),
        method=choice("beso", "cloning"),
        data=dict(
            path=path(""),  # .npz with observations, actions, terminals; empty: made here
            task=choice("play", "routes"),
            seed=at_least(0, 0),
            num_trajectories=size(1_000),
            length=size(1_001, 2),  # rows of one
            noise=at_least(0, 0.5),  # of the hand
        ),
        window=size(4),  # rows
        num_goals=size(2),  # rows of a goal
        drop_goal=between(0, 1, 0.1),
        sigma=dict(least=above(0, 0.005), most=above(0, 1.0), data=above(0, 0.5)),
        network=dict(width=size(360), num_layers=depth(6), num_heads=size(6)),
        widths=size((256, 256)),  # of cloning
        ema=between(0, 1, 0.999),  # of the parameters that act
        optimizer=dict(
            learning_rate=at_least(0, 1e-4),
            warmup_steps=at_least(0, 0),
            schedule=free("constant"),
            weight_decay=at_least(0, 1e-2),
        ),
        sampler=dict(
            num_steps=depth(3),
            guidance=at_least(0, 1.5),
            method=choice("ddim", "heun", "ancestral"),
            hold=False,  # keep actions of the past as they were
        ),
        evaluation=dict(
            num_pairs=size(500),  # of a step and a later state
            num_trips=size(60),
            min_distance=at_least(1, 10),  # in play
            max_steps=size(200),
            more_steps=depth(10),  # beside sampler.num_steps
        ),
    )
    return parse_variant(arg, VARIANTS, config)
