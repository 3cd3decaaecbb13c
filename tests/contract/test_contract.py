"""Every core against every check that one device can run; the others are in tests/multidevice."""

import inspect

import pytest

from tests import programs
from tests.contract import battery, cores_adaptation
from tests.contract.cores import CORES, EAGER, LARGE, VARIANTS

CHECKS = {
    "structure": battery.check_structure,
    "metrics": battery.check_metrics,
    "order": battery.check_order,
    "trace_and_donation": battery.check_trace_and_donation,
    "keys": battery.check_keys,
    "resume": battery.check_resume,
    "closures": battery.check_closures,
    "error": battery.check_error,
}
OTHER_CHECKS = ("eager", "scan_of_vmap", "devices", "unchecked_shard_map", "left_out_classes")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(row, marks=[pytest.mark.ci] if row.name in VARIANTS else [], id=row.name)
        for row in CORES
    ],
)
def prepared(request):
    yield battery.prepare(request.param)
    programs.drop_if_large()


@pytest.mark.parametrize("name", CHECKS)
def test_contract(prepared, name, tmp_path):
    if reason := prepared.row.exceptions.get(name):
        pytest.skip(reason)
    check = CHECKS[name]
    needs_folder = "folder" in inspect.signature(check).parameters
    check(prepared, tmp_path / "checkpoints") if needs_folder else check(prepared)


def rows_by_default(names):
    """All rows; those that are not among `names` wait for `-m ci`."""
    rows = [
        pytest.param(row, marks=[] if row.name in names else [pytest.mark.ci], id=row.name)
        for row in CORES
    ]
    return pytest.mark.parametrize("prepared", rows, indirect=True, scope="module")


@rows_by_default({row.name for row in CORES} - LARGE - VARIANTS)
def test_scan_of_vmap(prepared):
    if reason := prepared.row.exceptions.get("scan_of_vmap"):
        pytest.skip(reason)
    battery.check_scan_of_vmap(prepared)


def test_traced_per_device(prepared):
    if reason := prepared.row.exceptions.get("devices"):
        pytest.skip(reason)
    battery.check_traced_per_device(prepared)


IMAGES = pytest.mark.parametrize(
    "prepared",
    [pytest.param(row, id=row.name) for row in cores_adaptation.ROWS],
    indirect=True,
    scope="module",
)


@IMAGES
def test_numbers_that_are_not_finite_change_nothing(prepared):
    battery.check_nonfinite(prepared)


@IMAGES
def test_classes_may_be_left_out(prepared):
    if reason := prepared.row.exceptions.get("left_out_classes"):
        pytest.skip(reason)
    battery.check_left_out_classes(prepared)


@rows_by_default(EAGER)
def test_without_compilation(prepared):
    if reason := prepared.row.exceptions.get("eager"):
        pytest.skip(reason)
    battery.check_eager(prepared)


def test_rows_and_their_exceptions_are_known():
    names = [row.name for row in CORES]
    assert len(set(names)) == len(names) and set(names) >= EAGER | LARGE
    assert all({*CHECKS, *OTHER_CHECKS}.issuperset(row.exceptions) for row in CORES)
