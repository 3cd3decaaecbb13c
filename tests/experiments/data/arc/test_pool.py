"""Worker processes: time limits, errors, deaths, and an end with their parent."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from experiments.data.arc import rearc
from experiments.data.arc.pool import Pool
from experiments.data.arc.rearc import Options
from tests.experiments.data.arc.rearc_cases import installed

ROOT = Path(__file__).parents[4]


@installed
def test_worker_honours_the_time_limit_and_reports_errors():
    patch = textwrap.dedent("""
        from experiments.data.arc import rearc
        def endless(rng, low, high):
            while True:
                rng.random()
        generators = rearc.load_generators().generate
        for name in list(generators):
            if name not in ("007bbfb7", "25ff71a9"):
                del generators[name]
        generators["007bbfb7"] = endless
    """)
    with Pool(1) as one:
        one.submit(exec, patch, {}).result()
        begin = time.monotonic()
        drawn = one.submit(rearc.sample_tasks, Options(time_limit=0.05), 0, list(range(8))).result()
        assert {sample.task_id for sample in drawn} == {"25ff71a9"}
        assert time.monotonic() - begin < 20
        with pytest.raises(rearc.RearcError, match="no Re-ARC generator 'x'"):
            one.submit(rearc.sample_task, Options(overfit_task="x"), 0, 0).result()
        with pytest.raises(ZeroDivisionError):  # and it goes on working
            one.submit(divmod, 1, 0).result()


def test_dead_worker_is_reported():
    with Pool(1) as one:
        with pytest.raises(rearc.RearcError, match="a Re-ARC worker process ended unexpectedly"):
            one.submit(os._exit, 1).result()
    with pytest.raises(ValueError, match="num_workers is 0"):
        Pool(0)


def test_workers_end_with_their_parent():
    code = """
        import os, time
        from experiments.data.arc.pool import Pool
        pool = Pool(2)
        print(*[pool.submit(os.getpid).result() for _ in range(20)], flush=True)
        pool.submit(time.sleep, 1000)
        time.sleep(1000)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    workers = set(map(int, parent.stdout.readline().split()))
    assert workers
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 20
    while any(map(_is_running, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _is_running(process_id):
    try:
        status = Path(f"/proc/{process_id}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"  # an orphan may wait to be collected


def test_strings_have_one_hash_in_all_workers():
    with Pool(1) as one, Pool(1) as other:
        assert one.submit(hash, "colour").result() == other.submit(hash, "colour").result()


def test_what_a_function_prints_is_no_answer():
    with Pool(1) as one:
        assert one.submit(exec, "print('no answer', flush=True)", {}).result() is None
        assert one.submit(divmod, 7, 2).result() == (3, 1)
