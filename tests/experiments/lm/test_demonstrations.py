"""Decoders of a config, and rows to learn from."""

import numpy as np

from experiments.lm.demonstrations import decoder_of, example
from jaxrl.lm.tasks import symbols
from jaxtrain.host.config import load
from jaxtrain.lm.decoder import PUBLISHED


def test_a_decoder_has_a_published_shape_or_the_sizes_of_the_config():
    full, small = (load(f"configs/lm_reward.py:{name}")[0].model for name in ("dco", "dco_small"))
    assert decoder_of(full).config == PUBLISHED["llama3_8b"]
    config = decoder_of(small).config
    assert (config.vocabulary, config.width, config.hidden) == (len(symbols.ALPHABET), 64, 256)


def test_the_loss_of_a_demonstration_is_on_the_response():
    response = symbols.only_if(np.array(True), symbols.number(np.array(5), 2))
    row = example(symbols.written("3+2?"), response)
    assert symbols.text(row.tokens, row.valid) == "3+2?5"
    assert symbols.text(row.tokens, row.mask) == "5" and row.weight == 1
