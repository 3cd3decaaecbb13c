"""Tester-learner of halfspaces (Gollakota et al., arXiv 2302.14853).

python -m experiments.halfspaces --config=configs/halfspaces.py:small

On one CPU core, table in docs/representation_and_memory.md:
small: 45 s; Gaussian inputs accepted 20 times of 20 at an error 0.003 above the best one, six other
marginals never, of 120.
`full` is larger than anything the paper needs, which has no experiments, and has not been run.
"""

from ml_collections import ConfigDict

from jaxtrain.host.config import parse_variant
from jaxtrain.host.settings import above, at_least, choice, filled, path, settings, size, some_of

_MARGINALS = ("gaussian", "laplace", "cube", "scaled", "slab", "cluster", "trap")
_NOISES = ("massart", "adversarial")

VARIANTS = {
    "full": {
        "num_seeds": 20,
        "data.num_rows": 2_000_000,
        "data.num_features": 100,
        "learner.sigmas": (0.4, 0.2, 0.1, 0.05),
        "learner.num_steps": 8_000,
        "learner.batch_size": 1_024,
    },
    "small": {},
    "debug": {
        "num_seeds": 2,
        "data.num_rows": 400,
        "data.num_features": 3,
        "data.marginals": ("gaussian", "cube"),
        "data.noises": ("massart",),
        "learner.sigmas": (0.8, 0.4),
        "learner.num_steps": 16,
        "learner.batch_size": 8,
        "learner.num_directions": 2,
    },
}


def get_config(arg: str = "small") -> ConfigDict:
    """80,000 points in 20 dimensions, half of them to learn from; `arg` is `variant,key=value`."""
    config = settings(
        experiment=choice("halfspaces"),
        seed=at_least(0, 0),
        num_seeds=size(10),
        data=dict(
            file=path(""),  # a sample of your own, with x and y, instead of the following
            num_rows=at_least(100, 80_000),
            num_features=size(20, 2),
            marginals=filled(some_of(_MARGINALS, _MARGINALS)),
            noises=filled(some_of(_NOISES, _NOISES)),
        ),
        learner=dict(
            sigmas=filled(above(0, (0.4, 0.2, 0.1))),
            num_steps=at_least(16, 2_000),  # a multiple of 16
            batch_size=size(256),
            num_directions=size(32, 0),
        ),
    )
    return parse_variant(arg, VARIANTS, config)
