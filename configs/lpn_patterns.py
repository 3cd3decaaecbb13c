"""Pattern tasks with a Latent Program Network (paper sec. 5.2, tables 5 to 9).

python -m experiments.lpn_patterns --config=configs/lpn_patterns.py:small --sweep="seed=0:3"
small: 9 minutes on one CPU core for three seeds. Expect exact match of about 38 % from the mean
latent, 78 % after 5 and 88 % after 20 ascent steps, and 0 % when demonstrations are shuffled.
small_ga_1: 8 minutes; 29 % from the mean latent, 94 % after 20 steps.
small_ga_1_full_gradient: 16 minutes; with the full gradient 3 and 65 %.
small_ood: 8 minutes; 4 % from the mean latent and 60 % after 100 steps at density 1.
small_ood_in_context: 4 minutes; 6 % in context, 19 % after test-time training at density 1.
All of them and a figure: experiments.lpn_claims. The full-size variants have not been run here.
"""

from ml_collections import ConfigDict

from configs.lpn_common import SEARCHES, blocks, common, search
from jaxtrain.host.config import parse_variant
from jaxtrain.host.settings import at_least, filled, settings, share, size, some_of

PATTERN_OOD = {
    "num_steps": 100_000,
    "data.density": 0.5,
    "model.encoder": blocks(4, 8, 8, 2.0),
    "model.decoder": blocks(2, 8, 4, 1.0),
    "evaluation.num_tasks": 96,
    "evaluation.densities": (0.75, 1.0),
    "evaluation.ascent_steps": (10, 100),
    "evaluation.random_samples": (),
    "evaluation.no_encoder": False,
    "evaluation.ttt_steps": (10, 100),
    "evaluation.ttt_learning_rate": 1e-5,
}


def _ascent(steps: int, **changes: object) -> dict[str, object]:
    return {
        "train.mode": "gradient_ascent",
        "train.search.num_steps": steps,
        **{f"train.{name}": value for name, value in changes.items()},
    }


_FULL = {"search.gradient_ascent.stop_gradient_latent_move": False}

# Base size of the small experiments: 4 x 4 grids, 2 x 2 patterns, a few hundred updates.
TINY = {
    "num_steps": 400,
    "batch_size": 32,
    "log_every": 50,
    "eval_every": 100,
    "checkpoint.every": 200,
    "optimizer.learning_rate": 1e-3,
    "data.num_rows": 4,
    "data.num_cols": 4,
    "data.pattern_size": 2,
    "model.max_rows": 4,
    "model.max_cols": 4,
    "model.encoder": blocks(2, 6, 12, 4.0),
    "model.decoder": blocks(2, 6, 12, 4.0),
    "evaluation.num_tasks": 48,
    "evaluation.short_steps": (20,),
    "evaluation.shuffled": True,
    "evaluation.rate_0": True,
}

# Ascent steps only.
_BRIEF = {
    "evaluation.ascent_steps": (1, 5, 20, 100),
    "evaluation.random_samples": (),
    "evaluation.no_encoder": False,
    "evaluation.shuffled": False,
}

