"""RLCF: two towers adapted to one image at a time by the reward of better towers, and TPT.

A small pair of towers (the policy) and a better one (the reward) are trained on images and captions
of their classes, or read from a file; every test image, corrupted, is then classified by rows that
each begin at the same policy: `zero_shot` adapts nothing, `tpt` to the entropy of confident views,
`rlcf` context vectors of the texts and `rlcf_image` the image tower, to rewards. Controls:
`own_reward`, whose reward is the policy itself, and `permuted`, whose reward has its texts shifted
by one class. `reward` is what the reward's towers say alone. data.towers=mine.safetensors takes
towers of yours, and data.name=folder pictures.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from ml_collections import ConfigDict

from experiments.clip.pairs import (
    NUM_CONTEXT,
    Towers,
    captions,
    started,
    towers_of,
    training,
)
from experiments.data.images import corruptions, loader
from experiments.data.images.labelled import Images
from experiments.images.source import imported
from jaxtrain import nets, trees
from jaxtrain.core import episodic
from jaxtrain.host import arrays, cli, report
from jaxtrain.host.bootstrap import resampled
from jaxtrain.host.config import UsageError
from jaxtrain.host.proportions import Interval, over_trials, percent
from jaxtrain.nets.torch_weights import CIFAR_RESNET
from jaxtta.vision_language.rlcf import Reward, rlcf, tpt
from jaxtta.vision_language.towers import (
    Known,
    Pair,
    context_of,
    context_policy,
    crops,
    image_policy,
    texts_of,
    towers_reward,
)

# First row minus second row; the first two pairs are the claims, the last two the controls.
PAIRS = (
    ("rlcf", "zero_shot"),
    ("rlcf", "tpt"),
    ("tpt", "zero_shot"),
    ("rlcf_image", "zero_shot"),
    ("own_reward", "zero_shot"),
    ("permuted", "zero_shot"),
)


def answering(config: ConfigDict, policy: Towers, reward: Towers) -> Callable[..., Any]:
    """`(known, images, keys) -> {row: classes [N]}`, compiled; every image by itself."""
    context, image = context_policy(policy.image, policy.text), image_policy(policy.image)
    judged = towers_reward(reward.image)
    own: Reward = lambda known, x: (
        image(known.policy.image, known, x) / jnp.exp(known.policy.log_scale)
    )
    shifted: Reward = lambda known, x: jnp.roll(judged(known, x), 1, axis=1)
    rates, share = config.optimizer, config.views.share
    adamw = functools.partial(optax.adamw, weight_decay=rates.weight_decay)
    steps = dict(share=share, **{n: config.rlcf[n] for n in ("num_steps", "num_candidates")})
    steps["amplified"] = config.rlcf.amplified
    by_reward = lambda policy, reward, rate: episodic(rlcf(policy, reward, adamw(rate), **steps))
    cores = {
        "tpt": lambda: episodic(tpt(context, adamw(rates.tpt), share=share)),
        "rlcf": lambda: by_reward(context, judged, rates.context),
        "rlcf_image": lambda: by_reward(image, judged, rates.image),
        "own_reward": lambda: by_reward(context, own, rates.context),
        "permuted": lambda: by_reward(context, shifted, rates.context),
    }
    made = {row: cores[row]() for row in config.rows if row in cores}
    views = dict(number=config.views.number, scale=config.views.scale)
    rows, at_once = config.rows, config.evaluation.batch_size

    @jax.jit
    def run(known: Known, images: Array, keys: Array) -> dict[str, Array]:
        first = context_of(known.policy, known.words, NUM_CONTEXT)

        def one(given: tuple[Array, Array]) -> dict[str, Array]:
            picture, key = given
            x = picture.astype(jnp.float32) / 255
            key_views, key_step = jax.random.split(key)
            batch = {"inputs": crops(x, key_views, **views)}
            logits = {
                "zero_shot": context(first, known, x[None])[0],
                "reward": judged(known, x[None])[0],
            }
            for row, core in made.items():
                params = known.policy.image if row == "rlcf_image" else first
                out = core.update(core.init(params, known), batch, key_step)[1]
                logits[row] = out.outputs.logits[0]
            return {row: logits[row].argmax().astype(jnp.int32) for row in rows}

        return jax.lax.map(one, (images, keys), batch_size=at_once)

    return run


# --- What is measured -----------------------------------------------------------------------------


def summary(right: dict[str, np.ndarray]) -> dict[str, Any]:
    """Accuracies by seed and differences over seeds and images; `right` is `[seeds, N]` each."""
    numbers: dict[str, Any] = {f"{row}_accuracy": x.mean(1) for row, x in right.items()}
    differences = {
        f"{first} over {second}": resampled(right[first] - right[second])._asdict()
        for first, second in PAIRS
        if {first, second} <= right.keys()
    }
    return numbers | {"differences": differences}


def table(right: dict[str, np.ndarray], names: tuple[str, ...]) -> str:
    """A line for every row: right images of each corruption and of all, in percent."""
    lines = [["row", *names, "all"]]
    for row, x in right.items():
        parts = [*np.split(x, len(names), 1), x]
        lines.append([row, *(percent(over_trials(part.mean(1))) for part in parts)])
    return report.grid(lines)


def comparisons(differences: dict[str, Any]) -> str:
    """A line for every difference, in points."""
    lines = [["difference", "right, points"]]
    lines += [[name, percent(Interval(**found), 2)] for name, found in differences.items()]
    return report.grid(lines)


def draw(pictures: np.ndarray, labels: np.ndarray, said: dict[str, np.ndarray], path: Path) -> None:
    """Images that rows disagree about, with what each row says, right answers in green."""
    rows = [row for row in said if row != "reward"]
    apart = np.flatnonzero((np.stack([said[row] for row in rows]) != said[rows[0]][None]).any(0))
    shown = np.concatenate([apart, np.setdiff1d(np.arange(len(labels)), apart)])[:8]
    with report.figure_style():
        figure = report.new_figure(1.6 * len(shown), 1.7 + 0.2 * len(rows))
        for axes, i in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
            axes.imshow(pictures[i], interpolation="nearest")
            axes.set_axis_off()
            axes.set_title(f"class {labels[i]}", fontsize=8)
            for line, row in enumerate(rows):
                colour = report.COLORS[2] if said[row][i] == labels[i] else report.COLORS[1]
                place = dict(transform=axes.transAxes, fontsize=7, color=colour, va="top")
                axes.text(0, -0.05 - 0.13 * line, f"{row}: {said[row][i]}", **place)
        figure.subplots_adjust(0.01, 0.13 * len(rows) / (1 + 0.13 * len(rows)), 0.99, 0.9, 0.08)
        report.save_figure(figure, path)


# --- The run --------------------------------------------------------------------------------------


def corrupted(test: Images, names: tuple[str, ...], severity: int, seed: int) -> np.ndarray:
    """The images under every corruption, one after the other; as they are for severity 0.

    Raises:
      UsageError: images that the corruptions are not made for.
    """
    if not severity:
        return test.images
    try:
        parts = [corruptions.corrupt(test.images, name, severity, seed) for name in names]
    except ValueError as error:
        raise UsageError(f"{error} Or take data.severity=0.") from error
    return np.concatenate(parts)


def known_of(policy: Towers, reward: Towers, pairs: tuple[Pair, Pair], words: Array) -> Known:
    """What policies and rewards know, of two trained pairs."""
    texts = [
        texts_of(towers.text, pair.text, words)
        for towers, pair in zip((policy, reward), pairs, strict=True)
    ]
    return Known(*pairs, words, *texts)


def read_towers(file: str, data_dir: str, like: Any) -> Any:
    """Both pairs of a file, whose names are `policy/...` and `reward/...` as ours.

    Raises:
      UsageError: no such file, or arrays of other shapes.
    """
    names = trees.path_names(like)
    held = arrays.read(loader.find(file, data_dir) or Path(file), names, finite=True)
    for name, leaf in zip(names, jax.tree.leaves(like), strict=True):
        if held[name].shape != leaf.shape:
            raise UsageError(f"{file}: {name} has shape {held[name].shape}, expected {leaf.shape}")
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(held[n]) for n in names])


def read_weights(group: ConfigDict, towers: Towers, data_dir: str) -> tuple[Any, Any] | None:
    """Parameters and statistics of a trained ResNet, or None if none is named.

    Raises:
      UsageError: no such file, or it is of another network.
    """
    if group.network == "vit" or not group.weights:
        return None
    path = loader.find(group.weights, data_dir)
    if path is None:
        raise UsageError(f"weights={group.weights!r} was not found; give the path of a state_dict")
    return imported(nets.cifar_resnet(group.depth), CIFAR_RESNET, path, towers.side)


def file_sizes(file: str, data_dir: str) -> tuple[np.ndarray, int, int]:
    """Words of the classes, size of the vocabulary, and the longest text of a file of towers.

    Raises:
      UsageError: no such file, or it lacks them.
    """
    path = loader.find(file, data_dir)
    if path is None:
        raise UsageError(f"data.towers={file!r} was not found")
    names = ["words", "policy/text/words/embedding", "policy/text/positions"]
    words, vocabulary, places = arrays.read(path, names).values()
    if words.ndim != 2 or words.shape[1] > len(places) or words.max() >= len(vocabulary):
        raise UsageError(
            f"{file}: words {words.shape} must be [C, T], of {len(vocabulary)} words and of texts "
            f"of up to {len(places)}"
        )
    return words.astype(np.int32), len(vocabulary), len(places)


def build(config: ConfigDict, setup: cli.Setup) -> cli.Work:
    """Trains or reads both pairs for each seed, classifies corrupted images by all rows, draws."""
    if setup.execution.axis_name is not None:
        raise UsageError("tta_clip runs under --parallel=jit")
    data, seeds = config.data, range(config.seed, config.seed + config.num_seeds)
    load = functools.partial(loader.load, data.name, data_dir=data.data_dir, size=data.size)
    test = load(split="test", number=data.num_test, number_key="data.num_test")
    if not test.has_labels:
        raise UsageError(f"{test.provenance} has no labels, by which answers are scored")
    num_classes = int(test.labels.max()) + 1
    if data.towers:
        words, num_words, length = file_sizes(data.towers, data.data_dir)
    else:
        train = load(split="train", number=data.num_train, number_key="data.num_train")
        num_classes = max(num_classes, int(train.labels.max()) + 1)
        words, num_words, length = captions(num_classes), 6 + num_classes, 7
    if len(words) < max(num_classes, config.rlcf.num_candidates):
        raise UsageError(
            f"{len(words)} texts of classes are fewer than the {num_classes} classes or than "
            f"rlcf.num_candidates={config.rlcf.num_candidates}"
        )
    groups = {"policy": config.policy, "reward": config.reward}
    policy, reward = (towers_of(group, num_words, length) for group in groups.values())
    begin = lambda towers: jax.eval_shape(
        functools.partial(started, towers, words), jax.random.key(0)
    )
    like = {"policy": begin(policy), "reward": begin(reward)}
    if data.towers:
        held = read_towers(data.towers, data.data_dir, like)
        pairs_of: Callable[[int, Path], Any] = lambda seed, folder: held
    else:
        trained = {
            name: training(groups[name], one, words, read_weights(groups[name], one, data.data_dir))
            for name, one in (("policy", policy), ("reward", reward))
        }

        def pairs_of(seed: int, folder: Path) -> Any:
            keys = jax.random.split(jax.random.key(seed))
            made = {
                name: functools.partial(run, train, key, folder / name)
                for (name, run), key in zip(trained.items(), keys, strict=True)
            }
            return {
                name: arrays.kept(folder / f"{name}.npz", like[name], make)
                for name, make in made.items()
            }

    severity, rows = data.severity, tuple(config.rows)
    names = tuple(data.corruptions) if severity else ("clean",)
    corrupted(test.rows(slice(1)), names, severity, 0)
    run = answering(config, policy, reward)
    nothing = dict.fromkeys(rows, jax.ShapeDtypeStruct((len(test.labels),), np.int32))

    def work(context: cli.Context) -> dict[str, Any]:
        print(f"{test.provenance}, {len(words)} classes", flush=True)
        answers = []
        for seed in seeds:
            folder = context.workdir / "checkpoints" / str(seed)
            pairs = pairs_of(seed, folder)
            known = known_of(policy, reward, tuple(pairs.values()), jnp.asarray(words))
            said = []
            for i, name in enumerate(names):
                images = corrupted(test, (name,), severity, seed)
                key = jax.random.fold_in(jax.random.key(seed), i)
                given = known, images, jax.random.split(key, len(images))
                file = folder / f"answers_{name}.npz"
                said.append(arrays.kept(file, nothing, functools.partial(run, *given)))
                shares = (f"{r} {100 * (said[-1][r] == test.labels).mean():.1f} %" for r in rows)
                print(f"seed {seed}, {name}: {', '.join(shares)}", flush=True)
            answers.append({row: np.stack([x[row] for x in said]) for row in rows})
        right = {
            row: np.stack([(x[row] == test.labels[None]).ravel() for x in answers]).astype(float)
            for row in rows
        }
        results = summary(right)
        print(f"\n{table(right, names)}\n\n{comparisons(results['differences'])}", flush=True)
        first = {row: answers[0][row][0] for row in rows}
        pictures = corrupted(test, names[:1], severity, seeds[0])
        draw(pictures, test.labels, first, context.workdir / "plots" / "answers.png")
        return results

    return work


def validate(config: ConfigDict) -> None:
    """Raises UsageError for settings that do not go together."""
    for name in ("policy", "reward"):
        group = config[name]
        if group.network == "vit" and group.side % group.patch:
            raise UsageError(f"{name}.patch={group.patch} does not divide {name}.side={group.side}")
        for part, sizes in ((f"{name}.text", group.text), (name, group)):
            if sizes.width % sizes.num_heads:
                raise UsageError(
                    f"{part}.num_heads={sizes.num_heads} does not divide {part}.width={sizes.width}"
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
