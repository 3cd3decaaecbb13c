"""Sizes for two CPU cores, variants of `configs/tta_images.py`. Not a config itself."""

# Pretrained ResNet-20, three seeds.
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

SMALL_VARIANTS = {
    "small": {
        **SMALL,
        "data.num_images": 500,
        "batch_size": 100,
        "methods": ("batch_norm", "tent", "eata"),
    },
    # Four rounds of three corruptions without a reset, 144 updates; and with a learning rate
    # twenty times as high, at which entropy minimisation collapses.
    "small_continual": CONTINUAL,
    # Prompts in a frame of four pixels, over batch statistics and mild corruptions.
    "small_prompts": {
        **CONTINUAL,
        "data.severity": 2,
        "methods": ("batch_norm", "vdp"),
        "method.vdp.border": 4,
        "method.vdp.learning_rate": 1e-4,
        "method.vdp.batch_statistics": True,
    },
    # The Hebbian rule with and without, and with filters of their first length at four rates.
    "small_hebbian": {
        **CONTINUAL,
        "methods": ("batch_norm", "tent", "nhl"),
        "controls.nhl": (
            "rate=0",
            *(f"renormalise=True,rate={rate}" for rate in ("1e-4", "1e-3", "1e-2", "1e-1")),
        ),
    },
    "small_high_rate": {
        **CONTINUAL,
        "methods": ("batch_norm", "tent", "eta", "eata", "cotta", "rmt", "petal"),
        "method.tent.learning_rate": 0.02,
        "method.eta.learning_rate": 0.02,
        "method.eata.learning_rate": 0.02,
        "method.cotta.learning_rate": 0.02,
        "method.rmt.learning_rate": 0.02,
        "method.rmt.warm_up_learning_rate": 0.02,
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
        "stream.imbalance": 0.1,
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
}
