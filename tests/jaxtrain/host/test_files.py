"""Files appear whole or not at all, and JSON is JSON."""

import json
import math

import numpy as np
import pytest

from jaxtrain.host import files


def test_a_file_is_replaced_at_the_end_and_only_then(tmp_path):
    path = tmp_path / "deep" / "x.txt"
    files.write_text(path, "old")
    with pytest.raises(OSError, match="full"), files.replacing(path) as part:
        part.write_text("ne")
        assert path.read_text() == "old" and part.suffix == ".txt"
        raise OSError("full")
    assert [file.name for file in path.parent.iterdir()] == ["x.txt"] and path.read_text() == "old"
    files.write_text(path, "new")
    assert path.read_text() == "new"


def test_json_has_null_for_numbers_that_it_cannot_hold(tmp_path):
    tree = {"a": math.nan, "b": [1.5, -math.inf, {"c": (math.inf, 2)}], "d": np.float64("nan")}
    files.write_json(tmp_path / "x.json", tree)
    refuse = lambda token: pytest.fail(f"{token} is no JSON")
    found = json.loads((tmp_path / "x.json").read_text(), parse_constant=refuse)
    assert found == {"a": None, "b": [1.5, None, {"c": [None, 2]}], "d": None}
