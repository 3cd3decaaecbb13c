"""Every core gives the numbers of one device in every execution mode over eight.

By default each row of the table meets one mode, in turn; with `-m ci` all the others.
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


@pytest.mark.parametrize("turn", [0, *(pytest.param(n, marks=pytest.mark.ci) for n in (1, 2, 3))])
def test_contract(prepared, turn):
    mode = MODES[(NAMES.index(prepared.row.name) + turn) % len(MODES)]
    unchecked = mode == "unchecked_shard_map"
    if reason := prepared.row.exceptions.get(mode if unchecked else "devices"):
        pytest.skip(reason)
    if unchecked:
        battery.check_unchecked_shard_map(prepared)
    else:
        battery.check_devices(prepared, mode)
