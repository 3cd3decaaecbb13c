"""Rooms and doors: a way from one room to another, `ab,bc,bd,:a>d?` is `ab;bd;#d$`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrl.lm.tasks import symbols
from jaxrl.lm.tasks.symbols import LETTER, Symbols
from jaxrl.lm.tasks.task import Task, Verdict, below, each, judged, one_error
from jaxtrain.known_numbers import check_known


class House(NamedTuple):
    """A problem; all rooms can be reached.

    Attributes:
      doors: between which rooms there are doors, `[N, N]`, bool, symmetric.
      start: room, `[]`, int.
      goal: room, `[]`, int.
    """

    doors: Array
    start: Array
    goal: Array


def distances(doors: Array, goal: Array) -> Array:
    """Number of doors on the shortest way to the goal from every room, `[N]`."""
    number = len(doors)
    start = jnp.full(number, number).at[goal].set(0)

    def wave(distance: Array, _: None) -> tuple[Array, None]:
        through = jnp.where(doors, distance[None, :], number).min(-1) + 1
        return jnp.minimum(distance, through), None

    return jax.lax.scan(wave, start, None, number - 1)[0]


def rooms(num_rooms: int, more_doors: float = 0.15) -> Task:
    """Finding a way; a response may take detours and go back, up to twice as many doors as needed.

    Args:
      num_rooms: N, the difficulty, 2 to 26.
      more_doors: chance of every door that is not needed to connect the rooms.

    Raises:
      ValueError: too few or too many rooms, or a chance that is none.
    """
    check_known(lambda x: 0 <= x <= 1, "from 0 to 1", more_doors=more_doors)
    if not 2 <= num_rooms <= 26:
        raise ValueError(f"{num_rooms} rooms cannot be named by letters; take 2 to 26.")
    steps = 2 * (num_rooms - 1)
    pairs = np.array([(i, j) for i in range(num_rooms) for j in range(i + 1, num_rooms)])
    names = symbols.ALPHABET[LETTER : LETTER + num_rooms]

    def sample(key: Array) -> House:
        share = jax.random.uniform(key, (num_rooms + 2, num_rooms))
        order = jnp.argsort(share[-1])
        earlier = below(share[-2], jnp.maximum(jnp.arange(num_rooms), 1))
        doors = jnp.triu(share[:num_rooms] < more_doors, 1)
        doors = doors.at[order[1:], order[earlier[1:]]].set(True)
        ends = jnp.argsort(share[0])[:2]
        return House((doors | doors.T) & ~jnp.eye(num_rooms, dtype=bool), ends[0], ends[1])

    def encode(problem: House) -> Symbols:
        listed = [LETTER + pairs, np.full((len(pairs), 1), symbols.ids(",")[0])]
        tokens = jnp.asarray(np.concatenate(listed, 1))
        there = problem.doors[pairs[:, 0], pairs[:, 1]]
        return symbols.joined(
            symbols.rows(Symbols(tokens, jnp.repeat(there[:, None], 3, 1))),
            symbols.written(":"),
            symbols.symbol(LETTER + problem.start),
            symbols.written(">"),
            symbols.symbol(LETTER + problem.goal),
            symbols.written("?"),
        )

    def trace(problem: House, wall: Array, size: Array) -> Symbols:
        """The shortest way, which at step `wall` goes where no door leads."""
        distance = distances(problem.doors, problem.goal)

        def step(room: Array, number: Array) -> tuple[Array, Symbols]:
            doors = problem.doors[room]
            nearer = doors & (distance == distance[room] - 1)
            closed = jnp.argsort(doors, stable=True)[below(size, (~doors).sum())]
            there = jnp.where(number == wall, closed, jnp.argmax(nearer))
            moves = room != problem.goal
            line = symbols.joined(
                symbols.symbol(LETTER + room), symbols.symbol(LETTER + there), symbols.written(";")
            )
            return jnp.where(moves, there, room), symbols.only_if(moves, line)

        moves = jax.lax.scan(step, problem.start, jnp.arange(steps))[1]
        answer = symbols.symbol(LETTER + problem.goal)
        return symbols.joined(
            symbols.rows(moves), symbols.written("#"), answer, symbols.written("$")
        )

    def corrupt(key: Array, problem: House) -> tuple[Symbols, Array]:
        far = distances(problem.doors, problem.goal)[problem.start]
        place, size = one_error(key, far)
        return trace(problem, place, size), place

    def verify(problem: House, tokens: Array, valid: Array) -> Verdict:
        found = symbols.lines(tokens, valid, steps + 1, 2)

        def read(line: Array, whole: Array) -> tuple[Array, Array, Array]:
            left, at = symbols.reader(line, whole).one_of(names)
            there, at = at.one_of(names)
            return left, there, at.end()

        left, there, ok = jax.vmap(read)(found.tokens[:steps], found.whole[:steps])
        before = jnp.concatenate([problem.start[None], there[:-1]])
        known = jnp.concatenate([jnp.ones(1, bool), ok[:-1]])
        ok = ok & known & (left == before) & problem.doors[left, there]
        given = found.number - found.ended
        answer, end = symbols.answer_line(found).one_of(names)
        verdict = judged(ok, given, given, answer, end.end(), problem.goal)
        last = there[jnp.clip(given - 1, 0, steps - 1)]
        arrived = (verdict.first_error == -1) & (given > 0) & (last == problem.goal)
        return verdict._replace(correct=verdict.correct & arrived)

    never = jnp.asarray(-1), jnp.zeros(())
    return Task(
        steps, each(sample), encode, lambda problem: trace(problem, *never), corrupt, verify
    )
