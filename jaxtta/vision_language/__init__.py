"""Test-time adaptation of two towers, of images and of text: every method is a core.

core = jaxtrain.episodic(jaxtta.vision_language.t3al(optimizer))
state = core.init(towers, names)
state, out = jax.jit(core.update)(state, {"inputs": frames}, key)   # one video
"""

from typing import TYPE_CHECKING

from jaxtrain.faces import lazy

if TYPE_CHECKING:
    from jaxtta.vision_language.rlcf import rlcf as rlcf
    from jaxtta.vision_language.t3al import t3al as t3al

lazy(__name__)
