"""Language models that learn from what they are paid for: coverage, own probability, a verifier.

python -m experiments.lm_reward --config=configs/lm_reward.py:dco_exact \
  --sweep="seed=0:3;dco.num_samples=1,4,16,64,256"

Processor time, with what to expect (tables in docs/language_models.md):
dco_exact: 10 s; the best N grows with the samples at test time.
dco_small: 60 s; 16 samples are right for 31 % of the sums at N=1, for 67 % at N=256
(and for 82 % by guessing).
sharpening_exact: 45 s; the best sequence gets the chance of the law.
sharpening_small: 80 s; one sample is right for 48 % instead of 26 %, for 6 % in the control.
verifier_small: 30 s a trial; a verifier is worth 2.8, 5.5, 10.4 tokens at H=8, 16, 32, and
2.2, 2.8, 4.7 where experts are alike.
The sizes of the papers, without a suffix, trace and plan and have not been run. Each
trial makes its own base, with a network of a published shape there.
"""

from ml_collections import ConfigDict

from configs.lm_common import rates
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

_SMALL_MODEL = {
    "model.published": "",
    "model.width": 64,
    "model.num_layers": 2,
    "model.num_heads": 4,
    "model.head_dim": 16,
    "model.hidden": 256,
}
_TINY_MODEL = {**_SMALL_MODEL, "model.width": 32, "model.num_heads": 2, "model.hidden": 96}
_DEBUG_MODEL = {
    **_SMALL_MODEL,
    "model.width": 4,
    "model.num_layers": 1,
    "model.num_heads": 1,
    "model.head_dim": 2,
    "model.hidden": 4,
}
_DEBUG = {
    "num_steps": 2,
    "batch_size": 2,
    "log_every": 1,
    "eval_every": 1,
    "checkpoint.every": 2,
    "base.num_steps": 2,
    "base.batch_size": 2,
}
_EXACT = {"optimizer.learning_rate": 0.1, "batch_size": 256}

_DCO_EXACT = {
    **_EXACT,
    "dco.policy": "table",
    "dco.problems": 256,
    "num_steps": 200,
    "log_every": 5,
    "eval_every": 10,
    "checkpoint.every": 100,
}
_DCO_SMALL = {
    **_SMALL_MODEL,
    "num_steps": 200,
    "batch_size": 64,
    "optimizer.learning_rate": 3e-3,
    "log_every": 10,
    "eval_every": 10,
    "checkpoint.every": 100,
    "dco.problems": 512,
    "dco.test_problems": 512,
    "dco.modulus": 10,
}

_SHARPENING = {
    "system": "sharpening",
    "num_steps": 500,
    "batch_size": 8,
    "optimizer.learning_rate": 1e-5,
    "eval_every": 0,
    "checkpoint.every": 100,
}
_SHARPENING_EXACT = {
    **_SHARPENING,
    **_EXACT,
    "sharpening.policy": "table",
    "sharpening.pool": 64,
    "sharpening.num_samples": 16,
    "batch_size": 64,
    "optimizer.schedule": "linear",
    "num_steps": 400,
    "log_every": 20,
    "checkpoint.every": 200,
}
_SHARPENING_SMALL = {
    **_SHARPENING,
    **_TINY_MODEL,
    "sharpening.pool": 16,
    "sharpening.num_samples": 16,
    "sharpening.depth": 1,
    "sharpening.modulus": 5,
    "sharpening.room": 10,
    "sharpening.test_problems": 64,
    "batch_size": 8,
    "optimizer.learning_rate": 1e-3,
    "num_steps": 50,
    "log_every": 5,
    "checkpoint.every": 50,
    "base.num_steps": 800,
}

_VERIFIER = {
    "system": "verifier",
    "model.published": "smollm2_1.7b",
    "num_steps": 500,
    "batch_size": 16,
    "optimizer.learning_rate": 1e-5,
    "eval_every": 0,
    "checkpoint.every": 100,
}
_VERIFIER_SMALL = {
    **_VERIFIER,
    **_TINY_MODEL,
    "experts.length": 2,
    "experts.horizons": (8, 16, 32),
    "num_steps": 150,
    "batch_size": 8,
    "optimizer.learning_rate": 1e-3,
    "log_every": 10,
    "checkpoint.every": 50,
    "base.num_steps": 400,
}

