"""Soft actor-critic on a pendulum and on Brax.

python -m experiments.soft_actor_critic --config=configs/soft_actor_critic.py:small

small: 32 s on one CPU core, three seeds of 20,000 steps each; expect returns above -250,
where an agent that does not learn has about -1,140. full has the published settings (Haarnoja et
al. 2018) on an ant. One step is one update: a step of every environment and num_updates gradient
steps.
"""

from ml_collections import ConfigDict

from jaxtrain.host.config import parse_variant
from jaxtrain.host.settings import at_least, between, choice, free, settings, share, size, standard

_SMALL = {
    "env": "pendulum",
    "num_steps": 5_000,
    "batch_size": 4,
    "log_every": 200,
    "eval_every": 0,
    "checkpoint.every": 1_000,
    "optimizer.learning_rate": 1e-3,
    "rollout.random_steps": 1_000,
    "replay.num_updates": 4,
    "replay.batch_size": 64,
    "replay.capacity": 20_000,
    "network.widths": (64, 64),
    "evaluation.num_episodes": 32,
    "evaluation.max_steps": 200,
}

VARIANTS = {
    "full": {},
    "small": _SMALL,
    # Control: an agent that cannot learn.
    "small_frozen": {
        **_SMALL,
        "optimizer.learning_rate": 0.0,
        "num_steps": 400,
        "checkpoint.every": 400,
    },
    "debug": {
        **_SMALL,
        "num_steps": 4,
        "log_every": 1,
        "checkpoint.every": 4,
        "rollout.random_steps": 8,
        "replay.num_updates": 2,
        "replay.batch_size": 8,
        "replay.capacity": 10,
        "network.widths": (8,),
        "evaluation.num_episodes": 2,
        "evaluation.max_steps": 5,
    },
}


def get_config(arg: str = "full") -> ConfigDict:
    """The published settings; `arg` is `variant,key=value,...`."""
    config = settings(
        standard(
            "soft_actor_critic",
            num_steps=3_000_000,
            batch_size=1,  # environments, over all devices
            log_every=1_000,
            eval_every=50_000,
            checkpoint=dict(every=50_000),
        ),
        env=free("brax:ant"),
        optimizer=dict(
            learning_rate=at_least(0, 3e-4),
            warmup_steps=at_least(0, 0),
            schedule=free("constant"),  # over the updates that learn
        ),
        rollout=dict(num_steps=size(1), random_steps=at_least(0, 10_000)),
        replay=dict(
            num_updates=size(1),  # gradient steps
            batch_size=size(256),  # rows of one, a multiple of the environments
            capacity=at_least(1, 1_000_000),  # steps
        ),
        loss=dict(gamma=between(0, 1, 0.99), tau=share(0.005)),
        network=dict(widths=size((256, 256)), activation=choice("relu", "tanh")),
        evaluation=dict(num_episodes=size(10), max_steps=size(1_000)),
    )
    return parse_variant(arg, VARIANTS, config)
