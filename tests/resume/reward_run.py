"""A short run that learns from reward, killed before it logs a step if one is named.

python -m tests.resume.reward_run <core> <workdir> <step>
"""

import sys
from pathlib import Path

import jax

from jaxtrain.host import loop, metrics
from jaxtrain.host.checkpoint import Checkpoints
from jaxtrain.host.data import Generated
from jaxtrain.host.metrics import Writer
from jaxtrain.parallel import Execution, make_mesh
from tests.contract import cores_lm
from tests.contract.row import BATCH_SIZE, Row
from tests.resume.moments import at_step, before, die

NUM_STEPS, EVERY = 6, 2
DATA = Generated(lambda key, index: index, BATCH_SIZE)


def row_of(name: str) -> Row:
    return next(row for row in cores_lm.ROWS if row.name == name)


def run(name: str, workdir: str | Path) -> None:
    row, workdir = row_of(name), Path(workdir)
    core = row.build(None)
    with Checkpoints(workdir / "checkpoints", every=EVERY, keep=9) as saved:
        state, start, meta = saved.restore_or(jax.jit(core.init)(*row.init_args()))
        with Writer(workdir, start, tensorboard=False) as writer:
            loop.train(
                core,
                state,
                data=DATA,
                key=jax.random.key(5),
                num_steps=NUM_STEPS,
                log_every=1,
                execution=Execution("jit", make_mesh({"data": 1})),
                checkpoints=saved,
                writer=writer,
                start=start,
                meta=meta,
            )


def main(name: str, workdir: str, step: str) -> None:
    before(metrics.Writer, "write", die, at_step(int(step)))
    run(name, workdir)


if __name__ == "__main__":
    main(*sys.argv[1:])
