"""Policy gradient for language models: sample groups, judge them, step; all on the device.

core = policy_gradient(model, chained(3), optimizer, group_size=8, room=40)
state = core.init(params)
state, out = core.update(state, places, key)
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxrl.lm import objectives
from jaxrl.lm.advantages import Baseline, group_advantage, of_turns, without_equal_groups
from jaxrl.lm.learners import LearnerState, begin, gradient_step
from jaxrl.lm.objectives import Aggregation, Estimate
from jaxrl.lm.samples import (
    Credit,
    Reward,
    Samples,
    correctness,
    differing,
    reward_metrics,
    sampled,
    turn_by_turn,
)
from jaxrl.lm.tasks.task import Task
from jaxrl.lm.turns import Instruction, of_each_turn
from jaxtrain import trees
from jaxtrain.collectives import AxisName, pmax, pmean
from jaxtrain.collectives import masked_mean as mean_over
from jaxtrain.lm.decoder import Decoder, score
from jaxtrain.lm.logits import PLAIN, Options, Scores
from jaxtrain.lm.sequences import Text
from jaxtrain.protocol import Core, StepOutput


class Divergence(NamedTuple):
    """A cost of leaving the reference.

    Attributes:
      weight: beta.
      estimate: of the divergence per token, see `objectives.kl_estimate`.
      place: whether it is subtracted from the reward of a response, summed over its tokens, or
        part of the loss.
      decay: of the reference, an average of the parameters over updates: 1 for a fixed one.
    """

    weight: ArrayLike
    estimate: Estimate = "k1"
    place: Literal["reward", "loss"] = "reward"
    decay: ArrayLike = 1.0


LARGEST_MISMATCH, LONGEST_WITHOUT_SIGNAL = 1e-2, 3


def check_progress(equal_groups: Sequence[float], largest_mismatch: Sequence[float]) -> None:
    """Stops a run that cannot learn, or whose sampler and scorer disagree; for the host.

    Args:
      equal_groups: that metric of all updates so far, the last one last.
      largest_mismatch: that metric, too.

    Raises:
      RuntimeError: in the last three updates all groups had equal rewards, or the
        log-probabilities of a token differ by more than 1e-2 in the last one.
    """
    last = list(equal_groups)[-LONGEST_WITHOUT_SIGNAL:]
    if len(last) == LONGEST_WITHOUT_SIGNAL and min(last) >= 1:
        raise RuntimeError(
            f"in each of the last {len(last)} updates all responses to a prompt had one reward, so "
            "nothing is learned; take easier or harder problems, larger groups or a higher "
            "temperature."
        )
    if len(largest_mismatch) and not largest_mismatch[-1] <= LARGEST_MISMATCH:
        raise RuntimeError(
            f"a token that was sampled with one log-probability is scored with another, "
            f"{largest_mismatch[-1]:.3g} apart; the sampler and the learner are not the same model."
        )


def watched_progress() -> Callable[[Mapping[str, np.ndarray]], None]:
    """`check_progress` for a training loop, which calls it with the metrics of a few updates.

    Returns:
      `metrics -> None`, every metric `[steps, ...]`. Several learners may be among them, as trials
      of a sweep or with names that go on (`equal_groups_16`): a run goes on while one of them
      learns, and stops when the sampler and the scorer of any of them disagree.
    """
    equal: list[float] = []

    def check(metrics: Mapping[str, np.ndarray]) -> None:
        def every(name: str) -> list[np.ndarray]:
            return [x.reshape(len(x), -1) for key, x in metrics.items() if key.startswith(name)]

        for step in zip(*every("equal_groups"), strict=True):
            equal.append(min(float(x.min()) for x in step))
            check_progress(equal, [])
        del equal[:-LONGEST_WITHOUT_SIGNAL]
        check_progress([], [np.max([x.max() for x in every("largest_mismatch")])])

    return check


def token_losses(
    now: Scores,
    text: Text,
    mask: Array,
    advantage: Array,
    *,
    clip: tuple[ArrayLike, ArrayLike] | None = None,
    entropy_weight: ArrayLike = 0.0,
    divergence: Divergence | None = None,
    reference: Array | None = None,
) -> Array:
    """What every token adds to the loss of a policy, for `objectives.aggregate`.

    Args:
      now: scores of the text, `[B, S]`.
      text: as it was sampled.
      mask: which tokens count, `[B, S]`, bool.
      advantage: `[B, S]` or `[B, 1]`, a constant.
      clip: of the ratios, see `objectives.surrogate`.
      entropy_weight: of the entropy, which is maximised.
      divergence: added if its place is the loss.
      reference: log-probabilities under the reference, `[B, S]`, if there is a divergence.

    Returns:
      `[B, S]`.
    """
    each = objectives.surrogate(now.sampled, text.sampled, advantage, mask, clip=clip)
    each = each - entropy_weight * now.entropy
    if divergence is not None and divergence.place == "loss":
        assert reference is not None
        cost = objectives.kl_estimate(now.logp, reference, mask, divergence.estimate)
        each = each + divergence.weight * cost
    return each


def charged(divergence: Divergence | None, cost: Array) -> Array:
    """What the divergence of tokens `[B, S]` takes from their rewards: 0 if it is in the loss."""
    if divergence is None or divergence.place != "reward":
        return jnp.zeros_like(cost)
    return jnp.asarray(divergence.weight) * cost


def check_divergence(divergence: Divergence | None) -> None:
    """Refuses a place that a divergence cannot have.

    Raises:
      ValueError: it is neither the reward nor the loss.
    """
    if divergence is not None and divergence.place not in ("reward", "loss"):
        raise ValueError(f"there is no place {divergence.place!r}; take reward or loss.")


def check_steps(num_steps: int, clip: tuple[ArrayLike, ArrayLike] | None) -> None:
    """Refuses numbers of gradient steps that cannot be made on one set of samples.

    Raises:
      ValueError: there is no step, or ratios leave 1 and nothing clips them.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps} learns nothing; take 1 or more.")
    if num_steps > 1 and clip is None:
        raise ValueError(f"num_steps={num_steps} on the same samples needs `clip`; give it.")


