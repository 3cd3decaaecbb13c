"""Every core against every check that one device can run; the others are in tests/multidevice."""

import inspect

import pytest

from tests.contract import battery
from tests.contract.cores import CORES, MARKED

CHECKS = {
    "structure": battery.check_structure,
    "metrics": battery.check_metrics,
    "order": battery.check_order,
    "eager": battery.check_eager,
    "vmap": battery.check_vmap,
    "scan": battery.check_scan,
    "trace_and_donation": battery.check_trace_and_donation,
    "keys": battery.check_keys,
    "resume": battery.check_resume,
    "closures": battery.check_closures,
    "error": battery.check_error,
}
DEVICE_CHECKS = ("devices", "unchecked_shard_map")


@pytest.fixture(scope="module", params=MARKED)
def prepared(request):
    return battery.prepare(request.param)


@pytest.mark.parametrize("name", CHECKS)
def test_contract(prepared, name, tmp_path):
    if reason := prepared.row.exceptions.get(name):
        pytest.skip(reason)
    check = CHECKS[name]
    needs_folder = "folder" in inspect.signature(check).parameters
    check(prepared, tmp_path / "checkpoints") if needs_folder else check(prepared)


def test_exceptions_name_checks():
    known = {*CHECKS, *DEVICE_CHECKS}
    assert all(known.issuperset(row.exceptions) for row in CORES)
    assert len({row.name for row in CORES}) == len(CORES)
