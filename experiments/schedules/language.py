"""Refinement on a small language model: warm-up that comes out of the gradient norms.

A character-level transformer is trained with every schedule; the L1 norms of the run with linear
decay are turned into a refined schedule, which trains the model again. The default text is the
language reference that comes with Python; any text file may be given.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array
from ml_collections import ConfigDict

from experiments.schedules.trials import looked_up, product, rate_table, show, train_trials, tuned
from jaxtrain import schedules
from jaxtrain.core import Core, supervised
from jaxtrain.host import arrays, cli, report
from jaxtrain.host.config import UsageError
from jaxtrain.host.sweep import swept
from jaxtrain.nets import Attention, FeedForward, TransformerBlock, from_linen
from jaxtrain.replacing import replacing
from jaxtrain.schedules import refinement


class Transformer(nn.Module):
    """Causal transformer over characters: tokens `[batch, time]` -> logits `[batch, time, vocab]`.

    Pre-norm blocks of attention and a GELU network of four times the width, learned positions.
    """

    vocab: int
    layers: int
    heads: int
    width: int

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        time = tokens.shape[1]
        places = nn.Embed(time, self.width, name="positions")(jnp.arange(time))
        x = nn.Embed(self.vocab, self.width, name="embedding")(tokens) + places[None]
        mask = nn.make_causal_mask(tokens)
        sizes = (self.width, self.heads, self.width // self.heads)
        for i in range(self.layers):
            names = (f"up_{i}", f"down_{i}")
            x = TransformerBlock(
                functools.partial(Attention, *sizes),
                functools.partial(FeedForward, 4 * self.width, names=names),
                names=(f"norm_a{i}", f"attention_{i}", f"norm_b{i}", ""),
                parent=self.scope,
            )(x, mask)
        return nn.Dense(self.vocab, name="head")(nn.LayerNorm(name="norm")(x))


def read_text(path: str) -> str:
    """The file's text, or the language reference of the running Python when `path` is empty."""
    if path:
        with arrays.one_sentence(path, "text in UTF-8"):
            return Path(path).read_text(encoding="utf-8")
    from pydoc_data import topics

    return "\n".join(topics.topics[name] for name in sorted(topics.topics))


def encoded(config: ConfigDict) -> tuple[Array, Array, int]:
    """Characters as numbers: those for training, the last tenth for validation, how many kinds."""
    text = read_text(config.language.text)
    kinds, codes = np.unique(np.array(list(text)), return_inverse=True)
    codes = codes.astype(np.int32)
    cut, shortest = int(0.9 * len(codes)), config.language.context + 2
    if len(codes) - cut < shortest:
        raise UsageError(
            f"language.text={config.language.text!r} has {len(text)} characters; its last tenth "
            f"must hold at least the {shortest} of language.context + 2"
        )
    return jnp.asarray(codes[:cut]), jnp.asarray(codes[cut:]), len(kinds)


def windows(text: Array, starts: Array, length: int) -> dict[str, Array]:
    """Windows `[batch, length]` of the text, and the same one character later."""
    found = jax.vmap(lambda i: jax.lax.dynamic_slice(text, (i,), (length + 1,)))(starts)
    return {"inputs": found[:, :-1], "labels": found[:, 1:]}


def cross_entropy(logits: Array, batch: Any) -> tuple[Array, dict[str, Array]]:
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]).mean(), {}


def parts(config: ConfigDict) -> tuple[Any, Callable, Callable, Array, dict[str, Array]]:
    """Model, optimiser from schedule, sampler, the text it draws from, validation windows."""
    options = config.language
    train_text, valid_text, vocab = encoded(config)
    model = from_linen(Transformer(vocab, options.layers, options.heads, options.width))

    def optimizer(schedule: optax.Schedule) -> optax.GradientTransformation:
        adamw = lambda learning_rate: optax.adamw(
            learning_rate, b2=options.b2, weight_decay=options.weight_decay
        )
        return schedules.scheduled(adamw, schedule)

    def sample(key: Array, batch: tuple[Array, Array]) -> dict[str, Array]:
        index, text = batch
        last = len(text) - options.context - 1
        return windows(text, jax.random.randint(key, index.shape, 0, last), options.context)

    starts = np.linspace(0, len(valid_text) - options.context - 2, options.valid_windows).astype(
        int
    )
    valid = windows(valid_text, jnp.asarray(starts), options.context)
    return model, optimizer, sample, train_text, valid


