"""Test-time adaptation of image classifiers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import jaxtrain
from jaxtrain import parallel
from jaxtrain.nets import Classified, UNet
from jaxtta import adaptation
from jaxtta.images import batch_statistics, denoising, entropy, label_shift, mean_teacher
from jaxtta.images.adanpc import adanpc
from jaxtta.images.cafa import ClassGaussians, cafa
from jaxtta.images.deyo import deyo
from jaxtta.images.eata import eata, eta
from jaxtta.images.itta import itta, training
from jaxtta.images.lame import lame
from jaxtta.images.memo import memo
from jaxtta.images.nhl import FirstLayer, nhl
from jaxtta.images.petal import petal
from jaxtta.images.rmt import Known as RmtKnown
from jaxtta.images.rmt import Labelled, rmt
from jaxtta.images.roid import roid
from jaxtta.images.rotta import rotta
from jaxtta.images.sar import sar
from jaxtta.images.sda import sda
from jaxtta.images.vdp import vdp
from jaxtta.images.vida import new_adapters, vida
from jaxtta.selection import norm_parameters
from tests.contract.cores_supervised import labelled
from tests.contract.row import BATCH_SIZE, Row
from tests.jaxtta.images import tiny


def classifier_args() -> tuple[Any, ...]:
    params, stats = tiny.variables(dtype=np.float32)
    return tiny.as_jax((params, {**stats, "allowed": np.ones(tiny.CLASSES, bool)}))


def network(axis_name: parallel.AxisName | None = None, pixels: bool = False) -> Any:
    """The tiny network, with -inf for the classes that the model state leaves out."""
    apply_fn = tiny.network(axis_name, pixels)

    def apply(params: Any, model_state: Any, inputs: Any, **options: Any) -> Any:
        allowed = model_state["allowed"]
        rest = {name: value for name, value in model_state.items() if name != "allowed"}
        found, after = apply_fn(params, rest, inputs, **options)
        allowed_here = jnp.broadcast_to(allowed, found.logits.shape)
        logits = jnp.where(allowed_here, found.logits, -jnp.inf)
        return found._replace(logits=logits), {**after, "allowed": allowed}

    return apply


def images(i: int) -> dict[str, np.ndarray]:
    inputs = tiny.batches(1, BATCH_SIZE, seed=i, dtype=np.float32)[0]
    return {"inputs": inputs, "mask": np.ones(BATCH_SIZE, bool)}


def with_labels(core: jaxtrain.Core, state: Any) -> Any:
    return core.update(state, images(0) | {"labels": np.zeros(BATCH_SIZE)}, jax.random.key(0))


def adapter(
    name: str,
    build: Callable[..., jaxtrain.Core],
    *given: Any,
    random: bool = False,
    known: Callable[[], tuple[Any, ...]] = tuple,
    exceptions: dict[str, str] | None = None,
    pixels: bool = False,
    **options: Any,
) -> Row:
    """The row of `build(apply_fn, *given, **options)`, whose `init` takes `known()` at the end."""

    def make(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
        return build(network(axis_name, pixels), *given, axis_name=axis_name, **options)

    exceptions = exceptions or {}
    if random:
        exceptions = {"order": "random numbers belong to a place in the batch"} | exceptions
    error = "keep labels outside"
    init_args = lambda: (*classifier_args(), *tiny.as_jax(known()))
    return Row(name, make, init_args, images, with_labels, error, random, exceptions=exceptions)


def resetting(apply_fn: Any, axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    tent = entropy.tent(apply_fn, optax.adam(1e-2), axis_name=axis_name)
    return adaptation.reset_every(adaptation.rescored(tent, apply_fn), 2)


def shifted(apply_fn: Any, axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    apply_fn = label_shift.with_adapter(apply_fn)
    tent = entropy.tent(apply_fn, optax.adam(1e-2), axis_name=axis_name)
    return label_shift.following(tent, apply_fn, tiny.CLASSES, axis_name=axis_name)


def head_adapter() -> label_shift.Adapter:
    params, _ = classifier_args()
    head, prior = label_shift.head_of(params), jnp.arange(1.0, 1 + tiny.CLASSES) / 10
    adapter = label_shift.identity(prior, head, jnp.linspace(-1.0, 1.0, 3))
    return jax.tree.map(lambda x: x + 0.1, adapter)._replace(prior=prior)


def jitter(x: jax.Array, key: jax.Array, keys: jax.Array) -> jax.Array:
    rows = jax.vmap(lambda k: jax.random.normal(k, x.shape[1:]))(keys)
    return x * (1 + 0.1 * jax.random.normal(key)) + 0.1 * rows


def single_images(apply_fn: Any, *args: Any, **options: Any) -> jaxtrain.Core:
    """MEMO, whose network has no device axis."""
    del apply_fn
    return memo(network(), *args, **options)


def pairs() -> Any:
    """Pairs of random matrices beside both dense layers, for ViDA."""
    params = classifier_args()[0]
    where = lambda path: path[0].startswith("dense")
    new = new_adapters(jax.random.key(0), params, high_rank=2, where=where)
    return jax.tree.map(lambda x: x + 0.1, new)


def shaken(x: jax.Array, key: jax.Array) -> jax.Array:
    return x * (1 + 0.2 * jax.random.normal(key, x.shape))


def noisy(scale: jax.Array, x: jax.Array, keys: jax.Array) -> jax.Array:
    return x + scale * jax.vmap(lambda k: jax.random.normal(k, x.shape[1:]))(keys)


def in_stages(params: Any, state: Any, x: jax.Array, *, after: Any = None, **_: Any) -> Any:
    """The tiny network without its norms, as ITTA takes it.

    Softplus: behind ReLU many numbers are exactly 0, where rounding decides a block's gradient.
    """
    for k in (0, 1):
        x = nn.softplus(x @ params[f"dense{k + 1}"]["kernel"])
        x = x if after is None else after(k, x)
    features, head = x.mean((1, 2)), params["head"]
    logits = features @ head["kernel"] + head["bias"][None]
    return Classified(jnp.where(state["allowed"][None], logits, -jnp.inf), features), state


def itta_blocks(apply_fn: Any, axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    return itta(in_stages, SGD, (2, 4, 3), weight=0.5, axis_name=axis_name)


def itta_training(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    return training(in_stages, SGD, SGD, (2, 4, 3), axis_name=axis_name)


def noise_training(axis_name: parallel.AxisName | None) -> jaxtrain.Core:
    network = UNet(
        width=4, multipliers=(1,), num_blocks=1, attention_at=(), groups=2, num_classes=tiny.CLASSES
    )
    # Not Adam: biases of keys have a gradient of exactly 0, and Adam makes steps of its rounding.
    return denoising.training(network, optax.sgd(1e-2), axis_name=axis_name)


def noise_training_args() -> tuple[Any, ...]:
    return jax.random.key(0), jax.tree.map(jnp.asarray, labelled_images(0))


def labelled_images(i: int) -> dict[str, np.ndarray]:
    return {"inputs": images(i)["inputs"], "labels": labelled(i)["labels"]}


def without_labels(core: jaxtrain.Core, state: Any) -> Any:
    return core.update(state, {"inputs": images(0)["inputs"]}, jax.random.key(0))


def of_norms(value: float) -> Any:
    """This number for every normalisation parameter."""
    adapted, _ = adaptation.split(classifier_args()[0], norm_parameters)
    return jax.tree.map(lambda x: jnp.full_like(x, value), adapted)


SGD = optax.sgd(1e-2, momentum=0.9)
ROWS = [
    adapter("batch_norm", batch_statistics.batch_norm),
    adapter("alpha_norm", batch_statistics.alpha_norm, prior_strength=16.0),
    adapter("ema_norm", batch_statistics.ema_norm),
    adapter("core", batch_statistics.core, optax.adam(1e-2), 0.3),
    adapter("lame", lame),
    adapter("tent", entropy.tent, optax.adam(1e-2)),
    adapter("tent_of_pixels", entropy.tent, optax.adam(1e-2), pixels=True),
    adapter("tent_reset_every", resetting),
    adapter("open_set", entropy.open_set, optax.adam(1e-2)),
    adapter("eta", eta, SGD, tiny.CLASSES, threshold=1.0, redundancy=0.9),
    adapter(
        "eata",
        eata,
        SGD,
        tiny.CLASSES,
        known=lambda: (of_norms(0.5),),
        threshold=1.0,
        redundancy=0.9,
    ),
    adapter("sar", sar, SGD, tiny.CLASSES, threshold=1.0),
    adapter(
        "deyo",
        deyo,
        SGD,
        tiny.CLASSES,
        threshold=1.1,
        min_difference=-1.0,  # whatever the tiles make of it
        num_patches=2,
        random=True,
    ),
    adapter("label_shift", shifted, known=lambda: (head_adapter(),)),
    adapter("sda", sda, noisy, random=True, known=lambda: (np.float32(0.1),)),
    adapter("itta", itta_blocks, random=True),
    Row(
        "itta_training",
        itta_training,
        classifier_args,
        labelled_images,
        without_labels,
        "'inputs' and 'labels'",
        random=True,
        exceptions={
            "order": "random numbers belong to a place in the batch",
            "left_out_classes": "its labels name all classes",
        },
    ),
    Row(
        "noise_training",
        noise_training,
        noise_training_args,
        labelled_images,
        without_labels,
        "inputs and labels",
        random=True,
        exceptions={
            "order": "random numbers belong to a place in the batch",
            "devices": "every shard draws its own times and noise",
            "unchecked_shard_map": "every shard draws its own times and noise",
            "left_out_classes": "it has no logits",
        },
    ),
    adapter("nhl", nhl, SGD, layer=FirstLayer(("dense1",)), rate=0.1),
    adapter(
        "cafa",
        cafa,
        optax.adam(1e-2),
        known=lambda: (
            ClassGaussians(
                np.random.default_rng(0).random((tiny.CLASSES, tiny.FEATURES)).astype(np.float32),
                np.eye(tiny.FEATURES, dtype=np.float32)[None],
            ),
        ),
    ),
    adapter(
        "adanpc",
        adanpc,
        tiny.CLASSES,
        known=lambda: (
            np.random.default_rng(0).random((9, tiny.FEATURES)).astype(np.float32),
            np.arange(9) % tiny.CLASSES,
        ),
        num_neighbors=3,
        temperature=0.01,
        min_confidence=0.36,
        growth=20,
        exceptions={"left_out_classes": "the entries of its memory vote, not the network"},
    ),
    adapter("roid", roid, SGD, tiny.CLASSES, augmentation=jitter, random=True),
    adapter(
        "cotta",
        mean_teacher.cotta,
        SGD,
        num_augmentations=2,
        min_confidence=1.1,
        augmentation=jitter,
        random=True,
    ),
    adapter(
        "cotta_of_pixels",
        mean_teacher.cotta,
        SGD,
        num_augmentations=2,
        min_confidence=1.1,
        augmentation=jitter,
        random=True,
        pixels=True,
    ),
    adapter(
        "rmt",
        rmt,
        SGD,
        known=lambda: (
            RmtKnown(
                np.abs(tiny.variables()[0]["head"]["kernel"].T).astype(np.float32),
                Labelled(images(99)["inputs"], np.arange(BATCH_SIZE) % tiny.CLASSES),
            ),
        ),
        augmentation=jitter,
        random=True,
    ),
    adapter(
        "petal",
        petal,
        SGD,
        known=lambda: (jax.tree.map(lambda x: jnp.full_like(x, 0.01), classifier_args()[0]),),
        prior_weight=1e-3,
        num_augmentations=2,
        min_confidence=1.1,
        augmentation=jitter,
        random=True,
    ),
    adapter(
        "rotta",
        rotta,
        SGD,
        tiny.CLASSES,
        images(0)["inputs"].shape[1:],
        capacity=8,
        update_every=12,
        augmentation=jitter,
        random=True,
    ),
    adapter(
        "memo",
        single_images,
        SGD,
        num_views=3,
        num_steps=2,
        rows_at_once=4,
        view=shaken,
        random=True,
    ),
    adapter(
        "vdp",
        vdp,
        SGD,
        images(0)["inputs"].shape[1:],
        detection_threshold=1e-3,
        augmentation=jitter,
        random=True,
    ),
    adapter(
        "vida",
        vida,
        SGD,
        optax.sgd(1e-3),
        known=lambda: (pairs(),),
        num_augmentations=2,
        augmentation=jitter,
        random=True,
    ),
]
