"""Cores that adapt or search at test time.

    jaxtta.images.tent(apply_fn, optimizer)        # adapt a trained image classifier
    jaxtta.lpn.gradient_ascent(score_fn, ...)      # search a latent program
    jaxtta.in_context.transformer(...)             # learn in the activations
    jaxtta.search.majority(answers)                # choose among samples of a language model

Importing `jaxtta` costs nothing: a method is loaded when it is first named.
"""

from typing import TYPE_CHECKING

from jaxtrain.faces import lazy

__version__ = "0.2.0"

if TYPE_CHECKING:
    from jaxtta import adaptation as adaptation
    from jaxtta import batches as batches
    from jaxtta import dense as dense
    from jaxtta import draws as draws
    from jaxtta import evaluation as evaluation
    from jaxtta import halfspaces as halfspaces
    from jaxtta import images as images
    from jaxtta import in_context as in_context
    from jaxtta import lpn as lpn
    from jaxtta import scores as scores
    from jaxtta import search as search
    from jaxtta import selection as selection
    from jaxtta import self_evaluation as self_evaluation
    from jaxtta import streams as streams
    from jaxtta import vision_language as vision_language
    from jaxtta.barlow_twins import barlow_twins as barlow_twins
    from jaxtta.check_apply import check_apply as check_apply
    from jaxtta.ovor import ovor as ovor
    from jaxtta.sparsey import sparsey as sparsey

lazy(__name__)
