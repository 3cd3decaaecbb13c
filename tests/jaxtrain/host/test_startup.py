"""When a process joins a cluster."""

import os

import jax
import pytest

from jaxtrain.host import startup
from jaxtrain.host.config import UsageError


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4"}, False),  # an allocation without srun
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "JAX_PLATFORMS": "cpu"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_SKIP_MDS_QUERY": "1"}, False),
        ({"MEGASCALE_COORDINATOR_ADDRESS": "a"}, True),
    ],
)
def test_start_joins_a_cluster_only_where_the_environment_names_one(
    monkeypatch, environment, expected
):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "TPU_", "MEGASCALE_", "JAX_PLATFORMS")):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    joined = []
    initialize = lambda *args, **timeouts: joined.append((args, timeouts))
    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    startup.join_processes(join_timeout=7, partner_timeout=5)
    timeouts = dict(
        initialization_timeout=7, heartbeat_timeout_seconds=5, shutdown_timeout_seconds=5
    )
    assert joined == ([((None, None, None), timeouts)] if expected else [])


def test_launcher_without_a_meeting_point_is_a_usage_error(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")

    def refuse(*_, **__):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    with pytest.raises(UsageError, match="names several processes but not where they meet"):
        startup.join_processes()
