"""T3AL: finding actions in a video by adapting two towers to that video, without training.

Frames and names of actions meet in one space, through a linear map each. 1. The video's label is
the name nearest to its mean frame; the mean frame is the background b. 2. Some steps on both maps
and the scale: of the frames whose similarity to the name, less the background and smoothed over
time, is highest, a few are positives, of the lowest as many negatives; the loss draws the
similarities of these frames to 1 and 0, and positives to the name. 3. With what was adapted, frames
above their mean similarity are joined to regions over short gaps.

A batch is one video, so that `jaxtrain.episodic(t3al(...))` starts every video afresh, which is the
paper's. The released code means to and does not: what it restores is the state one step before the
end of the last video, and moments of the optimiser are kept. Without `episodic` this core leaks in
just that way.

Not included: captions, and videos of several actions.

Reference: Liberatori, Conti, Rota, Wang and Ricci, Test-Time Zero-Shot Temporal Action
Localization, CVPR 2024, arXiv 2404.05426. Official code: benedettaliberatori/T3AL.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from jaxtrain import parallel
from jaxtrain.core import Core, Held, StepOutput
from jaxtrain.known_numbers import check_whole
from jaxtrain.nets.two_tower import unit


class Towers(NamedTuple):
    """What is adapted: maps of frames `visual` `[D, E]` and of names `text` `[N, E]`, and
    `log_scale` `[]`."""

    visual: Any
    text: Any
    log_scale: Any


class T3alState(NamedTuple):
    """State: the towers, the optimiser's state, and the names, `Held` `[C, N]`."""

    params: Towers
    opt_state: Any
    names: Held


class Localised(NamedTuple):
    """Results per frame.

    Attributes:
      score: similarity to the label, from 0 to 1, `[T]`.
      region: which region a frame belongs to, `[T]`, int32; -1 for none.
      confidence: probability of the label in that region, `[T]`; 0 for none.
      label: the label of the video, the same for all frames, `[T]`, int32.
    """

    score: Array
    region: Array
    confidence: Array
    label: Array


def smoothed(values: Array, last: Array, width: int) -> Array:
    """Moving average over time, ends repeated, `[T]`.

    Args:
      values: `[T]`.
      last: place of the last frame; those behind it count as equal to it.
      width: of the window.
    """
    size = len(values)
    held = jnp.where(jnp.arange(size) <= last, values, values[last])
    padded = jnp.pad(held, (width, width), mode="edge")
    sums = jnp.concatenate([jnp.zeros(1, padded.dtype), jnp.cumsum(padded)])
    means = (sums[width:] - sums[:-width]) / width
    begin = width - width // 2
    return jax.lax.dynamic_slice_in_dim(means, begin, size)


