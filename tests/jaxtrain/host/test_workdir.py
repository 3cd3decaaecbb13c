"""What process 0 writes beside metrics and checkpoints."""

import json
import os
import time

import pytest

from jaxtrain.host import workdir


def test_json_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "deep" / "x.json"
    workdir.write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        workdir.write_json(file, {"a": object()})
    assert json.loads(file.read_text()) == {"a": 1}


def test_time_of_a_killed_start_is_counted_until_its_last_write(tmp_path):
    began = time.time() - 1000
    stamp = workdir.datetime.datetime.fromtimestamp(began, workdir.datetime.UTC)
    base = {"cores": 4, "processes": 2, "devices": {"count": 8}}
    start = base | {"started": stamp.isoformat(timespec="seconds"), "seconds": None}
    workdir.write_json(tmp_path / "environment.json", {"starts": [start]})
    (tmp_path / "metrics.jsonl").write_text("")
    os.utime(tmp_path / "environment.json", (began, began))
    os.utime(tmp_path / "metrics.jsonl", (began + 360, began + 360))
    totals = workdir.Clock(tmp_path, start | {"started": stamp.isoformat()}).stop()
    assert totals["starts"] == 2
    assert totals["wall_seconds"] == pytest.approx(360, abs=2)
    assert totals["core_hours"] == pytest.approx(0.8, abs=0.01)  # 0.1 h * 4 cores * 2 processes
    assert totals["device_hours"] == pytest.approx(0.8, abs=0.01)
