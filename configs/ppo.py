"""PPO, DPO and A2C on small control tasks, MinAtar and Brax; agents with memory.

python -m experiments.ppo --config=configs/ppo.py:small --sweep="seed=0:8"
python -m experiments.ppo --config=configs/ppo.py:small_recall --sweep="seed=0:3"

small: 36 s on one CPU core. CartPole, 8 seeds, 5e5 steps each; expect a mean return of 500 for all
eight; small_dpo likewise, and 22 for small_frozen, which does not learn. The settings are those of
luchris429/purejaxrl (ppo.py, ppo_minatar.py, ppo_continuous_action.py) unless a comment says
otherwise. One step is one update: a rollout of every environment and its epochs.
"""

from ml_collections import ConfigDict

from jaxtrain.host.config import parse_variant
from jaxtrain.host.settings import above, at_least, between, choice, free, settings, size, standard

_MINATAR = {
    "num_steps": 1220,  # 1e7 environment steps
    "batch_size": 64,
    "optimizer.learning_rate": 5e-3,
    "rollout.num_minibatches": 8,
    "network.activation": "relu",
    "evaluation.solved_at": 0.0,
    "evaluation.max_steps": 1000,
}
_BRAX = {
    "num_steps": 2441,  # 5e7 environment steps
    "batch_size": 2048,
    "optimizer.learning_rate": 3e-4,
    "optimizer.schedule": "constant",
    "rollout.num_steps": 10,
    "rollout.num_minibatches": 32,
    "loss.entropy_coef": 0.0,
    "normalise_observations": True,
    "scale_rewards": True,
    "evaluation.solved_at": 0.0,
    "evaluation.max_steps": 1000,
}
_SMALL = {"eval_every": 0, "checkpoint.every": 480}
# Tasks that cannot be solved without a memory; sizes are ours.
_MEMORY = {
    "eval_every": 0,
    "log_every": 10,
    "batch_size": 32,
    "optimizer.learning_rate": 2e-3,
    "network.memory": "gru",
    "network.widths": (32,),
    "network.size": 32,
    "evaluation.num_episodes": 500,
    "evaluation.solved_at": 0.0,
}
_RECALL = {
    **_MEMORY,
    "env": "recall",
    "num_steps": 120,
    "checkpoint.every": 60,
    "rollout.num_steps": 40,
    "network.transformer.length": 16,
    "evaluation.max_steps": 10,
}
_BANDITS = {
    **_MEMORY,
    "env": "bandit_trials",
    "num_steps": 800,
    "checkpoint.every": 400,
    "rollout.num_steps": 40,
    "network.transformer.length": 20,
    "evaluation.max_steps": 20,
    "evaluation.episodes_of_trial": 20,
}
_GOALS = {
    **_MEMORY,
    "env": "goal_trials",
    "num_steps": 400,
    "checkpoint.every": 200,
    "rollout.num_steps": 48,
    "network.transformer.length": 48,
    "evaluation.max_steps": 48,
    "evaluation.episodes_of_trial": 4,
}
_MEMORYLESS = {"network.memory": "none"}
_TRANSFORMER = {"network.memory": "transformer"}

