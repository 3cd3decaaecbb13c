"""Start-up of runs of several processes: joining them, and making sure that they agree."""

import hashlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxtrain.host import partners, workdir
from jaxtrain.host.config import UsageError


def _cluster_in_environment() -> bool:
    """Whether a launcher started several processes, or this TPU machine may be one of many."""
    env = os.environ
    if int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1 or int(env.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        return True
    platform = (env.get("JAX_PLATFORMS") or "tpu").split(",")[0]
    if platform != "tpu" or "TPU_SKIP_MDS_QUERY" in env:
        return False
    if "MEGASCALE_COORDINATOR_ADDRESS" in env:
        return True
    hosts = env.get("TPU_PROCESS_ADDRESSES") or env.get("TPU_WORKER_HOSTNAMES") or ""
    chips = any(Path("/dev").glob("accel[0-9]*")) or any(Path("/dev/vfio").glob("[0-9]*"))
    return "," in hosts or (chips and importlib.util.find_spec("libtpu") is not None)


def join_processes(
    coordinator: str = "",
    num_processes: int | None = None,
    process_id: int | None = None,
    join_timeout: int = 300,
    partner_timeout: int = 40,
) -> None:
    """Joins the processes of a run; call before any other use of JAX.

    With the first three arguments, joins that cluster. Without, asks the environment (TPU pod,
    SLURM, Open MPI) and does nothing where it names no cluster. `partners.join` says what the two
    timeouts are.

    Raises:
      UsageError: some of the three arguments are missing or impossible, the launcher's settings
        are incomplete, or not all processes came.
    """
    for name, seconds in (("join_timeout", join_timeout), ("partner_timeout", partner_timeout)):
        if not 1 <= seconds <= 86_400:
            raise UsageError(f"--{name}={seconds} must be from 1 to 86400 seconds")
    timeouts = join_timeout, partner_timeout
    given = (bool(coordinator), num_processes is not None, process_id is not None)
    if any(given):
        if num_processes is None or process_id is None or not coordinator:
            raise UsageError(
                "--coordinator, --num_processes and --process_id go together; give all or none"
            )
        if not 0 <= process_id < num_processes:
            raise UsageError(
                f"--process_id={process_id} must be from 0 to {num_processes - 1}, because "
                f"--num_processes={num_processes}"
            )
        partners.join(*timeouts, coordinator, num_processes, process_id)
        partners.watch(partner_timeout, coordinator)
    elif not jax.distributed.is_initialized() and _cluster_in_environment():
        try:
            partners.join(*timeouts)
            partners.watch(partner_timeout, "")
        except ValueError as error:
            raise UsageError(
                f"the environment names several processes but not where they meet ({error}); give "
                "--coordinator, --num_processes and --process_id"
            ) from error


def check_same_everywhere(settings: Any) -> None:
    """Compares settings over processes; different ones are the usual cause of hanging runs.

    Args:
      settings: anything that JSON can hold.

    Raises:
      UsageError: on every process, naming those that differ from process 0.
    """
    if jax.process_count() == 1:
        return
    text = json.dumps([settings, jax.__version__], sort_keys=True)
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.int32)
    digests = np.asarray(multihost_utils.process_allgather(digest))
    other = [i for i, row in enumerate(digests) if (row != digests[0]).any()]
    if other:
        raise UsageError(
            f"the config, the flags or the JAX version of processes {', '.join(map(str, other))} "
            "differ from those of process 0; start all processes with the same command"
        )


def of_first(text: str, longest: int = 4096) -> str:
    """The `text` of process 0, on every process; cut after `longest` bytes."""
    if jax.process_count() == 1:
        return text
    padded = np.frombuffer(text.encode()[:longest].ljust(longest), np.uint8)
    told = bytes(multihost_utils.broadcast_one_to_all(padded))
    return told.decode(errors="ignore").rstrip()


def agree_on_folder(given: str, name: str) -> Path:
    """The work folder, the same on all processes."""
    if given:
        return Path(given)
    return Path(of_first(str(workdir.fresh(name)) if jax.process_index() == 0 else ""))
