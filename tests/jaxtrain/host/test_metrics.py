"""Metric files: exact text, resuming, torn lines; console, TensorBoard and W&B."""

import json
import resource
import shutil
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX import SummaryWriter  # noqa: F401 (imported by Writer, slow the first time)

from jaxtrain.host import metrics
from jaxtrain.host.config import UsageError
from jaxtrain.host.metrics import Writer


def lines(folder, name="metrics.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_lines_hold_numbers_lists_and_null(tmp_path):
    with Writer(tmp_path, tensorboard=False) as writer:
        writer.write(5, {"loss": np.float64(0.1), "n": jnp.int32(3), "ok": np.bool_(True)})
        writer.write(10, {"loss": jnp.asarray([0.5, jnp.nan, -jnp.inf]), "x": float("nan")})
        writer.timing(10, {"seconds": 1.5})
    assert (tmp_path / "metrics.jsonl").read_text() == (
        '{"step": 5, "loss": 0.1, "n": 3, "ok": true}\n'
        '{"step": 10, "loss": [0.5, null, null], "x": null}\n'
    )
    assert lines(tmp_path, "timing.jsonl") == [{"step": 10, "seconds": 1.5}]


def test_a_line_is_in_the_file_as_soon_as_it_is_written(tmp_path):
    writer = Writer(tmp_path, tensorboard=False)
    writer.write(1, {"loss": 1.0})
    assert lines(tmp_path) == [{"step": 1, "loss": 1.0}]
    writer.close()
    writer.close()


def test_resuming_drops_later_lines_and_a_torn_one_and_keeps_the_rest_byte_for_byte(tmp_path):
    kept = '{"step": 5, "loss": 1e-7}\n{"step": 10,  "loss": 2}\n{"step": 10, "eval/loss": 3}\n'
    later = '{"step": 15, "loss": 4}\n{"step": 20, "lo'
    for name in ("metrics.jsonl", "timing.jsonl"):
        (tmp_path / name).write_text(kept + later)
    assert [record["step"] for record in metrics.read(tmp_path / "metrics.jsonl")] == [
        5,
        10,
        10,
        15,
    ]
    Writer(tmp_path, start_step=10, tensorboard=False).close()
    for name in ("metrics.jsonl", "timing.jsonl"):
        assert (tmp_path / name).read_text() == kept
    Writer(tmp_path, start_step=0, tensorboard=False).close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


@pytest.mark.parametrize("torn", ['{"step": 15}', '{"st', "7", "[]", '{"step": 1', "\x00\x00"])
def test_a_torn_last_line_is_dropped_whatever_it_looks_like(tmp_path, torn):
    (tmp_path / "metrics.jsonl").write_text('{"step": 5}\n' + torn)
    Writer(tmp_path, start_step=100, tensorboard=False).close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 5}\n'