def picked(chosen: Array, number: Array, picks: int) -> Array:
    """Places of evenly spread frames among the chosen ones, in time, `[picks]`.

    Args:
      chosen: `[T]`, bool.
      number: how many are chosen, `[]`.
      picks: how many are picked.
    """
    stride = jnp.maximum((number - 1) // max(picks - 1, 1), 1)
    wanted = jnp.minimum(stride * jnp.arange(picks), number - 1)
    return jnp.searchsorted(jnp.cumsum(chosen), wanted + 1)


def candidates(
    similarity: Array, count: Array, key: Array, *, picks: int, per_pick: int, jitter: int
) -> tuple[Array, Array]:
    """Places of positives and negatives, `[picks]` each.

    Of the `picks * per_pick` highest (as many modulo the frames there are, or all) and lowest
    frames, in time, evenly spread ones, moved by up to `jitter` frames.

    Args:
      similarity: `[T]`; what is behind the video does not count.
      count: frames of the video, `[]`.
      key: of the jitter.
      picks, per_pick, jitter: numbers of the method.
    """
    number = (picks * per_pick) % count
    number = jnp.maximum(jnp.where(number == 0, count, number), jnp.minimum(picks, count))
    valid = jnp.arange(len(similarity)) < count
    rank = jnp.argsort(jnp.argsort(jnp.where(valid, -similarity, jnp.inf)))
    top, bottom = rank < number, (rank >= count - number) & valid
    moved = jax.random.randint(key, (2, picks), -jitter, max(jitter, 1))
    place = lambda x, by: jnp.clip(picked(x, number, picks) + by, 0, count - 1)
    return place(top, moved[0]), place(bottom, moved[1])


def drawn_to(a: Array, b: Array) -> Array:
    """2 - 2 <a / |a|, b~> with b~ = 0.8 b / |b| + 0.2 / dim, which has no gradient; `[...]`."""
    target = jax.lax.stop_gradient(0.8 * unit(b) + 0.2 / b.shape[-1])
    return 2 - 2 * (unit(a) * target).sum(-1)


def regions(on: Array, gap: int) -> Array:
    """Runs of frames, joined over gaps of at most `gap` frames and without runs of one frame.

    Args:
      on: `[T]`, bool.
      gap: in frames.

    Returns:
      Number of the run of each frame, `[T]`, int32; -1 for none.
    """
    size = len(on)
    place = jnp.arange(size)
    before = jax.lax.cummax(jnp.where(on, place, -size))
    after = jax.lax.cummin(jnp.where(on, place, 2 * size), reverse=True)
    filled = on | ((after - before - 1 <= gap) & (before >= 0) & (after < size))
    begins = filled & ~jnp.concatenate([jnp.zeros(1, bool), filled[:-1]])
    run = jnp.cumsum(begins) - 1
    length = jax.ops.segment_sum(filled.astype(jnp.int32), run, num_segments=size)
    good = filled & (length[run] > 1)
    kept = jnp.cumsum(begins & good) - 1
    return jnp.where(good, kept, -1).astype(jnp.int32)


def t3al(
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int = 60,
    picks: int = 4,
    per_pick: int = 100,
    jitter: int = 10,
    width: int = 20,
    gap: int = 20,
    remove_background: bool = True,
    axis_name: parallel.AxisName | None = None,
) -> Core:
    """A core that adapts to one video and localises its action.

    Args:
      optimizer: over `Towers`; Adam 1e-5 with weight decay 1e-4 in the paper, a thousandth of it
        for `visual`.
      num_steps: 60 for THUMOS, 15 for ActivityNet; 0 is the version without training.
      picks: positives, and negatives: 4, or 20.
      per_pick: frames considered for each.
      jitter: frames by which picks are moved.
      width: of the moving average.
      gap: over which regions are joined.
      remove_background: whether b is taken away, as for THUMOS.
      axis_name: mapped device axis, `None` for global arrays. Every device adapts to all frames.

    Returns:
      A core with `init(params, names)`: `Towers`, and features of the names `[C, N]`. A batch is a
      dict with `inputs` `[T, D]`, the frames of one video in their order; `mask` `[T]`, where it is
      padded at its end; and `label` `[T]`, where the action is known, the same for all frames.
      Outputs are `Localised`. Metrics: `loss` of the last step, `num_regions`, `label`.

    Raises:
      ValueError: impossible numbers, or (when called) frames of other shapes.
    """
    check_whole(1, 2**16, picks=picks, per_pick=per_pick, width=width)
    check_whole(0, 2**16, num_steps=num_steps, jitter=jitter, gap=gap)

    def init(params: Towers, names: Array) -> T3alState:
        copied = jax.tree.map(jnp.copy, params)
        opt_state = jax.tree.map(jnp.copy, optimizer.init(copied))
        return T3alState(copied, opt_state, Held(jnp.copy(names)))

    def update(state: T3alState, batch: Any, key: Array) -> tuple[T3alState, StepOutput]:
        frames, dims = batch["inputs"], state.params.visual.shape[0]
        if frames.ndim != 2 or frames.shape[1] != dims:
            raise ValueError(f"a video is frames [T, {dims}], but has shape {frames.shape}.")
        own = len(frames)
        start = 0 if axis_name is None else own * jax.lax.axis_index(axis_name)
        mask = batch.get("mask", jnp.ones(own, bool))
        given = batch.get("label", jnp.full(own, -1))
        frames, mask, given = parallel.gather((frames, mask, given), axis_name)
        names = state.names.arrays
        count = jnp.maximum(mask.sum(), 1)
        shown = lambda params: frames @ params.visual
        mean = lambda v: jnp.where(mask[:, None], v, 0).sum(0) / count
        called = lambda params: unit(names @ params.text)
        background = mean(shown(state.params))
        label = (called(state.params) @ unit(background)).argmax()
        label = jnp.where(given[0] >= 0, given[0], label).astype(jnp.int32)
        away = background[None] if remove_background else jnp.zeros_like(background)[None]

        def loss(params: Towers, key: Array) -> Array:
            v, t = shown(params), called(params)[label]
            chosen = jnp.exp(params.log_scale) * ((v - away) @ t)
            chosen = smoothed(jax.lax.stop_gradient(chosen), count - 1, width)
            options = dict(picks=picks, per_pick=per_pick, jitter=jitter)
            good, bad = candidates(chosen, count, key, **options)
            near, far = unit(v[good]), unit(v[bad])
            alike = jnp.concatenate([near @ t, far @ t])
            wanted = jnp.repeat(jnp.array([1.0, 0.0]), picks)
            towards = drawn_to(near, jnp.broadcast_to(t[None], near.shape)).mean()
            return drawn_to(alike, wanted) + towards

        def step(carry: Any, i: Array) -> tuple[Any, Array]:
            params, opt_state, _ = carry
            value, grads = jax.value_and_grad(loss)(params, jax.random.fold_in(key, i))
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state, params), value

        first = (state.params, state.opt_state, state.params)
        (params, opt_state, last), losses = jax.lax.scan(step, first, jnp.arange(num_steps))

        v, t = shown(params), called(params)
        raw = smoothed(unit(v - away) @ t[label], count - 1, width)
        low = jnp.where(mask, raw, jnp.inf).min()
        high = jnp.where(mask, raw, -jnp.inf).max()
        score = jnp.where(mask, (raw - low) / jnp.maximum(high - low, 1e-12), 0)
        on = mask & (score > score.sum() / count)
        run = regions(on, gap)
        place = jnp.where(run >= 0, run, len(run))
        sums = jax.ops.segment_sum(v, place, num_segments=len(run) + 1)
        logits = jnp.exp(params.log_scale) * unit(sums) @ t.T
        sure = jax.nn.softmax(logits)[place, label]
        metrics = {
            "loss": losses[-1] if num_steps else jnp.zeros(()),
            "num_regions": (run.max() + 1).astype(jnp.float32),
            "label": label.astype(jnp.float32),
        }
        whole = Localised(score, run, jnp.where(run >= 0, sure, 0), jnp.full(len(run), label))
        mine = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, own), whole)
        return T3alState(last, opt_state, state.names), StepOutput(metrics, mine)

    return Core(init, update)


def adam_of_towers(rate: ArrayLike, *, visual: float = 1e-3) -> optax.GradientTransformation:
    """Adam with coupled weight decay 1e-4, slower on the map of frames.

    Args:
      rate: 1e-5 in the paper.
      visual: rate of `Towers.visual`, relative to it.
    """
    made = lambda r: optax.chain(optax.add_decayed_weights(1e-4), optax.adam(r))
    kinds = Towers("slow", "fast", "fast")
    return optax.partition({"fast": made(rate), "slow": made(visual * rate)}, kinds)