def run(config: ConfigDict, context: cli.Context) -> dict[str, Any]:
    """Validation loss per schedule at its own best peak, and where the refined one peaks."""
    options, num_steps = config.language, config.num_steps
    model, optimizer, sample, text, valid = parts(config)
    names, peaks, seeds = list(options.schedules), options.peaks, range(config.num_seeds)

    @jax.jit
    def valid_losses(params: Any) -> Array:
        def loss(params: Any) -> Array:
            logits, _ = model.apply(params, {}, valid["inputs"], key=None, train=False)
            return cross_entropy(logits, valid)[0]

        return jax.lax.map(loss, params)

    def train_all(label: str, table: Array) -> tuple[np.ndarray, Any]:
        def build(values: dict[str, Array]) -> Core:
            norms = refinement.record_grad_norms(num_steps, "l1")
            tx = optax.chain(norms, optimizer(looked_up(table, values)))
            core = supervised(model, cross_entropy, tx)
            example = {"inputs": jnp.zeros((1, options.context), jnp.int32)}
            return Core(lambda key: core.init(key, example), core.update)

        axes = product(schedule=range(len(table)), peak=peaks, seed=seeds)
        core = swept(build, axes, sample)
        state = train_trials(config, context, label, core, num_steps, arrays=(text,))
        losses = np.asarray(valid_losses(state.params))
        return losses.reshape(len(table), len(peaks), -1), state

    table = rate_table(names, num_steps, options.warmup)
    losses, state = train_all("schedules", table)
    best_losses, best = tuned(losses)
    norms = refinement.recorded_norms(state).reshape(*losses.shape, num_steps)
    trace = np.median(norms[names.index("linear"), best[names.index("linear")]], axis=0)
    shape = refinement.refine_schedule(trace, "adam")
    # Control: the trace turned round, whose norms rise instead of falling.
    turned = refinement.refine_schedule(trace[::-1], "adam")
    refined_losses, refined_best = tuned(train_all("refined", jnp.asarray([shape, turned]))[0])
    added = ("refined", "refined from reversed trace")
    found = dict(zip([*names, *added], [*best_losses, *refined_losses], strict=True))
    chosen = dict(zip([*names, *added], [*best, *refined_best], strict=True))
    show(
        f"characters, {num_steps} updates of Adam: validation loss",
        found,
        lambda name: f"peak {peaks[chosen[name]]:g}",
    )
    smooth = refinement.smooth_norms(trace)
    about = {
        "norm_fall": smooth.max() / smooth.min(),
        "refined_peak_at": np.argmax(shape) / num_steps,
        "reversed_peak_at": np.argmax(turned) / num_steps,
        "refined_first_rate": shape[0],
        **{f"refined_at_{q}": shape[int(q / 100 * num_steps)] for q in (25, 50, 75, 90)},
    }
    about = {name: float(value) for name, value in about.items()}
    print("\n".join(f"{name:<20} {value:.3f}" for name, value in about.items()), flush=True)
    shapes = dict(zip([*names, *added], [*table, shape, turned], strict=True))
    draw(shapes, trace, found, context.workdir / "plots" / "language.png")
    with replacing(context.workdir / "grad_norms.npy") as part:
        np.save(part, trace)
    return {f"valid_loss/{name}": values for name, values in found.items()} | about


def draw(shapes: dict, trace: np.ndarray, found: dict, path: Path) -> None:
    """The trace, the schedule it gives, and the losses."""
    with report.figure_style():
        figure = report.new_figure(11, 3.4)
        left, middle, right = figure.subplots(1, 3)
        left.plot(trace, linewidth=0.6, color=report.COLORS[5], label="gradient L1 norm")
        left.plot(refinement.smooth_norms(trace), color=report.COLORS[0], label="running median")
        left.set(xlabel="step", yscale="log", title="recorded norms, median of seeds")
        left.legend(fontsize=7)
        for i, (name, shape) in enumerate(shapes.items()):
            style = dict(color=report.COLORS[i % len(report.COLORS)])
            middle.plot(np.linspace(0, 1, len(shape)), shape, label=name, **style)
            mean, low, high = report.interval(found[name])
            right.errorbar(mean, i, xerr=[[mean - low], [high - mean]], fmt="o", **style)
        middle.set(xlabel="share of the run", ylabel="rate / peak", title="schedules")
        middle.legend(fontsize=6)
        right.set_yticks(range(len(found)), list(found), fontsize=7)
        right.set(xlabel="validation loss", title="best peak each, 95 % interval")
        figure.tight_layout()
        report.save_figure(figure, path)


def validate(config: ConfigDict) -> None:
    """Raises UsageError for what cannot be run."""
    options = config.language
    if options.text and not Path(options.text).is_file():
        raise cli.UsageError(f"language.text={options.text!r} does not exist; leave it empty")
    if options.width % options.heads:
        raise cli.UsageError(
            f"language.width={options.width} must be a multiple of language.heads={options.heads}"
        )
    if "linear" not in options.schedules:
        raise cli.UsageError("language.schedules must hold 'linear', whose norms are refined")
    rate_table(options.schedules, config.num_steps, options.warmup)
