"""Sparsey, a memory of sparse codes (Rinkus and Leveille 2017, arXiv 1710.07829).

python -m experiments.memory --config=configs/memory.py:small --sweep="seed=0:3;memory.chi=0,100"

On one CPU core, tables in docs/representation_and_memory.md:
small: 15 s; stored items recognised 1.00, similar items have similar codes 0.61, control 0.01.
narrow: 15 s; with memory.freeze=1,0.3 recognised 0.94 and 0.69, right labels 41 and 89 %.
full: 1.5 minutes for six memories of 2,000 images of MNIST; right labels 71 %, control 37 %.
`full` has the data of the author's page, images thinned to 16 x 24 points 2,000 in all, and
windows and numbers of this project.
"""

from ml_collections import ConfigDict

from jaxtrain.host.config import parse_variant
from jaxtrain.host.settings import (
    above,
    at_least,
    between,
    choice,
    path,
    settings,
    share,
    size,
    standard,
)

_FULL = {
    "data.name": "mnist",
    "num_steps": 20,
    "batch_size": 100,
    "front.kind": "strokes",
    "front.rows": 4,
    "front.columns": 3,
    "front.side": 10,
    "memory.num_modules": 24,
    "memory.freeze": 0.15,
    "memory.band": (0.03, 0.7),
}
VARIANTS = {
    "full": _FULL,
    "small": {},  # far below capacity
    # Three times as many items in an eighth of the units: freezing counts.
    "narrow": {"batch_size": 300, "memory.num_modules": 32, "memory.num_units": 16},
    "debug": {
        "num_steps": 2,
        "batch_size": 8,
        "front.num_units": 32,
        "front.num_active": 4,
        "memory.num_modules": 3,
        "memory.num_units": 4,
        "evaluation.num_novel": 8,
    },
    "strokes_debug": {
        **_FULL,
        "data.name": "digits",
        "num_steps": 1,
        "batch_size": 8,
        "front.height": 12,
        "front.width": 8,
        "front.rows": 2,
        "front.columns": 2,
        "front.side": 6,
        "memory.num_modules": 3,
        "memory.num_units": 4,
        "evaluation.num_novel": 8,
    },
}


def get_config(arg: str = "small") -> ConfigDict:
    """100 digits in 64 modules of 64 units; `arg` is `variant,key=value,...`."""
    config = settings(
        standard(
            "memory",
            num_steps=1,
            batch_size=100,  # items, presented one after the other
            log_every=1,
            checkpoint=dict(every=1),
            tensorboard=False,
        ),
        data=dict(name=path("digits"), data_dir=path("")),
        front=dict(
            kind=choice("projection", "strokes"),
            # projection: the winners of random features
            num_units=size(1024),
            num_active=size(40),
            seed=at_least(0, 0),
            # strokes: thinned images, and the windows on them that macrocolumns see
            height=size(24),
            width=size(16),
            rows=size(6),
            columns=size(4),
            side=size(8),
        ),
        memory=dict(
            num_modules=size(64),
            num_units=size(64),
            chi=at_least(0, 100.0),  # 0: the control
            threshold=between(0, 0.999, 0.2),
            gamma=at_least(0, 1.0),
            slope=at_least(0, 28.0),
            centre=between(0, 1, 0.5),
            last_centre=between(0, 1, 0.5),
            moves_at=between(0, 1, 1.0),
            up_exponent=above(0, 1.0),
            freeze=share(1.0),
            band=between(0, 1, (0.0, 1.0)),
        ),
        evaluation=dict(num_novel=at_least(0, 0)),  # 0 for all
    )
    return parse_variant(arg, VARIANTS, config)
