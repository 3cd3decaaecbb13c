"""Learning-rate schedules: refinement, AutoLRS and infinite schedules, a claim per study.

python -m experiments.lr_schedules --config=configs/lr_schedules.py:small

Measured on one core, three seeds, tables and intervals in docs/schedules.md:
small: 40 s; gap on sparse absolute deviations: flat 0.200, 1 / sqrt t 0.120, cosine 0.115, linear
0.095; logistic loss with SGD: flat 0.472, linear 0.430, cosine 0.427.
language_small: 50 s; refined schedule starts at 0.13 of its peak and peaks at 9 % of the run.
continual_small: 80 s; rise on old tasks at a border: cosine 0.0116, infinite 0.0052.
search_small: 60 s; updates to the default's loss: AutoLRS 2,367, default 4,833.
continual_two_stages: 30 s; the same between two tasks: cosine 0.0364, infinite 0.0224.
continual_replay: 80 s; the same with replay: cosine 0.0073, infinite 0.0030.
The sizes of the sources have not been measured.
"""

from ml_collections import ConfigDict

from jaxtrain.host.config import parse_variant
from jaxtrain.host.settings import (
    above,
    at_least,
    between,
    choice,
    depth,
    filled,
    free,
    mesh,
    path,
    settings,
    size,
    some_of,
)

# Groups of studies other than the chosen one are not used by it.
_CONVEX_SMALL = {"num_seeds": 3, "convex.optimizers": ("sgd", "adam")}

_LANGUAGE = {
    "study": "language",
    "num_seeds": 3,
    "num_steps": 100_000,
    "batch_size": 64,
    "log_every": 100,
    "checkpoint.every": 1_000,
}
_LANGUAGE_SMALL = {
    **_LANGUAGE,
    "num_steps": 400,
    "batch_size": 8,
    "log_every": 50,
    "checkpoint.every": 400,
    "language.layers": 2,
    "language.heads": 4,
    "language.width": 48,
    "language.context": 32,
    "language.valid_windows": 128,
    "language.peaks": (2e-3, 6e-3, 2e-2),
}

_CONTINUAL = {"study": "continual", "batch_size": 32, "log_every": 25, "checkpoint.every": 500}

_SEARCH = {
    "study": "search",
    "num_seeds": 3,
    "num_steps": 46_000,  # the four growing stages and one more, their search included
    "batch_size": 64,
    "optimizer.learning_rate": 1e-2,
    "optimizer.schedule": "autolrs(min_lr=1e-3, max_lr=1.0)",
}
_SEARCH_SMALL = {
    **_SEARCH,
    "num_steps": 5_000,  # stages of 500, 1,000 and 1,000 updates, and as many for each search
    "batch_size": 256,
    "log_every": 50,
    "checkpoint.every": 2_500,
    "optimizer.schedule": "autolrs(min_lr=1e-3, max_lr=1.0, tau0=500, tau_max=1000)",
    "search.rates": (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3),
}

VARIANTS = {
    # Settings of the sources. `convex` is a run of seconds and needs no smaller one.
    "convex": {},
    "language": _LANGUAGE,
    "continual": _CONTINUAL,
    "search": _SEARCH,
    # Sizes for two CPU cores.
    "small": _CONVEX_SMALL,
    "language_small": _LANGUAGE_SMALL,
    "continual_small": {**_CONTINUAL, "num_seeds": 3},
    "continual_replay": {**_CONTINUAL, "num_seeds": 3, "continual.replay": 0.5},
    "continual_two_stages": {**_CONTINUAL, "num_seeds": 3, "continual.num_tasks": 2},
    "search_small": _SEARCH_SMALL,
    # A few updates of everything.
    "debug": {
        "num_steps": 3,
        "num_seeds": 2,
        "log_every": 1,
        "checkpoint.every": 1,
        "convex.examples": 32,
        "convex.features": 4,
        "convex.peaks.adam": (0.01, 0.1),
        "convex.peaks.sgd": (0.01, 0.1),
        "convex.lad_steps": (3,),
        "convex.lad_problems": 2,
        "convex.lad_draws": 2,
        "convex.sparse.num_steps": 3,
        "convex.sparse.draws": 2,
        "convex.sparse.test_examples": 8,
    },
    "language_debug": {
        **_LANGUAGE_SMALL,
        "num_steps": 3,
        "num_seeds": 2,
        "batch_size": 2,
        "log_every": 1,
        "checkpoint.every": 1,
        "language.layers": 1,
        "language.heads": 1,
        "language.width": 4,
        "language.context": 4,
        "language.valid_windows": 2,
        "language.peaks": (1e-3, 1e-2),
    },
    "continual_debug": {
        **_CONTINUAL,
        "num_seeds": 2,
        "batch_size": 4,
        "log_every": 1,
        "checkpoint.every": 1,
        "continual.num_tasks": 2,
        "continual.task_steps": 10,
        "continual.test_images": 2,
        "continual.peaks": (1e-3,),
        "continual.consts": (0.25,),
    },
    "search_debug": {
        **_SEARCH_SMALL,
        "num_steps": 6,
        "num_seeds": 2,
        "batch_size": 4,
        "log_every": 1,
        "checkpoint.every": 1,
        "optimizer.schedule": "autolrs(min_lr=1e-3, max_lr=1.0, tau0=2, tau_max=2, ratio=2, k=2)",
        "search.rates": (1e-2,),
        "search.schedules": ("linear",),
        "search.width": 4,
        "search.test_examples": 8,
        "search.valid_examples": 8,
    },
}


