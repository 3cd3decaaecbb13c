"""The adaptation methods that `tta_images` offers, built from their config groups."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from jaxtrain import nets
from jaxtrain.core import Core
from jaxtrain.host.config import UsageError
from jaxtrain.nets import ClassifierFn, ResNet
from jaxtta import adaptation
from jaxtta.images import batch_statistics, entropy, label_shift, mean_teacher
from jaxtta.images.adanpc import adanpc
from jaxtta.images.cafa import cafa
from jaxtta.images.deyo import deyo
from jaxtta.images.itta import itta, staged
from jaxtta.images.lame import lame
from jaxtta.images.memo import memo
from jaxtta.images.nhl import FirstLayer, nhl
from jaxtta.images.petal import Posterior, petal
from jaxtta.images.rmt import replay_of, rmt, warm_up
from jaxtta.images.roid import roid
from jaxtta.images.rotta import rotta
from jaxtta.images.sar import sar
from jaxtta.images.sda import Projection, sda
from jaxtta.images.vdp import border, vdp
from jaxtta.images.vida import new_adapters, pretrain, vida


class Denoiser(NamedTuple):
    """A trained diffusion model: `apply({"params": params}, x, times, labels) -> noise`."""

    apply: Callable[..., jax.Array]
    params: Any

    def __call__(
        self, x: jax.Array, times: jax.Array, labels: jax.Array | None = None
    ) -> jax.Array:
        return self.apply({"params": self.params}, x, times, labels)


class Source(NamedTuple):
    """A source model and what methods know about it.

    Attributes:
      apply: the network.
      params, model_state: of the source.
      num_classes: C.
      fisher: of the adapted parameters, or `None` when no method needs it.
      prototypes: mean feature of every class, for RMT.
      clean: labelled source images in batches, `[N, B, H, W, C]` uint8 and `[N, B]`, for methods
        that look at them.
      posterior: over the parameters, for PETAL.
      label_shift: trained adapter of the head, likewise.
      memory: labelled features of training images, likewise.
      gaussians: of the features of every class, likewise.
      consistency: ITTA's measure, likewise.
      denoiser: diffusion model, for DDA and SDA.
      project: DDA's projection by it.
      synthetic: parameters and statistics of the network tuned to projected images of it, for SDA.
      module: the network again, for methods that look inside.
      size: side of the images.
    """

    apply: ClassifierFn
    params: Any
    model_state: Any
    num_classes: int
    fisher: Any = None
    prototypes: Any = None
    clean: tuple[np.ndarray, np.ndarray] | None = None
    posterior: Posterior | None = None
    label_shift: Any = None
    memory: Any = None
    gaussians: Any = None
    consistency: Any = None
    denoiser: Denoiser | None = None
    project: Projection | None = None
    synthetic: tuple[Any, Any] | None = None
    module: ResNet | None = None
    size: int = 32

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` of one image."""
        return (self.size, self.size, 3)


def build_optimizer(group: ConfigDict) -> optax.GradientTransformation:
    """Adam, or SGD with momentum 0.9, at `group.learning_rate`; `descent` is SGD without."""
    if group.optimizer == "adam":
        return optax.adam(group.learning_rate)
    if group.optimizer == "sgd":
        return optax.sgd(group.learning_rate, momentum=0.9, nesterov=group.nesterov)
    if group.optimizer == "descent":
        return optax.sgd(group.learning_rate)
    raise UsageError(f"optimizer is {group.optimizer!r}; it is adam, sgd or descent")


def _threshold(group: ConfigDict, source: Source) -> float:
    return group.threshold * math.log(source.num_classes)


def _eata(group: ConfigDict, source: Source, fisher: Any) -> Core:
    return entropy.eata(
        source.apply,
        build_optimizer(group),
        source.num_classes,
        fisher=fisher,
        fisher_weight=group.fisher_weight,
        threshold=_threshold(group, source),
        redundancy=group.redundancy,
    )


def _sar(group: ConfigDict, source: Source) -> Core:
    return sar(
        source.apply,
        build_optimizer(group),
        source.num_classes,
        radius=group.radius,
        threshold=_threshold(group, source),
        reset_below=group.reset_below,
        select=adaptation.shallow_norm_parameters(source.params),
    )


def _deyo(group: ConfigDict, source: Source) -> Core:
    return deyo(
        source.apply,
        build_optimizer(group),
        source.num_classes,
        threshold=_threshold(group, source),
        margin=group.margin * math.log(source.num_classes),
        min_difference=group.min_difference,
        num_patches=group.num_patches,
        select=adaptation.shallow_norm_parameters(source.params),
    )


