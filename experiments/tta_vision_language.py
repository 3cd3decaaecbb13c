"""T3AL: two towers adapted to one video at a time, to find an action in it.

Videos are features made from timelines, real ones where a file of them is named; towers are trained
on pairs of other things. Weak names are turned far from what their action looks like, good ones are
not: adapting helps the first and harms the second. Controls: no adaptation, a wrong label, and the
background left in. data.file=mine.npz localises actions in videos of yours.
"""

import functools
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from ml_collections import ConfigDict

from experiments.data import videos
from experiments.data.videos import Timeline, Videos
from jaxtrain.core import Model, episodic, on_arrays, supervised
from jaxtrain.host import arrays, cli, report
from jaxtrain.host.config import UsageError
from jaxtrain.nets.two_tower import contrastive_loss, unit
from jaxtta.dense import boxes
from jaxtta.vision_language.t3al import Localised, Towers, adam_of_towers, t3al

OVERLAPS = (0.3, 0.4, 0.5, 0.6, 0.7)
MOST_REGIONS = 48


class Problem(NamedTuple):
    """Videos with towers and names, as arrays of one shape for all seeds."""

    towers: Towers
    names: Any
    frames: Any
    mask: Any
    truth: Any
    label: Any
    segments: Any


def trained(frames: Array, names: Array, key: Array, *, size: int, num_steps: int) -> Towers:
    """Linear towers after contrastive training on pairs `[N, D]` and `[N, M]`."""
    key_visual, key_text, key_run = jax.random.split(key, 3)
    draw = lambda k, x: jax.random.normal(k, (x.shape[1], size)) / x.shape[1] ** 0.5
    start = Towers(draw(key_visual, frames), draw(key_text, names), jnp.log(10.0))

    def apply(params: Towers, state: Any, given: Any, **_: Any) -> tuple[Any, Any]:
        seen, said = unit(given[0] @ params.visual), unit(given[1] @ params.text)
        return (seen, said, jnp.exp(params.log_scale)), state

    loss = lambda outputs, batch: (contrastive_loss(*outputs), {})
    core = supervised(Model(lambda key, x: (start, ()), apply), loss, optax.adam(1e-2))
    prepare = lambda rows: {"inputs": rows}
    state = core.init(key_run, prepare((frames[:1], names[:1])))
    options: Any = dict(batch_size=128, num_steps=num_steps, prepare=prepare)
    state, _ = on_arrays(core, state, (frames, names), key_run, **options)
    return state.params


def problem(lines: list[Timeline], options: dict[str, Any], size: int, seed: int) -> Problem:
    """A world of a seed: towers, names, and videos of its choice of timelines."""
    rng = np.random.default_rng(seed)
    actions = 1 + max(line.action for line in lines)
    made = videos.world(actions, size, rng)
    pairs = videos.paired(made, 2000, rng)
    run = jax.jit(functools.partial(trained, size=size, num_steps=60))
    towers = run(*map(jnp.asarray, pairs), jax.random.key(seed))
    names = videos.names(made, options["misalignment"], rng)
    chosen = [lines[i] for i in rng.permutation(len(lines))[: options["num_videos"]]]
    looks = {name: options[name] for name in ("strength", "background")}
    frames = max(math.ceil(line.duration * videos.RATE) for line in lines)
    shown = padded(
        videos.filmed(made, chosen, rng, **looks), frames, max(len(x.segments) for x in lines)
    )
    return Problem(towers, names, *shown)


def padded(shown: Videos, frames: int, segments: int) -> Videos:
    """The same with so many places for frames and for segments."""
    room = lambda x, n, value=0: np.pad(
        x, [(0, 0), (0, n - x.shape[1])] + [(0, 0)] * (x.ndim - 2), constant_values=value
    )
    parts = (room(x, frames) for x in (shown.frames, shown.mask, shown.truth))
    return Videos(*parts, shown.label, room(shown.segments, segments, -1))


# --- What is measured -----------------------------------------------------------------------------


def ranked(score: Array, truth: Array, mask: Array) -> Array:
    """Chance that a frame of the action scores above another frame of the video, `[]`."""
    yes, no = truth & mask, ~truth & mask
    above = (score[:, None] > score[None]) + 0.5 * (score[:, None] == score[None])
    pairs = yes.sum() * no.sum()
    share = (above * (yes[:, None] & no[None])).sum() / jnp.maximum(pairs, 1)
    return jnp.where(pairs > 0, share, 0.5)


def detections(found: Localised) -> tuple[Array, Array]:
    """Regions of a video as segments `[R, 2]`, and their confidence, -inf for none."""
    size = len(found.region)
    place = jnp.where(found.region >= 0, found.region, MOST_REGIONS)
    time = jnp.arange(size, dtype=jnp.float32)
    each = lambda reduce, x: reduce(x, place, num_segments=MOST_REGIONS + 1)[:MOST_REGIONS]
    segments = jnp.stack([each(jax.ops.segment_min, time), each(jax.ops.segment_max, time) + 1], 1)
    sure = each(jax.ops.segment_max, found.confidence)
    exists = jnp.arange(MOST_REGIONS) <= found.region.max()
    return jnp.where(exists[:, None], segments, 0), jnp.where(exists, sure, -jnp.inf)


