"""What methods of `tta_images` may know about the source, each part computed when it is asked for.

A part is a function of the source, of training images and of the config group of its name, whose
settings are its keyword arguments.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from experiments.data.images import loader
from experiments.images import diffusion, source
from experiments.images.source import Source, training_images
from jaxtrain.host.config import UsageError
from jaxtrain.host.scans import saving, trained
from jaxtrain.nets import Classified
from jaxtrain.protocol import Scan
from jaxtta.images import label_shift
from jaxtta.images.cafa import ClassGaussians, class_gaussians
from jaxtta.images.eata import fisher_diagonal
from jaxtta.images.itta import Chain, staged, training
from jaxtta.images.petal import Posterior, swag_diagonal
from jaxtta.images.rmt import Labelled, class_prototypes
from jaxtta.images.source_features import extracted


class Known:
    """Knowledge about a source model, computed at most once and only if a method uses it.

    `folder` keeps the checkpoints of what is trained for it.
    """

    def __init__(self, config: ConfigDict, model: Source, folder: Path | None = None) -> None:
        self._config, self._source, self._folder = config, model, folder

    def _place(self, name: str, *settings: object) -> Path | None:
        """Where a training is saved; settings tell those of several trials of a sweep apart."""
        return self._folder and self._folder / "-".join([name, *map(str, settings)])

    def saving(self, what: str, name: str, *settings: object, window: int = 10) -> Scan:
        """Runs and saves the steps of a training before deployment.

        Args:
          what: is trained, for messages.
          name: of its folder.
          *settings: on which it depends and which a sweep may vary.
          window: steps that a signal or a crash may cost.
        """
        return saving(what, self._place(name, *settings), window=window)

    @functools.cached_property
    def key(self) -> jax.Array:
        """Of the draws of what is trained; a run that trains nothing has no `source.seed`."""
        return jax.random.key(self._config.source.seed)

    @functools.cached_property
    def clean(self) -> Labelled:
        """Labelled training images in batches, `[N, B, H, W, C]` uint8 and `[N, B]`."""
        group = self._config.clean
        data = training_images(self._config, group.num_images, "clean.num_images")
        return in_batches(data, group.batch_size)

    @functools.cached_property
    def prototypes(self) -> jax.Array:
        """Mean feature of every class over the `clean` images, `[C, D]`."""
        apply, classes = self._source.apply, self._source.num_classes
        mean = functools.partial(class_prototypes, apply, num_classes=classes)
        return jax.jit(mean)(*self._source.weights, *scaled(self.clean))

    @functools.cached_property
    def posterior(self) -> Posterior:
        """A Gaussian over the parameters from more source training on the `clean` images."""
        given = (*self._source.weights, *scaled(self.clean), self.key)
        scan = self.saving("the posterior", "posterior", window=1)  # an epoch
        return swag_diagonal(self._source.apply, *given, **self._config.posterior, scan=scan)

    @functools.cached_property
    def fisher(self) -> Any:
        """The Fisher diagonal from clean training images."""
        group = self._config.fisher
        data = training_images(self._config, group.num_images, "fisher.num_images")
        of = functools.partial(fisher_diagonal, self._source.apply, select=self._source.select)
        diagonal = jax.jit(of)
        return diagonal(*self._source.weights, scaled(in_batches(data, group.batch_size)).images)

    @functools.cached_property
    def features(self) -> tuple[Classified, np.ndarray]:
        """Logits and features of training images, and their true labels."""
        group = self._config.features
        data = training_images(self._config, group.num_images, "features.num_images")
        batches = scaled(in_batches(data, group.batch_size)).images
        extract = jax.jit(functools.partial(extracted, self._source.apply))
        found = extract(*self._source.weights, batches)
        return found, data.labels[: len(found.logits)]

    def gaussians(self, *, ridge: float, tied: bool) -> ClassGaussians:
        """Class Gaussians of the features."""
        found, labels = self.features
        fit = jax.jit(functools.partial(class_gaussians, tied=tied), static_argnums=2)
        return fit(found.features, labels, self._source.num_classes, ridge=ridge)

    def head_adapter(self, *, num_steps: int, batch_size: int) -> label_shift.Adapter:
        """An adapter of the head, trained on long-tailed training images."""
        found, labels = self.features
        try:
            prior = label_shift.prior_of(labels, self._source.num_classes)
        except ValueError as error:
            raise UsageError(
                f"label_shift_adapter: {error} Raise source.imbalance, or features.num_images."
            ) from error
        sizes = dict(num_steps=num_steps, batch_size=batch_size)
        scan = self.saving("the adapter of the head", "head", num_steps, batch_size, window=100)
        given = (label_shift.head_of(self._source.params), prior, found.features, labels, self.key)
        return label_shift.train_adapter(*given, **sizes, scan=scan)[0]

    def consistency(self, *, num_steps: int, batch_size: int, learning_rate: float) -> Chain | None:
        """ITTA's measure, trained on training images with the network left as it is."""
        if not num_steps:
            return None
        data = training_images(
            self._config, self._config.features.num_images, "features.num_images"
        )
        assert self._source.module is not None
        network, optimizer = staged(self._source.module), optax.adam(learning_rate)
        core = training(network, optax.set_to_zero(), optimizer, data.images.shape[1:])

        state, _ = trained(
            core,
            core.init,
            self._source.weights,
            {"inputs": data.images, "labels": data.labels},
            self.key,
            name="the measure of consistency",
            folder=self._place("consistency", num_steps, batch_size, learning_rate),
            batch_size=batch_size,
            num_steps=num_steps,
            prepare=source.scaled,
        )
        return state.head

    @functools.cached_property
    def denoiser(self) -> diffusion.Denoiser:
        """The diffusion model of the training images."""
        return diffusion.denoiser(self._config, self._folder)

    @functools.cached_property
    def projection(self) -> Any:
        """DDA's projection, which takes the parameters of the diffusion model."""
        return diffusion.projection(self.denoiser.network, **self._config.projection)

    def tuned(self, *, images: str, num_images: int, batch_size: int, **training: Any) -> Any:
        """The source model tuned to projected images, for SDA: parameters and statistics."""
        about: dict[str, Any] = dict(images=images, num_images=num_images, batch_size=batch_size)
        found = diffusion.examples(self._config, self._source.num_classes, **about)
        scan_of = lambda what, name, *names: self.saving(
            what, name, *about.values(), *(training[n] for n in names)
        )
        given = (found, self._source, self.denoiser, self.projection, self.key)
        return diffusion.tuned_to(*given, scan_of=scan_of, **training)


def in_batches(data: loader.Images, batch_size: int) -> Labelled:
    """Images and labels `[N, B, ...]`; those that fill no batch are left out."""
    size = min(batch_size, len(data.images))
    cut = lambda x: x[: len(x) // size * size].reshape(-1, size, *x.shape[1:])
    return Labelled(cut(data.images), cut(data.labels))


def scaled(batches: Labelled) -> Labelled:
    """The same with images in [0, 1]."""
    return batches._replace(images=batches.images / np.float32(255))
