"""SPO and reward models on a task with a quota, told by comparisons of trajectories.

python -m experiments.control --config=configs/control.py:small --sweep="seed=0:3;flips=0.0,0.2"

small: 10 s on one CPU core, three seeds with a judge that is right and with one that is wrong in
20 % of the pairs. Expect 12 of 12 in the part that counts and the quota kept always; the controls
small_reward_model and small_timed_reward_model say what a reward of single steps comes to. The
published tasks are those of brax with other judges; the quota is the only one of them here, so full
is small with as many rollouts as the paper's runs have updates.
"""

from ml_collections import ConfigDict

from jaxtrain.host.config import parse_variant
from jaxtrain.host.settings import (
    at_least,
    between,
    choice,
    free,
    settings,
    size,
    standard,
)

_SMALL = {"num_steps": 250, "log_every": 10, "eval_every": 10, "checkpoint.every": 250}

VARIANTS = {
    "full": {},
    "small": _SMALL,
    # Controls: rewards of single steps fitted to the same comparisons.
    "small_reward_model": {**_SMALL, "method": "reward_model"},
    "small_timed_reward_model": {**_SMALL, "method": "timed_reward_model"},
    "debug": {
        **_SMALL,
        "num_steps": 3,
        "batch_size": 8,
        "log_every": 1,
        "eval_every": 3,
        "checkpoint.every": 3,
        "evaluation.num_episodes": 8,
    },
}


def get_config(arg: str = "full") -> ConfigDict:
    """`arg` is `variant,key=value,...`."""
    config = settings(
        standard(
            "control",
            num_steps=2_000,
            batch_size=64,  # trajectories of a rollout, which are compared
            log_every=100,
            eval_every=100,
            checkpoint=dict(every=500),
        ),
        method=choice("spo", "reward_model", "timed_reward_model"),
        flips=between(0, 0.5, 0.0),  # chance that the judge is wrong
        optimizer=dict(
            learning_rate=at_least(0, 5e-2),
            warmup_steps=at_least(0, 0),
            schedule=free("constant"),
        ),
        entropy_coef=at_least(0, 0.0),
        model=dict(learning_rate=at_least(0, 5e-2)),  # of the reward
        evaluation=dict(num_episodes=size(256)),
    )
    return parse_variant(arg, VARIANTS, config)
