"""Barlow Twins (Zbontar et al., arXiv 2103.03230).

python -m experiments.self_supervised --config=configs/self_supervised.py:small
    --sweep="seed=0:3;loss.invariance=1,0;loss.redundancy=0.01,0"

On one CPU core, table in docs/representation_and_memory.md:
small: 50 s for twelve trainings; one label per class: full loss 62 %, invariance alone 57,
redundancy alone 49, untrained 55; off-diagonal correlations 0.30, 0.89, 0.04, 0.05.
`full` has the sizes and rates of the paper (a ResNet-50, three layers of 8,192, batches of 2,048,
1,000 epochs of ImageNet); it keeps its images in memory and has not been run.
"""

from ml_collections import ConfigDict

from jaxtrain.host.config import parse_variant
from jaxtrain.host.settings import (
    above,
    at_least,
    choice,
    filled,
    free,
    path,
    settings,
    size,
    standard,
)

VARIANTS = {
    "full": {
        "data.name": "folder",
        "data.size": 224,
        "num_steps": 625_000,
        "batch_size": 2_048,
        "log_every": 100,
        "checkpoint.every": 1_000,
        "network.encoder": "resnet50",
        "network.projector": 8_192,
        "views.kind": "photographs",
        "loss.redundancy": 0.005,
        "optimizer.name": "lars",
        "optimizer.learning_rate": 1.6,
        "optimizer.warmup_steps": 6_250,
        "optimizer.schedule": "cosine(end=0.001)",
        "evaluation.batch_size": 256,
    },
    "small": {},
    "debug": {
        "num_steps": 2,
        "batch_size": 8,
        "log_every": 1,
        "checkpoint.every": 2,
        "data.num_images": 120,
        "network.widths": (4,),
        "network.projector": 4,
        "evaluation.batch_size": 8,
        "evaluation.num_draws": 1,
    },
}


def get_config(arg: str = "small") -> ConfigDict:
    """Digits of 8 x 8 and three layers; `arg` is `variant,key=value,...`."""
    config = settings(
        standard(
            "self_supervised",
            num_steps=800,
            batch_size=128,
            log_every=100,
            checkpoint=dict(every=400),
            tensorboard=False,
        ),
        data=dict(
            name=path("digits"),
            data_dir=path(""),
            num_images=at_least(0, 0),  # of each part; 0 for all
            size=size(32, 8),  # side of pictures
        ),
        network=dict(
            encoder=choice("layers", "resnet18", "resnet50"),
            widths=filled(size((128, 128))),  # of layers
            projector=size(128, 2),
            projector_layers=size(3),
        ),
        views=dict(
            kind=choice("small", "photographs"),
            # small
            shift=at_least(0, 1),
            noise=at_least(0, 0.1),
            erased=at_least(0, 3),
        ),
        loss=dict(
            redundancy=at_least(0, 0.01),
            invariance=at_least(0, 1.0),
            mode=choice("feature", "gram"),
        ),
        optimizer=dict(
            name=choice("adam", "lars"),
            learning_rate=at_least(0, 2e-3),
            warmup_steps=at_least(0, 0),
            schedule=free("cosine"),
            # lars
            vector_rate=above(0, 0.024),  # of biases and norms, relative to the rate
            weight_decay=at_least(0, 1e-6),
        ),
        evaluation=dict(batch_size=size(512, 2), num_draws=size(20)),
    )
    return parse_variant(arg, VARIANTS, config)
