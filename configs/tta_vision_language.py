"""T3AL, zero-shot localisation of actions in videos (Liberatori et al., arXiv 2404.05426).

python -m experiments.tta_vision_language --config=configs/tta_vision_language.py:small

On one CPU core, table in docs/vision_language.md:
small: 25 s; with known labels adapting ranks frames 0.087 better under weak names and 0.037 worse
under good ones; a wrong label ends 0.107 and 0.106 lower, having gained 0.19 and 0.22 from chance.
`full` has the rates and steps of the paper for THUMOS14 and wants features of a CoCa model and its
projections in a file of yours, data.file; it has not been run.
"""

from ml_collections import ConfigDict

from jaxtrain.host.config import parse_variant
from jaxtrain.host.settings import above, at_least, choice, path, settings, size

VARIANTS = {
    "full": {"t3al.learning_rate": 1e-5, "t3al.gap": 20},
    "small": {},
    "debug": {
        "num_seeds": 2,
        "data.num_timelines": 4,
        "data.num_videos": 3,
        "data.num_actions": 3,
        "data.size": 4,
        "t3al.num_steps": 2,
        "t3al.picks": 2,
        "t3al.per_pick": 10,
    },
}


def get_config(arg: str = "small") -> ConfigDict:
    """48 videos in towers of 16 dimensions; `arg` is `variant,key=value,...`."""
    config = settings(
        experiment=choice("tta_vision_language"),
        seed=at_least(0, 0),
        num_seeds=size(5),
        data=dict(
            file=path(""),  # features, names and towers of your own, instead of the following
            timelines=path(""),  # as THUMOS14's annotations; made up without a file
            num_timelines=size(200),
            num_actions=size(20, 2),
            num_videos=size(48, 3),
            size=size(16),  # of latents and towers
        ),
        # names that say little of what their action looks like, and names that say much
        weak=dict(
            misalignment=at_least(0, 3.0), strength=above(0, 0.7), background=at_least(0, 0.15)
        ),
        good=dict(
            misalignment=at_least(0, 0.3), strength=above(0, 1.0), background=at_least(0, 0.25)
        ),
        t3al=dict(
            learning_rate=at_least(0, 3e-3),
            visual=at_least(0, 1e-3),  # rate of the map of frames, relative to it
            num_steps=at_least(0, 60),
            picks=size(4),
            per_pick=size(100),
            jitter=at_least(0, 10),
            width=size(20),
            gap=at_least(0, 2),
        ),
    )
    return parse_variant(arg, VARIANTS, config)
