"""Language models that learn from what they are paid for: coverage, own probability, a verifier.

dco         direct coverage optimisation: train for the chance that N samples hold the answer
sharpening  imitate the most probable of N own samples, or regress on their probabilities
verifier    copy experts, or be paid by a verifier for responses of one's own

With --sweep, seeds and the numbers that a claim is about are trials of one program, and every
printed number has an interval over problems and seeds.
"""

import functools
from collections.abc import Callable

from ml_collections import ConfigDict

from experiments.lm import coverage, planted_experts, self_reward
from jaxtrain.host import cli, experiment, schedules
from jaxtrain.host.config import UsageError
from jaxtrain.host.experiment import Training

SYSTEMS: dict[str, Callable[[ConfigDict, cli.Setup], Training]] = {
    "dco": coverage.training,
    "sharpening": self_reward.training,
    "verifier": planted_experts.training,
}
SWEEPABLE = (
    "optimizer.learning_rate",
    "dco.num_samples",
    "sharpening.num_samples",
    "sharpening.beta",
    "base.mistakes",
    "base.systematic",
    "experts.spread",
)


def build(config: ConfigDict, setup: cli.Setup) -> Training:
    """The chosen system."""
    return SYSTEMS[config.system](config, setup)


def validate(config: ConfigDict) -> None:
    """Raises UsageError for settings that do not go together."""
    schedules.check_own_batches(config)
    if config.init_from:
        raise UsageError(
            "init_from would replace the policy and not the base that it is compared with, which "
            "every trial makes for itself; leave it out"
        )
    options, experts = config.sharpening, config.experts
    if config.system == "sharpening":
        if options.objective == "best" and options.num_samples > options.pool:
            raise UsageError(
                f"sharpening.num_samples={options.num_samples} are more than the "
                f"sharpening.pool={options.pool} that are drawn"
            )
        if options.objective == "pairs" and options.pool % 2:
            raise UsageError(f"sharpening.pool={options.pool} samples are no pairs; take them even")
    if config.system == "verifier" and experts.length > min(experts.horizons):
        raise UsageError(
            f"experts.length={experts.length} symbols do not fit into the shortest of "
            f"experts.horizons={experts.horizons}"
        )


main = functools.partial(
    cli.main,
    build,
    sweepable=SWEEPABLE,
    validate=validate,
    flags=(experiment.MODE,),
    evaluates=experiment.evaluates,
)

if __name__ == "__main__":
    main()
