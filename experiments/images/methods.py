"""The adaptation methods that `tta_images` offers.

Each is a function `(source, known, **settings) -> Method`, whose settings are the config group of
its name, optimiser included: `method("tent")(source, known, **config.method.tent)`. A method of
`jaxtta.images` whose core takes what `usual` gives needs no line here.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from experiments.images.known import Known, scaled
from experiments.images.source import Source
from jaxtrain import nets
from jaxtrain.core import Core
from jaxtrain.host.config import UsageError
from jaxtrain.nets import ResNet
from jaxtta import adaptation, images, selection
from jaxtta.images import entropy, label_shift
from jaxtta.images.adanpc import adanpc
from jaxtta.images.cafa import cafa
from jaxtta.images.deyo import deyo
from jaxtta.images.eata import eata, eta
from jaxtta.images.itta import itta, staged
from jaxtta.images.memo import memo
from jaxtta.images.nhl import FirstLayer, nhl
from jaxtta.images.petal import petal
from jaxtta.images.rmt import Known as RmtKnown
from jaxtta.images.rmt import Labelled, rmt, warm_up
from jaxtta.images.sar import sar
from jaxtta.images.sda import sda
from jaxtta.images.vdp import border as frame
from jaxtta.images.vdp import vdp
from jaxtta.images.vida import new_adapters, pretrain, vida


class Method(NamedTuple):
    """An adapter, and the arguments of its `init`: weights, and what it knows of the source."""

    core: Core
    args: tuple[Any, ...]


Builder = Callable[[Source, Known], Method]
OPTIMIZER = ("optimizer", "learning_rate", "nesterov")  # settings of `build_optimizer`


def build_optimizer(
    *, optimizer: str, learning_rate: float, nesterov: bool = False
) -> optax.GradientTransformation:
    """Adam, or SGD with momentum 0.9; `descent` is SGD without."""
    if optimizer == "adam":
        return optax.adam(learning_rate)
    if optimizer == "sgd":
        return optax.sgd(learning_rate, momentum=0.9, nesterov=nesterov)
    if optimizer == "descent":
        return optax.sgd(learning_rate)
    raise UsageError(f"optimizer is {optimizer!r}; it is adam, sgd or descent")


def optimizer_and(settings: dict[str, Any]) -> tuple[optax.GradientTransformation, dict[str, Any]]:
    """The optimiser that settings describe, and the other settings."""
    step = build_optimizer(**{k: v for k, v in settings.items() if k in OPTIMIZER})
    return step, {k: v for k, v in settings.items() if k not in OPTIMIZER}


def usual(make: Callable[..., Core]) -> Callable[..., Method]:
    """A method whose settings are the keyword arguments of its core.

    By the names of its parameters the core gets the network (`apply_fn`), an `optimizer` made of
    the settings, `num_classes` and `image_shape`; its `init` takes the source's weights.
    """
    takes = inspect.signature(make).parameters

    def build(source: Source, known: Known, **settings: Any) -> Method:
        given: dict[str, Any] = dict(
            apply_fn=source.apply, num_classes=source.num_classes, image_shape=source.image_shape
        )
        if "optimizer" in takes:
            given["optimizer"], settings = optimizer_and(settings)
        own = {name: value for name, value in given.items() if name in takes}
        if "select" in takes and takes["select"].default is selection.norm_parameters:
            own["select"] = source.select
        return Method(make(**own, **settings), source.weights)

    return build


# --- Statistics and predictions, without a gradient -----------------------------------------------


def _adanpc(source: Source, known: Known, **options: Any) -> Method:
    found, labels = known.features
    core = adanpc(source.apply, source.num_classes, **options)
    return Method(core, (*source.weights, found.features, labels))


def _projected(source: Source, known: Known) -> Method:
    return _dda(source, known, combination="second")


def _dda(source: Source, known: Known, *, combination: Any) -> Method:
    core = sda(source.apply, known.projection, combination=combination)
    return Method(core, (*source.weights, known.denoiser.params))


def _sda(source: Source, known: Known, *, combination: Any, **tuning: Any) -> Method:
    core = sda(source.apply, known.projection, combination=combination)
    return Method(core, (*source.weights, known.denoiser.params, known.tuned(**tuning)))


# --- Entropy and its relatives --------------------------------------------------------------------


def _eta(source: Source, known: Known, **settings: Any) -> Method:
    return Method(_reliable(eta, source, **settings), source.weights)


def _reset(source: Source, known: Known, *, num_batches: int, **settings: Any) -> Method:
    core = adaptation.reset_every(_reliable(eta, source, **settings), num_batches)
    return Method(core, source.weights)


def _eata(source: Source, known: Known, **settings: Any) -> Method:
    return Method(_reliable(eata, source, **settings), (*source.weights, known.fisher))


def _reliable(
    make: Callable[..., Core], source: Source, *, threshold: float, **settings: Any
) -> Core:
    """A method whose threshold is a share of the largest entropy."""
    optimizer, options = optimizer_and(settings)
    limit = threshold * math.log(source.num_classes)
    options = {"select": source.select, **options}
    return make(source.apply, optimizer, source.num_classes, threshold=limit, **options)


def _sar(source: Source, known: Known, **settings: Any) -> Method:
    select = selection.shallow_norm_parameters(source.params)
    return Method(_reliable(sar, source, select=select, **settings), source.weights)


def _deyo(source: Source, known: Known, *, margin: float, **settings: Any) -> Method:
    select = selection.shallow_norm_parameters(source.params)
    margin = margin * math.log(source.num_classes)
    core = _reliable(deyo, source, margin=margin, select=select, **settings)
    return Method(core, source.weights)


def _memo(source: Source, known: Known, *, weight: float, **settings: Any) -> Method:
    optimizer, options = optimizer_and(settings)
    norm = nets.Norm(weight, unbiased=True)
    return Method(memo(source.apply, optimizer, norm=norm, **options), source.weights)


def _label_shift_adapter(
    source: Source,
    known: Known,
    *,
    decay: float,
    estimate_first: bool,
    num_steps: int,
    batch_size: int,
    **optimizer: Any,
) -> Method:
    network = label_shift.with_adapter(source.apply)
    core = label_shift.following(
        entropy.tent(network, build_optimizer(**optimizer), select=source.select),
        network,
        source.num_classes,
        decay=decay,
        estimate_first=estimate_first,
    )
    adapter = known.head_adapter(num_steps=num_steps, batch_size=batch_size)
    return Method(core, (*source.weights, adapter))


# --- Teachers, prompts, adapters ------------------------------------------------------------------


def _petal(source: Source, known: Known, **settings: Any) -> Method:
    optimizer, options = optimizer_and(settings)
    return Method(petal(source.apply, optimizer, **options), known.posterior)


def _rmt(
    source: Source,
    known: Known,
    *,
    warm_up_images: int,
    warm_up_learning_rate: float,
    **settings: Any,
) -> Method:
    optimizer, options = optimizer_and(settings)
    images, labels = known.clean
    warm = None
    if number := warm_up_images // images.shape[1]:
        batches = images[np.arange(number) % len(images)] / np.float32(255)
        decay = options["teacher_decay"]
        before = {**settings, "learning_rate": warm_up_learning_rate}
        about = (*(before[k] for k in sorted(OPTIMIZER) if k in before), decay, number)
        scan = known.saving("the warm-up of RMT", "warm-up", *about)
        prepare = functools.partial(warm_up, teacher_decay=decay, scan=scan)
        warm = prepare(source.apply, optimizer_and(before)[0], *source.weights, batches)
    replayed = Labelled(images.reshape(-1, *images.shape[2:]), labels.reshape(-1))
    about = RmtKnown(known.prototypes, replayed if options["source_weight"] else None, warm)
    return Method(rmt(source.apply, optimizer, **options), (*source.weights, about))


def _vida(
    source: Source,
    known: Known,
    *,
    modules: str,
    low_rank: int,
    high_rank: int,
    seed: int,
    source_steps: int,
    source_learning_rate: float,
    adapter_learning_rate: float,
    uncertainty_threshold: float,
    **settings: Any,
) -> Method:
    where = lambda path: path[-1] == "kernel" and modules in "/".join(path[:-1])
    key, ranks = jax.random.key(seed), dict(low_rank=low_rank, high_rank=high_rank)
    pairs = new_adapters(key, source.params, where=where, **ranks)
    index = np.arange(source_steps) % len(known.clean.images)
    images, labels = scaled(Labelled(*(x[index] for x in known.clean)))
    about = (modules, low_rank, high_rank, seed, source_steps, source_learning_rate)
    scan = known.saving("the adapters of ViDA", "vida", *about)
    given = (*source.weights, pairs, images, labels)
    ready = pretrain(source.apply, optax.adam(source_learning_rate), *given, scan=scan)
    slow, _ = optimizer_and({**settings, "learning_rate": adapter_learning_rate})
    optimizer, options = optimizer_and(settings)
    core = vida(source.apply, optimizer, slow, threshold=uncertainty_threshold, **options)
    return Method(core, ready)


def _vdp(
    source: Source, known: Known, *, border: int, batch_statistics: bool, **settings: Any
) -> Method:
    optimizer, options = optimizer_and(settings)
    shape = source.image_shape
    region = frame(shape, border) if border else None
    norm = nets.BATCH if batch_statistics else nets.SOURCE
    core = vdp(source.apply, optimizer, shape, region=region, norm=norm, **options)
    return Method(core, source.weights)


# --- Features -------------------------------------------------------------------------------------


def _cafa(
    source: Source, known: Known, *, form: Any, ridge: float, tied: bool, **optimizer: Any
) -> Method:
    core = cafa(source.apply, build_optimizer(**optimizer), form=form, select=source.select)
    return Method(core, (*source.weights, known.gaussians(ridge=ridge, tied=tied)))


def first_layer(module: ResNet) -> FirstLayer:
    """How the first convolution of a network sees its images."""
    stride = 2 if module.imagenet_stem else 1
    return FirstLayer(stride=stride, mean=module.mean, std=module.std)


def _nhl(source: Source, known: Known, *, norms: bool, **settings: Any) -> Method:
    assert source.module is not None
    optimizer, options = optimizer_and(settings)
    layer, select = first_layer(source.module), source.select if norms else None
    core = nhl(source.apply, optimizer, layer=layer, select=select, **options)
    return Method(core, source.weights)


def _itta(
    source: Source,
    known: Known,
    *,
    depth: int,
    weight: float,
    num_steps: int,
    batch_size: int,
    **optimizer: Any,
) -> Method:
    assert source.module is not None
    network, step = staged(source.module), build_optimizer(**optimizer)
    core = itta(network, step, source.image_shape, depth=depth, weight=weight)
    rate = optimizer["learning_rate"]
    head = known.consistency(num_steps=num_steps, batch_size=batch_size, learning_rate=rate)
    return Method(core, (*source.weights, head))


# Methods that want more than `usual` gives.
METHODS: dict[str, Callable[..., Method]] = {
    "reset": _reset,
    "eta": _eta,
    "eata": _eata,
    "sar": _sar,
    "deyo": _deyo,
    "rmt": _rmt,
    "petal": _petal,
    "memo": _memo,
    "vida": _vida,
    "vdp": _vdp,
    "label_shift_adapter": _label_shift_adapter,
    "adanpc": _adanpc,
    "itta": _itta,
    "nhl": _nhl,
    "projected": _projected,
    "dda": _dda,
    "sda": _sda,
    "cafa": _cafa,
}
# Methods whose score is one pass with adapted parameters, which a second pass can replace.
RESCORED = ("core", "tent", "eta", "eata", "sar", "deyo", "open_set", "cafa")
# Methods that only choose the statistics of batch norm: without it they are the source model.
STATISTICS_ONLY = ("batch_norm", "alpha_norm", "ema_norm")
# Always evaluated beside the chosen ones.
BASELINES = ("source", "reset")


def method(name: str) -> Callable[..., Method]:
    """The method of this name."""
    return METHODS[name] if name in METHODS else usual(getattr(images, name))


def chosen(config: ConfigDict) -> dict[str, Builder]:
    """The baselines and `config.methods`, each bound to its settings."""
    return {name: bound(config, name) for name in dict.fromkeys((*BASELINES, *config.methods))}


def bound(config: ConfigDict, name: str, **changes: Any) -> Builder:
    """A method with its settings in the config, and others in their place."""
    build = functools.partial(method(name), **{**config.method.get(name, {}), **changes})
    return functools.partial(_rescored, build) if name in config.rescored else build


def _rescored(build: Builder, source: Source, known: Known) -> Method:
    core, args = build(source, known)
    return Method(adaptation.rescored(core, source.apply), args)


def build_all(builders: dict[str, Builder], source: Source, known: Known) -> dict[str, Method]:
    """Every method; what it needs to know of the source is computed here.

    Raises:
      UsageError: settings that a method refuses.
    """
    found = {}
    for name, build in builders.items():
        try:
            found[name] = build(source, known)
        except ValueError as error:
            raise UsageError(f"config.method.{name}: {error}") from error
    return found
