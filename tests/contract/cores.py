"""The table of all cores that keep the contract; `battery.py` says what that is.

A new method is one more `Row` in the file of its family. Keep it tiny: a row costs a few
compilations in every test run.
"""

import pytest

from tests.contract import (
    cores_adaptation,
    cores_host,
    cores_in_context,
    cores_lpn,
    cores_mechanisms,
    cores_rl,
    cores_supervised,
)

CORES = [
    *cores_adaptation.ROWS,
    *cores_supervised.ROWS,
    *cores_mechanisms.ROWS,
    *cores_lpn.ROWS,
    *cores_in_context.ROWS,
    *cores_rl.ROWS,
    *cores_host.ROWS,
]

SLOW = {
    "lpn_gradient_ascent",
    "lpn_in_context",
    "in_context_transformer",
    "ta_lpo",
    "evolution_centred_rank",
    "ta_lpg_meta_gradient",
    *(row.name for row in cores_adaptation.ROWS if row.name not in ("batch_norm", "tent")),
}
MARKED = [
    pytest.param(row, marks=pytest.mark.slow if row.name in SLOW else (), id=row.name)
    for row in CORES
]
