"""What is known is checked, what is traced passes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.known_numbers import check_known, check_whole


@pytest.mark.parametrize("value", [-1, 0.0, np.float32(-2), np.int64(0), float("nan")])
def test_impossible_numbers_are_named(value):
    with pytest.raises(ValueError, match=r"beta is .*; it must be above 0\.$"):
        check_known(lambda x: x > 0, "above 0", alpha=1.0, beta=value)


def test_what_is_not_known_passes():
    check_known(lambda x: x > 0, "above 0", none=None, vector=np.array([-1.0, 1.0]))
    traced = jax.make_jaxpr(lambda x: (check_known(lambda y: y > 0, "above 0", x=x), x)[1])
    assert traced(jnp.float32(-1)).out_avals[0].shape == ()


@pytest.mark.parametrize("value", [0, 4, 2.0, "2", None, float("nan")])
def test_structure_is_a_whole_number(value):
    check_whole(1, 3, a=2, b=np.int32(3))
    with pytest.raises(ValueError, match="size is .*; it must be a whole number from 1 to 3"):
        check_whole(1, 3, a=2, size=value)