VARIANTS = {
    "dco": {},
    "dco_small": _DCO_SMALL,
    "dco_exact": _DCO_EXACT,
    "debug": {
        **_DCO_SMALL,
        **_DEBUG_MODEL,
        **_DEBUG,
        "dco.problems": 4,
        "dco.test_problems": 2,
        "dco.sizes": (1, 4),
    },
    "dco_exact_debug": {
        **_DCO_EXACT,
        **_DEBUG,
        "dco.problems": 4,
        "dco.answers": 3,
        "dco.sizes": (1, 4),
    },
    "sharpening": _SHARPENING,
    "sharpening_small": _SHARPENING_SMALL,
    "sharpening_exact": _SHARPENING_EXACT,
    "sharpening_exact_pairs": {**_SHARPENING_EXACT, "sharpening.objective": "pairs"},
    "sharpening_debug": {
        **_SHARPENING_SMALL,
        **_DEBUG_MODEL,
        **_DEBUG,
        "sharpening.pool": 2,
        "sharpening.num_samples": 2,
        "sharpening.room": 3,
        "sharpening.test_problems": 2,
        "sharpening.test_samples": 2,
    },
    "sharpening_exact_debug": {
        **_SHARPENING_EXACT,
        **_DEBUG,
        "sharpening.vocabulary": 2,
        "sharpening.length": 2,
        "sharpening.prompts": 2,
        "sharpening.pool": 2,
        "sharpening.num_samples": 2,
    },
    "verifier": _VERIFIER,
    "verifier_small": _VERIFIER_SMALL,
    "verifier_debug": {
        **_VERIFIER_SMALL,
        **_DEBUG_MODEL,
        **_DEBUG,
        "experts.horizons": (2, 3),
        "experts.group_size": 2,
        "experts.test_problems": 2,
    },
}


def get_config(arg: str = "dco") -> ConfigDict:
    """Every key of every system; `arg` is `variant,key=value,...`."""
    config = settings(
        standard(
            "lm_reward",
            num_steps=1_000,  # dco: four passes over 12,000 problems, about
            batch_size=48,
            log_every=10,
            eval_every=250,
            checkpoint=dict(every=250),
        ),
        system=choice("dco", "sharpening", "verifier"),
        optimizer=rates(2e-5, 0, "constant"),
        # A published shape, or the sizes of a small one over the symbols of the tasks.
        model=dict(
            published=choice(
                "llama3_8b",
                "",
                "smollm2_135m",
                "smollm2_360m",
                "smollm2_1.7b",
                "qwen2.5_0.5b",
                "qwen2.5_1.5b",
                "tinyllama_1.1b",
            ),
            width=size(64),
            num_layers=depth(2),
            num_heads=size(4),
            head_dim=size(16, low=2),
            hidden=size(256),
        ),
        # What sharpening and verifier begin with: a policy that imitates demonstrations.
        base=dict(
            num_steps=at_least(0, 0),
            batch_size=size(64),
            learning_rate=at_least(0, 3e-3),
            # Of sharpening: share of the demonstrations with a wrong step, and of those the share
            # with one and the same mistake, which may be more frequent than what is right.
            mistakes=between(0, 1, 0.6),
            systematic=between(0, 1, 0.0),
        ),
        dco=dict(
            policy=choice("decoder", "table"),
            num_samples=at_least(1, 256),  # N; 1 is cross-entropy
            sizes=filled(at_least(1, (1, 4, 16, 64, 256))),  # samples at test time
            problems=size(12_000),
            # Of the decoder: chained sums, a share of whose answers is wrong in training.
            test_problems=size(500),
            depth=depth(2),
            modulus=between(2, 1_000, 100),
            wrong=between(0, 1, 0.2),
            # Of the table: answers there are, how many are seen, how different their chances are.
            answers=size(64, low=2),
            labels=size(4),
            scale=at_least(0, 1.5),
        ),
        sharpening=dict(
            policy=choice("decoder", "table"),
            objective=choice("best", "pairs"),
            pool=size(50),  # samples of the base that are drawn for a prompt
            num_samples=at_least(1, 50),  # of them are compared, for `best`
            beta=above(0, 0.5),  # weight of the divergence, for `pairs`
            # Of the decoder: chained sums.
            depth=depth(4),
            modulus=between(2, 1_000, 10),
            room=size(40),
            test_problems=size(128),
            test_samples=size(16),
            # Of the table: tokens, tokens of a sequence, prompts, standard deviation of log-odds.
            vocabulary=size(4, low=2),
            length=between(1, 8, 6),
            prompts=size(16),
            scale=at_least(0, 1.5),
        ),
        experts=dict(
            length=between(1, 10, 5),  # symbols of the hidden subsequence
            horizons=filled(size((16, 32, 64, 128))),
            rates=filled(between(0, 1, (0.2, 0.4, 0.6, 0.8, 0.95))),
            spread=between(0, 1, 1.0),  # 0: all experts have the mean rate
            group_size=size(8, low=2),
            test_problems=size(128),
        ),
    )
    return parse_variant(arg, VARIANTS, config)
