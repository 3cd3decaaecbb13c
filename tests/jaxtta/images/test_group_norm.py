"""Methods on a network with group norm: no stored statistics, batches of one."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.nets import Classified, classifier
from jaxtrain.nets.norm import SOURCE, GroupNorm, Norm
from jaxtta.images import entropy, label_shift
from jaxtta.images.adanpc import adanpc
from jaxtta.images.cafa import ClassGaussians, cafa
from jaxtta.images.nhl import FirstLayer, nhl
from jaxtta.images.sda import sda
from tests.jaxtta.images import tiny

C, D = tiny.CLASSES, tiny.FEATURES


class Grouped(nn.Module):
    @nn.compact
    def __call__(self, inputs, *, norm: Norm = SOURCE, mask=None) -> Classified:
        x = nn.Dense(4, use_bias=False, name="dense1")(inputs)
        x = nn.relu(GroupNorm(2, name="norm1")(x, norm, mask))
        features = nn.Dense(D, name="dense2")(x).mean((1, 2))
        return Classified(nn.Dense(C, name="head")(features), features)


APPLY = classifier(Grouped())


def shifted(optimizer):
    apply_fn = label_shift.with_adapter(APPLY)
    return label_shift.following(entropy.tent(apply_fn, optimizer), apply_fn, C)


CORES = {
    "label_shift": shifted(optax.adam(0.01)),
    "adanpc": adanpc(APPLY, C, growth=8),
    "cafa": cafa(APPLY, optax.adam(0.01)),
    "nhl": nhl(APPLY, optax.adam(0.01), layer=FirstLayer(("dense1",))),
    "sda": sda(APPLY, lambda share, x, keys: share * x),
}
KNOWN = {
    "label_shift": (
        label_shift.Adapter(
            jnp.array([0.4, 0.3, 0.2, 0.1]),
            (jnp.ones(2), jnp.ones(2)),
            (0.1 * jnp.ones((2, 2 * D + D * C + C)), jnp.zeros(2 * D + D * C + C)),
        ),
    ),
    "adanpc": (np.eye(D, dtype=np.float32), np.arange(D) % C),
    "cafa": (ClassGaussians(jnp.eye(C, D), jnp.eye(D)[None]),),
    "nhl": (),
    "sda": (jnp.float32(0.5),),
}


@pytest.mark.parametrize("name", CORES)
def test_one_image_and_several(name):
    core = CORES[name]
    x = jnp.asarray(tiny.batches(1, 4, dtype=np.float32)[0])
    params = jax.jit(Grouped().init)(jax.random.key(0), x)["params"]
    update = jax.jit(core.update)
    states, logits = [], []
    for inputs in (x, x[:1]):
        state = core.init(params, {}, *KNOWN[name])
        state, out = update(state, {"inputs": inputs}, jax.random.key(0))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, out)))
        states.append(state)
        logits.append(out.outputs.logits)
    before = jax.tree.leaves(core.init(params, {}, *KNOWN[name]))
    moved = [
        max(float(jnp.abs(a - b).max()) for a, b in zip(jax.tree.leaves(s), before, strict=True))
        for s in states
    ]
    assert (min(moved) > 1e-5) == (name != "sda"), "all of them but SDA learn, from one image too"
    if name in ("adanpc", "cafa", "sda"):  # the prediction before the update is each row's own
        np.testing.assert_allclose(logits[0][:1], logits[1], rtol=1e-4, atol=1e-5)
