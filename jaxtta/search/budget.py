"""Iterative deepening: budgets that grow, and a trigger to reconsider whenever one is used.

A trigger (for example "wait") is inserted when as many tokens as the budget of a level have been
sampled, or when the model ends before; at most one a level, and none in the last eighth of all.
With budgets that grow by a factor the triggers become rarer, and their number grows as the
logarithm of the length.

References:
  Chen et al., Iterative Deepening Sampling as Efficient Test-Time Scaling, arXiv 2502.05449.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxtrain.known_numbers import check_whole
from jaxtrain.lm.decoder import Decoder
from jaxtrain.lm.logits import PLAIN, Options
from jaxtrain.lm.sampling import Decoding, continue_until, force


def geometric_budgets(cap: int, factor: float, first: int | None = None) -> list[int]:
    """B_0, B_0 factor, B_0 factor^2, ..., rounded down, and the cap as the last.

    Args:
      cap: most tokens that are sampled.
      factor: gamma, above 1; 1.5, 2 and 4 are usual.
      first: B_0; an eighth of the cap without it.

    Raises:
      ValueError: a factor that makes nothing grow, a first budget outside 1..cap, or budgets that
        are no whole numbers.
    """
    begin = max(cap // 8, 1) if first is None else first
    check_whole(1, 2**31 - 1, cap=cap)
    if not 1 < factor < float("inf") or not 1 <= begin <= cap or begin != int(begin):
        raise ValueError(
            f"budgets from {begin} to {cap} by a factor of {factor} do not grow; take a factor "
            "above 1 and a first budget of 1 up to the cap."
        )
    found: list[int] = []
    budget = float(begin)
    while budget < cap and (not found or found[-1] < cap):
        found.append(max(int(budget), found[-1] + 1) if found else int(budget))
        budget *= factor
    return [x for x in found if x < cap] + [cap]


class Deepened(NamedTuple):
    """What came of it.

    Attributes:
      decoding: the rows; inserted triggers are not marked as generated.
      triggers: how many each row got, `[B]`, int32.
      sampled: how many tokens each row sampled, `[B]`, int32.
    """

    decoding: Decoding
    triggers: Array
    sampled: Array


def iterative_deepening(
    model: Decoder,
    params: Any,
    decoding: Decoding,
    trigger: Array,
    budgets: Sequence[int],
    end: Array,
    options: Options = PLAIN,
) -> Deepened:
    """Samples with growing budgets.

    Args:
      model: the language model.
      params: its parameters.
      decoding: rows that have been started, with room for twice the cap and a trigger a level:
        rows that end early and rows that do not write different slots.
      trigger: tokens that are inserted, `[w]`; a filler of equal length is the control.
      budgets: of tokens that may have been sampled at the end of each level, growing; the last is
        the cap. `geometric_budgets`, or a `range` for constant intervals, or only the cap for one
        request where a row ends early.
      end: tokens that end a response, `[V]`, bool. A row that ends and gets no trigger is done.
      options: how tokens are drawn.

    Raises:
      ValueError: budgets that do not grow or are no whole numbers, no trigger, or rows that are too
        short for them.
    """
    whole = all(int(budget) == budget for budget in budgets)
    if not len(budgets) or not whole or sorted({*budgets}) != [*budgets] or budgets[0] < 1:
        raise ValueError(f"the budgets {[*budgets]} must be whole and grow, from 1 at least.")
    if not len(trigger):
        raise ValueError("the trigger holds no token; sample by continue_until for none.")
    cap, rows = budgets[-1], len(decoding.done)
    room, slots = 2 * cap + len(budgets) * len(trigger), decoding.tokens.shape[1]
    if slots < room:
        raise ValueError(
            f"the rows have {slots} slots; twice the cap and a trigger a level need room={room} "
            "behind the prompts."
        )
    latest = cap - cap // 8
    block = jnp.broadcast_to(trigger[None], (rows, len(trigger)))
    before = decoding.generated.sum(1)

    def sampled(decoding: Decoding) -> Array:
        return (decoding.generated.sum(1) - before).astype(jnp.int32)

    def level(state: tuple[Decoding, Array], budget: Array) -> tuple[tuple[Decoding, Array], None]:
        decoding, triggers = state
        left = budget - sampled(decoding)
        decoding = continue_until(model, params, decoding, left, end, options)
        used, running = sampled(decoding), ~decoding.done
        early = decoding.stopped & running
        wanted = running & (early | (used >= budget)) & (used <= latest) & (used < cap)
        decoding = decoding._replace(done=decoding.done | (early & ~wanted))
        decoding = force(
            model, params, decoding, block, jnp.broadcast_to(wanted[:, None], block.shape)
        )
        # Those that ended early have the rest of this level, and a second end is final.
        rest = jnp.where(wanted & early, budget - used, 0)
        decoding = continue_until(model, params, decoding, rest, end, options)
        finished = wanted & early & decoding.stopped & (sampled(decoding) > used)
        decoding = decoding._replace(done=decoding.done | finished)
        return (decoding, triggers + wanted), None

    start = decoding, jnp.zeros(rows, jnp.int32)
    decoding, triggers = jax.lax.scan(level, start, jnp.asarray(budgets))[0]
    return Deepened(decoding, triggers, sampled(decoding))
