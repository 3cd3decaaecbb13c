"""Control from more than one reward: SPO, PROTECTED and SLIM, with their controls.

python -m experiments.control --config=configs/control.py:small --sweep="seed=0:3;flips=0.0,0.2"
python -m experiments.control --config=configs/control.py:small_protected --sweep="seed=0:3"
python -m experiments.control --config=configs/control.py:small_slim --sweep="seed=0:3"

small: 10 s on one CPU core, three seeds with a judge that is right and with one that is wrong in
20 % of the pairs. Expect 12 of 12 in the part that counts and the quota kept always; the controls
small_reward_model and small_timed_reward_model say what a reward of single steps comes to. The
published tasks are those of brax with other judges; the quota is the only one of them here, so full
is small with as many rollouts as the paper's runs have updates.

small_protected: 64 defenders play 2,000 episodes each, as published, against attacks that come and
go; the policies are those of a game that is known exactly, where the paper trains them.
small_slim: two million steps of the pusher per seed.
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
    size,
    standard,
)

_SMALL = {"num_steps": 250, "log_every": 10, "eval_every": 10, "checkpoint.every": 250}
_BRIEF = {"log_every": 1, "eval_every": 3, "checkpoint.every": 3, "num_steps": 3, "batch_size": 8}
_PROTECTED = {"method": "protected", "num_steps": 2_000, "log_every": 50, "eval_every": 500}
_SLIM = {"method": "slim", "optimizer.learning_rate": 1e-3, "batch_size": 256, "num_steps": 800}
_SMALL_SLIM = {
    **_SLIM,
    "batch_size": 128,
    "num_steps": 300,
    "log_every": 10,
    "eval_every": 50,
    "checkpoint.every": 300,
    "skills.network_width": 32,
}

VARIANTS = {
    "full": {},
    "small": _SMALL,
    # Controls: rewards of single steps fitted to the same comparisons.
    "small_reward_model": {**_SMALL, "method": "reward_model"},
    "small_timed_reward_model": {**_SMALL, "method": "timed_reward_model"},
    "debug": {**_SMALL, **_BRIEF, "evaluation.num_episodes": 8},
    "full_protected": _PROTECTED,
    "small_protected": _PROTECTED,
    "small_protected_all": {**_PROTECTED, "defence.pool": "all"},
    # Controls: one policy for all attackers, and returns of other policies than were played.
    "small_protected_natural": {**_PROTECTED, "defence.pool": "natural"},
    "small_protected_worst_case": {**_PROTECTED, "defence.pool": "worst_case"},
    "small_protected_shuffled": {**_PROTECTED, "defence.feedback": "shuffled"},
    "debug_protected": {**_PROTECTED, **_BRIEF},
    "full_slim": _SLIM,
    "small_slim": _SMALL_SLIM,
    # Control: one critic on the sum of the rewards.
    "small_slim_summed": {**_SMALL_SLIM, "skills.critics": "one"},
    "debug_slim": {
        **_SMALL_SLIM,
        **_BRIEF,
        "rollout.num_steps": 4,
        "skills.network_width": 4,
        "evaluation.num_episodes": 8,
    },
}


def get_config(arg: str = "full") -> ConfigDict:
    """`arg` is `variant,key=value,...`."""
    config = settings(
        standard(
            "control",
            num_steps=2_000,
            batch_size=64,  # trajectories of a rollout, which are compared; defenders; workers
            log_every=100,
            eval_every=100,
            checkpoint=dict(every=500),
        ),
        method=choice("spo", "reward_model", "timed_reward_model", "protected", "slim"),
        flips=between(0, 0.5, 0.0),  # chance that the judge is wrong
        optimizer=dict(
            learning_rate=at_least(0, 5e-2),
            warmup_steps=at_least(0, 0),
            schedule=free("constant"),
        ),
        entropy_coef=at_least(0, 0.0),
        model=dict(learning_rate=at_least(0, 5e-2)),  # of the reward
        defence=dict(
            pool=choice("discovered", "all", "natural", "worst_case"),
            feedback=choice("own", "shuffled"),
            attacks=choice("switching", "periodic"),
            period=size(100),  # rounds after which attacks may begin or end
            chance=between(0, 1, 0.1),  # that they do, where attacks are switching
            scale=above(0, 2.0),  # of the rate of the bandit
        ),
        skills=dict(
            critics=choice("each", "one"),  # one: of the sum of the rewards
            size=size(2, 2),
            width=size(32),  # of the layer of their space
            network_width=size(64),  # of both layers of policy and critics
            learning_rate=at_least(0, 1e-3),  # of their space
            gamma=between(0, 1, 0.98),
            scale_skill=at_least(0, 1.0),
            scale_near=at_least(0, 1.0),
            scale_safe=at_least(0, 1.0),
        ),
        rollout=dict(num_steps=size(50), num_epochs=size(4), num_minibatches=size(4)),
        evaluation=dict(num_episodes=size(256)),
    )
    return parse_variant(arg, VARIANTS, config)