def _reset(group: ConfigDict, source: Source) -> Core:
    return adaptation.reset_every(_eata(group, source, None), group.num_batches)


def _cotta(group: ConfigDict, source: Source) -> Core:
    return mean_teacher.cotta(
        source.apply,
        build_optimizer(group),
        num_augmentations=group.num_augmentations,
        min_confidence=group.min_confidence,
        teacher_decay=group.teacher_decay,
        restore_probability=group.restore_probability,
        loss=group.loss,
    )


def _rmt(group: ConfigDict, source: Source) -> Core:
    images, labels = source.clean
    optimizer, warm = build_optimizer(group), None
    if number := group.warm_up_images // images.shape[1]:
        batches = images[np.arange(number) % len(images)] / np.float32(255)
        prepare = functools.partial(
            warm_up, source.apply, optimizer, teacher_decay=group.teacher_decay
        )
        warm = jax.jit(prepare)(source.params, source.model_state, batches)
    replayed = replay_of(images.reshape(-1, *images.shape[2:]), labels.reshape(-1))
    return rmt(
        source.apply,
        optimizer,
        source.prototypes,
        sample_source=replayed if group.source_weight else None,
        source_weight=group.source_weight,
        contrast_weight=group.contrast_weight,
        temperature=group.temperature,
        teacher_decay=group.teacher_decay,
        loss=group.loss,
        warm=warm,
    )


def _petal(group: ConfigDict, source: Source) -> Core:
    core = petal(
        source.apply,
        build_optimizer(group),
        source.posterior.variance,
        prior_weight=group.prior_weight,
        restore=group.restore,
        restore_share=group.restore_share,
        num_augmentations=group.num_augmentations,
        min_confidence=group.min_confidence,
        teacher_decay=group.teacher_decay,
        loss=group.loss,
    )
    posterior = source.posterior
    return adaptation.starting_at(core, posterior.mean, posterior.model_state)


def _rotta(group: ConfigDict, source: Source) -> Core:
    return rotta(
        source.apply,
        build_optimizer(group),
        source.num_classes,
        source.image_shape,
        capacity=group.capacity,
        update_every=group.update_every,
        momentum=group.momentum,
        teacher_decay=group.teacher_decay,
    )


def _memo(group: ConfigDict, source: Source) -> Core:
    return memo(
        source.apply,
        build_optimizer(group),
        num_views=group.num_views,
        num_steps=group.num_steps,
        rows_at_once=group.rows_at_once,
        norm=nets.Norm(group.weight, unbiased=True),
    )


def _vida(group: ConfigDict, source: Source) -> Core:
    where = lambda path: path[-1] == "kernel" and group.modules in "/".join(path[:-1])
    pairs = new_adapters(
        jax.random.key(group.seed),
        source.params,
        low_rank=group.low_rank,
        high_rank=group.high_rank,
        where=where,
    )
    images, labels = source.clean
    index = np.arange(group.source_steps) % len(images)
    rate = optax.adam(group.source_learning_rate)
    prepare = jax.jit(functools.partial(pretrain, source.apply, rate))
    scaled = images[index] / np.float32(255)
    ready = prepare(source.params, source.model_state, pairs, scaled, labels[index])
    slow = ConfigDict({**group.to_dict(), "learning_rate": group.adapter_learning_rate})
    core = vida(
        source.apply,
        build_optimizer(group),
        build_optimizer(slow),
        ready.adapters,
        num_augmentations=group.num_augmentations,
        threshold=group.uncertainty_threshold,
        teacher_decay=group.teacher_decay,
        adapter_decay=group.adapter_decay,
        restore_probability=group.restore_probability,
        released_behaviour=group.released_behaviour,
    )
    return adaptation.starting_at(core, ready.params, ready.model_state)


def _vdp(group: ConfigDict, source: Source) -> Core:
    shape = source.image_shape
    return vdp(
        source.apply,
        build_optimizer(group),
        shape,
        region=border(shape, group.border) if group.border else None,
        weight=group.weight,
        damping=group.damping,
        detection_threshold=group.detection_threshold,
        reset_specific=group.reset_specific,
        teacher_decay=group.teacher_decay,
        norm=nets.BATCH if group.batch_statistics else nets.SOURCE,
    )


def _label_shift_adapter(group: ConfigDict, source: Source) -> Core:
    apply_fn = label_shift.with_adapter(source.apply, source.label_shift)
    return label_shift.following(
        entropy.tent(apply_fn, build_optimizer(group)),
        apply_fn,
        source.num_classes,
        decay=group.decay,
        estimate_first=group.estimate_first,
    )


