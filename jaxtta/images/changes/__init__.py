"""Changes of images under jit: augmentations of the methods, mixed styles, corruptions."""

from typing import TYPE_CHECKING

from jaxtrain.faces import lazy

if TYPE_CHECKING:
    from jaxtta.images.changes import augmix as augmix
    from jaxtta.images.changes import corruptions as corruptions
    from jaxtta.images.changes import cotta_augment as cotta_augment
    from jaxtta.images.changes import mixstyle as mixstyle
    from jaxtta.images.changes import two_views as two_views

lazy(__name__)
