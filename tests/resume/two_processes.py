"""One of two processes of `benchmarks.tiny_run`, with a signal to the second one if asked for.

python -m tests.resume.two_processes <address> <process id> <workdir> <mode> <data> <disturb>
"""

import sys

import jax

from benchmarks import tiny_run
from jaxtrain.host import loop, metrics
from tests.resume.moments import at_step, before, terminate


def main(address: str, process: str, workdir: str, mode: str, data: str, disturb: str) -> None:
    jax.distributed.initialize(address, 2, int(process))
    if disturb == "yes" and process == "1":
        before(metrics.Writer, "write", terminate, at_step(30))
    try:
        tiny_run.run(workdir, data, 60, mode)
    except loop.Preempted as stop:
        print(stop)
        sys.exit(3)


if __name__ == "__main__":
    main(*sys.argv[1:])
