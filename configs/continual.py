"""OVOR, classes learned task after task with one prompt (Huang et al., arXiv 2402.04129).

python -m experiments.continual --config=configs/continual.py:small

small: digits of 8 x 8 in five tasks of two, after a transformer has learned digits that lie on
their sides; its time is not measured.
mnist: two minutes of one CPU core, table in docs/representation_and_memory.md; the same with MNIST,
whose files it wants.
`full` has network, prompts, rates and outliers of the paper for ImageNet-R, and wants its pictures
and the weights of a ViT-B/16 of timm; it has not been run.
"""

from ml_collections import ConfigDict

from jaxtrain.host.config import parse_variant
from jaxtrain.host.settings import (
    at_least,
    choice,
    depth,
    filled,
    free,
    path,
    settings,
    size,
    some_of,
)

ROWS = ("one_prompt", "pool", "head_only", "ovor", "inside_only", "on_data", "released")

VARIANTS = {
    "full": {
        "num_seeds": 5,
        "num_epochs": 50,
        "batch_size": 128,
        "data.name": "folder",
        "data.size": 224,
        "data.num_tasks": 10,
        "data.num_train": 0,
        "data.num_test": 0,
        "model.weights": "vit_base_patch16_224.safetensors",
        "model.num_classes": 1_000,
        "model.patch": 16,
        "model.width": 768,
        "model.depth": 12,
        "model.num_heads": 12,
        "prompts.lengths": (5, 5, 20, 20, 20),
        "optimizer.learning_rate": 1e-3,
        "outliers.num_epochs": 10,
        "outliers.num_boundary": 50,
        "outliers.num_neighbors": 50,
        "outliers.num_offsets": 600,
        "outliers.scale": 0.1,
        "evaluation.batch_size": 128,
    },
    "small": {},
    "mnist": {
        "data.name": "mnist",
        "data.size": 16,
        "data.num_train": 2_500,
        "data.num_test": 1_500,
        "source.name": "mnist",
        "source.num_images": 5_000,
        "model.patch": 4,
    },
    "debug": {
        "num_seeds": 2,
        "num_epochs": 3,
        "batch_size": 16,
        "rows": ("one_prompt", "pool", "head_only", "ovor"),
        "data.num_train": 100,
        "data.num_test": 30,
        "source.num_images": 60,
        "source.num_steps": 2,
        "source.batch_size": 8,
        "model.patch": 4,
        "model.width": 8,
        "model.depth": 2,
        "model.num_heads": 2,
        "prompts.lengths": (1, 2),
        "outliers.num_epochs": 1,
        "outliers.num_boundary": 4,
        "outliers.num_neighbors": 3,
        "outliers.num_offsets": 10,
        "outliers.per_class": 8,
        "evaluation.batch_size": 8,
    },
}


def get_config(arg: str = "small") -> ConfigDict:
    """Digits of 8 x 8 and three blocks; `arg` is `variant,key=value,...`."""
    config = settings(
        experiment=choice("continual"),
        seed=at_least(0, 0),
        num_seeds=size(3),  # each with an order of the classes of its own
        num_epochs=size(16, 2),  # of a task, both phases together
        batch_size=size(32),
        rows=filled(some_of(ROWS, ROWS)),
        data=dict(
            name=path("digits"),
            data_dir=path(""),
            size=size(8),  # side of the images
            num_tasks=size(5, 2),
            num_train=at_least(0, 0),  # first images; 0 for all
            num_test=at_least(0, 0),
        ),
        # What the transformer learns beforehand, if it has no weights.
        source=dict(
            name=path("digits"),
            quarter_turns=choice(1, 0, 2, 3),  # of the images
            num_images=at_least(0, 0),
            num_steps=at_least(1, 600),
            batch_size=size(64),
            learning_rate=at_least(0, 2e-3),
        ),
        model=dict(
            weights=path(""),  # of timm, npz or safetensors
            num_classes=size(10),  # of these weights
            patch=size(2),
            width=size(48),
            depth=depth(3),
            num_heads=size(3),
        ),
        prompts=dict(lengths=filled(size((2, 2, 4)))),  # keys, and values, of the first blocks
        optimizer=dict(learning_rate=at_least(0, 0.02)),
        outliers=dict(
            num_epochs=size(8),  # the last of num_epochs
            weight=at_least(0, 0.1),
            low=free(-15.0),  # energies of features
            high=free(-3.0),  # and of outliers
            per_class=size(40),
            num_boundary=size(25),
            num_neighbors=size(10),
            num_offsets=size(40),
            scale=at_least(0, 1.5),
        ),
        evaluation=dict(batch_size=size(64)),
    )
    return parse_variant(arg, VARIANTS, config)
