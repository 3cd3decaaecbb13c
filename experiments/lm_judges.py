"""Language models that judge themselves: what they know, which answers are right, what to correct.

p_ik      P(IK): will I answer this question right? A head, asked before and after hints
p_true    P(True): is this answer right? Of full attempts, bare answers, and after brainstorming
critique  confidence against critique: second attempts, and training for them (CCT)

With --sweep, seeds and the numbers that a claim is about are trials of one program, and every
printed number has an interval over problems and seeds. The abilities are planted in the texts of
the base models (`experiments.lm_base`): what is shown is how they are read out and amplified.
"""

import functools
from collections.abc import Callable

from ml_collections import ConfigDict

from experiments.lm import correcting, judging, knowing
from jaxtrain.host import cli, experiment, schedules
from jaxtrain.host.experiment import Training

SYSTEMS: dict[str, Callable[[ConfigDict, cli.Setup], Training]] = {
    "p_ik": knowing.training,
    "p_true": judging.training,
    "critique": correcting.training,
}
SWEEPABLE = ("optimizer.learning_rate", "shuffled", "kept", "plain")


def build(config: ConfigDict, setup: cli.Setup) -> Training:
    """The chosen system."""
    return SYSTEMS[config.system](config, setup)


def validate(config: ConfigDict) -> None:
    """Raises UsageError for settings that do not go together."""
    schedules.check_own_batches(config)


main = functools.partial(
    cli.main,
    build,
    sweepable=SWEEPABLE,
    validate=validate,
    flags=(experiment.MODE,),
    evaluates=experiment.evaluates,
    may_change=("evaluation",),
)

if __name__ == "__main__":
    main()
