"""Full-size settings of ImageNet-C and CIFAR's relatives, variants of `configs/tta_images.py`.

Not run here: they need data and weights, see docs/tta_images.md. Numbers without a remark are those
of the papers' official code; "benchmark" is mariodoebler/test-time-adaptation. Methods that are not
listed have no published values for ImageNet-C: core, open_set, alpha_norm, ema_norm, lame, vdp,
adanpc, cafa, nhl, itta and label_shift_adapter keep those for CIFAR-10.
"""

IMAGENET_C = {
    "data.name": "folder",  # <data_dir>/train and test, validation or val; or tfds:imagenet2012
    "data.size": 224,
    "data.num_images": 50_000,
    "data.corrupted_dir": "ImageNet-C",
    "model.name": "resnet50",
    "model.num_classes": 1000,
    "model.weights": "weights/resnet50.safetensors",  # torchvision's IMAGENET1K_V1
    "batch_size": 64,
    # Official EATA takes the Fisher diagonal on clean validation images, here training images.
    "fisher.batch_size": 64,
    "clean.num_images": 50_000,
    "clean.batch_size": 64,
    "features.batch_size": 64,
    "methods": ("batch_norm", "alpha_norm", "lame", "tent", "eata", "sar", "deyo"),
    **{
        f"method.{name}.{key}": value
        for name in ("reset", "eta", "eata")
        for key, value in {"optimizer": "sgd", "learning_rate": 2.5e-4, "redundancy": 0.05}.items()
    },
    "method.eata.fisher_weight": 2000.0,
    "method.tent.optimizer": "sgd",
    "method.tent.learning_rate": 2.5e-4,
    "method.deyo.min_difference": 0.3,  # the mild setting; SAR's and DeYO's rates are the default
    "method.cotta.optimizer": "sgd",
    "method.cotta.learning_rate": 0.01,
    "method.cotta.nesterov": True,
    "method.cotta.min_confidence": 0.1,
    "method.cotta.restore_probability": 0.001,
    "method.cotta.loss": "symmetric",  # cross entropy in the paper
    "method.petal.optimizer": "sgd",
    "method.petal.learning_rate": 0.01,
    "method.petal.nesterov": True,
    "method.petal.min_confidence": 0.1,
    "method.petal.prior_weight": 1e-11,
    "method.petal.restore_share": 0.003,
    "method.petal.loss": "symmetric",
    # Official: batches of 256, four snapshots in each of two epochs over all of ImageNet.
    "posterior.learning_rate": 1e-4,
    "posterior.last_rate": 1e-4,
    "posterior.num_epochs": 2,
    "posterior.anneal_epochs": 1,
    "method.rmt.optimizer": "sgd",
    "method.rmt.learning_rate": 0.01,
    "method.rmt.warm_up_learning_rate": 0.01,
    "method.rmt.nesterov": True,
    "method.roid.optimizer": "sgd",
    "method.roid.learning_rate": 2.5e-4,
    "method.roid.nesterov": True,  # SGD of the benchmark, its official code
    "method.memo.num_views": 64,
    "method.memo.learning_rate": 2.5e-4,  # benchmark
    # For a ViT and batches of 50.
    "method.vida.optimizer": "sgd",
    "method.vida.learning_rate": 5e-7,
    "method.vida.adapter_learning_rate": 2e-7,
    "method.vida.adapter_decay": 0.8,
}
# Without resets, as in CoTTA and the benchmark: 5,000 images, here five of every class, there the
# list of RobustBench. RMT is left out: its 50,000 source images take 30 GB as floats.
IMAGENET_C_CONTINUAL = {
    **IMAGENET_C,
    "data.num_images": 5_000,
    "stream.setting": "continual",
    "method.deyo.min_difference": 0.2,  # the wild settings and the benchmark
    "methods": ("batch_norm", "lame", "tent", "eata", "sar", "deyo", "cotta", "rotta", "roid"),
}
# ViT-B/16 as in SAR and DeYO; SAR's code has one rate for TENT, EATA and itself: 1e-3 / 64 per
# image of a batch. The others keep the rates for ResNet-50.
IMAGENET_C_VIT = {
    **IMAGENET_C,
    "model.name": "vit_base",
    "model.weights": "weights/vit_base_patch16_224.safetensors",  # timm's
    "methods": ("lame", "tent", "eata", "sar", "deyo", "roid"),
    **{f"method.{m}.learning_rate": 1e-3 for m in ("reset", "tent", "eta", "eata", "sar", "deyo")},
}
# The benchmark's continual CIFAR-100-C. ViDA's rates are for a ViT and batches of 50.
CIFAR100_C = {
    "data.name": "tfds:cifar100",
    "model.name": "resnext29",
    "model.num_classes": 100,
    "model.weights": "weights/resnext29_cifar100.safetensors",  # AugMix
    "stream.setting": "continual",
    "methods": ("batch_norm", "lame", "tent", "eata", "sar", "cotta", "rotta", "rmt", "roid"),
    "method.reset.redundancy": 0.1,  # 0.4 in the benchmark
    "method.eta.redundancy": 0.1,
    "method.eata.redundancy": 0.1,
    "method.sar.optimizer": "adam",  # benchmark; official code is for ImageNet only
    "method.sar.learning_rate": 1e-3,
    "method.deyo.optimizer": "adam",
    "method.deyo.learning_rate": 1e-3,
    "method.cotta.min_confidence": 0.72,
    "method.petal.min_confidence": 0.72,
    "method.vida.learning_rate": 3e-4,
    "method.vida.adapter_learning_rate": 1e-6,
}
# CIFAR-10 corrupted here, with the pretrained ResNet-20: `experiments.tta_claims`. Teachers are
# shown a fifth of the images in four views instead of 32.
CIFAR10_C = {
    "model.name": "cifar_resnet",
    "model.weights": "weights/cifar10_resnet20.npz",
    "num_seeds": 3,
    "methods": ("batch_norm", "tent", "eata", "sar", "roid"),
    "method.sar.optimizer": "adam",  # benchmark
    "method.sar.learning_rate": 1e-3,
}
CIFAR10_C_TEACHERS = {
    **CIFAR10_C,
    "data.num_images": 2_000,
    "methods": ("batch_norm", "cotta", "rmt"),
    "method.cotta.num_augmentations": 4,
}
