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

from configs.tta_methods import METHODS, RESCORED, method_settings
from configs.tta_published import CIFAR100_C, IMAGENET_C, IMAGENET_C_CONTINUAL, IMAGENET_C_VIT
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
# Sizes for two CPU cores: pretrained ResNet-20, three seeds.
SMALL = {
    "model.name": "cifar_resnet",
    "model.weights": "weights/cifar10_resnet20.npz",
    "data.num_images": 200,
    "batch_size": 50,
    "num_seeds": 3,
}
THREE = {**SMALL, "data.corruptions": ("impulse_noise", "glass_blur", "contrast")}
# Without pretrained weights, a ResNet-8 trained first.
TRAINED = {**THREE, "model.weights": "", "model.cifar_resnet.depth": 8}
CONTINUAL = {
    **THREE,
    "data.num_images": 300,
    "batch_size": 25,
    "stream.setting": "continual",
    "stream.rounds": 4,
    "clean.num_images": 2_000,
    "clean.batch_size": 100,
    "methods": ("batch_norm", "tent", "eata", "cotta", "rmt", "petal"),
    "method.cotta.num_augmentations": 4,
    "method.petal.num_augmentations": 4,
    "method.rmt.warm_up_images": 2_000,
}

VARIANTS = {
    "full": {},
    "imagenet_c": IMAGENET_C,
    "imagenet_c_continual": IMAGENET_C_CONTINUAL,
    "imagenet_c_vit": IMAGENET_C_VIT,
    "cifar100_c": CIFAR100_C,
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
    "small": {
        **SMALL,
        "data.num_images": 500,
        "batch_size": 100,
        "methods": ("batch_norm", "tent", "eata"),
    },
    # Four rounds of three corruptions without a reset, 144 updates; and with a learning rate
    # twenty times as high, at which entropy minimisation collapses.
    "small_continual": CONTINUAL,
    "small_high_rate": {
        **CONTINUAL,
        "methods": ("batch_norm", "tent", "eta", "eata", "cotta", "rmt", "petal"),
        "method.tent.learning_rate": 0.02,
        "method.eta.learning_rate": 0.02,
        "method.eata.learning_rate": 0.02,
        "method.cotta.learning_rate": 0.02,
        "method.rmt.learning_rate": 0.02,
        "method.petal.learning_rate": 0.02,
    },
    # Class after class, mild corruptions.
    "small_correlated": {
        **SMALL,
        "data.severity": 2,
        "stream.setting": "correlated",
        "stream.concentration": 0.0,
        "methods": ("batch_norm", "tent", "lame"),
    },
    # Half of every batch is of classes the network does not know: digits.
    "small_open_set": {
        **THREE,
        "stream.setting": "open_set",
        "stream.unknown": "coloured_digits_clean",
        "stream.rounds": 5,
        "methods": ("batch_norm", "tent", "open_set"),
    },
    # A memory of source features over successive mild domains.
    "small_memory": {
        **SMALL,
        "data.severity": 1,
        "stream.setting": "continual",
        "methods": ("adanpc",),
    },
    "small_batches": {
        **THREE,
        "batch_size": 4,
        "stream.setting": "continual",
        "methods": ("batch_norm", "tent", "sar", "roid"),
    },
    # Source and stream long-tailed, the stream the other way round.
    "small_long_tailed": {
        **TRAINED,
        "data.num_images": 1_000,
        "batch_size": 200,
        "source.num_steps": 600,
        "source.imbalance": 50.0,
        "stream.setting": "long_tailed",
        "stream.backward": True,
        "data.corruptions": ("gaussian_noise", "defocus_blur", "contrast"),
        "methods": ("batch_norm", "tent", "label_shift_adapter"),
    },
    # Colour predicts the label in training and misleads in the test; DeYO's settings for
    # ColoredMNIST, but for its label noise. The controls lack the second criterion.
    "small_spurious": {
        "model.name": "cifar_resnet",
        "model.num_classes": 2,
        "model.weights": "",
        "model.cifar_resnet.depth": 8,
        "data.name": "coloured_digits_clean",
        "data.num_images": 450,
        "data.corruptions": ("brightness",),
        "data.severity": 0,
        "source.num_steps": 150,
        "source.batch_size": 64,
        "fisher.num_images": 1_000,
        "stream.setting": "continual",
        "stream.rounds": 4,
        "batch_size": 64,
        "methods": ("batch_norm", "tent", "eta", "deyo"),
        "method.tent.optimizer": "sgd",
        "method.tent.learning_rate": 1.25e-3,
        "method.eta.optimizer": "sgd",
        "method.eta.learning_rate": 1.25e-3,
        "method.eta.threshold": 1.0,
        "method.deyo.learning_rate": 1.25e-3,
        "method.deyo.threshold": 1.0,
        "method.deyo.margin": 1.0,
        "method.deyo.min_difference": 0.5,
    },
    # DDA and SDA; the diffusion model is trained on the 10,000 images of the first batch.
    "small_sda": {
        **SMALL,
        "data.num_images": 100,
        "data.corruptions": ("gaussian_noise", "shot_noise", "impulse_noise"),
        "diffusion.num_images": 10_000,
        "diffusion.num_steps": 2_000,
        "diffusion.batch_size": 32,
        "diffusion.learning_rate": 1e-3,
        "diffusion.ema_decay": 0.995,
        "diffusion.network.width": 16,
        "diffusion.network.multipliers": (1, 2, 2),
        "diffusion.network.num_blocks": 1,
        "diffusion.network.attention_at": (4,),
        "diffusion.network.groups": 8,
        "diffusion.network.patch": 2,
        "projection.num_steps": 50,
        # Chosen on noisy training images: 25, 4 and 6 leave too little of 32 x 32 pixels.
        "projection.start": 10,
        "projection.factor": 2,
        "projection.strength": 2.0,
        "method.sda.num_images": 400,
        "method.sda.sampling_steps": 50,
        "method.sda.num_steps": 200,
        "method.sda.batch_size": 40,
        "batch_size": 50,
        "methods": ("projected", "dda", "sda"),
    },
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
                imbalance=at_least(1, 10.0),  # long_tailed: largest class to smallest
                backward=False,  # long_tailed: the first class is the smallest one
                unknown=path(
                    ""
                ),  # open_set: set of the unknown classes; empty: labels >= num_classes
                window=size(
                    0, 0
                ),  # single images (batch_size=1) with the statistics of the last ones
            ),
            method=method_settings(),
        )
    )
    return parse_variant(arg, VARIANTS, config)
