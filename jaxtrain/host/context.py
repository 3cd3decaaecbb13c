"""What a run gets besides its config: before it is built, and while it works."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from jaxtrain.host import profile, sweep
    from jaxtrain.parallel import Execution


class Setup(NamedTuple):
    """What building a run may look at besides its config.

    Attributes:
      execution: execution mode and mesh.
      sweep: the trials, or None for a single run.
      flags: value of every flag, the experiment's own ones included.
    """

    execution: Execution
    sweep: sweep.Axes | None
    flags: dict[str, Any]


class Context(NamedTuple):
    """What a run gets besides its config.

    Attributes:
      workdir: the work folder; exists.
      execution: execution mode and mesh.
      sweep: the trials, or None for a single run.
      flags: value of every flag, the experiment's own ones included.
      profile: for `--profile`, the `bracket` of `loop.train` that records the profile; or None.
    """

    workdir: Path
    execution: Execution
    sweep: sweep.Axes | None
    flags: dict[str, Any]
    profile: profile.Trace | None = None


Work = Callable[[Context], Mapping[str, Any] | None]