def sampling_metrics(samples: Samples, now: Scores, axis_name: AxisName | None) -> dict[str, Array]:
    """How far scoring is from sampling, and the entropy; constants."""
    mask = samples.text.mask
    gap = jnp.where(mask, now.sampled - samples.text.sampled, 0)
    found = {
        "entropy": mean_over(now.entropy, mask, axis_name),
        "largest_mismatch": pmax(jnp.abs(jax.lax.stop_gradient(gap)).max(), axis_name),
    }
    return jax.lax.stop_gradient(found)


def policy_gradient(
    model: Decoder,
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    group_size: int,
    room: int,
    reward: Reward = correctness,
    instructions: Sequence[Instruction] = (),
    credit: Credit = turn_by_turn,
    baseline: Baseline = "leave_one_out",
    aggregation: Aggregation = "token_mean",
    clip: tuple[ArrayLike, ArrayLike] | None = None,
    divergence: Divergence | None = None,
    entropy_weight: ArrayLike = 0.0,
    skip_equal: bool = False,
    tries: int = 1,
    num_steps: int = 1,
    options: Options = PLAIN,
    axis_name: AxisName | None = None,
) -> Core:
    """Policy gradient on groups of sampled responses; all of an update runs on the device.

    Ratios are those of the distribution that tokens were drawn from, truncated or not, so the
    first step on fresh samples has ratio 1. `largest_mismatch` is how far it is from that, as a
    difference of log-probabilities: sampling and scoring are two programs. Above 1e-2 something is
    wrong, and `watched_progress` stops the run.

    Args:
      model: the language model, which knows at least the symbols of the tasks.
      task: where problems come from; a place of the batch and the key give one.
      optimizer: any Optax transformation.
      group_size: G, responses to each problem, at least 2.
      room: most tokens of a response, or of each of its turns.
      reward: of a turn, `(problem, verdict, tokens [S], valid [S]) -> []`; correctness without it.
      instructions: what is said between the turns, see `turns.converse`; none for one turn.
      credit: rewards of turns and which were taken, both `[P, G, K]`, to what each turn is to
        maximise, for example `lambda r, taken: turn_returns(with_progress(r, taken, alpha),
        gamma)`. A divergence in the reward is charged to its turn after that. A turn that was not
        taken earns nothing.
      baseline: what rewards are compared with in their group, turn by turn, among the responses
        that took it.
      aggregation: of the losses of tokens.
      clip: of the ratios, see `objectives.surrogate`; needed for more than one step.
      divergence: cost of leaving a reference, which begins as the given parameters.
      entropy_weight: of the mean entropy of tokens, which is maximised.
      skip_equal: leave groups of equal rewards out of every mean, instead of counting them as 0.
      tries: problems drawn for a place, each with a group; the first whose rewards differ is
        learned from, or the first of all if there is none. More than 1 costs as much more.
      num_steps: gradient steps on the samples of an update.
      options: how tokens are drawn.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(params)`; batches are numbers of places `[P]`, `outputs` what responses
      earned over all their turns, `[P, G]`. The metric `equal_groups` is of the groups learned
      from, and `equal_drawn` of all.

    Raises:
      ValueError: a group of one, no try, a divergence in a place that there is not, no step, or
        several without `clip`; (when called) a batch that is no list of places, or a model that
        lacks symbols of the task.
    """
    if group_size < 2:
        raise ValueError(
            f"a group of {group_size} has no baseline; take a group_size of 2 or more."
        )
    if tries < 1:
        raise ValueError(f"{tries} problems for a place leave none to learn from; take 1 or more.")
    check_divergence(divergence)
    check_steps(num_steps, clip)
    num_turns = 1 + len(instructions)

    def init(params: Any) -> LearnerState:
        return begin(optimizer, params, () if divergence is None else params)

    def update(state: LearnerState, batch: Any, key: Array) -> tuple[LearnerState, StepOutput]:
        samples = sampled(
            model,
            task,
            state.params,
            batch,
            key,
            group_size=group_size,
            room=room,
            reward=reward,
            instructions=instructions,
            tries=tries,
            options=options,
        )
        text, mask = samples.text, samples.text.mask
        own = of_each_turn(text, num_turns)
        scored = lambda params: score(model, params, text.tokens, text.valid, text.mask, options)
        metrics, reference, earned = {}, None, credit(samples.reward, samples.taken)
        paid, taken = earned, jnp.moveaxis(samples.taken, -1, -2)
        if divergence is not None:
            reference = jax.lax.stop_gradient(scored(state.reference).logp)
            kl = objectives.kl_estimate(text.logp, reference, mask, divergence.estimate)
            metrics["divergence"] = mean_over(kl, mask, axis_name)
            cost = jnp.where(own, charged(divergence, kl)[:, None], 0).sum(-1)
            paid = paid - cost.reshape(paid.shape)
        paid = jnp.moveaxis(paid, -1, -2)  # [P, K, G]
        advantage = jnp.moveaxis(group_advantage(paid, baseline, taken), -1, -2)
        advantage = of_turns(advantage.reshape(-1, num_turns), text.turn)
        if skip_equal:
            grouped = jnp.moveaxis(own.reshape(-1, group_size, *own.shape[1:]), 2, 1)
            kept = jax.vmap(without_equal_groups)(grouped, jnp.moveaxis(earned, -1, -2))
            mask = jnp.moveaxis(kept, 1, 2).any(axis=2).reshape(mask.shape)

        def loss(params: Any) -> tuple[Array, dict[str, Array]]:
            now = scored(params)
            each = token_losses(
                now,
                text,
                mask,
                advantage,
                clip=clip,
                entropy_weight=entropy_weight,
                divergence=divergence,
                reference=reference,
            )
            total = objectives.aggregate(each, mask, aggregation, axis_name=axis_name)
            return total, sampling_metrics(samples, now, axis_name)

        def step(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], dict[str, Array]]:
            return gradient_step(optimizer, loss, carry, axis_name)

        (params, opt_state), steps = jax.lax.scan(step, state[:2], None, num_steps)
        first = jax.tree.map(lambda x: x[0], steps)
        equal = 1 - differing(samples.reward, samples.taken).astype(jnp.float32).mean()
        shared = reward_metrics(samples) | {"equal_groups": equal, "equal_drawn": samples.equal}
        metrics |= first | pmean(shared, axis_name)
        anchor = state.reference
        if divergence is not None:
            anchor = trees.ema(state.reference, params, divergence.decay)
        return LearnerState(params, opt_state, anchor), StepOutput(metrics, samples.reward.sum(-1))

    return Core(init, update)
