"""Meta-learned objectives: TA-LPG and LPG on grid worlds, TA-LPO and LPO on control tasks.

python -m experiments.meta_rl --config=configs/meta_rl.py:small_ta_lpg
python -m experiments.meta_rl --config=configs/meta_rl.py:small_lpg

small_*: two to four minutes on two CPU cores. They show none of the claims of the papers in every
run: the mean normalised return of three seeds is 0.34 for TA-LPG and 0.47 for LPG, the return on
CartPole 250 for TA-LPO, 249 for LPO and 238 for PPO (docs/meta_rl.md). The others are the published
sizes, for accelerators. Numbers of LPG are those of EmptyJackson/groove (with the corrections of
its README), those of LPO of AlexGoldie/learn-rl-algorithms; one step is one generation, or one
meta-gradient step.
"""

from ml_collections import ConfigDict

from jaxtrain.host.config import parse_variant
from jaxtrain.host.settings import (
    above,
    at_least,
    between,
    choice,
    filled,
    free,
    settings,
    size,
    standard,
)

_META_GRADIENT = {
    "trainer": "meta_gradient",
    "num_steps": 5000,
    "batch_size": 512,  # lifetimes
    "meta_gradient.num_chunks": 16,
}
_LPO = {
    "method": "lpo",
    "num_steps": 800,
    "batch_size": 32,
    "rule.width": 128,
    "evolution.learning_rate": 0.03,
    "evolution.learning_rate_decay": 0.99,
    "evolution.learning_rate_limit": 1e-3,
    "evolution.sigma": 0.03,
    "evolution.sigma_decay": 0.99,
    "evolution.sigma_limit": 0.01,
    "evolution.shaping": "centred_rank",
    "evaluation.horizons": (610, 1220, 2440),
}
_SMALL = {
    "num_steps": 200,
    "batch_size": 32,
    "log_every": 10,
    "eval_every": 0,
    "checkpoint.every": 50,
    "levels.family": "small",
    "levels.lifetime": (5, 60),
    "rule.width": 32,
    "agent.num_workers": 16,
    "agent.num_episodes": 16,
    "evaluation.num_levels": 64,
    "evaluation.horizons": (5, 15, 60),
}
_SMALL_LPO = {
    **_LPO,
    "num_steps": 30,
    "batch_size": 16,
    "log_every": 5,
    "checkpoint.every": 10,
    "ppo.env": "cart_pole",
    "ppo.num_workers": 16,
    "ppo.num_steps": 32,
    "ppo.num_minibatches": 4,
    "ppo.learning_rate": 2.5e-3,
    "ppo.activation": "tanh",
    "ppo.horizon": 30,
    "evaluation.horizons": (15, 30, 60),
    "evaluation.num_seeds": 16,
}
_DEBUG = {
    "num_steps": 3,
    "batch_size": 4,
    "log_every": 1,
    "eval_every": 3,
    "checkpoint.every": 3,
    "levels.family": "debug",
    "levels.lifetime": (2, 4),
    "rule.width": 4,
    "rule.num_predictions": 3,
    "agent.num_workers": 2,
    "agent.num_steps": 5,
    "agent.num_episodes": 2,
    "evaluation.num_levels": 4,
    "evaluation.horizons": (2, 4),
}

_FAMILIES = (
    "all_vrandlife",
    "dense",
    "sparse",
    "long",
    "longer",
    "long_dense",
    "rand_dense",
    "rand_long",
    "rand_small",
    "rand_sparse",
    "rand_very_dense",
    "small",
    "medium",
    "large",
    "all",
    "all_shortlife",
    "all_randlife",
    "mazes",
    "debug",
)

