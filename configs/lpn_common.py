"""What the configs of both Latent Program Network experiments share.

Not a config itself. Numbers come from the authors' released configs unless a comment says
otherwise; weight decay, b1, b2 and eps are Optax's defaults, which the authors use without stating
them.
"""

from typing import Any

from jaxtrain.host.settings import above, at_least, between, choice, depth, free, size, standard

SEARCHES = (
    "gradient_ascent",
    "random_search",
    "encoder_sampling",
    "local_search",
    "cem",
    "evolution_strategy",
    "hybrid",
    "restarts",
)


def blocks(num_layers: int, num_heads: int, head_dim: int, mlp_factor: float) -> dict[str, Any]:
    """Sizes of one transformer stack."""
    return dict(
        num_layers=num_layers, num_heads=num_heads, head_dim=head_dim, mlp_factor=mlp_factor
    )


def _stack(sizes: dict[str, Any]) -> dict[str, Any]:
    """The same with what else they may be."""
    return dict(
        num_layers=depth(sizes["num_layers"], 0),
        num_heads=size(sizes["num_heads"]),
        head_dim=size(sizes["head_dim"]),
        mlp_factor=above(0, sizes["mlp_factor"]),
    )


def common(experiment: str) -> dict[str, Any]:
    """Every key both experiments have, with the values most published runs share."""
    return dict(
        **standard(
            experiment,
            num_steps=20_000,
            batch_size=128,  # tasks per update, over all devices
        ),
        # tasks per micro-batch; 0: the whole batch at once; -1: on CPUs as many as keep attention's
        # scores in the caches, elsewhere the whole batch
        micro_batch=size(0, -1),
        optimizer=dict(
            learning_rate=at_least(0, 4e-4),
            warmup_steps=at_least(0, 99),
            schedule=free("warmup_constant"),  # or "wsd(decay=0.2)", ...: docs/schedules.md
            weight_decay=at_least(0, 1e-4),
            clip_norm=at_least(0, 1.0),
            # l1 keeps the norms that schedule=refined(norms=...) needs
            record_grad_norms=choice("", "l1", "l2"),
        ),
        model=dict(
            max_rows=between(1, 30, 30),
            max_cols=between(1, 30, 30),
            latent_dim=size(32),
            encoder=_stack(blocks(2, 6, 16, 1.0)),
            decoder=_stack(blocks(2, 6, 16, 1.0)),
            positions=choice("learned", "rope"),
            rope_max_frequency=above(0, 10.0),
            variational=True,
            next_position=True,
            separate_input_positions=False,
            use_bias=False,
            activation=choice("silu", "relu"),
            dropout=between(0, 1, 0.0),
            dtype=choice("float32", "bfloat16"),
            input_sees_context=True,
            remat=False,
            # auto: of cuDNN on GPUs and of XLA on TPUs for bfloat16, else none
            fused=choice("auto", "none", "xla", "cudnn"),
        ),
        train=dict(
            mode=choice("mean", "all", "random_search", "gradient_ascent", "in_context"),
            beta=at_least(0, 1e-4),  # weight of the KL divergence
            gamma=at_least(0, 0.0),  # weight of the pairwise KL divergence
            no_encoder=False,
            search=search(num_steps=1),
        ),
        # The baseline: room for this many demonstrations (train.mode = in_context).
        in_context=dict(max_demonstrations=size(19)),
    )


def search(num_steps: int = 100) -> dict[str, Any]:
    """A latent search; groups other than the chosen method's are not used by it."""
    return dict(
        num_steps=at_least(0, num_steps),
        gradient_ascent=dict(
            learning_rate=at_least(0, 0.1),
            optimizer=choice("adam", "sgd"),
            b1=between(0, 1, 0.9),
            b2=between(0, 1, 0.9),
            lr_schedule=False,
            lr_schedule_exponent=above(0, 0.5),
            clip_norm=above(0, 1.0),
            clip_scope=choice("latent", "batch"),  # batch: the authors' joint clipping
            stop_gradient_latent_move=True,
            scan_starts=False,
        ),
        random_search=dict(num_samples=size(250), scale=above(0, 0.5), scan_batch_size=size(25, 0)),
        local_search=dict(scale=above(0, 0.1)),
        encoder_sampling=dict(num_samples=size(250), scan_batch_size=size(25, 0)),
        cem=dict(population=size(16, 2), num_elites=size(4), scale=above(0, 0.5)),
        evolution_strategy=dict(
            population=size(16, 2), scale=above(0, 0.1), learning_rate=at_least(0, 0.1)
        ),
        hybrid=dict(switch_step=at_least(0, 5)),  # cem, then gradient ascent
        # Gradient ascent begun again from moved starts; patience=0 for full rounds only.
        restarts=dict(every=at_least(1, 20), scale=at_least(0, 0.1), patience=at_least(0, 0)),
        include_mean_latent=True,
        include_all_latents=False,
        perturbations=size(0, 0),  # further starts around the aggregate
        perturbation_scale=at_least(0, 0.1),
    )
