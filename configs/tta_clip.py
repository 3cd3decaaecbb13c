"""RLCF, reward of better towers for one image at a time (Zhao et al., arXiv 2305.18010), and TPT.

python -m experiments.tta_clip --config=configs/tta_clip.py:small

small: made-up coloured waves; both pairs are trained here; its time is not measured.
cifar: two minutes of one CPU core, table in docs/vision_language.md; the same with CIFAR-10, the
reward's image tower being a trained ResNet-20, whose files it wants.
`full` has the towers, views, steps and rates of the paper for ImageNet-A and the like, and wants
their weights in a file of yours, data.towers; it has not been run.
"""

from ml_collections import ConfigDict

from jaxtrain.host.config import parse_variant
from jaxtrain.host.settings import (
    at_least,
    between,
    choice,
    depth,
    filled,
    path,
    settings,
    share,
    size,
    some_of,
)

ROWS = ("zero_shot", "tpt", "rlcf", "rlcf_image", "own_reward", "permuted", "reward")
CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "motion_blur",
    "zoom_blur",
    "fog",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
)

VARIANTS = {
    "full": {
        "num_seeds": 3,
        "data.name": "folder",
        "data.size": 224,
        "data.num_test": 0,
        "data.severity": 0,
        "data.towers": "clip_pairs.safetensors",
        "policy.side": 224,
        "policy.patch": 16,
        "policy.width": 768,
        "policy.depth": 12,
        "policy.num_heads": 12,
        "policy.embedding": 512,
        "policy.text.width": 512,
        "policy.text.depth": 12,
        "policy.text.num_heads": 8,
        "reward.side": 224,
        "reward.patch": 14,
        "reward.width": 1_024,
        "reward.depth": 24,
        "reward.num_heads": 16,
        "reward.embedding": 768,
        "reward.text.width": 768,
        "reward.text.depth": 12,
        "reward.text.num_heads": 12,
        "views.number": 64,
        "views.share": 0.1,
        "views.scale": 0.08,
        "optimizer.context": 7e-3,
        "optimizer.image": 1e-5,
        "optimizer.tpt": 5e-3,
        "evaluation.batch_size": 1,
    },
    "small": {},
    "cifar": {
        "data.name": "cifar10",
        "data.num_train": 5_000,
        "data.num_test": 200,
        "policy.num_steps": 300,
        "reward.network": "cifar_resnet",
        "reward.weights": "weights/cifar10_resnet20.npz",
        "reward.depth": 20,
        "reward.num_steps": 60,
    },
    "debug": {
        "num_seeds": 2,
        "rows": ("zero_shot", "tpt", "rlcf", "rlcf_image"),
        "data.num_train": 40,
        "data.num_test": 6,
        "data.corruptions": ("contrast",),
        "policy.width": 8,
        "policy.depth": 1,
        "policy.num_heads": 2,
        "policy.embedding": 4,
        "policy.text.width": 8,
        "policy.text.depth": 1,
        "policy.text.num_heads": 2,
        "policy.num_steps": 2,
        "policy.batch_size": 8,
        "reward.patch": 16,
        "reward.width": 8,
        "reward.depth": 1,
        "reward.num_heads": 2,
        "reward.embedding": 4,
        "reward.text.width": 8,
        "reward.text.depth": 1,
        "reward.text.num_heads": 2,
        "reward.num_steps": 2,
        "reward.batch_size": 8,
        "views.number": 4,
        "views.share": 0.5,
        "evaluation.batch_size": 3,
    },
}


def get_config(arg: str = "small") -> ConfigDict:
    """Made-up waves and two small pairs; `arg` is `variant,key=value,...`."""
    towers = dict(
        network=choice("vit", "cifar_resnet"),
        weights=path(""),  # of cifar_resnet, which then stays as it is but for its head
        side=size(32),  # to which images are brought
        patch=size(8),
        width=size(64),
        depth=depth(3),
        num_heads=size(4),
        embedding=size(32),
        text=dict(width=size(32), depth=depth(1), num_heads=size(2)),
        num_steps=at_least(1, 150),
        batch_size=size(64),
        learning_rate=at_least(0, 2e-3),
        hardened=between(0, 1, 0.0),  # less contrast and more noise while it is trained
    )
    config = settings(
        experiment=choice("tta_clip"),
        seed=at_least(0, 0),
        num_seeds=size(3),
        rows=filled(some_of(ROWS, ROWS)),
        data=dict(
            name=path("synthetic"),
            data_dir=path(""),
            size=size(32),  # side of the images
            num_train=at_least(0, 2_000),  # first images; 0 for all
            num_test=at_least(0, 200),
            corruptions=filled(some_of(CORRUPTIONS, ("contrast", "gaussian_noise"))),
            severity=between(0, 5, 3),
            towers=path(""),  # file of both pairs, instead of training them
        ),
        policy={**towers, "side": size(16), "patch": size(4)},
        reward={**towers, "hardened": between(0, 1, 0.8)},
        views=dict(number=size(16, 2), share=share(0.25), scale=share(0.5)),
        rlcf=dict(num_steps=depth(3), num_candidates=size(3, 2), amplified=False),
        optimizer=dict(
            context=at_least(0, 0.03),
            image=at_least(0, 1e-3),
            tpt=at_least(0, 0.03),
            weight_decay=at_least(0, 5e-4),
        ),
        evaluation=dict(batch_size=size(10)),
    )
    return parse_variant(arg, VARIANTS, config)