VARIANTS = {
    # The published runs. Both rules by both trainers, since the paper changed the trainer and the
    # inputs together.
    "ta_lpg": {},
    "lpg_evolution": {"temporal": False, "levels.family": "all_shortlife"},
    "lpg": {**_META_GRADIENT, "temporal": False, "levels.family": "all_shortlife"},
    "ta_lpg_meta_gradient": _META_GRADIENT,
    "ta_lpo": {**_LPO, "ppo.env": "gymnax:SpaceInvaders-MinAtar"},
    "lpo": {**_LPO, "temporal": False},
    # Sizes for two CPU cores.
    "small_ta_lpg": _SMALL,
    "small_lpg": {**_SMALL, "temporal": False},
    "small_ta_lpg_meta_gradient": {
        **_SMALL,
        "trainer": "meta_gradient",
        "num_steps": 500,
        "batch_size": 64,
        "meta_gradient.learning_rate": 1e-3,
        "log_every": 10,
        "checkpoint.every": 100,
    },
    "small_ta_lpo": _SMALL_LPO,
    "small_lpo": {**_SMALL_LPO, "temporal": False},
    "debug": _DEBUG,
    "debug_meta_gradient": {**_DEBUG, "trainer": "meta_gradient", "meta_gradient.num_updates": 2},
    "debug_lpo": {
        **_DEBUG,
        "method": "lpo",
        "ppo.env": "cart_pole",
        "ppo.num_workers": 2,
        "ppo.num_steps": 8,
        "ppo.num_minibatches": 1,
        "ppo.widths": (4,),
        "ppo.horizon": 3,
        "evaluation.num_seeds": 2,
    },
}


def get_config(arg: str = "ta_lpg") -> ConfigDict:
    """TA-LPG by evolution with the published settings; `arg` is `variant,key=value,...`."""
    config = settings(
        standard(
            "meta_rl",
            num_steps=2500,
            batch_size=512,  # antithetic pairs or, for meta-gradients, lifetimes; over all devices
            log_every=10,
            eval_every=100,
            checkpoint=dict(every=50),
        ),
        method=choice("lpg", "lpo"),  # lpg: the whole rule, lpo: the drift of PPO
        trainer=choice("evolution", "meta_gradient"),
        temporal=True,  # whether the rule knows n / N
        levels=dict(
            family=choice(*_FAMILIES),
            lifetime=at_least(1, ()),  # () for the lifetimes of the family
        ),
        rule=dict(
            num_predictions=size(8),
            cell=choice("gru", "lstm"),  # the LPG paper has an lstm
            width=size(256),  # of the cell, or of the drift's hidden layer
            embed_width=size(16),
            raw_time_inputs=False,  # True: n and N, as the official code
            gamma_input=between(0, 1, 0.0),  # discount as an input, as the LPG paper; 0 for none
        ),
        agent=dict(
            num_workers=size(64),
            num_steps=size(20),
            alpha_y=at_least(0, 0.5),
            actor_rate=at_least(0, 40.0),  # tabular agents: SGD
            critic_rate=at_least(0, 4.0),
            max_norm=above(0, 0.5),
            widths=size((32,)),  # agents with dense observations: Adam
            adam_rate=at_least(0, 1e-3),
            clip_adam=False,  # as the official code
            num_episodes=size(64),  # of the final return
        ),
        evolution=dict(
            learning_rate=at_least(0, 1e-2),
            learning_rate_decay=between(0, 1, 0.999),
            learning_rate_limit=at_least(0, 1e-5),
            sigma=above(0, 0.1),
            sigma_decay=between(0, 1, 1.0),
            sigma_limit=at_least(0, 0.0),
            shaping=choice("pair_rank", "centred_rank", "z_score"),
            share_run_keys=True,  # the official code draws separate ones
            num_buckets=at_least(1, 4),  # of lifetimes
            pairs_at_a_time=size(0, 0),  # lpo: 0 for all
        ),
        meta_gradient=dict(
            learning_rate=at_least(0, 1e-4),
            num_updates=at_least(1, 5),
            num_chunks=at_least(1, 1),
            policy_entropy_coef=at_least(0, 0.05),
            prediction_entropy_coef=at_least(0, 1e-3),
            pi_hat_coef=at_least(0, 5e-3),
            y_hat_coef=at_least(0, 1e-3),
            train_critic=True,  # False: as the official code
        ),
        ppo=dict(
            env=free("gymnax:Breakout-MinAtar"),
            num_workers=size(64),
            num_steps=size(128),
            num_epochs=at_least(1, 4),
            num_minibatches=at_least(1, 8),
            learning_rate=at_least(0, 5e-3),
            anneal=True,
            gamma=between(0, 1, 0.99),
            gae_lambda=between(0, 1, 0.95),
            entropy_coef=at_least(0, 0.01),
            widths=size((64, 64)),
            activation=choice("relu", "tanh"),
            horizon=at_least(1, 1220),  # updates; 1e7 environment steps
        ),
        evaluation=dict(
            seed=at_least(0, 0),
            num_levels=size(64),
            num_seeds=size(16),
            horizons=filled(at_least(1, (10, 25, 50, 100, 250))),
        ),
    )
    return parse_variant(arg, VARIANTS, config)
