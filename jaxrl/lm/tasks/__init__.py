"""Tasks for small language models: problems, right traces, mistakes and verdicts, all in JAX.

    task = chained(depth=4, modulus=10)
    problems = task.sample(key, 128)
    prompts = jax.vmap(task.encode)(problems)
    verdicts = jax.vmap(task.verify)(problems, tokens, valid)

Every task has the same form, see `task`, and a knob for its difficulty; `verifiers` judge all of
them. `tables` and `planted` are small enough for exact laws.
"""

from typing import TYPE_CHECKING

from jaxtrain.faces import lazy

if TYPE_CHECKING:
    from jaxrl.lm.tasks import symbols as symbols
    from jaxrl.lm.tasks import tables as tables
    from jaxrl.lm.tasks import verifiers as verifiers
    from jaxrl.lm.tasks.calculator import calculator as calculator
    from jaxrl.lm.tasks.calculator import respond as respond
    from jaxrl.lm.tasks.chained import chained as chained
    from jaxrl.lm.tasks.countdown import countdown as countdown
    from jaxrl.lm.tasks.facts import questions as questions
    from jaxrl.lm.tasks.facts import world as world
    from jaxrl.lm.tasks.planted import planted as planted
    from jaxrl.lm.tasks.planted import verification_gap as verification_gap
    from jaxrl.lm.tasks.rooms import rooms as rooms
    from jaxrl.lm.tasks.symbols import Symbols as Symbols
    from jaxrl.lm.tasks.task import Task as Task
    from jaxrl.lm.tasks.task import Verdict as Verdict
    from jaxrl.lm.tasks.temporal import temporal as temporal
    from jaxrl.lm.tasks.unit_tests import unit_tests as unit_tests
    from jaxrl.lm.tasks.words import word_problems as word_problems

lazy(__name__)
