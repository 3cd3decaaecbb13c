"""Processes of one cluster on this machine."""

import socket
import subprocess
from pathlib import Path
from typing import NamedTuple


class Ended(NamedTuple):
    """How a process ended, and what it said."""

    code: int
    out: str
    err: str


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def together(
    commands: list[list[str]], folder: Path, environment: dict[str, str], timeout: float
) -> list[Ended]:
    """Runs the commands at the same time; after `timeout` seconds none of them goes on."""
    processes = [
        subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    try:
        said = [process.communicate(timeout=timeout) for process in processes]
        return [Ended(p.returncode, *texts) for p, texts in zip(processes, said, strict=True)]
    finally:
        for process in processes:
            process.kill()