def precision(found: Localised, label: Array, segments: Array) -> Array:
    """Average precision of the regions of all videos, mean over overlaps, `[]`.

    Args:
      found: of every video, `[V, T]`.
      label: true ones, `[V]`.
      segments: true ones in frames, `[V, S, 2]`, -1 for none.
    """
    given, sure = jax.vmap(detections)(found)
    right = (found.label[:, 0] == label)[:, None]

    def at(overlap: Array) -> Array:
        def hits(mine: Array, true: Array, score: Array) -> Array:
            shared = jnp.where(true[:, 0] >= 0, boxes.iou(mine, true), -1)
            return boxes.match(shared, score, overlap)

        hit = jax.vmap(hits)(given, segments, sure) & right
        number = (segments[..., 0] >= 0).sum()
        return boxes.average_precision(sure.ravel(), hit.ravel(), number)

    return jax.lax.map(at, jnp.asarray(OVERLAPS)).mean()


def measured(given: Problem, key: Array, cores: dict[str, Any]) -> dict[str, Array]:
    """Every row of one problem: frame ranks with known labels, precision with found ones."""
    others = min(2, len(given.names) - 1)
    wrong = (given.label + 1 + jnp.arange(len(given.label)) % others) % len(given.names)

    def run(core: Any, label: Array) -> Localised:
        state = core.init(given.towers, given.names)

        def one(frames: Array, mask: Array, name: Array, key: Array) -> Localised:
            batch = {"inputs": frames, "mask": mask, "label": jnp.full(len(mask), name)}
            return core.update(state, batch, key)[1].outputs

        keys = jax.random.split(key, len(given.label))
        return jax.vmap(one)(given.frames, given.mask, label, keys)

    unknown = jnp.full_like(given.label, -1)
    known = {
        "free": run(cores["free"], given.label),
        "adapted": run(cores["adapted"], given.label),
        "wrong": run(cores["adapted"], wrong),
        "wrong, free": run(cores["free"], wrong),
        "background left in": run(cores["background left in"], given.label),
    }
    rank = jax.vmap(ranked)
    found = {
        f"rank {name}": jnp.mean(rank(x.score, given.truth, given.mask))
        for name, x in known.items()
    }
    blind = {name: run(cores[name], unknown) for name in cores}
    found |= {
        f"precision {name}": precision(x, given.label, given.segments) for name, x in blind.items()
    }
    found["label found"] = (blind["free"].label[:, 0] == given.label).mean(dtype=jnp.float32)
    shown = {name: jax.tree.map(lambda x: x[:3], x) for name, x in known.items()}
    return found | {"shown": shown}


def build(config: ConfigDict, setup: cli.Setup) -> cli.Work:
    """Both kinds of names in worlds of several seeds, or videos of one's own."""
    if setup.execution.axis_name is not None:
        raise cli.UsageError("tta_vision_language runs under --parallel=jit")
    seed, data = config.seed, config.data
    method = {name: config.t3al[name] for name in config.t3al}
    optimizer = adam_of_towers(method.pop("learning_rate"), visual=method.pop("visual"))
    make = functools.partial(t3al, optimizer, **method)
    cores = {
        "free": episodic(make(num_steps=0)),
        "adapted": episodic(make()),
        "background left in": episodic(make(num_steps=0, remove_background=False)),
    }
    if data.file:
        return functools.partial(of_file, own_problem(data.file), cores["adapted"], seed)
    num_seeds, size, regimes = config.num_seeds, data.size, ("weak", "good")
    if data.timelines:
        lines = videos.read(data.timelines)
    else:
        lines = videos.made_up(data.num_timelines, data.num_actions, seed)
    if len({line.action for line in lines}) < 2:
        raise UsageError("the timelines have one action; a wrong label needs two")
    if len(lines) < data.num_videos:
        raise UsageError(f"data.num_videos={data.num_videos} but there are {len(lines)} timelines")
    options = {
        name: dict(num_videos=data.num_videos, **{key: config[name][key] for key in config[name]})
        for name in regimes
    }

    @jax.jit
    def run(given: Problem, keys: Array) -> Any:
        return jax.lax.map(lambda x: measured(*x, cores), (given, keys))

    def work(context: cli.Context) -> dict[str, Any]:
        results, drawn = {}, {}
        for name, one in options.items():
            made = [problem(lines, one, size, seed + i) for i in range(num_seeds)]
            stacked = jax.tree.map(lambda *x: np.stack(x), *made)
            found = jax.device_get(run(stacked, jax.random.split(jax.random.key(seed), num_seeds)))
            drawn[name] = made[0], jax.tree.map(lambda x: x[0], found.pop("shown"))
            found["gain"] = found["rank adapted"] - found["rank free"]
            found["gain, wrong label"] = found["rank wrong"] - found["rank wrong, free"]
            results[name] = found
        print(table(results), flush=True)
        figure(drawn, context.workdir / "plots" / "timelines.png")
        return results

    return work


