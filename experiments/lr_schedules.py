"""What learning-rate schedules do, one claim of a paper per study.

convex     linear decay against others for the last iterate, and the theory's bound
language   warm-up and annealing that come out of recorded gradient norms (refinement)
continual  infinite schedule against repeated cosine on a stream of tasks
search     AutoLRS against fixed schedules, its search included

Schedules, peak rates and seeds of a study are trials of one compiled program.
"""

import functools
from typing import Any

import jax
from ml_collections import ConfigDict

from experiments.schedules import continual, convex, language, search
from jaxtrain.host import cli

STUDIES = {
    "convex": convex,
    "language": language,
    "continual": continual,
    "search": search,
}


def _checked(config: ConfigDict) -> Any:
    if config.study not in STUDIES:
        raise cli.UsageError(
            f"study={config.study!r} is unknown; the studies are {', '.join(STUDIES)}"
        )
    return STUDIES[config.study]


def run(config: ConfigDict, context: cli.Context) -> dict[str, Any]:
    """Runs one study; returns its numbers, a value per seed."""
    if context.sweep is not None or context.execution.axis_name is not None:
        raise cli.UsageError(
            "a study is a sweep by itself and runs under --parallel=jit; set num_seeds and the "
            "study's peaks instead of --sweep"
        )
    if jax.process_count() > 1:
        raise cli.UsageError("a study runs in one process; leave out --num_processes")
    return _checked(config).run(config, context)


def validate(config: ConfigDict) -> None:
    """Refuses impossible settings before anything is made.

    Raises:
      UsageError: names the setting.
    """
    if config.num_seeds < 1:
        raise cli.UsageError(f"num_seeds={config.num_seeds} must be at least 1")
    study = _checked(config)
    try:
        study.validate(config)
    except ValueError as error:
        raise cli.UsageError(str(error)) from error


main = functools.partial(cli.main, cli.unbound(run), validate=validate)

if __name__ == "__main__":
    main()
