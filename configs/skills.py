"""HILP on play in a point maze, or on a file of trajectories.

python -m experiments.skills --config=configs/skills.py:small --sweep="seed=0:3"
python -m experiments.skills --config=configs/skills.py:small,data.path=mine.npz

small: 70 s on one CPU core, three seeds. Expect a rank correlation of latent and maze distances of
0.99 (0.80 for straight lines) and that most far goals are reached by planning in the latents, half
of them directly and hardly any in random directions. full has the published sizes and settings of
seohongpark/HILP (hilp_gcrl) on as much play as an OGBench set holds.
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
    share,
    size,
    standard,
)

_SMALL = {
    "num_steps": 8_000,
    "batch_size": 128,
    "log_every": 500,
    "checkpoint.every": 4_000,
    "optimizer.learning_rate": 1e-3,
    "data.num_trajectories": 120,
    "data.length": 401,
    "network.latent_size": 8,
    "network.widths": (64, 64),
    "loss.temperature": 30.0,
    "evaluation.num_known": 2_000,
    "evaluation.plan.rounds": 1,
}

VARIANTS = {
    "full": {},
    "small": _SMALL,
    "debug": {
        **_SMALL,
        "num_steps": 3,
        "batch_size": 8,
        "log_every": 1,
        "checkpoint.every": 3,
        "data.num_trajectories": 3,
        "data.length": 12,
        "network.latent_size": 3,
        "network.widths": (8,),
        "evaluation.num_pairs": 20,
        "evaluation.num_trips": 4,
        "evaluation.max_steps": 5,
        "evaluation.num_known": 20,
        "evaluation.plan.nearest": 5,
    },
}


def get_config(arg: str = "full") -> ConfigDict:
    """The published settings; `arg` is `variant,key=value,...`."""
    config = settings(
        standard(
            "skills",
            num_steps=1_000_000,
            batch_size=1_024,
            log_every=1_000,
            checkpoint=dict(every=50_000),
        ),
        data=dict(
            path=path(""),  # .npz with observations, actions, terminals; empty: play made here
            task=choice("play"),
            seed=at_least(0, 0),
            num_trajectories=size(1_000),
            length=size(1_001, 2),  # rows of one
            noise=at_least(0, 0.5),  # of the hand that plays
        ),
        network=dict(latent_size=size(32), widths=size((512, 512, 512))),
        goals=dict(gamma=between(0, 1, 0.99), future_share=between(0, 1, 0.625)),
        optimizer=dict(
            learning_rate=at_least(0, 3e-4),
            warmup_steps=at_least(0, 0),
            schedule=free("constant"),
            max_grad_norm=above(0, 1e6),  # the published run does not clip
        ),
        loss=dict(
            gamma=between(0, 1, 0.99),
            expectile=between(0, 1, 0.95),
            skill_expectile=between(0, 1, 0.9),
            temperature=at_least(0, 10.0),
            tau=share(0.005),
        ),
        evaluation=dict(
            num_pairs=size(2_000),  # of rows of one trajectory
            num_trips=size(60),
            min_distance=at_least(1, 10),  # steps from cell to cell
            max_steps=size(200),
            num_known=size(50_000),  # states of the data among which is planned
            plan=dict(rounds=depth(3, 0), nearest=size(50)),
        ),
    )
    return parse_variant(arg, VARIANTS, config)