def table(results: dict[str, dict[str, np.ndarray]]) -> str:
    """A line per number, a column per kind of names."""
    rows = [["", *results]]
    for name in next(iter(results.values())):
        rows.append([name, *(report.with_interval(found[name]) for found in results.values())])
    return report.grid(rows)


def figure(drawn: dict[str, tuple[Problem, dict[str, Localised]]], path: Path) -> None:
    """Timelines of three videos of each kind: score before and after, found and true segments."""
    with report.figure_style():
        plot = report.new_figure(11, 2.0 * 3)
        panels = plot.subplots(3, len(drawn), squeeze=False)
        for column, (kind, (given, found)) in enumerate(drawn.items()):
            for i, axes in enumerate(panels[:, column]):
                length = int(np.asarray(given.mask)[i].sum())
                time = np.arange(length) / videos.RATE
                for j, name in enumerate(("free", "adapted")):
                    one = jax.tree.map(lambda x, i=i, n=length: np.asarray(x[i, :n]), found[name])
                    colour = report.COLORS[j]
                    axes.plot(time, one.score, color=colour, linewidth=1, label=name)
                    low = -0.16 * (j + 1)
                    on = one.region >= 0
                    axes.fill_between(time, low, low + 0.1, where=on, color=colour, linewidth=0)
                true = np.asarray(given.truth)[i, :length]
                axes.fill_between(time, 1.06, 1.16, where=true, color=report.COLORS[2], linewidth=0)
                axes.set(ylim=(-0.4, 1.25), yticks=(0, 1))
            panels[0, column].set_title(f"{kind} names (green: true segments; bars below: found)")
            panels[-1, column].set_xlabel("seconds")
        panels[0, 0].legend(fontsize=8, ncols=2, loc="center right")
        plot.tight_layout()
        report.save_figure(plot, path)


# --- Videos of one's own --------------------------------------------------------------------------


def own_problem(file: str) -> Problem:
    """Videos of a file: `frames [V, T, D]`, `mask [V, T]`, `names [C, N]`, `visual`, `text` and
    `log_scale` of the towers.

    Raises:
      UsageError: a file that cannot be read, or shapes that do not belong together.
    """
    keys = ["frames", "mask", "names", "visual", "text", "log_scale"]
    held = arrays.read(file, keys, finite=True)
    frames, mask, names, visual, text, scale = (held[key] for key in keys)
    good = (
        (frames.ndim, mask.ndim, names.ndim, visual.ndim, text.ndim, scale.size)
        == (3, 2, 2, 2, 2, 1)
        and frames.shape[:2] == mask.shape
        and (frames.shape[2], names.shape[1]) == (len(visual), len(text))
        and visual.shape[1] == text.shape[1]
    )
    if not good:
        shapes = ", ".join(f"{key} {held[key].shape}" for key in keys)
        raise UsageError(
            f"{file}: {shapes}; expected frames [V, T, D], mask [V, T], names [C, N], visual "
            "[D, E], text [N, E] and one log_scale"
        )
    mask = mask.astype(bool)
    if (np.diff(mask.astype(int), axis=1) > 0).any() or not mask.any(1).all():
        raise UsageError(f"{file}: mask must be true from the first frame of a video to its last")
    single = lambda x: jnp.asarray(x, jnp.float32)
    towers = Towers(single(visual), single(text), single(scale.reshape(())))
    return Problem(towers, single(names), single(frames), jnp.asarray(mask), (), (), ())


def of_file(given: Problem, core: Any, seed: int, context: cli.Context) -> dict[str, Any]:
    """Localises the action of every video; `regions.npz` holds what was found, by frame."""

    @jax.jit
    def run(given: Problem, keys: Array) -> Localised:
        state = core.init(given.towers, given.names)
        one = lambda frames, mask, key: (
            core.update(state, {"inputs": frames, "mask": mask}, key)[1].outputs
        )
        return jax.vmap(one)(given.frames, given.mask, keys)

    found = jax.device_get(run(given, jax.random.split(jax.random.key(seed), len(given.frames))))
    arrays.write(context.workdir / "regions.npz", found._asdict())
    for i, (label, number) in enumerate(
        zip(found.label[:, 0], found.region.max(1) + 1, strict=True)
    ):
        print(f"video {i}: name {label}, {number} regions", flush=True)
    return {"regions": (found.region.max(1) + 1.0)}


def validate(config: ConfigDict) -> None:
    """Raises UsageError for settings that do not go together."""
    data = config.data
    if not (data.file or data.timelines) and data.num_videos > data.num_timelines:
        raise UsageError(
            f"data.num_videos={data.num_videos} but there are {data.num_timelines} timelines"
        )


main = functools.partial(
    cli.main,
    build,
    validate=validate,
    without=cli.one_process("it adapts in one process")
    | {
        "sweep": "its seeds are rows of one program; set num_seeds",
        "profile": "it has no training steps of a loop",
    },
)

if __name__ == "__main__":
    main()
