"""Settings of the adaptation methods of `tta_images`, a group each. Not a config itself.

Official code for SAR and DeYO; the CIFAR-10 numbers of the others are those of TENT's and EATA's
benchmark repositories.
"""

import re
from typing import Any

from jaxtrain.host.settings import Rule, above, at_least, between, choice, depth, free, size

METHODS = (
    "source",
    "reset",
    "batch_norm",
    "alpha_norm",
    "ema_norm",
    "core",
    "lame",
    "tent",
    "eta",
    "eata",
    "sar",
    "deyo",
    "cotta",
    "roid",
    "open_set",
    "rmt",
    "petal",
    "rotta",
    "memo",
    "vida",
    "vdp",
    "label_shift_adapter",
    "adanpc",
    "itta",
    "nhl",
    "projected",
    "dda",
    "sda",
    "cafa",
)
COMBINATIONS = ("sum", "entropy_sum", "confidence_sum", "entropy", "confidence", "second")
RESCORED = (
    "core",
    "tent",
    "eta",
    "eata",
    "sar",
    "deyo",
    "open_set",
    "cafa",
)  # a second pass makes sense for them


def _adam(learning_rate: float = 1e-3, **more: object) -> dict[str, object]:
    return dict(
        optimizer=choice("adam", "sgd", "descent"),
        learning_rate=at_least(0, learning_rate),
        nesterov=False,
        **more,
    )


def _sgd(learning_rate: float, **more: object) -> dict[str, object]:
    return dict(
        optimizer=choice("sgd", "adam", "descent"),
        learning_rate=at_least(0, learning_rate),
        nesterov=False,
        **more,
    )


