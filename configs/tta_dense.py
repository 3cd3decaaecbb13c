"""Self-training of segmentation networks: FST (Du et al., NeurIPS 2022) beside what adapts without.

python -m experiments.tta_dense --config=configs/tta_dense.py:small

small: made-up streets by day and at dusk; eleven rows and three seeds, whose time is not measured.
camvid: the same with real streets of 96 x 72 pixels; wants the pictures and masks of CamVid below
data.data_dir or JAXTTA_DATA, see docs/tta_dense.md.
`full` has the size and the settings of GTA to Cityscapes, wants pictures of your own, and has not
been run.
"""

from ml_collections import ConfigDict

from jaxtrain.host.config import parse_variant
from jaxtrain.host.settings import (
    at_least,
    between,
    choice,
    depth,
    filled,
    free,
    path,
    settings,
    size,
    some_of,
)

ROWS = (
    "source",
    "batch_norm",
    "tent",
    "cotta",
    "mean_teacher",
    "faster_teacher",
    "longer_teacher",
    "fst_d1",
    "fst_d",
    "fst_w",
    "random_future",
)
STREETS = ("sky", "building", "road", "tree", "car", "pavement")
CITYSCAPES = (
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)
CAMVID = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)

VARIANTS = {
    "full": {
        "num_steps": 40_000,
        "batch_size": 2,
        "num_seeds": 3,
        "data.classes": CITYSCAPES,
        "data.size": (512, 512),
        "data.source": "gta/images",
        "data.source_masks": "gta/labels",
        "data.target": "cityscapes/train",
        "data.target_masks": "cityscapes/train_labels",
        "data.test": "cityscapes/val",
        "data.test_masks": "cityscapes/val_labels",
        "model.width": 64,
        "model.multipliers": (1, 2, 4, 8, 8),
        "model.num_blocks": 2,
        "model.patch": 1,
        "source.num_steps": 40_000,
        "source.batch_size": 2,
        "source.learning_rate": 6e-5,
        "optimizer.learning_rate": 6e-5,
        "optimizer.weight_decay": 0.01,
        "optimizer.schedule": "linear",
        "optimizer.warmup_steps": 1_500,
        "fst.decay": 0.999,
        "evaluation.batch_size": 10,
    },
    "small": {},
    "camvid": {
        "data.classes": CAMVID,
        "data.void": 11,
        "data.source": "camvid/train/00?6*.jpg",
        "data.source_masks": "camvid/trainannot",
        "data.target": "camvid/train/0001*.jpg",
        "data.target_masks": "camvid/trainannot",
        "data.test": "camvid/test/0001*.jpg",
        "data.test_masks": "camvid/testannot",
    },
    "debug": {
        "num_steps": 3,
        "batch_size": 2,
        "num_seeds": 2,
        "data.size": (8, 16),
        "data.num_source": 6,
        "data.num_target": 4,
        "data.num_test": 3,
        "model.width": 4,
        "model.multipliers": (1, 1),
        "source.num_steps": 2,
        "source.batch_size": 2,
        "fst.num_steps": 1,
        "cotta.num_augmentations": 1,
        "evaluation.batch_size": 2,
        "rows": ("source", "batch_norm", "tent", "cotta", "mean_teacher", "fst_d"),
    },
}


def get_config(arg: str = "small") -> ConfigDict:
    """Made-up streets of 96 x 72 pixels; `arg` is `variant,key=value,...`."""
    config = settings(
        experiment=choice("tta_dense"),
        seed=at_least(0, 0),
        num_seeds=size(3),
        num_steps=at_least(1, 100),  # real ones of self-training
        batch_size=size(4),  # of the source, and as many of the target
        rows=filled(some_of(ROWS, ROWS)),
        data=dict(
            # A folder, or a pattern of files such as streets/day/*.jpg; empty: made-up streets.
            source=path(""),
            source_masks=path(""),  # folder with NAME.png for every picture
            target=path(""),
            target_masks=path(""),  # used by scores only
            test=path(""),
            test_masks=path(""),
            data_dir=path(""),  # looked in first
            classes=filled(free(STREETS)),
            void=at_least(0, 255),  # in masks: no class
            size=size((72, 96)),  # height and width
            num_source=size(200),  # made-up streets
            num_target=size(60),
            num_test=size(60),
        ),
        model=dict(
            width=size(24),
            multipliers=filled(size((1, 2))),
            num_blocks=depth(1),
            patch=size(4),
        ),
        source=dict(
            num_steps=at_least(1, 600),
            batch_size=size(8),
            learning_rate=at_least(0, 3e-3),
        ),
        optimizer=dict(
            learning_rate=at_least(0, 1e-3),
            warmup_steps=at_least(0, 0),
            schedule=free("constant"),
            weight_decay=at_least(0, 0.01),
        ),
        fst=dict(
            num_steps=depth(3),  # K
            decay=between(0, 1, 0.99),
            confidence=between(0, 1, 0.968),
            jitter=between(0, 1, 0.8),
            blur=between(0, 1, 0.5),
            leaky_moments=False,
        ),
        tent=dict(learning_rate=at_least(0, 1e-3)),
        cotta=dict(
            learning_rate=at_least(0, 1e-4),
            num_augmentations=size(4),
            min_confidence=between(0, 1, 0.92),
            teacher_decay=between(0, 1, 0.99),
            restore_probability=between(0, 1, 0.01),
        ),
        evaluation=dict(batch_size=size(10)),
    )
    return parse_variant(arg, VARIANTS, config)
