"""The least time of a step by hand, on a chip with round numbers."""

import pytest

from jaxtrain.host.chips import CHIPS, Chip, roofline
from jaxtrain.host.costs import Cost

CHIP = Chip("made up", 100, {"bfloat16": 8.0, "float32": 4.0}, 10.0, 5.0)
COST = Cost({"bfloat16": 32.0, "float32": 16.0, "float64": 4.0}, 60.0)


def test_each_resource_by_hand():
    found = roofline(CHIP, COST, 2, state=30.0, sent=20.0)
    assert found.products == (32 / 8 + 16 / 4 + 4 / 4) / 2  # an unknown type at the lowest rate
    assert found.memory == (60 / 2 + 2 * 30) / 10  # read and written
    assert found.links == 20 / 5
    assert found.seconds == 9.0 and found.bound == "memory"


def test_the_slowest_resource_bounds_a_step():
    assert roofline(CHIP, COST, 1, state=0.0, sent=0.0).bound == "products"
    assert roofline(CHIP, COST, 1, state=0.0, sent=99.0).bound == "links"


@pytest.mark.parametrize("name", CHIPS)
def test_the_table_is_in_bytes_and_operations_a_second(name):
    chip = CHIPS[name]
    assert 16 * 2**30 <= chip.memory <= 95 * 2**30
    assert 1e14 < min(chip.flops.values()) <= max(chip.flops.values()) < 1e15
    assert 1e11 < chip.link < chip.bandwidth < 1e13
