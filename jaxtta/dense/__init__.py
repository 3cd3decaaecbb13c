"""Networks that predict in every place, adapted by themselves: self-training with a teacher.

    core = jaxtta.dense.fst(apply_fn, optax.adamw(6e-5))  # apply_fn gives logits [B, H, W, K]
    state = core.init(params, model_state)
    state, out = jax.jit(core.update)(state, batch, key)  # inputs, labels, target
    model = state.memory.teacher

`teacher` is the frame, `fst` the method; batch statistics, TENT, CoTTA and PETAL of `jaxtta.images`
take networks that classify pixels too.
"""

from typing import TYPE_CHECKING

from jaxtrain.faces import lazy

if TYPE_CHECKING:
    from jaxtta.dense import boxes as boxes
    from jaxtta.dense.fst import dacs as dacs
    from jaxtta.dense.fst import fst as fst
    from jaxtta.dense.teacher import Following as Following
    from jaxtta.dense.teacher import Lesson as Lesson
    from jaxtta.dense.teacher import look_ahead as look_ahead
    from jaxtta.dense.teacher import self_training as self_training

lazy(__name__)
