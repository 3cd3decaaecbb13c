"""Barlow Twins: representations learned without labels, judged by a probe with few labels.

Trains an encoder on two views of every image and fits a linear probe to 1 and to 5 labels per class
on its frozen representation. With --sweep, seeds and the weights of the two terms are trials of one
program: loss.redundancy=0 keeps the invariance alone, whose components all say the same,
loss.invariance=0 the redundancy alone, and both at 0 leave the encoder as it was drawn.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from ml_collections import ConfigDict

from experiments.data.images import loader
from experiments.lm.by_setting import over_trials, settings_of
from jaxtrain import nets
from jaxtrain.core import Core, StepOutput
from jaxtrain.host import cli, experiment, report, schedules
from jaxtrain.host.config import UsageError
from jaxtrain.host.experiment import Finished, Results, Training
from jaxtrain.nets.linen import from_linen
from jaxtrain.nets.norm import SOURCE, TRAIN, BatchNorm
from jaxtrain.optimizers import adam
from jaxtrain.parallel import AxisName
from jaxtrain.protocol import Model
from jaxtta.barlow_twins import Projector, Twins, Views, barlow_loss, barlow_twins, lars
from jaxtta.images.changes import two_views

SWEEPABLE = ("optimizer.learning_rate", "loss.redundancy", "loss.invariance")
LABELS = (1, 5)  # per class


class Labelled(NamedTuple):
    """Images `[N, ...]` as the network takes them, or as bytes, with labels `[N]`, int32."""

    images: np.ndarray
    labels: np.ndarray


class Layers(nn.Module):
    """Linear layers on flat inputs, each with batch norm and ReLU behind it."""

    widths: tuple[int, ...]
    axis_name: AxisName | None = None

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        x, norm = x.reshape(len(x), -1), TRAIN if train else SOURCE
        for width in self.widths:
            x = nn.Dense(width, use_bias=False)(x)
            x = nn.relu(BatchNorm(axis_name=self.axis_name)(x, norm))
        return x


def model_of(config: ConfigDict, axis_name: AxisName | None = None) -> Model:
    """Encoder and projector; the last norm of each residual branch begins at 0."""
    network = config.network
    if network.encoder == "layers":
        encoder: nn.Module = Layers(tuple(network.widths), axis_name)
    else:
        encoder = getattr(nets, network.encoder)(num_classes=1, axis_name=axis_name)
    widths = (network.projector,) * network.projector_layers
    model = from_linen(Twins(encoder, Projector(widths, axis_name)))
    if network.encoder == "layers":
        return model
    last = {"resnet18": "norm2", "resnet50": "norm3"}[network.encoder]

    def init(key: Array, inputs: Any) -> tuple[Any, Any]:
        params, state = model.init(key, inputs)
        parts = ("['encoder']", f"['{last}']", "['scale']")
        ends = lambda path: all(part in jax.tree_util.keystr(path) for part in parts)
        zeroed = lambda path, x: jnp.zeros_like(x) if ends(path) else x
        return jax.tree_util.tree_map_with_path(zeroed, params), state

    return Model(init, model.apply)


def views_of(config: ConfigDict) -> Views:
    """What makes the two views."""
    if config.views.kind == "photographs":
        return two_views.photographs
    options = {name: config.views[name] for name in ("shift", "noise", "erased")}
    return functools.partial(two_views.small, **options)


def prepared(images: Array) -> Array:
    """Floating-point numbers from 0 to 1."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


def build_core(
    config: ConfigDict, example: np.ndarray, available: int, axis_name: AxisName | None = None
) -> Core:
    """The learner on random images of the data set; numbers of the config may be traced."""
    rates, section = schedules.from_config(config), config.optimizer
    if section.name == "adam":
        optimizer = adam(rates)
    else:
        own = {name: section[name] for name in ("vector_rate", "weight_decay")}
        optimizer = lars(rates, **own)
    model = model_of(config, axis_name)
    weights = dict(redundancy=config.loss.redundancy, invariance=config.loss.invariance)
    mode = config.loss.mode
    core = barlow_twins(
        model, views_of(config), optimizer, **weights, mode=mode, axis_name=axis_name
    )

    def init(key: Array) -> Any:
        return core.init(key, {"inputs": prepared(jnp.asarray(example))})

    def update(state: Any, batch: Any, key: Array) -> tuple[Any, StepOutput]:
        images, places = batch
        key_rows, key_update = jax.random.split(key)
        rows = jax.random.randint(key_rows, (config.batch_size,), 0, available)[places]
        return core.update(state, {"inputs": prepared(images[rows])}, key_update)

    return Core(init, update)


