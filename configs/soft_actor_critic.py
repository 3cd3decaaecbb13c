"""Soft actor-critic and SRL on a pendulum, soft actor-critic on Brax.

python -m experiments.soft_actor_critic --config=configs/soft_actor_critic.py:small

small: 32 s on one CPU core, three seeds of 20,000 steps each; expect returns above -250,
where an agent that does not learn has about -1,140. full has the published settings (Haarnoja et
al. 2018) on an ant. One step is one update: a step of every environment and num_updates gradient
steps.

python -m experiments.soft_actor_critic --config=configs/soft_actor_critic.py:small_srl

SRL plans sequences of actions, 1.7 minutes for three seeds; both are asked in the end to decide
only every 1, 2, 4, ... 30 steps, which return_held_L and fas tell. srl has the published settings
on the pendulum.
"""

from ml_collections import ConfigDict

from jaxtrain.host.config import parse_variant
from jaxtrain.host.settings import (
    above,
    at_least,
    between,
    choice,
    free,
    settings,
    share,
    size,
    standard,
)

# Lengths, offset and largest return of the pendulum are those of the published score.
_HELD = {
    "evaluation.held.lengths": (1, *range(2, 31, 2)),
    "evaluation.held.score.offset": 1550.0,
    "evaluation.held.score.max_return": 1350.0,
}
_SMALL = {
    **_HELD,
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
_SMALL_SRL = {
    **_SMALL,
    "method": "srl",
    "sequence.size": 64,
    "sequence.model_widths": (64, 64),
}
_DEBUG = {
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
    "evaluation.held.lengths": (1, 2),
}

VARIANTS = {
    "full": {},
    "srl": {
        **_HELD,
        "method": "srl",
        "env": "pendulum",
        "num_steps": 30_000,
        "eval_every": 5_000,
        "checkpoint.every": 5_000,
        "rollout.random_steps": 1_000,
        "sequence.length": 16,
        "evaluation.max_steps": 200,
    },
    "small": _SMALL,
    # Control: an agent that cannot learn.
    "small_frozen": {
        **_SMALL,
        "optimizer.learning_rate": 0.0,
        "num_steps": 400,
        "checkpoint.every": 400,
    },
    "small_srl": _SMALL_SRL,
    # Control: the model says that nothing changes.
    "small_srl_identity": {**_SMALL_SRL, "sequence.model": "identity"},
    "debug": {**_SMALL, **_DEBUG},
    "debug_srl": {
        **_SMALL_SRL,
        **_DEBUG,
        "sequence.length": 2,
        "sequence.size": 8,
        "sequence.model_widths": (8,),
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
        method=choice("sac", "srl"),
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
        sequence=dict(  # of srl
            length=size(8),  # actions
            size=size(256),  # of the actor
            model=choice("learned", "identity"),
            model_widths=size((400, 300)),
        ),
        evaluation=dict(
            num_episodes=size(10),
            max_steps=size(1_000),
            held=dict(
                lengths=size(()),  # steps between two decisions; none: not measured
                score=dict(offset=at_least(0, 0.0), max_return=above(0, 1.0)),
            ),
        ),
    )
    return parse_variant(arg, VARIANTS, config)
