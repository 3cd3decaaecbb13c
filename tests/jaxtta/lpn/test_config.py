"""Published sizes, and settings that are refused."""

import pytest

from jaxtta.lpn import LPN, Block, Config


def sized(side, latent_dim, encoder, decoder):
    return Config(side, side, latent_dim, Block(*encoder), Block(*decoder))


OVERFIT = ((0, 6, 16, 1), (3, 6, 16, 1))
PUBLISHED = {  # name: (side, H, encoder, decoder, encoder and decoder parameters)
    "pattern_2d": (4, 2, (2, 6, 12, 4), (2, 6, 12, 4), 126_792, 127_872),
    "pattern_4": (10, 32, (2, 6, 16, 1), (2, 6, 16, 1), 121_824, 121_536),
    "pattern_ood": (10, 32, (4, 8, 8, 2), (2, 8, 4, 1), 138_560, 15_936),
    "arc_train_overfit/007bbfb7": (30, 32, *OVERFIT, 18_912, 188_352),
    "arc_train_overfit/045e512c": (30, 32, (0, 6, 16, 1), (4, 8, 32, 2), 18_912, 2_157_056),
    "arc_train_scaling/1": (30, 64, (0, 8, 16, 1), (6, 8, 16, 1), 33_408, 623_872),
    "arc_train_scaling/5": (30, 64, (2, 4, 16, 1), (6, 8, 32, 1), 65_856, 2_427_392),
    "arc_train_scaling/25": (30, 64, (2, 8, 16, 1), (6, 8, 32, 1), 230_016, 2_427_392),
    "arc_train_scaling/100": (30, 64, (4, 8, 16, 1), (6, 8, 32, 1), 426_624, 2_427_392),
    "arc_train_scaling/400": (30, 64, (4, 8, 32, 4), (8, 8, 32, 4), 3_212_544, 6_359_552),
    "arc_train": (30, 128, (4, 8, 32, 4), (4, 8, 32, 4), 3_245_312, 3_230_208),
    "arc_neurips": (30, 256, (8, 8, 64, 4), (6, 8, 64, 4), 25_496_064, 19_108_864),
    "debug": (4, 32, (2, 6, 8, 4), (2, 6, 8, 4), 59_760, 59_040),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts(name):
    *sizes, encoder, decoder = PUBLISHED[name]
    counts = LPN(sized(*sizes)).num_parameters()
    assert counts == {"encoder": encoder, "decoder": decoder, "total": encoder + decoder}


def test_parameter_count_of_the_first_paper():
    counts = LPN(sized(30, 256, (4, 8, 32, 4), (8, 8, 32, 4))).num_parameters()
    assert counts["total"] == 9_719_552 == 38_878_208 // 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": "fourier"}, "'fourier'; choose one of learned, scaled, rope"),
        ({"activation": "tanh"}, "'tanh'; choose one of silu, relu"),
        ({"positions": "rope", "encoder": Block(1, 2, 6)}, "encoder.head_dim is 6"),
        ({"fused": "flash"}, "'flash'; choose xla, cudnn or None"),
        ({"fused": "cudnn"}, "which needs dtype 'bfloat16'"),
        ({"fused": "cudnn", "dtype": "bfloat16", "encoder": Block(1, 2, 12)}, "multiples of 8"),
        ({"dropout": 1.0}, "dropout is 1.0; it must be at least 0 and below 1"),
        ({"decoder": Block(0, 2, 4)}, "decoder.num_layers must be at least 1"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**changes)
