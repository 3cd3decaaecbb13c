"""Search with a trained base model at test time: iterative-deepening sampling.

Budgets of tokens that grow by a factor, with a request to reconsider whenever one is used up,
against requests at constant intervals, one at the end, none, and a filler in the place of the
request; against the votes of plain samples for as many tokens.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.lm import deepening
from experiments.lm.bases import Base, load_base
from experiments.lm.deepening import Rule, Samples
from jaxtrain.host import arrays, cli
from jaxtrain.host.proportions import percent
from jaxtrain.host.report import grid


def sampled(
    base: Base, options: ConfigDict, rule: Rule, seed: int, file: Path
) -> tuple[Samples, Any, Any]:
    """Samples of a rule with right answers and steps of the questions, kept in a file.

    The file is below `checkpoints/`, so that a folder that holds some takes no other config.
    """
    if not file.is_file():
        number = options.samples if rule.budgets else options.plain_samples
        size = options.num_seeds, options.questions, number
        run = functools.partial(deepening.sample, base, options.depths, rule, size=size)
        samples, answer, depth = jax.device_get(jax.jit(run)(jax.random.key(seed)))
        arrays.write(file, {**samples._asdict(), "right": answer, "depth": depth})
    held = arrays.read(file, [*Samples._fields, "right", "depth"])
    return Samples(*(held[name] for name in Samples._fields)), held["right"], held["depth"]


def build(config: ConfigDict, setup: cli.Setup) -> cli.Work:
    """Samples by every rule, or reads what is there; a table per length of the questions."""
    if setup.execution.axis_name is not None:
        raise cli.UsageError("lm_search runs under --parallel=jit")
    base, options, seed = load_base(config.base), config.deepening, config.seed
    rules = deepening.rules(options.cap, options.first, options.factors)
    options = ConfigDict({name: options[name] for name in options})

    def work(context: cli.Context) -> dict[str, Any]:
        found, truth, depth = {}, np.zeros(0), np.zeros(0)
        for number, (name, rule) in enumerate(rules.items()):
            file = context.workdir / "checkpoints" / "samples" / f"{number}.npz"
            found[name], truth, depth = sampled(base, options, rule, seed, file)
            if rule.factor:
                most = deepening.most_triggers(rule, found[name].sampled)
                if (found[name].triggers > most).any():
                    raise RuntimeError(f"{name}: more requests than budgets that grow allow.")
        curves, results = {}, {}
        for steps in np.unique(depth):
            asked, title = depth == steps, f"questions of {steps} steps"
            curves[title], numbers = deepening.compared(found, truth, asked)
            main = options.factors[0], 2 * options.first  # an attempt fits between the requests
            claims = deepening.differences(found, truth, asked, *main)
            rows = [["difference of one sample each", "points"]]
            rows += [[name, percent(x)] for name, x in claims.items()]
            print(f"\n{deepening.table(title, numbers)}\n\n{grid(rows)}", flush=True)
            results[f"{steps}_steps"] = numbers | {"differences": claims}
        deepening.draw(curves, context.workdir / "plots" / "deepening.png")
        return jax.tree.map(float, _plain(results))

    return work


def _plain(tree: Any) -> Any:
    """Dicts in the place of named tuples."""
    tree = tree._asdict() if hasattr(tree, "_asdict") else tree
    return {key: _plain(x) for key, x in tree.items()} if isinstance(tree, dict) else tree


def validate(config: ConfigDict) -> None:
    """Raises UsageError for settings that do not go together."""
    options = config.deepening
    if options.first >= options.cap:
        raise cli.UsageError(
            f"deepening.first={options.first} must be below deepening.cap={options.cap}"
        )
    deepening.rules(options.cap, options.first, options.factors)


main = functools.partial(
    cli.main,
    build,
    validate=validate,
    without=cli.one_process("it samples in one process")
    | {
        "sweep": "its seeds are rows of one program; set deepening.num_seeds",
        "profile": "it trains nothing",
    },
)

if __name__ == "__main__":
    main()
