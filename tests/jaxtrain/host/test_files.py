"""JSON is JSON; that files appear whole or not at all is in `tests/jaxtrain/test_replacing.py`."""

import json
import math

import numpy as np
import pytest

from jaxtrain.host import files


def test_json_has_null_for_numbers_that_it_cannot_hold(tmp_path):
    tree = {"a": math.nan, "b": [1.5, -math.inf, {"c": (math.inf, 2)}], "d": np.float64("nan")}
    files.write_json(tmp_path / "x.json", tree)
    refuse = lambda token: pytest.fail(f"{token} is no JSON")
    found = json.loads((tmp_path / "x.json").read_text(), parse_constant=refuse)
    assert found == {"a": None, "b": [1.5, None, {"c": [None, 2]}], "d": None}
