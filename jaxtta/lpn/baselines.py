"""The paper's baselines on the same network: in-context prediction and test-time training.

In-context: instead of one latent program, the encodings of all demonstrations enter the decoder as
context tokens with a learned slot each; no sampling and no KL term. Test-time training: for each
task, a few Adam steps on *all* parameters with the leave-one-out loss of its demonstrations, then
in-context prediction.

No code was released for either. Choices the paper leaves open: the row count is read at the first
context token, slots are in the order of the demonstrations, the leave-one-out loss is normalised
like the LPN's. Build the model with `Config(variational=False, num_slots=n)`, n at least the most
demonstrations of any task.

References:
  Macfarlane and Bonnet, Searching Latent Program Spaces, arXiv 2411.08706, sec. 5 and app. B.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxtta.lpn.generation import generate
from jaxtta.lpn.grids import Grid, Pairs, leave_one_out
from jaxtta.lpn.likelihood import PairLogProbs, log_probs, mean_cells
from jaxtta.lpn.model import LPN, Params


def _check(lpn: LPN, num_pairs: int) -> None:
    slots = lpn.config.num_slots
    if not slots or num_pairs > slots:
        raise ValueError(
            f"in-context prediction from {num_pairs} demonstrations needs a model with at least as "
            f"many context slots, but num_slots is {slots}."
        )


def _encodings(lpn: LPN, params: Params, pairs: Pairs, key: Array | None = None) -> Array:
    """Encoding of every pair `[N, H]`, 0 for padding: with no pair at all, the row count is read at
    a token that says nothing."""
    return jnp.where(pairs.mask[:, None], lpn.encode(params, pairs, key=key).mean, 0.0)


def in_context_log_probs(lpn: LPN, params: Params, demos: Pairs, targets: Pairs) -> PairLogProbs:
    """Log-probabilities of `targets` `[Q]` given demonstrations `[N]` of one task: `[Q]` each."""
    _check(lpn, demos.mask.shape[-1])
    encodings = _encodings(lpn, params, demos)
    contexts = jnp.broadcast_to(encodings, (targets.mask.shape[0], *encodings.shape))
    valid = jnp.broadcast_to(demos.mask, contexts.shape[:-1])
    prepared = lpn.prepare(params, targets)
    return log_probs(lpn.logits(params, contexts, prepared, context_valid=valid), prepared.targets)


def in_context_loss(
    lpn: LPN, params: Params, pairs: Pairs, key: Array | None
) -> tuple[Array, dict[str, Array]]:
    """Leave-one-out loss of one task of N pairs, same normalisation as `loss.task_loss`.

    `key` is that of dropout; None for no dropout.

    Returns:
      Loss `[]` and metrics; suits `train.training`.
    """
    num_pairs = pairs.mask.shape[-1]
    _check(lpn, num_pairs - 1)
    key_encoder, key_decoder = (None, None) if key is None else jax.random.split(key)
    index = leave_one_out(num_pairs)
    encodings = _encodings(lpn, params, pairs, key_encoder)[index]
    prepared = lpn.prepare(params, pairs, key=key_decoder)
    logits = lpn.logits(
        params, encodings, prepared, context_valid=pairs.mask[index], key=key_decoder
    )
    parts = log_probs(logits, prepared.targets)
    mask = pairs.mask

    def mean(values: Array) -> Array:
        return jnp.where(mask, values, 0.0).sum() / jnp.maximum(mask.sum(), 1)

    loss = -mean(parts.rows + parts.cols + mean_cells(parts))
    return loss, {
        "loss": loss,
        "row_loss": -mean(parts.rows),
        "col_loss": -mean(parts.cols),
        "cell_loss": -mean(mean_cells(parts)),
        "teacher_forced_accuracy": mean(parts.exact),
    }


AdaptFn = Callable[[Params, Pairs], Params]
Adapting = tuple[Params, optax.OptState]


def test_time_training(lpn: LPN, num_steps: int, learning_rate: float | Array = 1e-4) -> AdaptFn:
    """Adapts all parameters to one task, without dropout.

    Args:
      lpn: in-context model.
      num_steps: Adam steps; 0 returns the parameters unchanged. Published: 10, 100 (400 once).
      learning_rate: published 1e-4, or 1e-5 out of distribution; may be traced.

    Returns:
      `adapt(params, demos [N]) -> params`; pure, so `vmap` over tasks restores the parameters by
      itself.
    """
    optimizer = optax.adam(learning_rate)

    def adapt(params: Params, demos: Pairs) -> Params:
        num_pairs = demos.mask.shape[-1]
        if num_steps and num_pairs < 2:
            raise ValueError(
                "test-time training leaves one demonstration out; it needs at least 2."
            )

        def loss_fn(params: Params) -> Array:
            loss, _ = in_context_loss(lpn, params, demos, None)
            return loss * demos.mask.sum()  # The paper sums over demonstrations.

        def step(carry: Adapting, _: None) -> tuple[Adapting, None]:
            params, opt_state = carry
            updates, opt_state = optimizer.update(jax.grad(loss_fn)(params), opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), None

        carry, _ = jax.lax.scan(step, (params, optimizer.init(params)), length=num_steps)
        return carry[0]

    return adapt


def in_context_solve_tasks(
    lpn: LPN,
    params: Params,
    demos: Pairs,
    inputs: Grid,
    adapt: AdaptFn | None = None,
) -> Grid:
    """Predicts the outputs of test inputs `[B, Q]`, one attempt each, task after task.

    Args:
      lpn: in-context model.
      params: parameters.
      demos: demonstrations, `[B, N]`.
      inputs: test inputs, `[B, Q]`.
      adapt: from `test_time_training`; None to predict in context only.

    Returns:
      Grids `[B, Q]`.
    """
    _check(lpn, demos.mask.shape[-1])

    def one(task: tuple[Pairs, Grid]) -> Grid:
        pairs, queries = task
        adapted = params if adapt is None else adapt(params, pairs)
        encodings = _encodings(lpn, adapted, pairs)
        lead = (queries.shape.shape[0],)
        return generate(
            lpn,
            adapted,
            jnp.broadcast_to(encodings, lead + encodings.shape),
            queries,
            context_valid=jnp.broadcast_to(pairs.mask, lead + pairs.mask.shape),
        )

    return jax.lax.map(one, (demos, inputs))
