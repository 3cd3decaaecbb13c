"""Test-time adaptation of CIFAR-10 classifiers to common corruptions.

python -m experiments.tta_images --config=configs/tta_images.py:small
full (default): WRN-28-10, 10,000 images per corruption, severity 5, a reset at every corruption
(Wang et al. 2021, table 2); needs the weights that model.weights names and CIFAR-10. Not run here.
imagenet_c, imagenet_c_continual, imagenet_c_vit, cifar100_c: published settings of those sets, for
ResNet-50, ViT-B/16 and ResNeXt-29; need data and weights, see docs/tta_images.md. Not run here.
small: 4 minutes on one CPU core. With 500 images, batches of 100 and three seeds, mean error 47.0 %
for the source, 30.1 % with batch statistics, 29.9 % with TENT; more in docs/tta_images.md.
"""

from ml_collections import ConfigDict

from configs.tta_methods import METHODS, RESCORED, control_settings, method_settings
from configs.tta_published import (
    CIFAR10_C,
    CIFAR10_C_TEACHERS,
    CIFAR100_C,
    IMAGENET_C,
    IMAGENET_C_CONTINUAL,
    IMAGENET_C_VIT,
)
from configs.tta_small import SMALL_VARIANTS
from jaxtrain.host.config import parse_variant
from jaxtrain.host.settings import (
    above,
    at_least,
    between,
    choice,
    choice_or_own,
    depth,
    filled,
    mesh,
    path,
    settings,
    size,
    some_of,
)

STANDARD = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
CORRUPTIONS = (*STANDARD, "speckle_noise", "gaussian_blur", "spatter", "saturate")
VARIANTS = {
    "full": {},
    "imagenet_c": IMAGENET_C,
    "imagenet_c_continual": IMAGENET_C_CONTINUAL,
    "imagenet_c_vit": IMAGENET_C_VIT,
    "cifar100_c": CIFAR100_C,
    "cifar10_c": CIFAR10_C,
    "cifar10_c_continual": {**CIFAR10_C, "stream.setting": "continual"},
    "cifar10_c_teachers": CIFAR10_C_TEACHERS,
    "cifar10_c_teachers_continual": {**CIFAR10_C_TEACHERS, "stream.setting": "continual"},
    "continual": {"stream.setting": "continual"},
    "gradual": {"stream.setting": "gradual"},
    "mixed": {"stream.setting": "mixed_domains"},
    # Batch statistics mislead on streams sorted by class, so group norm; the weights are yours.
    "correlated": {
        "stream.setting": "correlated",
        "model.name": "resnet26_gn",
        "model.weights": "weights/resnet26_gn.npz",
        "methods": ("lame", "tent", "eata", "sar", "deyo", "roid"),
    },
    **SMALL_VARIANTS,
    # A source model trained on made-up images in seconds; shows that everything runs, no more.
    "debug": {
        "model.name": "cifar_resnet",
        "model.weights": "",
        "model.cifar_resnet.depth": 8,
        "data.name": "synthetic",
        "data.num_images": 24,
        "data.corruptions": ("gaussian_noise", "contrast"),
        "source.num_images": 200,
        "source.num_steps": 3,
        "source.batch_size": 16,
        "fisher.num_images": 16,
        "clean.num_images": 32,
        "clean.batch_size": 16,
        "batch_size": 8,
        "num_seeds": 2,
        "method.cotta.num_augmentations": 2,
        "method.rmt.warm_up_images": 32,
        "method.petal.num_augmentations": 2,
        "method.memo.num_views": 2,
        "method.vida.modules": "stage",
        "method.vida.high_rank": 4,
        "method.vida.source_steps": 2,
        "method.vida.num_augmentations": 2,
        "method.rotta.capacity": 8,
        "method.rotta.update_every": 8,
        "features.num_images": 40,
        "features.batch_size": 8,
        "method.label_shift_adapter.num_steps": 3,
        "method.itta.num_steps": 2,
        "method.itta.batch_size": 4,
        "diffusion.num_steps": 2,
        "diffusion.batch_size": 8,
        "diffusion.network.width": 8,
        "diffusion.network.multipliers": (1,),
        "diffusion.network.num_blocks": 1,
        "diffusion.network.groups": 4,
        "diffusion.network.attention_at": (),
        "diffusion.network.patch": 4,
        "projection.num_steps": 6,
        "projection.start": 3,
        "method.sda.num_images": 16,
        "method.sda.sampling_steps": 4,
        "method.sda.num_steps": 2,
        "method.sda.batch_size": 8,
        "methods": ("batch_norm", "tent", "eata"),
    },
}


