"""Ways through rooms beside strings and a breadth-first search."""

import re

import jax
import numpy as np
import pytest

from jaxrl.lm.tasks.rooms import distances, rooms
from tests.jaxrl.lm.tasks import drill

N = 6


def verify(prompt, response):
    listed, ends = prompt.split(":")
    doors = {pair for door in listed.split(",")[:-1] for pair in (door, door[::-1])}
    now, goal = ends[0], ends[2]
    lines, last, given = drill.cut(response, 2 * (N - 1), 2)
    ok, names = [], "abcdef"[:N]
    for line in lines:
        ok.append(line in doors and line[0] == now)
        now = line[1] if re.fullmatch(f"[{names}]{{2}}", line) else None
    answer = re.fullmatch(f"#([{names}])", last or "")
    step_ok = drill.steps_right(ok, given, given, 2 * (N - 1))
    arrived = 0 < given and all(step_ok) and now == goal
    room = names.index(answer[1]) if answer else -1
    return bool(answer) and answer[1] == goal and arrived, room, step_ok


def test_ways_through_rooms():
    task = rooms(N)
    drill.check(task, verify)
    made = drill.texts(task)
    found = np.asarray(jax.jit(jax.vmap(distances))(made.problems.doors, made.problems.goal))
    for i, solution in enumerate(made.solutions):
        doors, goal = np.asarray(made.problems.doors[i]), int(made.problems.goal[i])
        reached, number = {goal: 0}, 0
        while len(reached) < N:
            number += 1
            for room in [r for r in range(N) if r not in reached and doors[r, list(reached)].any()]:
                reached[room] = number
            assert number < N, "all rooms are connected"
        assert found[i].tolist() == [reached[room] for room in range(N)]
        assert solution.count(";") == reached[int(made.problems.start[i])]


def test_detours_and_ways_back_are_ways():
    prompt = "ab,bc,bd,:a>d?"
    assert verify(prompt, "ab;bc;cb;bd;#d$")[0] and not verify(prompt, "ab;bc;bd;#d$")[0]
    with pytest.raises(ValueError, match="take 2 to 26"):
        rooms(27)
