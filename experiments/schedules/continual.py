"""Infinite schedules on a stream of tasks: how much is forgotten when a new task begins.

A denoising autoencoder learns images of two classes at a time. Each task has the same number of
updates. Repeated cosine warms up again in every task. The infinite schedule keeps its constant rate
and anneals on a side branch at the end of a task: the annealed model is what one would use, and the
next task goes on from the checkpoint taken before it, which costs the main line those updates.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array
from ml_collections import ConfigDict

from experiments.schedules.trials import product, show, train_trials
from jaxtrain import schedules
from jaxtrain.core import Core, supervised
from jaxtrain.host import cli, report
from jaxtrain.host.sweep import swept
from jaxtrain.nets import from_linen

SIDE = 8


class Kind(NamedTuple):
    """How a trial goes through the stream.

    Attributes:
      name: shown in tables.
      infinite: infinite schedule, else repeated cosine.
      const: its constant rate, relative to the peak.
      restores: the next task starts from the checkpoint before the annealing.
      rewarms: control: the infinite schedule starts again in every task.
    """

    name: str
    infinite: bool
    const: float = 1.0
    restores: bool = True
    rewarms: bool = False


def kinds(config: ConfigDict) -> tuple[Kind, ...]:
    low, *others = config.continual.consts
    return (
        Kind("repeated cosine", False),
        *(Kind(f"infinite, const {c:g}", True, c) for c in (low, *others)),
        Kind("infinite, going on from the annealed model", True, low, restores=False),
        Kind("control: infinite, warmed up again", True, low, rewarms=True),
    )


class Restorable(NamedTuple):
    """State of a trial: what trains, and the checkpoint before the annealing.

    Attributes:
      inner: training state.
      saved: training state at the start of the annealing.
      count: updates done, int32 `[]`.
    """

    inner: Any
    saved: Any
    count: Array  # type: ignore[assignment]  # shadows tuple.count


class Autoencoder(nn.Module):
    """64-96-16-96-64 with tanh: noisy images `[batch, 64]` -> images `[batch, 64]`."""

    hidden: int
    code: int

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        x = nn.tanh(nn.Dense(self.hidden)(inputs))
        x = nn.tanh(nn.Dense(self.code)(x))
        x = nn.tanh(nn.Dense(self.hidden)(x))
        return nn.Dense(inputs.shape[-1])(x)


def images(key: Array, classes: Array, problem: Array) -> Array:
    """Images `[batch, 64]` of `classes` `[batch]`: a smooth mean per class, deformed smoothly.

    `problem` is the key of the ten classes, `key` that of the images.
    """
    grid = jnp.arange(SIDE, dtype=jnp.float32)
    blur = jnp.exp(-0.5 * ((grid[:, None] - grid[None, :]) / 1.2) ** 2)
    blur /= blur.sum(1, keepdims=True)

    def smooth(key: Array) -> Array:
        field = blur @ jax.random.normal(key, (SIDE, SIDE)) @ blur.T
        return (field / field.std()).ravel()

    def one(key: Array, label: Array) -> Array:
        class_key = jax.random.fold_in(problem, label)
        mean, *basis = (smooth(jax.random.fold_in(class_key, i)) for i in range(7))
        z = jax.random.normal(key, (6, 1))
        return jax.nn.sigmoid(1.5 * (mean + 0.5 * (z * jnp.stack(basis)).sum(0)))

    return jax.vmap(one)(jax.random.split(key, len(classes)), classes)


def rate_of(kind: Array, config: ConfigDict, peak: Array) -> Callable[..., Array]:
    """Rate from (updates of this line, annealing start, updates over all, of which task)."""
    options, task = config.continual, config.continual.task_steps
    lengths = [round(f * task) for f in (options.warmup, options.cooldown, options.anneal)]
    cosine = schedules.repeated_cosine(1.0, task, lengths[0], options.end)
    table = kinds(config)

    def rate(own: Array, anneal_start: Array, count: Array) -> Array:
        rates = []
        for one in table:
            start = jnp.maximum(count // task, 0) * (task - lengths[2]) if one.rewarms else 0
            infinite = schedules.infinite_lr(
                own - start,
                jnp.where(anneal_start == schedules.NEVER, anneal_start, anneal_start - start),
                peak=1.0,
                const=one.const,
                end=min(options.end, one.const),
                warmup_steps=lengths[0],
                cooldown_steps=lengths[1],
                anneal_steps=lengths[2],
            )
            rates.append(infinite if one.infinite else cosine(count))
        return peak * jnp.stack(rates)[kind]

    return rate


class _StreamSchedule:
    """The schedule of one trial; `count` of the stream arrives as an extra argument."""

    def __init__(self, rate: Callable[..., Array]) -> None:
        self._rate = rate

    def init(self) -> schedules.AnnealState:
        return schedules.AnnealState(jnp.int32(0), jnp.int32(schedules.NEVER))

    def update(self, state: schedules.AnnealState, **_: Any) -> schedules.AnnealState:
        return schedules.AnnealState(state.count + 1, state.anneal_start)

    def __call__(self, state: schedules.AnnealState, *, stream_count: Any = 0, **_: Any) -> Array:
        return self._rate(state.count, state.anneal_start, stream_count)


def stream_core(config: ConfigDict, problem: Array) -> Callable[[dict[str, Array]], Core]:
    """`values -> Core` of one trial."""
    options, task = config.continual, config.continual.task_steps
    anneal_at = task - round(options.anneal * task)
    table = kinds(config)
    flags = {
        name: jnp.array([getattr(one, name) for one in table]) for name in ("infinite", "restores")
    }
    model = from_linen(Autoencoder(options.hidden, options.code))
    loss = lambda outputs, batch: (((outputs - batch["clean"]) ** 2).mean(), {})

    def build(values: dict[str, Array]) -> Core:
        infinite, restores = (flags[name][values["kind"]] for name in ("infinite", "restores"))
        schedule = _StreamSchedule(rate_of(values["kind"], config, values["peak"]))
        adam = lambda learning_rate: optax.adam(learning_rate, b1=0.9, b2=0.95)
        tx = schedules.scheduled(adam, schedule)

        def init(key: Array) -> Restorable:
            inner = supervised(model, loss, tx).init(key, {"inputs": jnp.zeros((1, SIDE**2))})
            return Restorable(inner, jax.tree.map(jnp.copy, inner), jnp.int32(0))

        def update(state: Restorable, index: Array, key: Array) -> Any:
            which, local = state.count // task, state.count % task
            begins = (local == 0) & (which > 0) & infinite
            pick = lambda flag, a, b: jax.tree.map(lambda x, y: jnp.where(flag, x, y), a, b)
            # Back to the checkpoint before the annealing; or, for comparison, on from the annealed
            # model at the constant rate.
            inner = pick(begins & restores, state.saved, state.inner)
            inner = pick(begins & ~restores, _unannealed(inner), inner)
            anneals = (local == anneal_at) & infinite
            saved = pick(local == anneal_at, inner, state.saved)
            inner = pick(anneals, schedules.start_anneal(inner), inner)

            key_class, key_image, key_noise, key_old = jax.random.split(key, 4)
            classes = 2 * which + jax.random.randint(key_class, index.shape, 0, 2)
            old = jax.random.randint(key_old, index.shape, 0, jnp.maximum(2 * which, 1))
            replayed = (index < round(options.replay * len(index))) & (which > 0)
            clean = images(key_image, jnp.where(replayed, old, classes), problem)
            noise = options.noise * jax.random.normal(key_noise, clean.shape)
            batch = {"inputs": clean + noise, "clean": clean}
            told = optax.GradientTransformationExtraArgs(
                tx.init, lambda *args, **_: tx.update(*args, stream_count=state.count)
            )
            inner, out = supervised(model, loss, told).update(inner, batch, key)
            return Restorable(inner, saved, state.count + 1), out

        return Core(init, update)

    return build


def _unannealed(state: Any) -> Any:
    is_ours = lambda x: isinstance(x, schedules.AnnealState)
    never = lambda x: x._replace(anneal_start=jnp.int32(schedules.NEVER)) if is_ours(x) else x
    return jax.tree.map(never, state, is_leaf=is_ours)


def run(config: ConfigDict, context: cli.Context) -> dict[str, Any]:
    """Final error over all tasks, forgetting at the borders, gain of annealing."""
    options, task = config.continual, config.continual.task_steps
    problem = jax.random.fold_in(jax.random.key(config.seed), 9)
    names = [one.name for one in kinds(config)]
    axes = product(kind=range(len(names)), peak=options.peaks, seed=range(config.num_seeds))
    model = from_linen(Autoencoder(options.hidden, options.code))
    key_test, key_noise = jax.random.split(jax.random.fold_in(problem, 1000))
    classes = jnp.repeat(jnp.arange(2 * options.num_tasks), options.test_images)
    clean = images(key_test, classes, problem)
    noisy = clean + options.noise * jax.random.normal(key_noise, clean.shape)

    @jax.jit
    def errors(params: Any) -> Array:  # [trials, tasks]
        def one(params: Any) -> Array:
            outputs, _ = model.apply(params, {}, noisy, key=None, train=False)
            return ((outputs - clean) ** 2).mean(1).reshape(options.num_tasks, -1).mean(1)

        return jax.lax.map(one, params)

    def evaluate(state: Restorable, step: int, key: Array) -> dict[str, Array]:
        found = errors(state.inner.params)
        return {f"task_{i}": found[:, i] for i in range(options.num_tasks)}

    core = swept(stream_core(config, problem), axes)
    num_steps = options.num_tasks * task
    watch = dict(evaluate=evaluate, eval_every=config.log_every)
    train_trials(config, context, "stream", core, num_steps, **watch)
    curves = report.read_metrics(context.workdir / "stream")
    steps = curves["eval/task_0"].steps
    values = np.stack([curves[f"eval/task_{i}"].values for i in range(options.num_tasks)], -1)
    shape = (len(steps), len(names), len(options.peaks), config.num_seeds, options.num_tasks)
    return results(config, names, steps, values.reshape(shape), context)


def results(
    config: ConfigDict,
    names: list[str],
    steps: np.ndarray,
    values: np.ndarray,
    context: cli.Context,
) -> dict[str, Any]:
    """From errors `[evaluations, kinds, peaks, seeds, tasks]` to the numbers of the claims."""
    options, task = config.continual, config.continual.task_steps
    at = {int(step): i for i, step in enumerate(steps)}
    anneal_at = task - round(options.anneal * task)
    final = values[-1].mean(-1)
    best = np.nanargmin(final.mean(-1), axis=1)  # peak per kind
    row = np.arange(len(names))
    chosen = np.moveaxis(values, 2, 0)[best, :, row]  # [kinds, evaluations, seeds, tasks]
    start = [0 if one.infinite and one.restores else 1 for one in kinds(config)]
    forgets, first, anneals = [], [], []
    for border in range(1, options.num_tasks):
        # The state that the new task starts from: before the annealing, or the end of the task.
        before = np.array([at[border * task - (task - anneal_at)], at[border * task]])[start]
        soon = at[border * task + max(round(0.05 * task) // config.log_every, 1) * config.log_every]
        change = chosen[row, soon] - chosen[row, before]
        forgets.append(change[..., :border].mean(-1))
        usable = chosen[:, soon] - chosen[:, at[border * task]]
        first.append(usable[..., :border].mean(-1))
    for number in range(1, options.num_tasks + 1):
        ends = chosen[:, at[number * task]] - chosen[:, at[number * task - (task - anneal_at)]]
        anneals.append(ends[..., :number].mean(-1))
    # What is forgotten in the end: of the error of a task since it was finished, `[kinds, peaks,
    # seeds]`, at every peak.
    finished = [values[at[(i + 1) * task], ..., i] for i in range(options.num_tasks - 1)]
    lasting = np.mean([values[-1, ..., i] - then for i, then in enumerate(finished)], 0)
    found: dict[str, Any] = {}
    tables = {
        "final": ("final test error, mean over tasks", final[row, best]),
        "forgetting": (
            "error on old tasks: rise in the first 5 % of a new task",
            np.mean(forgets, 0),
        ),
        "loss_of_use": (
            "the same, measured from the model in use at the border",
            np.mean(first, 0),
        ),
        "annealing": (
            "error on tasks seen: change in the last 20 % of a task",
            np.mean(anneals, 0),
        ),
    }
    for label, (title, numbers) in tables.items():
        rows = dict(zip(names, numbers, strict=True))
        show(
            f"{options.num_tasks} tasks of {task} updates, replay {options.replay:g}: {title}",
            rows,
            lambda name: f"peak {options.peaks[best[names.index(name)]]:g}",
        )
        found |= {f"{label}/{name}": rows[name] for name in names}
    rows = [["rise of the error since a task was finished", *(f"{p:g}" for p in options.peaks)]]
    for name, by_peak in zip(names, lasting, strict=True):
        rows.append([name, *(f"{x.mean():.4f}" for x in by_peak)])
        found |= {f"lasting/{name}/{p:g}": x for p, x in zip(options.peaks, by_peak, strict=True)}
    print(f"\n{options.num_tasks} tasks, at the end of the stream, by peak\n{report.grid(rows)}")
    draw(names, steps, chosen, task, context.workdir / "plots" / "continual.png")
    return found


def draw(names: list[str], steps: np.ndarray, chosen: np.ndarray, task: int, path: Any) -> None:
    """Error on the first task, and over the tasks seen, along the stream."""
    with report.figure_style():
        figure = report.new_figure(10, 3.6)
        left, right = figure.subplots(1, 2)
        seen = np.minimum((steps - 1) // task, chosen.shape[-1] - 1)
        for i, name in enumerate(names):
            report.draw_band(left, steps, chosen[i, :, :, 0], label=name)
            means = np.array([chosen[i, j, :, : seen[j] + 1].mean(-1) for j in range(len(steps))])
            report.draw_band(right, steps, means)
        for axes in (left, right):
            for border in range(task, int(steps[-1]), task):
                axes.axvline(border, color="#888888", linewidth=0.8, linestyle=":")
            axes.set(xlabel="update", ylabel="test error", yscale="log")
        left.set_title("first task")
        right.set_title("mean of the tasks seen")
        left.legend(fontsize=6)
        figure.tight_layout()
        report.save_figure(figure, path)


def validate(config: ConfigDict) -> None:
    """Raises UsageError for what cannot be run."""
    options = config.continual
    anneal = round(options.anneal * options.task_steps)
    if options.task_steps % config.log_every or anneal % config.log_every or not anneal:
        raise cli.UsageError(
            f"continual.task_steps={options.task_steps} and its annealing of {anneal} updates must "
            f"be multiples of log_every={config.log_every}"
        )
    if not 2 <= options.num_tasks <= 5:
        raise cli.UsageError(
            f"continual.num_tasks={options.num_tasks} must be 2 to 5 (ten classes)"
        )
    if options.warmup + options.cooldown + options.anneal > 1:
        raise cli.UsageError("continual.warmup + cooldown + anneal are longer than a task")
    if not all(options.end <= const <= 1 for const in options.consts):
        raise cli.UsageError(
            f"continual.consts={tuple(options.consts)} must lie between end={options.end} and 1"
        )