def get_config(arg: str = "convex") -> ConfigDict:
    """Every key of every study; `arg` is `variant,key=value,...`."""
    config = settings(
        dict(
            experiment=choice("lr_schedules"),
            study=choice("convex", "language", "continual", "search"),
            seed=at_least(0, 0),
            num_seeds=size(6),
            num_steps=at_least(1, 2_000),  # continual: num_tasks * task_steps instead
            batch_size=size(8),
            log_every=at_least(1, 200),
            checkpoint=dict(every=at_least(1, 1_000)),
            mesh=mesh(),
            tensorboard=False,
            # Only the search uses this section; the other studies compare lists of schedules.
            optimizer=dict(
                learning_rate=at_least(0, 0.01),
                warmup_steps=at_least(0, 0),
                schedule=free("constant"),
            ),
            # Logistic regression with flipped labels, and least absolute deviations for the bound.
            convex=dict(
                optimizers=filled(some_of(("sgd", "adam"), ("sgd", "adam"))),
                schedules=filled(
                    free(
                        (
                            "warmup_constant",
                            "inverse_sqrt",
                            "wsd(decay=0.2)",
                            "linear",
                            "cosine",
                            "table(values=(0, 1))",  # control: the rates of linear decay, rising
                        )
                    )
                ),
                warmup=between(0, 1, 0.05),  # of the run, on all that have one
                peaks=dict(
                    adam=filled(
                        above(0, (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0))
                    ),
                    sgd=filled(
                        above(0, (3e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5))
                    ),
                ),
                examples=size(4_096),
                features=size(50),
                flips=between(0, 1, 0.1),
                lad_steps=filled(at_least(1, (100, 1_000))),
                lad_problems=size(100),
                lad_draws=size(20),  # runs per problem, for the expectation in the bound
                lad_rows=size(100),
                lad_features=size(10),
                # Least absolute deviations with few active features per example.
                sparse=dict(
                    num_steps=at_least(1, 1_000),
                    features=size(100),
                    active=size(5),
                    noise=at_least(0, 0.1),
                    draws=size(8),  # runs per seed and peak
                    test_examples=size(4_000),
                    peaks=filled(
                        above(
                            0,
                            (0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0, 1.4),
                        )
                    ),
                ),
            ),
            # Sizes of the small GPT that the paper trains with Adam (its other settings are the
            # usual ones of that model); the text is a file of yours, or Python's own manual.
            language=dict(
                text=path(""),
                layers=depth(12),
                heads=size(12),
                width=size(768),
                context=size(512),
                b2=between(0, 1, 0.95),
                weight_decay=at_least(0, 0.1),
                schedules=filled(free(("linear", "cosine", "linear(warmup=0)"))),
                warmup=between(0, 1, 0.05),
                peaks=filled(above(0, (3e-4, 6e-4, 1e-3))),
                valid_windows=size(256),
            ),
            # Fractions of a task from the authors' code; 64-96-16-96-64 autoencoder.
            continual=dict(
                num_tasks=at_least(1, 5),
                task_steps=at_least(1, 500),
                replay=between(0, 1, 0.0),  # share of the batch drawn from earlier tasks
                warmup=between(0, 1, 0.05),
                cooldown=between(0, 1, 0.25),
                anneal=between(0, 1, 0.2),
                consts=filled(between(0, 1, (0.25, 0.5))),  # relative to the peak
                end=between(0, 1, 0.1),
                peaks=filled(above(0, (3e-4, 1e-3, 3e-3, 6e-3, 1e-2, 2e-2))),
                hidden=size(96),
                code=size(16),
                noise=at_least(0, 0.2),
                test_images=size(100),  # per class
            ),
            # Network and data are ours; tau0, tau_max, k and ratio of the search are the code's.
            search=dict(
                default=free(
                    "warmup_constant"
                ),  # at optimizer.learning_rate: what AutoLRS must beat
                schedules=filled(free(("linear", "cosine"))),
                rates=filled(above(0, (1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0))),
                warmup=between(0, 1, 0.05),  # of the fixed schedules
                momentum=between(0, 1, 0.9),
                width=size(32),
                features=size(20),
                classes=size(10),
                wrong_labels=between(0, 1, 0.1),
                validates=True,  # later stages are judged by a validation loss
                test_examples=size(4_000),
                valid_examples=size(1_000),
            ),
        )
    )
    return parse_variant(arg, VARIANTS, config)
