"""Policy gradient for language models: sample groups, judge them, step; all on the device.

core = policy_gradient(model, chained(3), optimizer, group_size=8, room=40)
state = core.init(params)
state, out = core.update(state, places, key)
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxrl.lm import objectives
from jaxrl.lm.advantages import Baseline, group_advantage, informative, without_equal_groups
from jaxrl.lm.learners import LearnerState, begin, gradient_step
from jaxrl.lm.objectives import Aggregation, Estimate
from jaxrl.lm.tasks.symbols import END
from jaxrl.lm.tasks.task import Task, Verdict
from jaxtrain import trees
from jaxtrain.collectives import AxisName, mark_varying, pmax, pmean
from jaxtrain.collectives import masked_mean as mean_over
from jaxtrain.lm.decoder import Decoder, score
from jaxtrain.lm.logits import PLAIN, Options
from jaxtrain.lm.sampling import continue_until, start
from jaxtrain.lm.sequences import of_decoding
from jaxtrain.protocol import Core, StepOutput

_BLANK = ("generated", "logp", "sampled", "done", "stopped")  # constants until something is sampled


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


def _correctness(problem: Any, verdict: Verdict, tokens: Array, valid: Array) -> Array:
    return verdict.correct.astype(jnp.float32)


def policy_gradient(
    model: Decoder,
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    group_size: int,
    room: int,
    reward: Callable[[Any, Verdict, Array, Array], Array] = _correctness,
    baseline: Baseline = "leave_one_out",
    aggregation: Aggregation = "token_mean",
    clip: tuple[ArrayLike, ArrayLike] | None = None,
    divergence: Divergence | None = None,
    entropy_weight: ArrayLike = 0.0,
    skip_equal: bool = False,
    num_steps: int = 1,
    options: Options = PLAIN,
    axis_name: AxisName | None = None,
) -> Core:
    """Policy gradient on groups of sampled responses; all of an update runs on the device.

    Ratios are those of the distribution that tokens were drawn from, truncated or not, so the
    first step on fresh samples has ratio 1. `largest_mismatch` is how far it is from that, as a
    difference of log-probabilities: sampling and scoring are two programs. Above 1e-2 something is
    wrong.

    Args:
      model: the language model, which knows at least the symbols of the tasks.
      task: where problems come from; a place of the batch and the key give one.
      optimizer: any Optax transformation.
      group_size: G, responses to each problem, at least 2.
      room: most tokens of a response.
      reward: `(problem, verdict, tokens [S], valid [S]) -> []`; correctness without it.
      baseline: what rewards are compared with in their group.
      aggregation: of the losses of tokens.
      clip: of the ratios, see `objectives.surrogate`; needed for more than one step.
      divergence: cost of leaving a reference, which begins as the given parameters.
      entropy_weight: of the mean entropy of tokens, which is maximised.
      skip_equal: leave groups of equal rewards out of every mean, instead of counting them as 0.
      num_steps: gradient steps on the samples of an update.
      options: how tokens are drawn.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(params)`; batches are numbers of places `[P]`, `outputs` rewards `[P, G]`.

    Raises:
      ValueError: a group of one; (when called) a batch that is no list of places.
    """
    if group_size < 2:
        raise ValueError(
            f"a group of {group_size} has no baseline; take a group_size of 2 or more."
        )
    end = jnp.arange(model.config.vocabulary) == END

    def init(params: Any) -> LearnerState:
        return begin(optimizer, params, () if divergence is None else params)

    def update(state: LearnerState, batch: Any, key: Array) -> tuple[LearnerState, StepOutput]:
        if not hasattr(batch, "shape") or len(batch.shape) != 1:
            raise ValueError("policy_gradient needs a batch of places, one number per problem.")

        def at_place(place: Array) -> tuple[Any, Array]:
            sample_key, row_key = jax.random.split(jax.random.fold_in(key, place))
            problem = jax.tree.map(lambda x: x[0], task.sample(sample_key, 1))
            return problem, jax.random.split(row_key, group_size)

        problems, keys = jax.vmap(at_place)(batch)
        rows = len(batch) * group_size
        spread = lambda x: jnp.repeat(x, group_size, axis=0)
        prompts = jax.tree.map(spread, jax.vmap(task.encode)(problems))
        decoding = start(
            model, state.params, prompts.tokens, prompts.valid, keys.reshape(rows), room
        )
        blank = {name: getattr(decoding, name) for name in _BLANK}
        decoding = decoding._replace(**mark_varying(blank, axis_name))
        decoding = continue_until(model, state.params, decoding, room, end, options, end)
        text = of_decoding(decoding)
        of_row = jax.tree.map(spread, problems)
        verdict = jax.vmap(task.verify)(of_row, text.tokens, text.mask)
        rewards = jax.vmap(reward)(of_row, verdict, text.tokens, text.mask)
        rewards = rewards.reshape(-1, group_size)

        mask, paid = text.mask, rewards
        scored = lambda params: score(model, params, text.tokens, text.valid, text.mask, options)
        metrics = {}
        if divergence is not None:
            reference = jax.lax.stop_gradient(scored(state.reference).logp)
            kl = objectives.kl_estimate(text.logp, reference, mask, divergence.estimate)
            metrics["divergence"] = mean_over(kl, mask, axis_name)
            if divergence.place == "reward":
                cost = (divergence.weight * kl).sum(-1).reshape(rewards.shape)
                paid = rewards - cost
        advantage = group_advantage(paid, baseline).reshape(rows, 1)
        if skip_equal:
            grouped = mask.reshape(-1, group_size, mask.shape[-1])
            mask = without_equal_groups(grouped, paid).reshape(mask.shape)

        def loss(params: Any) -> tuple[Array, dict[str, Array]]:
            now = scored(params)
            drawn = now.sampled
            each = objectives.surrogate(drawn, text.sampled, advantage, mask, clip=clip)
            each = each - entropy_weight * now.entropy
            if divergence is not None and divergence.place == "loss":
                cost = objectives.kl_estimate(now.logp, reference, mask, divergence.estimate)
                each = each + divergence.weight * cost
            gap = jnp.where(text.mask, jax.lax.stop_gradient(drawn) - text.sampled, 0)
            entropy = mean_over(now.entropy, text.mask, axis_name)
            total = objectives.aggregate(each, mask, aggregation, axis_name=axis_name)
            return total, {
                "entropy": entropy,
                "largest_mismatch": pmax(jnp.abs(gap).max(), axis_name),
            }

        def step(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], dict[str, Array]]:
            return gradient_step(optimizer, loss, carry, axis_name)

        (params, opt_state), steps = jax.lax.scan(step, state[:2], None, num_steps)
        first = jax.tree.map(lambda x: x[0], steps)
        equal = 1 - informative(rewards).astype(jnp.float32).mean()
        shared = {
            "reward": rewards.mean(),
            "correct": verdict.correct.astype(jnp.float32).mean(),
            "equal_groups": equal,
            "length": text.mask.sum(-1).astype(jnp.float32).mean(),
        }
        metrics |= first | pmean(shared, axis_name)
        anchor = state.reference
        if divergence is not None:
            anchor = trees.ema(state.reference, params, divergence.decay)
        return LearnerState(params, opt_state, anchor), StepOutput(metrics, rewards)

    return Core(init, update)
