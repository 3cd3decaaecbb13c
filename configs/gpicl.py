"""General-purpose in-context learning (Kirsch et al., arXiv 2212.04458).

python -m experiments.gpicl --config=configs/gpicl.py:small --sweep="seed=0:3"

On one busy CPU core, three seeds, with what to expect (tables in docs/in_context.md):
small: 13 minutes; unseen tasks rise from 32 to 76 %, digits 4 to 7 to 88 %.
small_regimes: 21 minutes; memorisation up to 32 tasks, identification at 128, general from 1,024.
small_bias: 2 minutes; the plateau lasts 1,587, 790, 107 updates at bias 0, 0.5, 0.9.
small_batch: 5 minutes; all 3,000, 1,587, 653 updates at 16, 64, 256 sequences.
small_eps: 4 minutes; 1,587, 1,703, twice all 2,500 updates at eps_root 0, 1e-8, 1e-6, 1e-5.
small_state_size: 6 minutes; improvement 0 to 29 points from the smallest to the transformer's
state.
The sizes of the paper have not been run here.
"""

from ml_collections import ConfigDict

from jaxtrain.host.config import parse_variant
from jaxtrain.host.settings import (
    above,
    at_least,
    between,
    choice,
    depth,
    free,
    path,
    settings,
    size,
    standard,
)

VSML = dict(hidden_size=size(16), message_size=size(8), num_ticks=depth(2))
GRADIENT = dict(
    width=size(128),
    num_layers=depth(2),
    optimizer=choice("adam", "sgd"),
    learning_rate=at_least(0, 1e-3),
)

_DIGITS = {
    # Four classes of 4 x 4 digits: 540 training images, 180 test images, chance 25 %.
    "data.name": "digits:0-3",
    "data.size": 4,
    "tasks.length": 24,
    "batch_size": 64,
    "optimizer.learning_rate": 2e-3,
    "model.transformer.width": 64,
    "model.transformer.num_layers": 2,
    "model.transformer.num_heads": 4,
    "model.transformer.key_size": 16,
    "evaluation.foreign": ("digits:4-7", "random"),
    "evaluation.first": 3,
    "evaluation.last": 10,
    "log_every": 10,
    "checkpoint.every": 100,
}
_PAIRED = {**_DIGITS, "model.transformer.layout": "paired", "num_steps": 500}
# Two classes, shorter sequences and a narrower model, for the slow claims: chance 50 %.
_TWO = {
    **_DIGITS,
    "data.name": "digits:0-1",
    "tasks.length": 16,
    "tasks.bias_draw": "sequence",
    "model.transformer.width": 32,
    "model.transformer.key_size": 8,
    "evaluation.foreign": ("digits:2-3", "random"),
    "evaluation.first": 1,
    "evaluation.last": 5,
    "num_steps": 2000,
}
_MODELS = (
    "model.name=lstm,model.lstm.width=8",
    "model.name=lstm,model.lstm.width=64",
    "model.name=outer_product_lstm,model.outer_product_lstm.head_size=8",
    "model.name=outer_product_lstm,model.outer_product_lstm.head_size=16",
    "model.name=fast_weights",
    "model.name=transformer",
)
VARIANTS = {
    # Full-size published settings: MNIST 14 x 14, 100 examples, width 256, 4 layers of 8 heads.
    "full": {},
    "large_batch": {"batch_size": 4096, "num_steps": 100_000},
    "bias": {"tasks.bias": 0.9},
    # The table across data sets: 32 x 32 x 3, grey images repeated over channels.
    "table": {
        "data.size": 32,
        "data.channels": 3,
        "tasks.column_blocks": 12,
        "evaluation.foreign": ("fashion_mnist", "kmnist", "random", "cifar10", "svhn_cropped"),
    },
    "fashion": {"data.name": "fashion_mnist", "evaluation.foreign": ("mnist", "random")},
    # The map: run with --sweep="seed=0:3;tasks.num_tasks=1,2,4,...,16777216".
    "map": {
        "grid": tuple(f"model.transformer.width={2**i}" for i in range(1, 10)),
    },
    "map_mlp": {
        "model.name": "mlp",
        "grid": tuple(f"model.mlp.width={2**i}" for i in range(1, 11)),
    },
    "state_size": {
        "num_steps": 100_000,
        "grid": (
            *(f"model.name=lstm,model.lstm.width={2**i}" for i in range(5, 13)),
            *(
                f"model.name=outer_product_lstm,model.outer_product_lstm.head_size={2**i}"
                for i in range(2, 7)
            ),
            *(
                f"model.name=unsymmetric_vsml,model.unsymmetric_vsml.side={i}"
                for i in (1, 2, 4, 8, 16, 24)
            ),
            *(f"model.name=transformer,tasks.length={i}" for i in (25, 50, 100)),
        ),
    },
    "lstm": {"model.name": "lstm", "num_steps": 100_000},
    "vsml": {"model.name": "vsml", "batch_size": 8},
    "maml": {"model.name": "maml"},
    "online": {"model.name": "online", "num_steps": 1, "log_every": 1, "checkpoint.every": 1},
    # Sizes for two CPU cores: the paper's claims, to be run with --sweep=seed=0:3.
    "small": {**_PAIRED},
    "small_regimes": {
        **_PAIRED,
        "num_steps": 600,
        "grid": tuple(f"model.transformer.width={width}" for width in (64, 8)),
    },
    # --sweep="seed=0:3;tasks.bias=0,0.5,0.9"
    "small_bias": _TWO,
    # --sweep="seed=0:3"
    "small_batch": {
        **_TWO,
        "num_steps": 3000,
        "grid": ("batch_size=16", "batch_size=64", "batch_size=256,num_steps=1500"),
    },
    # --sweep="seed=0:3;optimizer.eps_root=0,1e-8,1e-6,1e-5"
    "small_eps": {**_TWO, "num_steps": 2500},
    # --sweep="seed=0:3"
    "small_state_size": {**_TWO, "tasks.bias": 0.5, "grid": _MODELS},
    "debug": {
        **_PAIRED,
        "data.name": "synthetic",
        "num_steps": 3,
        "batch_size": 8,
        "log_every": 1,
        "eval_every": 3,
        "checkpoint.every": 1,
        "tasks.length": 6,
        "tasks.num_tasks": 8,
        "model.transformer.width": 8,
        "model.transformer.num_layers": 1,
        "model.transformer.num_heads": 2,
        "model.transformer.key_size": 4,
        "evaluation.num_sequences": 16,
        "evaluation.batch_size": 8,
        "evaluation.foreign": ("random",),
        "evaluation.first": 1,
        "evaluation.last": 1,
    },
}


