"""Texts for second attempts."""

import jax
import numpy as np
import pytest

from experiments.lm import correcting
from jaxrl.lm.tasks import symbols
from tests.experiments.lm.answering import RECIPE, pool, prompts, truth


@pytest.mark.parametrize(("kept", "plain"), [(0.0, 0.0), (1.0, 0.0), (0.5, 0.0), (0.5, 1.0)])
def test_the_right_attempt_follows_and_only_it_is_learned(kept, plain):
    of = pool()
    draw = jax.vmap(lambda key: correcting.row(RECIPE, kept, plain, of, key))
    found, right = jax.jit(draw)(jax.random.split(jax.random.key(2), 48)), []
    for tokens, valid, mask, weight in zip(*found, strict=True):
        said = symbols.text(tokens, valid)
        learned = symbols.text(tokens, np.asarray(mask))
        assert said.endswith(learned) and weight == 1
        prompt, _, rest = said.removesuffix(learned).partition("?")
        assert prompt + "?" in prompts()
        assert learned.endswith(f"#{truth(prompt + '?')}$")
        for line in learned.split(";")[:-1]:
            left, result = line.split("=")
            assert int(result) == truth(left + "?")
        if plain:
            assert not rest
        else:
            assert rest.endswith("$~")
            right.append(int(rest[-3]) == truth(prompt + "?"))
    if not plain:
        assert np.mean(right) == kept if kept in (0, 1) else 0.2 < np.mean(right) < 0.8
