"""Groups of responses to problems, sampled from a policy and judged: what it learns from reward."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrl.lm.advantages import informative
from jaxrl.lm.tasks.symbols import ALPHABET, END
from jaxrl.lm.tasks.task import Task, Verdict
from jaxrl.lm.turns import Instruction, converse, of_each_turn, verdicts
from jaxtrain.lm.decoder import Decoder
from jaxtrain.lm.logits import PLAIN, Options
from jaxtrain.lm.sequences import Text

Reward = Callable[[Any, Verdict, Array, Array], Array]
Credit = Callable[[Array, Array], Array]


def correctness(problem: Any, verdict: Verdict, tokens: Array, valid: Array) -> Array:
    """1 for a right answer, else 0."""
    return verdict.correct.astype(jnp.float32)


def turn_by_turn(reward: Array, taken: Array) -> Array:
    """Each turn is to maximise what it earns itself."""
    return reward


def differing(reward: Array, taken: Array) -> Array:
    """Which groups have different rewards in some turn, `[..., G, K] -> [...]`, bool.

    Args:
      reward: of the turns.
      taken: which of them there were, bool, the same shape.
    """
    reward, taken = (jnp.moveaxis(x, -1, -2) for x in (reward, taken))
    return informative(reward, taken).any(axis=-1)


class Samples(NamedTuple):
    """Groups of responses to problems.

    Attributes:
      text: `[P G, S]`, those of a group one after the other.
      reward: of each turn, `[P, G, K]`; 0 for turns that were not taken.
      correct: whether its answer is right, `[P, G, K]`, bool.
      taken: which turns were, `[P, G, K]`, bool; a row that is told nothing takes no further one.
      equal: share of all groups that were drawn whose rewards are equal in every turn, `[]`.
    """

    text: Text
    reward: Array
    correct: Array
    taken: Array
    equal: Array


def sampled(
    model: Decoder,
    task: Task,
    params: Any,
    places: Any,
    key: Array,
    *,
    group_size: int,
    room: int,
    reward: Reward = correctness,
    instructions: Sequence[Instruction] = (),
    tries: int = 1,
    options: Options = PLAIN,
) -> Samples:
    """Samples groups of responses to problems of a task and has them judged.

    Args:
      places: `[P]`; a place and the key give a problem.
      tries: problems drawn for a place, of which the first is taken whose rewards differ.

    The others are those of `policy_gradient`.

    Raises:
      ValueError: the batch is no list of places, or the model lacks symbols of the task.
    """
    if not hasattr(places, "shape") or len(places.shape) != 1:
        raise ValueError("a learner from reward needs a batch of places, one number per problem.")
    if model.config.vocabulary < len(ALPHABET):
        raise ValueError(
            f"the tasks are written in {len(ALPHABET)} symbols and the model knows "
            f"{model.config.vocabulary}; give it a larger vocabulary."
        )
    number, num_turns = tries * group_size, 1 + len(instructions)

    def at_place(place: Array) -> tuple[Any, Array]:
        sample_key, row_key = jax.random.split(jax.random.fold_in(key, place))
        return task.sample(sample_key, tries), jax.random.split(row_key, number)

    problems, keys = jax.vmap(at_place)(places)
    spread = lambda x: jnp.repeat(x.reshape(-1, *x.shape[2:]), group_size, axis=0)
    problems = jax.tree.map(spread, problems)
    text = converse(
        model,
        params,
        jax.vmap(task.encode)(problems),
        keys.reshape(-1),
        problems,
        instructions,
        length=room,
        stop=jnp.arange(model.config.vocabulary) == END,
        options=options,
    )
    verdict = verdicts(task, problems, text, num_turns)
    own = of_each_turn(text, num_turns)
    each_turn = jax.vmap(jax.vmap(reward, (None, 0, None, 0)))
    there = own.any(axis=-1)
    earned = jnp.where(there, each_turn(problems, verdict, text.tokens, own), 0)

    grouped = lambda x: x.reshape(len(places), tries, group_size, num_turns)
    differs = differing(grouped(earned), grouped(there))
    equal = 1 - differs.astype(jnp.float32).mean()
    first = jnp.argmax(differs, axis=1, keepdims=True) * group_size
    first += jnp.arange(len(places))[:, None] * number
    rows = (first + jnp.arange(group_size)[None]).reshape(-1)
    taken = lambda x: x if tries == 1 else x[rows]
    by_group = lambda x: taken(x).reshape(len(places), group_size, num_turns)
    earned, correct, there = map(by_group, (earned, verdict.correct, there))
    return Samples(jax.tree.map(taken, text), earned, correct, there, equal)


def reward_metrics(samples: Samples) -> dict[str, Array]:
    """What was earned, of one shard: by a response over its turns, and by its last answer."""
    num_turns = samples.correct.shape[-1]
    number = samples.taken.reshape(-1, num_turns).sum(axis=-1, keepdims=True)
    last = jnp.maximum(number - 1, 0)
    correct = jnp.take_along_axis(samples.correct.reshape(-1, num_turns), last, axis=1)
    return {
        "reward": samples.reward.sum(-1).mean(),
        "correct": correct.astype(jnp.float32).mean(),
        "length": samples.text.mask.sum(-1).astype(jnp.float32).mean(),
    }
