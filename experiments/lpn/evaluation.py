"""Exact-match accuracy of latent programs on held-out tasks, as curves over search steps.

An output counts when side lengths and all cells are right. That is decided by teacher forcing:
greedy generation gives the target exactly when every teacher-forced argmax is right, and one pass
is enough to know. One search of K steps gives the result of every shorter one.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import Array

from jaxtta.lpn import (
    LPN,
    Method,
    Pairs,
    Posterior,
    generate,
    in_context_log_probs,
    leave_one_out,
    log_probs,
    prefix_best,
    search_task,
    test_time_training,
)
from jaxtta.lpn.loss import ACTIVE_KL, kl_per_dimension

EXPLODED_KL = 50.0  # nats per dimension: a posterior 1e-22 times as wide as the prior, or far off


def leave_one_out_problems(pairs: Pairs) -> tuple[Pairs, Pairs]:
    """From tasks `[T, N]` all T * N problems: demonstrations `[T N, N - 1]`, targets `[T N, 1]`."""
    index = leave_one_out(pairs.mask.shape[1])
    demos = jax.tree.map(lambda x: rearrange(x[:, index], "b i n ... -> (b i) n ..."), pairs)
    targets = jax.tree.map(lambda x: rearrange(x, "b i ... -> (b i) 1 ..."), pairs)
    return demos, targets


def last_pair_problems(pairs: Pairs) -> tuple[Pairs, Pairs]:
    """From tasks `[T, n + 1]` T problems: the last pair given the n others."""
    return (
        jax.tree.map(lambda x: x[:, :-1], pairs),
        jax.tree.map(lambda x: x[:, -1:], pairs),
    )


@functools.partial(jax.jit, static_argnames=("lpn", "method", "steps", "chunk"))
def search_accuracy(
    lpn: LPN,
    params: Any,
    key: Array,
    demos: Pairs,
    targets: Pairs,
    *,
    method: Method,
    steps: tuple[int, ...],
    posterior: Posterior | None = None,
    chunk: int = 128,
) -> Array:
    """Whether targets are predicted exactly after each number of search steps, `[B, len(steps)]`.

    Args:
      lpn: model.
      params: parameters.
      key: problem i uses `fold_in(key, i)`.
      demos: demonstrations, `[B, n]`.
      targets: pairs to predict, `[B, 1]`.
      method: search; its `num_steps` must reach the largest of `steps`.
      steps: numbers of search steps.
      posterior: encoder output of `demos`, `[B, n, H]`, if known.
      chunk: problems searched at once.
    """

    def one(problem):
        index, demo, target, known = problem
        found = search_task(
            lpn, params, jax.random.fold_in(key, index), demo, method, posterior=known
        )
        latents, _ = prefix_best(found, steps, k=1)
        prepared = lpn.prepare(params, target)
        return jax.vmap(
            lambda z: log_probs(lpn.logits(params, z, prepared), prepared.targets).exact[0]
        )(latents)

    index = jnp.arange(demos.mask.shape[0])
    return jax.lax.map(one, (index, demos, targets, posterior), batch_size=chunk)


@functools.partial(jax.jit, static_argnames="lpn")
def leave_one_out_posterior(lpn: LPN, params: Any, pairs: Pairs) -> Posterior:
    """Encodes every pair of tasks `[T, N]` once, for all problems it is a demonstration of."""
    index = leave_one_out(pairs.mask.shape[1])
    posterior = lpn.encode(params, pairs)
    return jax.tree.map(lambda x: rearrange(x[:, index], "b i n h -> (b i) n h"), posterior)


@functools.partial(jax.jit, static_argnames=("lpn", "num_steps", "chunk"))
def in_context_accuracy(
    lpn: LPN,
    params: Any,
    demos: Pairs,
    targets: Pairs,
    learning_rate: float = 1e-4,
    *,
    num_steps: int = 0,
    chunk: int = 32,
) -> Array:
    """Whether targets are predicted exactly after test-time training (0 steps: in context),
    `[B]`."""
    adapt = test_time_training(lpn, num_steps, learning_rate)

    def one(problem):
        demo, target = problem
        adapted = adapt(params, demo) if num_steps else params
        return in_context_log_probs(lpn, adapted, demo, target).exact[0]

    return jax.lax.map(one, (demos, targets), batch_size=chunk)


@functools.partial(jax.jit, static_argnames=("lpn", "method"))
def generated_metrics(
    lpn: LPN, params: Any, key: Array, demos: Pairs, targets: Pairs, *, method: Method
) -> dict[str, Array]:
    """The authors' generation metrics per problem, each `[B]`: `correct_shapes`,
    `pixel_correctness` (0 when the shape is wrong) and `accuracy`."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(demos.mask.shape[0]))
    found = jax.vmap(lambda k, d: search_task(lpn, params, k, d, method))(keys, demos)
    inputs = jax.tree.map(lambda x: x[:, 0], targets.inputs)
    grids = generate(lpn, params, found.best_latents[:, 0], inputs)
    truth = jax.tree.map(lambda x: x[:, 0], targets.outputs)
    length = truth.cells.shape[-1]
    num_cells = truth.shape.prod(-1)
    valid = jnp.arange(length)[None] < num_cells[:, None]
    shapes = (grids.shape == truth.shape).all(-1)
    right = ((grids.cells[:, :length] == truth.cells) & valid).sum(-1) / num_cells
    pixels = jnp.where(shapes, right, 0.0)
    return {"correct_shapes": shapes, "pixel_correctness": pixels, "accuracy": pixels == 1.0}


def latent_report(lpn: LPN, params: Any, pairs: Pairs) -> dict[str, Any]:
    """How the encoder uses the latent dimensions on pairs `[T, N]`, so that a wrong beta shows.

    Returns:
      `kl_per_dimension` (nats, mean over pairs, `[H]`), `active_units` (dimensions above 0.01) and
      `text`, one sentence that warns of a collapsed or an exploding posterior.
    """
    posterior = jax.jit(lpn.encode)(params, pairs)
    valid = np.asarray(pairs.mask).ravel()
    kl = np.asarray(rearrange(kl_per_dimension(posterior), "t n h -> (t n) h"))[valid].mean(0)
    active = int((kl > ACTIVE_KL).sum())
    text = f"{active} of {len(kl)} latent dimensions are used, KL {kl.sum():.3g} nats"
    if not active:
        text += "; WARNING: the posterior has collapsed onto the prior, lower train.beta"
    elif not kl.mean() < EXPLODED_KL:
        text += "; WARNING: the KL explodes, raise train.beta"
    return {"kl_per_dimension": kl.tolist(), "active_units": active, "text": text}
