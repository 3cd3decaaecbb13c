"""What learning-rate schedules do, one claim of a paper per study.

convex     linear decay against others for the last iterate, and the theory's bound
language   warm-up and annealing that come out of recorded gradient norms (refinement)
continual  infinite schedule against repeated cosine on a stream of tasks
search     AutoLRS against fixed schedules, its search included

Schedules, peak rates and seeds of a study are trials of one compiled program.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from experiments.schedules import continual, convex, language, search
from jaxtrain.host import cli


class Study(NamedTuple):
    """One claim.

    Attributes:
      run: `(config, context) -> numbers`, a value per seed each.
      validate: raises ValueError for settings that do not go together.
      reads: what it reads of the config besides `SHARED` and the group of its name.
    """

    run: Callable[[ConfigDict, cli.Context], dict[str, Any]]
    validate: Callable[[ConfigDict], None]
    reads: tuple[str, ...]


SHARED = ("seed", "num_seeds", "batch_size", "log_every", "checkpoint", "tensorboard")
STUDIES = {
    "convex": Study(convex.run, convex.validate, ("num_steps",)),
    "language": Study(language.run, language.validate, ("num_steps",)),
    "continual": Study(continual.run, continual.validate, ()),
    "search": Study(search.run, search.validate, ("num_steps", "optimizer")),
}


def own_settings(config: ConfigDict) -> ConfigDict:
    """What the chosen study reads of the config; it never sees the rest."""
    keys = (*SHARED, *STUDIES[config.study].reads, config.study)
    plain = lambda value: value.to_dict() if isinstance(value, ConfigDict) else value
    return ConfigDict({key: plain(config[key]) for key in keys}).lock()


def build(config: ConfigDict, setup: cli.Setup) -> cli.Work:
    """One study."""
    if setup.execution.axis_name is not None:
        raise cli.UsageError("lr_schedules runs under --parallel=jit")
    if jax.process_count() > 1:
        raise cli.UsageError("a study runs in one process; start one")
    return functools.partial(STUDIES[config.study].run, own_settings(config))


def validate(config: ConfigDict) -> None:
    """Raises ValueError for settings that do not go together."""
    STUDIES[config.study].validate(own_settings(config))


main = functools.partial(
    cli.main,
    build,
    validate=validate,
    without=cli.one_process("a study runs in one process")
    | {
        "sweep": "a study is a sweep by itself; set num_seeds and the study's peaks",
    },
)

if __name__ == "__main__":
    main()
