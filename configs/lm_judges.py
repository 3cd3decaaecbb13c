"""Self-evaluation of language models: P(True) and P(IK), confidence against critique.

python -m experiments.lm_judges --config=configs/lm_judges.py:small --sweep="seed=0:3;shuffled=0,1"

or `p_true_small` with the same sweep, or `critique_small` with --sweep="seed=0:3;kept=0,0.4,1"
or, for the control, "seed=0:3;plain=0,1".

On two cores, with intervals in docs/language_models.md:
small: 85 s; AUROC of P(IK) 0.84 where it has learned, 0.52 across, 0.51 with labels of other rows.
p_true_small: 100 s; AUROC 0.84 to 0.85 in three forms, 0.76 to 0.79 before.
critique_small: 100 to 170 s; CL 64 to 92 %, 73 % in the control; CS 36 to 41-57 %.

Kadavath et al., arXiv 2207.05221; Yang et al., arXiv 2412.19513. `full` has the shape of
SmolLM2-135M, 30 samples a question and the rates of the papers, and has not been run.
"""

from ml_collections import ConfigDict

from configs.lm_common import clipped
from jaxtrain.host.config import parse_variant
from jaxtrain.host.settings import at_least, between, choice, free, settings, size, standard

_FULL = {
    "base": "untrained:full",
    "num_steps": 10_000,
    "batch_size": 64,
    "pool.questions": 10_000,
    "pool.samples": 30,
    "optimizer.learning_rate": 5e-5,
    "optimizer.warmup_steps": 300,
    "evaluation.num_questions": 1_000,
    "evaluation.num_samples": 30,
}
_DEBUG = {
    "base": "untrained:debug",
    "num_steps": 2,
    "batch_size": 2,
    "log_every": 1,
    "checkpoint.every": 2,
    "pool.questions": 4,
    "pool.samples": 2,
    "optimizer.warmup_steps": 1,
    "evaluation.num_questions": 4,
    "evaluation.num_samples": 2,
    "hints": 1,
}
VARIANTS = {
    # Sizes of the papers and of SmolLM2, of P(IK).
    "full": _FULL,
    "p_true_full": {**_FULL, "system": "p_true"},
    "critique_full": {**_FULL, "system": "critique"},
    # Sizes for two CPU cores.
    "small": {"num_steps": 150},
    "p_true_small": {
        "system": "p_true",
        "num_steps": 60,
        "pool.samples": 6,
        "evaluation.num_questions": 96,
        "evaluation.num_samples": 6,
    },
    "critique_small": {
        "system": "critique",
        "num_steps": 100,
        "batch_size": 32,
        "evaluation.num_questions": 96,
        "evaluation.num_samples": 4,
    },
    # A few updates of everything.
    "debug": _DEBUG,
    "p_true_debug": {
        **_DEBUG,
        "system": "p_true",
        "pool.samples": 6,
        "evaluation.num_samples": 6,
    },
    "critique_debug": {**_DEBUG, "system": "critique"},
}


def get_config(arg: str = "small") -> ConfigDict:
    """P(IK) on two CPU cores; `arg` is `variant,key=value,...`."""
    config = settings(
        standard(
            "lm_judges",
            num_steps=200,
            batch_size=64,
            log_every=10,
            checkpoint=dict(every=50),
            tensorboard=False,
        ),
        system=choice("p_ik", "p_true", "critique"),
        # a base model by name or file, or untrained: and a variant of configs/lm_base.py
        base=free("small"),
        # p_ik, p_true: chance of the labels of another row; 1 is a control
        shuffled=between(0, 1, 0.0),
        # critique: share of right first attempts, and of rows without a first attempt (a control)
        kept=between(0, 1, 0.4),
        plain=between(0, 1, 0.0),
        # the base model's own answers to learn from
        pool=dict(questions=size(1024), samples=size(4), seed=at_least(0, 0)),
        optimizer=clipped(1e-3, 10),
        hints=at_least(1, 3),  # p_ik: most lines that are told
        evaluation=dict(num_questions=size(128), num_samples=size(8)),
    )
    return parse_variant(arg, VARIANTS, config)