def get_config(arg: str = "full") -> ConfigDict:
    """The published setting; `arg` is `variant,key=value,...`."""
    config = settings(
        dict(
            experiment=choice("tta_images"),
            seed=at_least(0, 0),
            num_seeds=size(1),  # seeds seed, seed + 1, ... of draws and stream
            batch_size=size(200),
            mesh=mesh(),
            methods=some_of(
                METHODS,
                ("batch_norm", "alpha_norm", "lame", "tent", "eata", "sar", "deyo", "open_set"),
            ),
            # methods whose score is that of a second pass after the update
            rescored=some_of(RESCORED, ()),
            data=dict(
                # or folder, npz:NAME, tfds:NAME, synthetic, coloured_digits(_clean)
                name=path("cifar10"),
                data_dir=path(""),  # looked in first; see experiments/data/images/loader.py
                download=False,  # lets TensorFlow Datasets fetch what is missing
                size=between(1, 1_024, 32),  # of the images; others are resized and cropped
                # Published CIFAR-10-C or ImageNet-C, or tfds, in place of making them here.
                corrupted_dir=path(""),
                # Text file with the network's class names in order, or its number of each class of
                # the set; empty where both have the same classes in the same order.
                classes=path(""),
                # Or a domain of one's own: a folder <class>/*, an npz, or a set as in name.
                target=path(""),
                # test images held at a time; more are read domain by domain
                memory_gb=above(0, 16.0),
                num_images=at_least(0, 10_000),
                corruptions=filled(some_of(CORRUPTIONS, STANDARD)),
                severity=between(0, 5, 5),  # 0: clean
            ),
            model=dict(
                name=choice_or_own(  # own: see experiments/images/own_network.py
                    "wide_resnet",
                    "cifar_resnet",
                    "resnet26_gn",
                    "resnext29",
                    "vit",
                    # of ImageNet
                    "resnet18",
                    "resnet50",
                    "vit_small",
                    "vit_base",
                ),
                num_classes=size(10, 2),
                weights=path(
                    "weights/wrn28_10_standard.safetensors"
                ),  # empty: train one, see source
                cifar_resnet=dict(
                    depth=depth(20),
                    groups=size(0, 0),  # group norm with that many groups; 0: batch norm
                ),
                wide_resnet=dict(depth=depth(28), widen=size(10)),
                resnet26_gn=dict(groups=size(8)),
                resnext29=dict(cardinality=size(4), base_width=size(32)),
                vit=dict(
                    patch=size(4),
                    width=size(192),
                    depth=depth(6),
                    num_heads=size(6),
                ),
                resnet18=dict(groups=size(0, 0)),
                resnet50=dict(groups=size(0, 0)),
                vit_small=dict(patch=size(16)),
                vit_base=dict(patch=size(16)),
            ),
            source=dict(
                num_images=at_least(0, 0),
                num_steps=at_least(1, 2_000),
                batch_size=size(128),
                learning_rate=at_least(0, 1e-3),
                seed=at_least(0, 0),
                imbalance=at_least(1, 1.0),  # above 1: long-tailed, largest class to smallest
            ),
            fisher=dict(num_images=at_least(0, 2_000), batch_size=size(200)),
            # labelled source images; 0: all of them
            clean=dict(num_images=at_least(0, 0), batch_size=size(200)),
            # SWAG of PETAL: source training goes on over the `clean` images.
            posterior=dict(
                learning_rate=at_least(0, 8e-4),
                last_rate=at_least(0, 0.01),
                num_epochs=at_least(1, 5),
                anneal_epochs=at_least(0, 3),
            ),
            # of the other source statistics
            features=dict(num_images=at_least(0, 2_000), batch_size=size(200)),
            # One network for DDA's projection (without labels) and for SDA's images (with labels).
            diffusion=dict(
                weights=path(""),  # diffusion.npz of an earlier run; empty: train one
                num_images=at_least(0, 0),
                num_steps=at_least(1, 800_000),
                batch_size=size(128),
                learning_rate=at_least(0, 2e-4),
                ema_decay=between(0, 1, 0.9999),
                drop_labels=between(0, 1, 0.1),
                network=dict(
                    width=size(128),
                    multipliers=filled(size((1, 2, 2, 2))),
                    num_blocks=depth(2),
                    attention_at=size((16,)),
                    groups=size(32),
                    head_dim=size(64),
                    patch=size(1),
                ),
            ),
            projection=dict(
                num_steps=at_least(1, 100),
                start=at_least(1, 50),
                factor=at_least(1, 4),
                strength=above(0, 6.0),
            ),
            stream=dict(
                setting=choice(
                    "reset_each_shift",
                    "continual",
                    "gradual",
                    "mixed_domains",
                    "correlated",
                    "label_shift",
                    "long_tailed",
                    "open_set",
                ),
                rounds=at_least(1, 1),
                # 0 to 9: one of the shared random orders of the 15 corruptions
                order=between(-1, 9, -1),
                first_falls=True,  # gradual: the first corruption starts at the highest severity
                concentration=at_least(0, 0.1),  # correlated: Dirichlet; 0 sorts by class
                ratio=at_least(1, 1_000.0),  # label_shift
                # long_tailed: first class to last; below 1 the first is the smallest one
                imbalance=above(0, 10.0),
                unknown=path(
                    ""
                ),  # open_set: set of the unknown classes; empty: labels >= num_classes
                window=size(
                    0, 0
                ),  # single images (batch_size=1) with the statistics of the last ones
            ),
            method=method_settings(),
            # rows beside those of a method: itself with other settings, or `weights_only`
            controls=control_settings(),
        )
    )
    return parse_variant(arg, VARIANTS, config)
