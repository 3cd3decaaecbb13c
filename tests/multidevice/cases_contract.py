"""Every core gives the numbers of one device in every execution mode over eight.

With `-m ci` each row of the table meets one mode, in turn: a quarter of the rows guards each mode;
with `-m slow` the other three. By default the battery traces every row for two devices, which finds
what is not reduced, and checks it on one.
"""

import pytest

from jaxtrain import parallel
from tests import programs
from tests.contract import battery
from tests.contract.cores import CORES

MODES = (*parallel.MODES, "unchecked_shard_map")


NAMES = [row.name for row in CORES]


@pytest.fixture(scope="module", params=CORES, ids=NAMES)
def prepared(request):
    yield battery.prepare(request.param)
    programs.drop_if_large()


TURNS = [
    pytest.param(turn, marks=pytest.mark.slow if turn else pytest.mark.ci) for turn in range(4)
]


@pytest.mark.parametrize("turn", TURNS)
def test_contract(prepared, turn):
    mode = MODES[(NAMES.index(prepared.row.name) + turn) % len(MODES)]
    unchecked = mode == "unchecked_shard_map"
    if reason := prepared.row.exceptions.get(mode if unchecked else "devices"):
        pytest.skip(reason)
    if unchecked:
        battery.check_unchecked_shard_map(prepared)
    else:
        battery.check_devices(prepared, mode)