def _adanpc(group: ConfigDict, source: Source) -> Core:
    return adanpc(
        source.apply,
        source.num_classes,
        *source.memory,
        num_neighbors=group.num_neighbors,
        temperature=group.temperature,
        min_confidence=group.min_confidence,
        growth=group.growth,
    )


def first_layer(module: ResNet) -> FirstLayer:
    """How the first convolution of a network sees its images."""
    stride = 2 if module.imagenet_stem else 1
    return FirstLayer(stride=stride, mean=module.mean, std=module.std)


def _nhl(group: ConfigDict, source: Source) -> Core:
    assert source.module is not None
    return nhl(
        source.apply,
        build_optimizer(group),
        layer=first_layer(source.module),
        rate=group.rate,
        temperature=group.temperature,
        relative=group.relative,
        renormalise=group.renormalise,
        modulator=group.modulator,
        select=adaptation.norm_parameters if group.norms else None,
    )


def _itta(group: ConfigDict, source: Source) -> Core:
    assert source.module is not None
    return itta(
        staged(source.module),
        build_optimizer(group),
        source.image_shape,
        head=source.consistency,
        depth=group.depth,
        weight=group.weight,
    )


def _projected(source: Source, tuned: tuple[Any, Any] | None, combination: Any) -> Core:
    assert source.project is not None
    return sda(source.apply, source.project, tuned, combination=combination)


METHODS: dict[str, Callable[[ConfigDict, Source], Core]] = {
    "source": lambda group, s: batch_statistics.source(s.apply),
    "reset": _reset,
    "batch_norm": lambda group, s: batch_statistics.batch_norm(s.apply),
    "alpha_norm": lambda group, s: batch_statistics.alpha_norm(s.apply, group.weight),
    "ema_norm": lambda group, s: batch_statistics.ema_norm(s.apply, group.momentum),
    "core": lambda group, s: batch_statistics.core(s.apply, build_optimizer(group), group.weight),
    "lame": lambda group, s: lame(
        s.apply, kind=group.affinity, num_neighbors=group.num_neighbors, strength=group.strength
    ),
    "tent": lambda group, s: entropy.tent(s.apply, build_optimizer(group)),
    "eta": lambda group, s: _eata(group, s, None),
    "eata": lambda group, s: _eata(group, s, s.fisher),
    "sar": _sar,
    "deyo": _deyo,
    "cotta": _cotta,
    "roid": lambda group, s: roid(
        s.apply,
        build_optimizer(group),
        s.num_classes,
        source_share=group.source_share,
        consistency=group.consistency,
        correction=group.correction,
    ),
    "open_set": lambda group, s: entropy.open_set(
        s.apply, build_optimizer(group), diversity=group.diversity
    ),
    "rmt": _rmt,
    "petal": _petal,
    "rotta": _rotta,
    "memo": _memo,
    "vida": _vida,
    "vdp": _vdp,
    "label_shift_adapter": _label_shift_adapter,
    "adanpc": _adanpc,
    "itta": _itta,
    "nhl": _nhl,
    "projected": lambda group, s: _projected(s, None, "second"),
    "dda": lambda group, s: _projected(s, None, group.combination),
    "sda": lambda group, s: _projected(s, s.synthetic, group.combination),
    "cafa": lambda group, s: cafa(s.apply, build_optimizer(group), s.gaussians, form=group.form),
}
# Methods whose score is one pass with adapted parameters, which a second pass can replace.
RESCORED = ("core", "tent", "eta", "eata", "sar", "deyo", "open_set", "cafa")
# Methods that only choose the statistics of batch norm: without it they are the source model.
STATISTICS_ONLY = ("batch_norm", "alpha_norm", "ema_norm")
# Always evaluated beside the chosen ones.
BASELINES = ("source", "reset")


def over_window(core: Core, window: int, size: int) -> Core:
    """The adapter on single images with a window of the last ones; 0 leaves it as it is."""
    if not window:
        return core
    inner = adaptation.windowed(core, window, (size, size, 3))
    # Streams carry row masks; batches of one have nothing to mask.
    return Core(inner.init, lambda s, batch, key: inner.update(s, {"inputs": batch["inputs"]}, key))


def build(config: ConfigDict, name: str, source: Source) -> Core:
    """The adapter called `name`, with the settings of `config.method.<name>`.

    Raises:
      UsageError: there is no such method or optimiser.
    """
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}; known are {', '.join(METHODS)}")
    try:
        core = METHODS[name](config.method.get(name, ConfigDict()), source)
    except ValueError as error:
        raise UsageError(f"config.method.{name}: {error}") from error
    return adaptation.rescored(core, source.apply) if name in config.rescored else core
