"""Which state a run starts from: its own checkpoint, another run's, given parameters, or
scratch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxtrain.host.checkpoint import Checkpoints, Restored, load
from jaxtrain.parallel import REPLICATED


def begin(
    init: Callable[[], Any],
    checkpoints: Checkpoints,
    mesh: Mesh,
    *,
    spec: P = REPLICATED,
    resume_from: str = "",
    init_from: str = "",
    read_params: Callable[[str, Any], Any] | None = None,
    report: Callable[[str], None] = print,
) -> Restored:
    """Makes or reads the state of a run, in this order of preference, and says which it was.

    1. the newest good checkpoint of the run itself;
    2. `resume_from`: state and step of another run (to go on in another training mode, for
    example);
    3. `init_from`: parameters only, at step 0;
    4. scratch.

    Args:
      init: makes the state (traced and compiled here, placed on the mesh).
      checkpoints: of this run.
      mesh: where the state lives.
      spec: partition spec of every leaf of the state.
      resume_from: folder of a run or of a checkpoint.
      init_from: the same, or a file that `read_params` understands.
      read_params: `(path, abstract params) -> params`; default reads checkpoints of ours.
      report: says which way was taken.

    Returns:
      State, step and metadata.
    """
    sharding = NamedSharding(mesh, spec)
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), jax.eval_shape(init)
    )
    restored = checkpoints.restore_or(abstract)
    if restored.meta or restored.step:
        report(f"starting from step {restored.step} of {checkpoints.directory.parent.name}")
        return restored
    if resume_from:
        restored = load(resume_from, abstract)
        report(f"starting from state and step {restored.step} of {Path(resume_from).name}")
        return Restored(restored.tree, restored.step, {})
    state = jax.jit(init, out_shardings=sharding)()
    if init_from:
        read = read_params or (lambda path, like: load(path, like, field="params").tree)
        params = read(init_from, abstract.params)
        params = jax.tree.map(lambda x: jax.device_put(x, sharding), params)
        report(f"starting from the parameters of {Path(init_from).name}")
        return Restored(state._replace(params=params), 0, {})
    report("starting from scratch")
    return Restored(state, 0, {})
