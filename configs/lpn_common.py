"""What the configs of both Latent Program Network experiments share.

Not a config itself. Numbers come from the authors' released configs unless a comment says
otherwise; weight decay, b1, b2 and eps are Optax's defaults, which the authors use without stating
them.
"""

from ml_collections import ConfigDict


def blocks(num_layers: int, num_heads: int, head_dim: int, mlp_factor: float) -> ConfigDict:
    """Sizes of one transformer stack."""
    return ConfigDict(
        dict(num_layers=num_layers, num_heads=num_heads, head_dim=head_dim, mlp_factor=mlp_factor)
    )


def common(experiment: str) -> ConfigDict:
    """Every key both experiments have, with the values most published runs share."""
    return ConfigDict(
        dict(
            experiment=experiment,
            seed=0,
            num_steps=20_000,
            batch_size=128,  # tasks per update, over all devices
            micro_batch=0,  # tasks per micro-batch, 0 for the whole batch at once
            log_every=100,
            eval_every=0,
            checkpoint=dict(every=1_000, keep=2, keep_best=""),
            mesh=dict(data=-1),
            resume_from="",  # run whose state and step to continue (another training mode, say)
            init_from="",  # run, npz, safetensors or msgpack file whose parameters to start from
            tensorboard=True,
            wandb="",  # W&B project; empty for none
            optimizer=dict(
                learning_rate=4e-4,
                warmup_steps=99,
                schedule="warmup_constant",  # or "wsd(decay=0.2)", ...: docs/schedules.md
                weight_decay=1e-4,
                clip_norm=1.0,
                record_grad_norms="",  # l1 keeps the norms that schedule=refined(norms=...) needs
            ),
            model=dict(
                max_rows=30,
                max_cols=30,
                latent_dim=32,
                encoder=blocks(2, 6, 16, 1.0),
                decoder=blocks(2, 6, 16, 1.0),
                positions="learned",
                rope_max_frequency=10.0,
                variational=True,
                next_position=True,
                separate_input_positions=False,
                use_bias=False,
                activation="silu",
                dropout=0.0,
                dtype="float32",
                input_sees_context=True,
                remat=False,
            ),
            train=dict(
                mode="mean",  # mean, all, random_search, gradient_ascent or in_context
                beta=1e-4,  # weight of the KL divergence
                gamma=0.0,  # weight of the pairwise KL divergence
                no_encoder=False,
                search=search(num_steps=1),
            ),
            # The baseline: room for this many demonstrations (train.mode = in_context).
            in_context=dict(max_demonstrations=19),
        )
    )


def search(num_steps: int = 100, **changes: object) -> ConfigDict:
    """A latent search; groups other than the chosen method's are not used by it."""
    config = ConfigDict(
        dict(
            num_steps=num_steps,
            gradient_ascent=dict(
                learning_rate=0.1,
                optimizer="adam",  # sgd or adam
                b1=0.9,
                b2=0.9,
                lr_schedule=False,
                lr_schedule_exponent=0.5,
                clip_norm=1.0,
                clip_scope="latent",  # batch reproduces the authors' joint clipping
                stop_gradient_latent_move=True,
                scan_starts=False,
            ),
            random_search=dict(num_samples=250, scale=0.5, scan_batch_size=25),
            local_search=dict(scale=0.1),
            encoder_sampling=dict(num_samples=250, scan_batch_size=25),
            cem=dict(population=16, num_elites=4, scale=0.5),
            evolution_strategy=dict(population=16, scale=0.1, learning_rate=0.1),
            hybrid=dict(switch_step=5),  # cem, then gradient ascent
            # Gradient ascent begun again from moved starts; patience=0 for full rounds only.
            restarts=dict(every=20, scale=0.1, patience=0),
            include_mean_latent=True,
            include_all_latents=False,
            perturbations=0,  # further starts around the aggregate
            perturbation_scale=0.1,
        )
    )
    with config.unlocked():
        for name, value in changes.items():
            config[name] = value
    return config