def method_settings() -> dict[str, Any]:
    """Method -> its settings."""
    reliable = _adam(threshold=at_least(0, 0.4), redundancy=at_least(0, 0.4))
    return dict(
        reset=dict(reliable, num_batches=at_least(1, 1_000)),
        alpha_norm=dict(weight=between(0, 1, 0.1)),
        ema_norm=dict(momentum=between(0, 1, 0.1)),
        core=_adam(weight=between(0, 1, 0.1)),
        lame=dict(
            kind=choice("rbf", "knn", "cosine"),  # of the affinity
            num_neighbors=size(5),
            strength=above(0, 1.0),
        ),
        tent=_adam(),
        eta=dict(reliable),  # each its own, or a change of one would change the other
        eata=dict(reliable, fisher_weight=at_least(0, 1.0)),
        sar=_sgd(
            2.5e-4,
            radius=at_least(0, 0.05),
            threshold=at_least(0, 0.4),
            reset_below=between(0, 1, 0.2),
        ),
        deyo=_sgd(
            2.5e-4,
            threshold=at_least(0, 0.5),
            margin=at_least(0, 0.4),
            min_difference=at_least(0, 0.2),
            num_patches=size(4),
        ),
        open_set=_adam(diversity=at_least(0, 0.5)),
        roid=_adam(
            source_share=between(0, 1, 0.01),
            consistency=True,
            correction=choice("logits", "probabilities", "none"),
        ),
        cotta=_adam(
            num_augmentations=size(32),
            min_confidence=between(0, 1, 0.92),
            teacher_decay=between(0, 1, 0.999),
            restore_probability=between(0, 1, 0.01),
            loss=choice("cross_entropy", "symmetric"),
        ),
        rmt=_adam(
            source_weight=at_least(0, 1.0),  # 0: source-free
            contrast_weight=at_least(0, 1.0),
            temperature=above(0, 0.1),
            teacher_decay=between(0, 1, 0.999),
            loss=choice("symmetric", "cross_entropy"),
            warm_up_images=at_least(0, 50_000),
            warm_up_learning_rate=at_least(0, 1e-3),
        ),
        memo=dict(
            optimizer=choice("descent", "adam", "sgd"),
            learning_rate=at_least(0, 0.005),
            num_views=size(32),
            num_steps=at_least(1, 1),
            rows_at_once=size(1),
            weight=between(0, 1, 1 / 17),  # share of the views in batch-norm statistics
        ),
        vida=_adam(
            1e-4,
            adapter_learning_rate=at_least(0, 1e-5),
            modules=free("attention"),  # adapters beside the weights of modules named so
            low_rank=size(1),
            high_rank=size(128),
            source_steps=at_least(
                0, 250
            ),  # of network and adapters on `clean` images, before the test
            source_learning_rate=at_least(0, 1e-4),
            seed=at_least(0, 0),
            num_augmentations=size(10),
            uncertainty_threshold=at_least(0, 0.05),
            teacher_decay=between(0, 1, 0.999),
            adapter_decay=between(0, 1, 0.999),
            restore_probability=between(0, 1, 0.01),
            released_behaviour=False,
        ),
        vdp=_adam(
            border=size(0, 0),  # width of the frame that holds the prompts; 0: the whole image
            weight=between(0, 1, 0.1),
            damping=between(0, 1, 1e-3),
            detection_threshold=between(0, 1, 0.1),
            reset_specific=False,
            teacher_decay=between(0, 1, 0.999),
            batch_statistics=False,
        ),
        rotta=_adam(
            capacity=size(64),
            update_every=at_least(1, 64),
            momentum=between(0, 1, 0.05),
            teacher_decay=between(0, 1, 0.999),
        ),
        petal=_adam(
            prior_weight=at_least(0, 1e-9),
            restore=choice("fisher", "random", "none"),
            restore_share=between(0, 1, 0.03),
            num_augmentations=size(32),
            min_confidence=between(0, 1, 0.92),
            teacher_decay=between(0, 1, 0.999),
            loss=choice("cross_entropy", "symmetric"),
        ),
        adanpc=dict(
            num_neighbors=size(50),
            temperature=above(0, 0.1),
            min_confidence=between(0, 1, 0.0),
            growth=at_least(0, 10_000),  # places for test images, at least batch_size
        ),
        cafa=_adam(
            form=choice("log_ratio", "ratio"),
            ridge=at_least(0, 1e-2),
            tied=False,  # one covariance for all classes
        ),
        nhl=_adam(
            rate=at_least(0, 1e-3),
            temperature=above(0, 1.0),
            relative=True,  # the rate to the length of each filter
            renormalise=False,
            modulator=choice("mixing", "scale"),
            norms=True,  # whether normalisation parameters follow the entropy as well
        ),
        itta=_adam(
            5e-6,
            depth=depth(5),
            weight=between(0, 1, 1e-6),  # 0.1 for DomainNet
            num_steps=at_least(0, 100),  # of the measure of consistency, at the same learning rate
            batch_size=size(32),
        ),
        label_shift_adapter=_adam(
            decay=between(0, 1, 0.9),
            estimate_first=True,
            num_steps=at_least(1, 2_000),
            batch_size=size(200),
        ),
        dda=dict(combination=choice(*COMBINATIONS)),
        sda=dict(
            combination=choice(*COMBINATIONS),
            images=choice("synthetic", "training"),  # training: those of the diffusion model
            num_images=at_least(1, 50_000),  # of synthetic ones as many of each class
            sampling_steps=at_least(1, 250),
            guidance=at_least(0, 1.0),
            num_steps=at_least(1, 11_700),  # of tuning on them: 15 epochs
            batch_size=size(64),
            learning_rate=at_least(0, 5e-4),
            weight_decay=at_least(0, 1e-4),
        ),
    )


# Rows that say which part of a method its numbers come from: without learning there are still
# views, averages, memories and weights that were trained again before deployment.
CONTROLS = {
    "cotta": ("learning_rate=0",),
    "rmt": ("learning_rate=0", "weights_only"),
    "petal": ("learning_rate=0", "weights_only"),
    "vida": ("learning_rate=0,adapter_learning_rate=0", "weights_only"),
    "rotta": ("learning_rate=0",),
    "vdp": ("learning_rate=0",),
    "label_shift_adapter": ("learning_rate=0",),
    "nhl": ("rate=0",),
    "itta": ("learning_rate=0,num_steps=0", "num_steps=0"),  # no step; the naive consistency
}


def control_settings() -> dict[str, Any]:
    """Method -> its controls: other settings of it, or the weights that it starts from alone."""
    pattern = re.compile(r"weights_only|\w+=[\w.+-]+(,\w+=[\w.+-]+)*")
    rule = Rule(
        (),
        lambda x: pattern.fullmatch(x) is not None,
        "write settings of the method as KEY=VALUE with commas in between, or weights_only",
    )
    return {name: rule._replace(default=CONTROLS.get(name, ())) for name in method_settings()}
