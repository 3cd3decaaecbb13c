"""Every core gives the numbers of one device in every execution mode over eight."""

import pytest

from tests.contract import battery
from tests.contract.cores import MARKED

CHECKS = {
    "devices": battery.check_devices,
    "unchecked_shard_map": battery.check_unchecked_shard_map,
}


@pytest.fixture(scope="module", params=MARKED)
def prepared(request):
    return battery.prepare(request.param)


@pytest.mark.parametrize("name", CHECKS)
def test_contract(prepared, name):
    if reason := prepared.row.exceptions.get(name):
        pytest.skip(reason)
    CHECKS[name](prepared)