VARIANTS = {
    # The published runs (authors' configs; columns of paper tables 5 and 6).
    "pattern_4": {},
    "ga_1": _ascent(1),
    "ga_2": _ascent(2),
    "ga_3": _ascent(3),
    "ga_5": _ascent(5),
    "ga_1_full_gradient": _ascent(1, **_FULL),
    "ga_5_full_gradient": {**_ascent(5, **_FULL), "micro_batch": 32},
    "ga_1_no_encoder": _ascent(1, no_encoder=True),
    "ga_1_full_gradient_no_encoder": _ascent(1, no_encoder=True, **_FULL),
    "rs_5": {
        "train.mode": "random_search",
        "train.search.random_search.num_samples": 5,
        "train.search.random_search.scan_batch_size": 0,
    },
    "rs_25": {
        "train.mode": "random_search",
        "train.search.random_search.num_samples": 25,
        "train.search.random_search.scan_batch_size": 0,
    },
    "pattern_5": {"num_steps": 100_000, "data.pattern_size": 5},
    "pattern_2d": {
        "num_steps": 200_000,
        "data.num_rows": 4,
        "data.num_cols": 4,
        "data.pattern_size": 2,
        "model.max_rows": 4,
        "model.max_cols": 4,
        "model.latent_dim": 2,
        "model.encoder": blocks(2, 6, 12, 4.0),
        "model.decoder": blocks(2, 6, 12, 4.0),
        "train.beta": 1e-3,
        "evaluation.num_tasks": 96,
        "evaluation.ascent_steps": (10,),
        "evaluation.search.gradient_ascent.optimizer": "sgd",
    },
    "pattern_ood": PATTERN_OOD,
    "in_context": {"train.mode": "in_context"},
    # Sizes for two CPU cores: the paper's claims, to be run with --sweep=seed=0:3.
    "small": {
        **TINY,
        "evaluation.demonstrations": (1, 3, 5, 8),
        "evaluation.step_searches": ("local_search",),
    },
    "small_ga_1": {**TINY, **_BRIEF, **_ascent(1)},
    "small_ga_1_full_gradient": {**TINY, **_BRIEF, **_ascent(1, **_FULL)},
    "small_ood": {
        **TINY,
        **_BRIEF,
        "data.density": 0.5,
        "evaluation.densities": (0.75, 1.0),
        "evaluation.ascent_steps": (20, 100),
        "evaluation.short_steps": (20, 100),
    },
    "small_ood_in_context": {
        **TINY,
        **_BRIEF,
        "train.mode": "in_context",
        "data.density": 0.5,
        "evaluation.densities": (0.75, 1.0),
        "evaluation.ttt_steps": (10,),
        "evaluation.ttt_learning_rate": 1e-5,  # the paper's in this study, as in pattern_ood
    },
    "small_in_context": {
        **TINY,
        **_BRIEF,
        "train.mode": "in_context",
        "evaluation.demonstrations": (1, 3, 5, 8),
        "evaluation.ttt_steps": (10,),
    },
    "map": {
        **TINY,
        "num_steps": 3_000,
        "eval_every": 0,
        "log_every": 100,
        "checkpoint.every": 1_000,
        "model.latent_dim": 2,
        "train.beta": 1e-3,
        "evaluation.shuffled": False,
    },
    "debug": {
        **TINY,
        "num_steps": 3,
        "batch_size": 8,
        "log_every": 1,
        "eval_every": 3,
        "checkpoint.every": 1,
        "model.encoder": blocks(1, 2, 4, 1.0),
        "model.decoder": blocks(1, 2, 4, 1.0),
        "model.latent_dim": 4,
        "evaluation.num_tasks": 4,
        "evaluation.ascent_steps": (2,),
        "evaluation.short_steps": (1,),
        "evaluation.random_samples": (),
        "evaluation.no_encoder": False,
        "evaluation.shuffled": False,
        "evaluation.rate_0": False,
    },
}


def get_config(arg: str = "pattern_4") -> ConfigDict:
    """Published setting of pattern_4 with mean training; `arg` is `variant,key=value,...`."""
    config = settings(
        common("lpn_patterns"),
        model=dict(max_rows=10, max_cols=10),
        data=dict(
            num_pairs=size(4, 2),  # leave-one-out needs two
            num_rows=size(10),
            num_cols=size(10),
            pattern_size=size(4),
            density=share(1.0),
        ),
        evaluation=dict(
            num_tasks=size(256),
            seed=at_least(0, 0),
            ascent_steps=filled(at_least(1, (1, 5, 20, 100))),
            short_steps=filled(
                at_least(1, (5, 20))
            ),  # during training, and for ablations and controls
            search=search(),
            random_samples=size((25, 250)),
            # further searches by name, short_steps steps each
            step_searches=some_of(
                [name for name in SEARCHES if name not in ("random_search", "encoder_sampling")], ()
            ),
            no_encoder=True,
            shuffled=False,  # control: search on another task's demonstrations
            rate_0=False,  # control: ascent that does not move, short_steps steps
            densities=share(()),  # further pattern densities to test at
            demonstrations=size(()),  # further numbers of demonstrations to test with
            ttt_steps=at_least(1, (10, 100)),
            ttt_learning_rate=at_least(0, 1e-4),
        ),
    )
    return parse_variant(arg, VARIANTS, config)
