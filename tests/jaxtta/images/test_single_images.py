"""Teachers, prompts and memories on a network with group norm: one image, then only padding."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxtrain import nets
from jaxtrain.nets.norm import SOURCE, GroupNorm, Norm
from jaxtta.images.memo import memo
from jaxtta.images.petal import petal
from jaxtta.images.rmt import Known, rmt
from jaxtta.images.rotta import rotta
from jaxtta.images.vdp import vdp
from jaxtta.images.vida import new_adapters, vida
from tests.jaxtta.images.test_mean_teacher import jitter

SHAPE = (4, 4, 3)


class Grouped(nn.Module):
    """Convolution, group norm, mean over positions, linear head."""

    @nn.compact
    def __call__(self, inputs, *, norm: Norm = SOURCE, mask=None):
        x = nn.Conv(6, (3, 3), name="conv")(inputs)
        x = nn.relu(GroupNorm(2, name="norm")(x, norm, mask)).mean((1, 2))
        return nets.Classified(nn.Dense(4, name="head")(x), x)


APPLY, SGD = nets.classifier(Grouped()), optax.sgd(0.5, momentum=0.9)


def source():
    return Grouped().init(jax.random.key(0), jnp.zeros((1, *SHAPE)))["params"]


def adapters():
    new = new_adapters(
        jax.random.key(1), source(), high_rank=2, where=lambda path: path[-1] == "kernel"
    )
    return jax.tree.map(lambda x: x + 0.1, new)


BUILD = {
    "rmt": lambda: rmt(APPLY, SGD, augmentation=jitter),
    "petal": lambda: petal(
        APPLY, SGD, num_augmentations=2, min_confidence=1.1, augmentation=jitter
    ),
    "rotta": lambda: rotta(
        APPLY, SGD, 4, SHAPE, capacity=2, update_every=1, teacher_decay=0.5, augmentation=jitter
    ),
    "memo": lambda: memo(APPLY, SGD, num_views=2),
    "vida": lambda: vida(APPLY, SGD, SGD, augmentation=jitter),
    "vdp": lambda: vdp(APPLY, SGD, SHAPE, teacher_decay=0.5, augmentation=jitter),
}
KNOWN = {
    "rmt": lambda: Known(jnp.eye(4, 6)),
    "petal": lambda: jax.tree.map(jnp.ones_like, source()),
    "vida": adapters,
}


@pytest.mark.parametrize("name", BUILD)
def test_one_image_and_padding(name):
    core = BUILD[name]()
    known = [KNOWN[name]()] if name in KNOWN else []
    state = core.init(source(), {}, *known)
    update, x = jax.jit(core.update), jax.random.uniform(jax.random.key(2), (1, *SHAPE))
    outs = []
    for step in range(3):
        batch = {"inputs": x, "mask": jnp.ones(1, bool)}
        state, out = update(state, batch, jax.random.key(step))
        outs.append(out)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, outs)))
    moved = np.abs(outs[2].outputs.logits - outs[0].outputs.logits).max()
    assert moved > 1e-5, "the third prediction must know of the first images"
    after, out = update(state, {"inputs": x, "mask": jnp.zeros(1, bool)}, jax.random.key(3))
    jax.tree.map(np.testing.assert_array_equal, after, state)
    assert all(np.isfinite(value) for value in out.metrics.values())
    assert not out.outputs.selected.any()
