"""Base models for the language-model commands, trained on arithmetic with planted mistakes.

python -m experiments.lm_base --config=configs/lm_base.py:small

Ours; no paper. On one CPU core, share of right answers at temperature 1 in docs/language_models.md:
tiny: 1.7 minutes; 0.03M parameters, 39 % right, 58 % of 1 step and 23 % of 3.
small: 3.5 minutes; 0.13M parameters, 40 % right, 56 % of 2 steps and 26 % of 6.
large: 7.3 minutes; 0.9M parameters, 40 % right, 53 % of 2 steps and 37 % of 6; not shipped.
careful: 2 minutes; `small` trained further to reconsider, for lm_search.
full has the shape of SmolLM2-135M and has not been trained.
"""

from ml_collections import ConfigDict

from configs.lm_common import clipped
from jaxtrain.host.config import parse_variant
from jaxtrain.host.settings import (
    above,
    at_least,
    between,
    choice,
    depth,
    filled,
    settings,
    size,
    standard,
)

VARIANTS = {
    "full": {
        "num_steps": 100_000,
        "batch_size": 512,
        "row.slots": 2048,
        "row.number": 64,
        "recipe.depths": (2, 4, 8, 16, 32),
        "recipe.modulus": 100,
        "optimizer.learning_rate": 3e-4,
        "optimizer.warmup_steps": 1_000,
        "model.vocabulary": 49_152,
        "model.width": 576,
        "model.num_layers": 30,
        "model.num_heads": 9,
        "model.num_kv_heads": 3,
        "model.head_dim": 64,
        "model.hidden": 1536,
        "model.rotary_base": 1e5,
        "model.remat": True,
    },
    "small": {
        "recipe.kept": (0.97, 0.85, 0.995),
        "recipe.fixed": (0.6, 0.75, 0.1),
        "recipe.requests": (0.6, 0.2, 0.2),
        "recipe.judged": 0.3,
    },
    "tiny": {
        "num_steps": 1_500,
        "recipe.depths": (1, 2, 3),
        "row.slots": 144,
        "model.width": 32,
        "model.num_heads": 2,
        "model.num_kv_heads": 2,
        "model.hidden": 96,
    },
    # From `small`, for long responses: a request to reconsider at any place is answered by lines
    # that are almost all right.
    "careful": {
        "init_from": "experiments/lm/trained/small.npz",
        "num_steps": 800,
        "batch_size": 16,
        "optimizer.learning_rate": 2e-3,
        "row.number": 2,
        "row.slots": 224,
        "recipe.depths": (2, 4, 6),
        "recipe.kept": (0.99, 0.99, 0.99),
        "recipe.fixed": (0.9, 0.9, 0.9),
        "recipe.requests": (1.0, 0.0, 0.0),
        "recipe.attempts": 6,
        "recipe.cut": 0.5,
        "recipe.filler": 0.2,
        "recipe.judged": 0.1,
        "recipe.voted": 0.0,
    },
    "large": {
        "num_steps": 1_000,
        "batch_size": 16,
        "optimizer.learning_rate": 2e-3,
        "model.width": 128,
        "model.num_layers": 4,
        "model.num_heads": 8,
        "model.num_kv_heads": 8,
        "model.hidden": 416,
    },
    "debug": {
        "num_steps": 3,
        "batch_size": 2,
        "log_every": 1,
        "checkpoint.every": 1,
        "row.number": 1,
        "row.slots": 24,
        "optimizer.warmup_steps": 1,
        "recipe.depths": (1, 2),
        "recipe.attempts": 2,
        "model.width": 8,
        "model.num_layers": 1,
        "model.num_heads": 2,
        "model.num_kv_heads": 1,
        "model.head_dim": 4,
        "model.hidden": 8,
        "evaluation.num_questions": 4,
        "evaluation.num_samples": 2,
    },
}


def get_config(arg: str = "small") -> ConfigDict:
    """0.13M parameters; `arg` is `variant,key=value,...`."""
    config = settings(
        standard(
            "lm_base",
            num_steps=700,
            batch_size=32,
            log_every=25,
            checkpoint=dict(every=100),
        ),
        recipe=dict(  # of the conversations, see experiments/lm/conversations.py
            modulus=between(2, 1000, 10),
            depths=filled(depth((2, 3, 4, 6))),
            error_rates=filled(
                between(0, 1, (0.02, 0.02, 0.02, 0.02, 0.02, 0.02, 0.3, 0.3, 0.9, 0.9))
            ),
            kept=between(0, 1, (0.97, 0.85, 1.0)),  # neutral, doubt, trust
            fixed=between(0, 1, (0.6, 0.75, 0.0)),
            requests=between(0, 1, (0.4, 0.3, 0.3)),
            attempts=at_least(1, 4),
            cut=between(0, 1, 0.4),
            filler=between(0, 1, 0.1),
            judged=between(0, 1, 0.5),
            voted=between(0, 1, 0.15),
            told=at_least(0, 5),
        ),
        row=dict(number=size(4), slots=size(192)),  # conversations, and tokens they may have
        model=dict(
            vocabulary=size(61),
            width=size(64),
            num_layers=depth(2),
            num_heads=size(4),
            num_kv_heads=size(4),
            head_dim=size(16),
            hidden=size(240),
            rotary_base=above(0, 10_000.0),
            norm_epsilon=above(0, 1e-5),
            tied=True,
            qkv_bias=False,
            dtype=choice("float32", "bfloat16"),
            param_dtype=choice("float32", "bfloat16"),
            remat=False,
        ),
        optimizer=clipped(4e-3, 30),
        evaluation=dict(num_questions=size(128), num_samples=size(4)),
    )
    return parse_variant(arg, VARIANTS, config)