VARIANTS = {
    "cartpole": {},
    "minatar_breakout": {**_MINATAR, "env": "gymnax:Breakout-MinAtar"},
    "minatar_space_invaders": {**_MINATAR, "env": "gymnax:SpaceInvaders-MinAtar"},
    "minatar_asterix": {**_MINATAR, "env": "gymnax:Asterix-MinAtar"},
    "minatar_freeway": {**_MINATAR, "env": "gymnax:Freeway-MinAtar"},
    "brax_ant": {**_BRAX, "env": "brax:ant"},
    "brax_hopper": {**_BRAX, "env": "brax:hopper"},
    "playground_cartpole": {**_BRAX, "env": "playground:CartpoleBalance"},
    # Our own continuous task; sizes are ours.
    "pendulum": {
        **_BRAX,
        "env": "pendulum",
        "num_steps": 300,
        "batch_size": 64,
        "rollout.num_steps": 64,
        "loss.gamma": 0.95,
        "evaluation.max_steps": 200,
    },
    # RL^2 on five arms and 100 pulls: network, discount, lambda and steps are the published ones,
    # the learner there is TRPO.
    "rl2_bandit": {
        **_BANDITS,
        "env": "bandit_trials_100",
        "num_steps": 1000,
        "batch_size": 2500,
        "optimizer.learning_rate": 2.5e-4,
        "rollout.num_steps": 100,
        "rollout.num_minibatches": 10,
        "loss.gae_lambda": 0.3,
        "network.size": 256,
        "network.widths": (256,),
        "evaluation.max_steps": 100,
        "evaluation.episodes_of_trial": 100,
    },
    "small_recall": _RECALL,
    "small_recall_transformer": {**_RECALL, **_TRANSFORMER},
    # Controls: agents without a memory.
    "small_recall_memoryless": {**_RECALL, **_MEMORYLESS},
    "small_bandits": _BANDITS,
    "small_bandits_memoryless": {**_BANDITS, **_MEMORYLESS, "env": "bandit_trials_untold"},
    "small_goals": _GOALS,
    "small_goals_memoryless": {**_GOALS, **_MEMORYLESS, "env": "goal_trials_untold"},
    # Without a memory, but told the last action and reward.
    "small_bandits_told": {**_BANDITS, **_MEMORYLESS},
    "small_goals_told": {**_GOALS, **_MEMORYLESS},
    "debug_memory": {
        **_GOALS,
        "num_steps": 2,
        "log_every": 1,
        "checkpoint.every": 2,
        "batch_size": 4,
        "rollout.num_steps": 8,
        "rollout.segment": 4,
        "rollout.num_minibatches": 2,
        "network.size": 8,
        "network.widths": (8,),
        "network.transformer.length": 6,
        "evaluation.num_episodes": 4,
    },
    # The published CartPole run is small already.
    "small": _SMALL,
    "small_dpo": {**_SMALL, "method": "dpo"},
    # Control: an agent that cannot learn.
    "small_frozen": {**_SMALL, "optimizer.learning_rate": 0.0},
    "small_a2c": {
        **_SMALL,
        "method": "a2c",
        "num_steps": 6000,
        "batch_size": 16,
        "rollout.num_steps": 8,
        "optimizer.learning_rate": 2e-3,
        "log_every": 200,
        "checkpoint.every": 2000,
    },
    "debug": {
        "num_steps": 3,
        "log_every": 1,
        "eval_every": 3,
        "checkpoint.every": 3,
        "rollout.num_steps": 16,
        "evaluation.num_episodes": 4,
    },
}


def get_config(arg: str = "cartpole") -> ConfigDict:
    """CartPole with the published settings; `arg` is `variant,key=value,...`."""
    config = settings(
        standard(
            "ppo",
            num_steps=976,  # updates; 5e5 environment steps
            batch_size=4,  # environments, over all devices
            log_every=48,
            eval_every=240,
            checkpoint=dict(every=240),
        ),
        method=choice("ppo", "dpo", "a2c"),
        env=free("cart_pole"),
        optimizer=dict(
            learning_rate=at_least(0, 2.5e-4),
            warmup_steps=at_least(0, 0),
            schedule=free("linear"),  # over the updates; or another of docs/schedules.md
            max_grad_norm=above(0, 0.5),
            eps=at_least(0, 1e-5),
        ),
        rollout=dict(
            num_steps=size(128),
            segment=at_least(0, 0),  # with memory: steps through which gradients reach; 0: all
            num_epochs=at_least(1, 4),
            num_minibatches=at_least(1, 4),
        ),
        loss=dict(
            gamma=between(0, 1, 0.99),
            gae_lambda=between(0, 1, 0.95),
            clip=above(0, 0.2),  # of the ratio and of the value
            entropy_coef=at_least(0, 0.01),
            value_coef=at_least(0, 0.5),
            # False treats time limits as termination, as purejaxrl does.
            bootstrap_on_truncation=True,
        ),
        network=dict(
            memory=choice("none", "gru", "lstm", "transformer"),
            widths=size((64, 64)),  # with memory: of the layers before it and of each head
            size=size(64),  # of the memory
            transformer=dict(length=size(128), num_layers=size(1), num_heads=size(4)),
            activation=choice("tanh", "relu"),
        ),
        normalise_observations=False,
        scale_rewards=False,
        evaluation=dict(
            num_episodes=size(64),
            max_steps=at_least(1, 500),
            greedy=False,
            solved_at=free(475.0),  # 0: no mark
            episodes_of_trial=at_least(0, 0),  # of environments made by `trials`; 0: it is none
        ),
    )
    return parse_variant(arg, VARIANTS, config)
