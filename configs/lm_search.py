"""Search with base models at test time: iterative-deepening sampling (Chen et al., arXiv
2502.05449).

python -m experiments.lm_search --config=configs/lm_search.py:small

On one CPU core, tables in docs/language_models.md:
small: 1.5 minutes; doubling budgets over plain samples 31.6 points [18.6, 46.0] on questions of 6
steps, 31.9 [17.2, 49.0] over their votes; a filler 0.2 [-8.6, 10.3].
`full` has the length of responses and the number of samples of the paper; it wants the base model
of `lm_base.py:full` and has not been run.
"""

from ml_collections import ConfigDict

from jaxtrain.host.config import parse_variant
from jaxtrain.host.settings import above, at_least, choice, depth, filled, path, settings, size

VARIANTS = {
    "full": {
        "base": "runs/lm_base_full/base.npz",
        "deepening.depths": (8, 32),
        "deepening.cap": 8192,
        "deepening.first": 1024,
        "deepening.questions": 500,
        "deepening.samples": 16,
        "deepening.plain_samples": 64,
    },
    "small": {},
    "debug": {
        "base": "tiny",
        "deepening.depths": (1,),
        "deepening.cap": 12,
        "deepening.first": 4,
        "deepening.factors": (2.0,),
        "deepening.num_seeds": 2,
        "deepening.questions": 2,
        "deepening.samples": 2,
        "deepening.plain_samples": 4,
    },
}


def get_config(arg: str = "small") -> ConfigDict:
    """The 0.13M base model for long responses; `arg` is `variant,key=value,...`."""
    config = settings(
        experiment=choice("lm_search"),
        seed=at_least(0, 0),
        base=path("careful"),  # in experiments/lm/trained, or the base.npz of a run of lm_base
        deepening=dict(
            depths=filled(depth((2, 6))),  # steps of the questions
            cap=size(160),  # most tokens that a response samples
            first=size(20),  # budget; also the constant interval, beside one twice as long
            factors=filled(above(1.0, (2.0, 1.5, 4.0))),  # the first for the claim and its control
            num_seeds=size(3),
            questions=size(64),
            samples=size(2),
            plain_samples=size(8),  # for votes that cost as many tokens
        ),
    )
    return parse_variant(arg, VARIANTS, config)