def get_config(arg: str = "full") -> ConfigDict:
    """The default setting of the paper; `arg` is `variant,key=value,...`.

    Where the official code gives a number it is used; its own defaults of 16 tasks of 32 sequences
    a step are `batch_size=512,tasks.sequences_per_task=32`.
    """
    config = settings(
        standard(
            "gpicl",
            num_steps=50_000,  # official code
            batch_size=128,  # sequences per update, over all devices
        ),
        grid=free(()),  # structural variants, each "key=value,key=value"; one program each
        # Official code: Adam at 1e-3, no warm-up, no decay; it has eps_root = 1e-8 unless it clips.
        optimizer=dict(
            learning_rate=at_least(0, 1e-3),
            warmup_steps=at_least(0, 0),
            schedule=free("warmup_constant"),  # or another of docs/schedules.md
            weight_decay=at_least(0, 0.0),
            clip_norm=at_least(0, 0.0),  # 0 for none
            eps=at_least(0, 1e-8),
            eps_root=at_least(0, 0.0),
            accumulate=at_least(1, 1),
        ),
        data=dict(
            # a set, a set with classes such as digits:0-3, or an .npz file
            name=path("mnist"),
            data_dir=path(""),  # looked in first; see experiments/data/images/loader.py
            download=False,
            size=between(1, 1_024, 14),  # side of the images
            channels=choice(1, 3),
        ),
        tasks=dict(
            num_tasks=between(1, 2**31 - 1, 2**16),  # K
            length=size(100, 2),  # T
            sequences_per_task=size(1),
            bias=between(0, 1, 0.0),  # probability of the identity, not a random label permutation
            bias_draw=choice("task", "sequence"),  # task: official code
            # the bias falls from 1 to its value over so many updates; 0: at once
            bias_steps=at_least(0, 0),
            single_task=between(0, 1, 0.0),  # probability that a task index is replaced by 0
            shrink=at_least(1, 1),  # inputs over outputs of the projection
            softmax=False,
            column_blocks=size(1),
        ),
        model=dict(
            name=choice(
                "transformer",
                "lstm",
                "outer_product_lstm",
                "vsml",
                "unsymmetric_vsml",
                "fast_weights",
                "mlp",
                "online",
                "maml",
            ),
            transformer=dict(
                num_layers=depth(4),
                width=size(256),
                num_heads=size(8),
                key_size=size(32),
                widening=above(0, 4.0),
                layout=choice("shifted", "paired"),  # shifted: the paper
                positions=choice("", "learned", "rotary", "none"),  # "": the layout's own
                dtype=choice("float32", "bfloat16"),
            ),
            lstm=dict(width=size(256)),
            outer_product_lstm=dict(num_heads=size(1), head_size=size(16), width=size(0, 0)),
            vsml=VSML,
            unsymmetric_vsml=dict(side=size(8), **VSML),
            fast_weights=dict(width=size(64), memory_size=size(16)),
            mlp=dict(width=size(256)),
            online=dict(**GRADIENT, eps_root=at_least(0, 0.0)),
            maml=dict(**GRADIENT, eps_root=at_least(0, 1e-8)),
        ),
        evaluation=dict(
            num_sequences=size(512),
            batch_size=size(128),
            num_unseen=at_least(1, 2**16),  # unseen tasks to draw from
            foreign=free(("fashion_mnist", "random")),
            first=at_least(1, 1),  # positions averaged at both ends of the sequence
            last=at_least(1, 1),
            shuffled=True,  # control: labels in the context shuffled
            untrained=True,  # control: the initial model
            smoothing=at_least(1, 5),  # records averaged for the length of the plateau
        ),
    )
    return parse_variant(arg, VARIANTS, config)
