"""A made-up world of facts to be known by heart: `17a=5` says what relation a of 17 is.

Two hops, `17ab?`, are `17a=5;5b=9;#9$`. Some facts are known: train on those, and ask of all, and
there is a right answer to "do you know".
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxrl.lm.tasks import symbols
from jaxrl.lm.tasks.symbols import LETTER, Symbols
from jaxrl.lm.tasks.task import Task, Verdict, below, judged, traced
from jaxtrain.known_numbers import check_known, check_whole


class World(NamedTuple):
    """All facts.

    Attributes:
      value: entity that a relation leads to, `[E, R]`, int.
      known: which facts a model is to be trained on, `[E, R]`, bool.
    """

    value: Array
    known: Array


class Asked(NamedTuple):
    """A problem.

    Attributes:
      entity: `[]`, int.
      relation: one after the other, `[K]`, int.
    """

    entity: Array
    relation: Array


def world(seed: int, num_entities: int, num_relations: int, known_share: float = 1.0) -> World:
    """A world.

    Args:
      seed: of all facts.
      num_entities: E, 2 to 1,000.
      num_relations: R, 1 to 26.
      known_share: chance of a fact to be known.

    Raises:
      ValueError: more entities or relations than there are names, or none; a chance that is none.
    """
    if not 2 <= num_entities <= 1000 or not 1 <= num_relations <= 26:
        raise ValueError(
            f"a world of {num_entities} entities and {num_relations} relations has no names for "
            "all, or nothing to ask; take 2 to 1,000 and 1 to 26."
        )
    check_known(lambda x: 0 <= x <= 1, "from 0 to 1", known_share=known_share)
    share = jax.random.uniform(jax.random.key(seed), (2, num_entities, num_relations))
    return World(below(share[0], num_entities), share[1] < known_share)


def way(facts: World, problem: Asked) -> tuple[Array, Array]:
    """The entities after each hop, `[K]`, and whether every fact on the way is known, `[]`."""

    def hop(entity: Array, relation: Array) -> tuple[Array, tuple[Array, Array]]:
        there = facts.value[entity, relation]
        return there, (there, facts.known[entity, relation])

    entities, known = jax.lax.scan(hop, problem.entity, problem.relation)[1]
    return entities, known.all()


def questions(facts: World, hops: int = 1) -> Task:
    """Questions about a world.

    Args:
      facts: of `world`.
      hops: K, the difficulty.

    Raises:
      ValueError: there is no hop.
    """
    check_whole(1, 1_000, hops=hops)
    num_entities, num_relations = facts.value.shape
    digits = len(str(num_entities - 1))

    def sample(key: Array) -> Asked:
        share = jax.random.uniform(key, (hops + 1,))
        return Asked(below(share[0], num_entities), below(share[1:], num_relations))

    def encode(problem: Asked) -> Symbols:
        relations = Symbols(LETTER + problem.relation, jnp.ones(hops, bool))
        return symbols.joined(
            symbols.number(problem.entity, digits), relations, symbols.written("?")
        )

    def trace(problem: Asked, shift: Array) -> Symbols:
        def hop(entity: Array, x: tuple[Array, Array]) -> tuple[Array, Symbols]:
            relation, wrong = x
            there = (facts.value[entity, relation] + wrong) % num_entities
            line = symbols.joined(
                symbols.number(entity, digits),
                symbols.symbol(LETTER + relation),
                symbols.written("="),
                symbols.number(there, digits),
                symbols.written(";"),
            )
            return there, line

        last, steps = jax.lax.scan(hop, problem.entity, (problem.relation, shift))
        answer = symbols.number(last, digits)
        return symbols.joined(
            symbols.rows(steps), symbols.written("#"), answer, symbols.written("$")
        )

    def verify(problem: Asked, tokens: Array, valid: Array) -> Verdict:
        found = symbols.lines(tokens, valid, hops + 1, 2 * symbols.MAX_DIGITS + 2)

        def read(line: Array, whole: Array, relation: Array) -> tuple[Array, ...]:
            left, at = symbols.reader(line, whole).number()
            named = at.symbol() == LETTER + relation
            there, at = at.skip().literal("=").number()
            return left, there, at.end(), named

        lines = found.tokens[:hops], found.whole[:hops], problem.relation
        left, there, readable, named = jax.vmap(read)(*lines)
        before = jnp.concatenate([problem.entity[None], there[:-1]])
        known = jnp.concatenate([jnp.ones(1, bool), readable[:-1]])
        exists = left < num_entities
        fact = facts.value[jnp.where(exists, left, 0), problem.relation]
        ok = known & readable & named & exists & (left == before) & (there == fact)
        answer, end = symbols.answer_line(found).number()
        truth = way(facts, problem)[0][-1]
        return judged(ok, found.number - found.ended, hops, answer, end.end(), truth)

    return traced(hops, sample, encode, trace, num_entities - 1, verify)