# --- Probe ----------------------------------------------------------------------------------------


def probe(x: Array, labels: Array, num_classes: int, num_steps: int = 500) -> tuple[Array, Array]:
    """Multinomial logistic regression, sum of losses plus half the squared weights.

    Accelerated gradient descent with the step of the curvature, from 0.

    Args:
      x: `[n, F]`.
      labels: `[n]`.
      num_classes: C.
      num_steps: updates.

    Returns:
      Weights `[F, C]` and biases `[C]`, which are not shrunk.
    """
    # A feature that is 1 makes the biases; being of length 10 it is hardly shrunk.
    rows = jnp.concatenate([x, jnp.full((len(x), 1), 10.0)], 1)
    target = jax.nn.one_hot(labels, num_classes)
    steepest = 0.5 * jnp.linalg.eigvalsh(rows @ rows.T)[-1] + 1
    root = jnp.sqrt(steepest)
    keep = (root - 1) / (root + 1)
    slope = lambda w: rows.T @ (jax.nn.softmax(rows @ w) - target) + w

    def step(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        w, ahead = carry
        new = ahead - slope(ahead) / steepest
        return (new, new + keep * (new - w)), None

    start = jnp.zeros((rows.shape[1], num_classes))
    (w, _), _ = jax.lax.scan(step, (start, start), None, num_steps)
    return w[:-1], 10.0 * w[-1]


def few(key: Array, labels: Array, per_class: int, num_classes: int) -> Array:
    """Places of as many random rows of every class, `[C * per_class]`."""
    order = jax.random.uniform(key, labels.shape)
    mine = labels[None] == jnp.arange(num_classes)[:, None]
    return jax.lax.top_k(jnp.where(mine, order[None], -1), per_class)[1].ravel()


def accuracies(
    train: tuple[Array, Array], test: tuple[Array, Array], key: Array, num_draws: int, classes: int
) -> dict[str, Array]:
    """Accuracy of probes on standardised features, mean over draws of the labels."""
    mean, deviation = train[0].mean(0), jnp.maximum(train[0].std(0), 1e-6)
    standard = lambda x: (x - mean[None]) / deviation[None]
    x, x_test = standard(train[0]), standard(test[0])

    def one(key: Array, per_class: int) -> Array:
        rows = few(key, train[1], per_class, classes)
        w, b = probe(x[rows], train[1][rows], classes)
        return ((x_test @ w + b[None]).argmax(-1) == test[1]).mean(dtype=jnp.float32)

    keys = jax.random.split(key, num_draws)
    return {
        f"accuracy_{n}": jax.lax.map(functools.partial(one, per_class=n), keys).mean()
        for n in LABELS
    }


# --- The run --------------------------------------------------------------------------------------


def read(config: ConfigDict) -> tuple[Labelled, Labelled]:
    """Training and test images; grey ones of one channel stay grey where the network takes them."""
    data = config.data
    options = dict(data_dir=data.data_dir, number=data.num_images, size=data.size)
    if config.views.kind == "photographs":
        found = [loader.load(data.name, split, **options) for split in ("train", "test")]
    else:
        found = [loader.read(data.name, split, **options) for split in ("train", "test")]
        if found[0].images.ndim != 3:
            raise UsageError(
                f"views.kind=small takes grey images, and {data.name} has "
                f"{found[0].images.shape[-1]} channels; use views.kind=photographs"
            )
    if not found[0].has_labels:
        raise UsageError(f"{data.name} has no labels, which the probe needs")
    return tuple(Labelled(x.images, x.labels.astype(np.int32)) for x in found)  # type: ignore


def build(config: ConfigDict, setup: cli.Setup) -> Training:
    """Trains, probes what was learned, and shows the correlations of its components."""
    train, test = read(config)
    classes = int(train.labels.max()) + 1
    counts = np.bincount(train.labels, minlength=classes)
    if counts.min() < max(LABELS):
        raise UsageError(
            f"class {counts.argmin()} of {config.data.name} has {counts.min()} images; the probe "
            f"needs {max(LABELS)} of each"
        )
    example = train.images[: min(2, len(train.images))]
    model, views = model_of(config), views_of(config)
    number, draws = config.evaluation.batch_size, config.evaluation.num_draws

    def represented(state: Any, images: Array) -> Array:
        one = lambda x: model.apply(
            state.params, state.model_state, prepared(x)[None], key=None, train=False
        )[0].representation[0]
        return jax.lax.map(one, images, batch_size=number)

    def measure(state: Any, config: ConfigDict, key: Array) -> dict[str, Array]:
        key_views, key_labels = jax.random.split(key)
        x, y, x_test, y_test = map(jnp.asarray, (*train, *test))
        pair = views(prepared(x[:number]), jax.random.split(key_views, number))
        a, b = (
            model.apply(state.params, state.model_state, v, key=None, train=True)[0].embedding
            for v in pair
        )
        parts = ((represented(state, x), y), (represented(state, x_test), y_test))
        found = accuracies(*parts, key_labels, draws, classes) | barlow_loss(a, b)[1]
        standard = lambda z: (z - z.mean(0)[None]) / jnp.maximum(z.std(0), 1e-5)[None]
        return found | {"correlation": standard(a).T @ standard(b) / number}

    if number > len(train.labels):
        raise UsageError(
            f"evaluation.batch_size={number} is more than the {len(train.labels)} images"
        )
    every = over_trials(measure, config, setup.sweep)

    def evaluate(run: Finished) -> Results:
        found = jax.device_get(every(run.state, run.key))
        correlation = found.pop("correlation")
        if jax.process_index() == 0:
            draw(correlation, run)
        flat = [jnp.asarray(part.images).reshape(len(part.images), -1) for part in (train, test)]
        labels = [jnp.asarray(part.labels) for part in (train, test)]
        pairs = [(prepared(x), y) for x, y in zip(flat, labels, strict=True)]
        pixels = jax.jit(lambda *parts: accuracies(*parts, run.key, draws, classes))(*pairs)
        return found | {f"pixels_{name}": float(x) for name, x in pixels.items()}

    def show(run: Finished, results: Results) -> None:
        names = [name for name in results if not name.startswith("pixels")]
        rows = [["", *names]]
        for setting, members in settings_of(run.sweep, "trained").items():
            of = lambda name, members=members: np.atleast_1d(results[name])[members]
            rows.append([setting, *(report.with_interval(of(name), name) for name in names)])
        pixels = [f"{results[f'pixels_accuracy_{n}']:.4g}" for n in LABELS]
        rows.append(["pixels", *pixels, "", ""])
        print(f"\n{report.grid(rows)}", flush=True)

    return Training(
        core=lambda config, axis_name: build_core(config, example, len(train.labels), axis_name),
        arrays=(jnp.asarray(train.images),),
        show=("loss", "diagonal", "off_diagonal"),
        evaluate=evaluate,
        report=show,
    )


def draw(correlation: np.ndarray, run: Finished) -> Path:
    """The cross-correlation of the components, of one trial of every setting."""
    stacked = correlation if run.sweep is not None else correlation[None]
    settings = settings_of(run.sweep, "trained")
    with report.figure_style():
        figure = report.new_figure(3.4 * len(settings), 3.6)
        panels = np.atleast_1d(figure.subplots(1, len(settings)))
        for axes, (setting, members) in zip(panels, settings.items(), strict=True):
            shown = axes.imshow(stacked[members[0]], cmap="RdBu_r", vmin=-1, vmax=1)
            axes.set_title(setting.replace(", ", "\n"))
            axes.grid(False)
            axes.set_xlabel("component of view B")
        panels[0].set_ylabel("component of view A")
        figure.colorbar(shown, ax=list(panels), shrink=0.7, label="correlation")
        return report.save_figure(figure, run.workdir / "plots" / "correlations.png")


def validate(config: ConfigDict) -> None:
    """Raises UsageError for settings that do not go together."""
    schedules.check_own_batches(config)
    if config.network.encoder != "layers" and config.views.kind == "small":
        raise UsageError(
            f"network.encoder={config.network.encoder} takes pictures; use views.kind=photographs"
        )


main = functools.partial(
    cli.main,
    build,
    sweepable=SWEEPABLE,
    validate=validate,
    flags=(experiment.MODE,),
    evaluates=experiment.evaluates,
    may_change=("evaluation",),
)

if __name__ == "__main__":
    main()
