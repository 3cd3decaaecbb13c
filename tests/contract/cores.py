"""The table of all cores that keep the contract; `battery.py` says what that is.

A new method is one more `Row` in the file of its family. Keep it tiny: a row costs a few
compilations in every test run.
"""

from tests.contract import (
    cores_adaptation,
    cores_alone,
    cores_dense,
    cores_host,
    cores_in_context,
    cores_lm,
    cores_lpn,
    cores_mechanisms,
    cores_offline,
    cores_rl,
    cores_supervised,
)

CORES = [
    *cores_adaptation.ROWS,
    *cores_dense.ROWS,
    *cores_supervised.ROWS,
    *cores_mechanisms.ROWS,
    *cores_lpn.ROWS,
    *cores_in_context.ROWS,
    *cores_rl.ROWS,
    *cores_offline.ROWS,
    *cores_lm.ROWS,
    *cores_alone.ROWS,
    *cores_host.ROWS,
]

# Without compilation every operation is a program of its own, so one core per family runs so by
# default, and all of them with `-m ci`.
EAGER = {"tent", "supervised_dropout", "entropy_minimiser", "in_context_lstm", "evolution"}

# The cores of other rows, `lpn`, `lm_policy_gradient`, `cotta` and `fst`, with other losses, parts
# or networks, which have tests of their own.
VARIANTS = {
    "lpn_gradient_ascent",
    "lpn_in_context",
    "lm_policy_gradient_in_turns",
    "cotta_of_pixels",
    "fst_wide",
}

# A program of theirs takes ten seconds and more to compile: one program by default, not two.
LARGE = {"noise_training", "itta_training", "ta_lpg_meta_gradient"}