def test_a_broken_line_inside_is_an_error_that_names_it(tmp_path):
    content = '{"step": 5}\n{"st\n{"step": 10}\n'
    (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(UsageError, match=r"metrics.jsonl, line 2 is not a metrics line"):
        Writer(tmp_path, start_step=10, tensorboard=False)
    assert (tmp_path / "metrics.jsonl").read_text() == content


def test_lines_that_are_missing_before_a_checkpoint_are_noticed(tmp_path):
    with Writer(tmp_path, tensorboard=False) as writer:
        for step in (1, 2, 3):
            writer.write(step, {"loss": 1.0})
        assert writer.lines == 3
    file, options = tmp_path / "metrics.jsonl", dict(tensorboard=False, lines=2)
    content = file.read_text()
    file.write_text(content.partition("\n")[2])
    with pytest.raises(UsageError, match="has 1 of the 2 lines that belong to the checkpoint of"):
        Writer(tmp_path, 2, **options)
    assert file.read_text() == content.partition("\n")[2]
    file.write_text(content)
    with Writer(tmp_path, 2, **options) as writer:
        assert writer.lines == 2
    file.unlink()
    with pytest.raises(UsageError, match="has 0 of the 2 lines"):
        Writer(tmp_path, 2, **options)


def test_a_disk_that_is_full_names_the_file_and_keeps_what_it_has(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Writer(tmp_path, tensorboard=False) as writer:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
            with pytest.raises(OSError, match="File too large: .*metrics.jsonl"):
                for step in range(1, 99):
                    writer.write(step, {"loss": 0.5})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [line["step"] for line in metrics.read(tmp_path / "metrics.jsonl")][:3] == [1, 2, 3]


def test_console_line(tmp_path, capsys):
    with Writer(tmp_path, tensorboard=False) as writer:
        numbers = {"loss": np.asarray([1.0, 2.0, np.nan]), "accuracy": 0.25}
        writer.progress(30, 120, numbers, 12.34, 3725.0)
        writer.progress(60, 120, {}, 1234.5, 61.2)
    assert capsys.readouterr().out == (
        "step 30/120 (25%)  loss 1.5  accuracy 0.25  12.3 steps/s  ETA 1h02m\n"
        "step 60/120 (50%)    1.23e+03 steps/s  ETA 1m01s\n"
    )


def test_only_the_first_process_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("jax.process_index", lambda: 1)
    with Writer(tmp_path / "run") as writer:
        writer.write(1, {"loss": 1.0})
        writer.timing(1, {"seconds": 1.0})
        writer.progress(1, 2, {"loss": 1.0}, 1.0, 1.0)
        writer.flush()
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().out == ""


def events(folder):
    """(kind, step, value) of every TensorBoard event, file after file."""
    import struct

    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack("<Q", data[at : at + 8])
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += 16 + size
            if event.WhichOneof("what") == "session_log":
                found.append(("start", event.step, None))
            for value in event.summary.value:
                found.append((value.tag, event.step, value.simple_value))
    return found


def test_tensorboard_gets_means_and_purges_what_is_computed_again(tmp_path):
    with Writer(tmp_path) as writer:
        writer.write(10, {"loss": [1.0, 2.0]})
        writer.write(20, {"loss": [3.0, float("nan")]})
        writer.timing(20, {"seconds": 0.5})
    with Writer(tmp_path, start_step=10) as writer:
        writer.write(20, {"loss": [3.0, 5.0]})
    assert events(tmp_path / "tensorboard") == [
        ("start", 1, None),
        ("loss", 10, 1.5),
        ("loss", 20, 3.0),
        ("timing/seconds", 20, 0.5),
        ("start", 11, None),
        ("loss", 20, 4.0),
    ]


def test_wandb_is_imported_only_if_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it fails
    Writer(tmp_path, tensorboard=False).close()
    with pytest.raises(UsageError, match="wandb is not installed"):
        Writer(tmp_path, tensorboard=False, wandb={"project": "p"})


def test_wandb_gets_the_same_run_after_a_resume(tmp_path, monkeypatch):
    calls = []

    def init(**arguments):
        calls.append(arguments)
        log = lambda numbers, step: calls.append((step, numbers))
        return types.SimpleNamespace(log=log, finish=lambda: calls.append("finish"))

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    for start in (0, 3):
        with Writer(tmp_path, start, tensorboard=False, wandb={"project": "p"}) as writer:
            writer.write(start + 3, {"loss": [1.0, 3.0], "missing": np.nan})
    first, log, end = calls[:3]
    assert first == calls[3]
    with Writer(tmp_path, tensorboard=False, wandb={"project": "p"}):  # begun anew in this folder
        assert calls[6]["id"] != first["id"]
    shutil.rmtree(tmp_path)
    with Writer(tmp_path, 3, tensorboard=False, wandb={"project": "p"}):
        assert len({calls[8]["id"], calls[6]["id"], first["id"]}) == 3
    assert first["project"] == "p" and first["resume"] == "allow" and len(first["id"]) == 16
    assert log == (3, {"loss": 2.0}) and end == "finish"
