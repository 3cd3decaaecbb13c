"""PPO for language models: a critic reads a value before every token of the policy.

    core = ppo(model, chained(3), optimizer, room=40)
    state = core.init(params)
    state, out = core.update(state, places, key)

The critic is a linear head on the states of the policy itself. Rewards are paid at the last token
of a turn, generalised advantages (`jaxrl.returns`) carry them back, and one response to a problem
is enough.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxrl.lm import objectives
from jaxrl.lm.advantages import token_advantages
from jaxrl.lm.learners import LearnerState, begin, gradient_step
from jaxrl.lm.objectives import Aggregation
from jaxrl.lm.policy_gradient import (
    Divergence,
    charged,
    check_divergence,
    check_steps,
    sampling_metrics,
    token_losses,
)
from jaxrl.lm.samples import Credit, Reward, correctness, reward_metrics, sampled, turn_by_turn
from jaxrl.lm.tasks.task import Task
from jaxrl.lm.turns import Instruction, paid_at_the_end
from jaxrl.losses import value_loss
from jaxtrain import trees
from jaxtrain.collectives import AxisName, pmean
from jaxtrain.collectives import masked_mean as mean_over
from jaxtrain.lm import heads
from jaxtrain.lm.decoder import Decoder, score, states_before
from jaxtrain.lm.logits import PLAIN, Options, Scores
from jaxtrain.protocol import Core, StepOutput


def ppo(
    model: Decoder,
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    room: int,
    group_size: int = 1,
    reward: Reward = correctness,
    instructions: Sequence[Instruction] = (),
    credit: Credit = turn_by_turn,
    gamma: ArrayLike = 1.0,
    lambda_: ArrayLike = 0.95,
    value_weight: ArrayLike = 0.1,
    value_clip: float | Array | None = None,
    aggregation: Aggregation = "token_mean",
    clip: tuple[ArrayLike, ArrayLike] | None = (0.2, 0.2),
    divergence: Divergence | None = None,
    entropy_weight: ArrayLike = 0.0,
    num_steps: int = 1,
    options: Options = PLAIN,
    axis_name: AxisName | None = None,
) -> Core:
    """Proximal policy optimisation with generalised advantages over the tokens of the policy.

    Instructions and other forced tokens between its own take no time. A divergence whose place is
    the reward is subtracted token by token. Advantages are not standardised.

    Args:
      model: the language model, which knows at least the symbols of the tasks.
      task: where problems come from; a place of the batch and the key give one.
      optimizer: any Optax transformation, of model and critic together.
      room: most tokens of a response, or of each of its turns.
      group_size: responses to each problem.
      reward: of a turn, `(problem, verdict, tokens [S], valid [S]) -> []`; correctness without it.
      instructions: what is said between the turns, see `turns.converse`; none for one turn.
      credit: rewards of turns and which were taken, both `[P, G, K]`, to what is paid at their
        ends.
      gamma: discount per token of the policy.
      lambda_: 0 for one-token differences, 1 for returns minus values.
      value_weight: of the critic's loss.
      value_clip: see `jaxrl.losses.value_loss`.
      aggregation: of the losses of tokens.
      clip: of the ratios, see `objectives.surrogate`.
      divergence: cost of leaving a reference, which begins as the given parameters.
      entropy_weight: of the mean entropy of tokens, which is maximised.
      num_steps: gradient steps on the samples of an update.
      options: how tokens are drawn.
      axis_name: mapped device axis, `None` for global arrays.

    Returns:
      A core with `init(params)`, whose parameters are `(those of the model, heads.Head)`; batches
      are numbers of places `[P]`, `outputs` what responses earned over all their turns, `[P, G]`.

    Raises:
      ValueError: no response, a divergence in a place that there is not, no step, or several
        without `clip`; (when called) a batch that is no list of places, or a model that lacks
        symbols of the task.

    References:
      Schulman et al., Proximal Policy Optimization Algorithms, arXiv 1707.06347; Ziegler et al.,
      Fine-Tuning Language Models from Human Preferences, arXiv 1909.08593.
    """
    if group_size < 1:
        raise ValueError(
            f"a group of {group_size} has no response; take a group_size of 1 or more."
        )
    check_divergence(divergence)
    check_steps(num_steps, clip)

    def init(params: Any) -> LearnerState:
        critic = heads.judge_head(model.config.width)
        return begin(optimizer, (params, critic), () if divergence is None else params)

    def update(state: LearnerState, batch: Any, key: Array) -> tuple[LearnerState, StepOutput]:
        samples = sampled(
            model,
            task,
            state.params[0],
            batch,
            key,
            group_size=group_size,
            room=room,
            reward=reward,
            instructions=instructions,
            options=options,
        )
        text, mask = samples.text, samples.text.mask

        def judged(params: Any) -> tuple[Scores, Array]:
            states, _ = states_before(model, params[0], text.tokens, text.valid)
            value = heads.head_logit(params[1], states.astype(jnp.float32))
            return model.log_probs(params[0], states, text.tokens, mask, options), value

        paid = credit(samples.reward, samples.taken).reshape(len(mask), -1)
        paid = paid_at_the_end(paid, text)
        metrics, reference = {}, None
        if divergence is not None:
            scored = score(model, state.reference, text.tokens, text.valid, mask, options)
            reference = jax.lax.stop_gradient(scored.logp)
            kl = objectives.kl_estimate(text.logp, reference, mask, divergence.estimate)
            metrics["divergence"] = mean_over(kl, mask, axis_name)
            paid = paid - charged(divergence, kl)
        before = judged(state.params)[1]
        advantage = token_advantages(paid, before, mask, gamma=gamma, lambda_=lambda_)
        target = advantage + before

        def loss(params: Any) -> tuple[Array, dict[str, Array]]:
            now, value = judged(params)
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
            error = value_loss(value, before, target, value_clip)
            of_critic = objectives.aggregate(error, mask, aggregation, axis_name=axis_name)
            total = objectives.aggregate(each, mask, aggregation, axis_name=axis_name)
            found = sampling_metrics(samples, now, axis_name) | {"value_loss": of_critic}
            return total + value_weight * of_critic, found

        def step(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], dict[str, Array]]:
            return gradient_step(optimizer, loss, carry, axis_name)

        (params, opt_state), steps = jax.lax.scan(step, state[:2], None, num_steps)
        metrics |= jax.tree.map(lambda x: x[0], steps)
        metrics |= pmean(reward_metrics(samples), axis_name)
        anchor = state.reference
        if divergence is not None:
            anchor = trees.ema(state.reference, params[0], divergence.decay)
        return LearnerState(params, opt_state, anchor), StepOutput(metrics, samples.reward.sum(-1))

    return Core(init, update)
