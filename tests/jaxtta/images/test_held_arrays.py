"""Megabytes that methods know of the source are in the state: no program has or copies them."""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.nets import Classified
from jaxtta import adaptation, evaluation, streams
from jaxtta.images.adanpc import adanpc
from jaxtta.images.petal import petal
from jaxtta.images.rmt import Known, Labelled, rmt
from jaxtta.images.sda import sda

FEATURES, CLASSES, SHAPE = 1024, 512, (8, 8, 3)
SGD = optax.sgd(0.1)
RNG = np.random.default_rng(0)


def apply_fn(params, state, x, **_):
    features = x.mean((1, 2)) @ params["dense"]["kernel"]
    return Classified(features @ params["head"]["kernel"], features), state


def random(*shape):
    return jnp.asarray(RNG.random(shape), jnp.float32)


def parameters():
    return {"dense": {"kernel": random(3, FEATURES)}, "head": {"kernel": random(FEATURES, CLASSES)}}


def plain(x, key, keys):
    return x


def times(kernel, x, keys):
    return x * kernel.mean()


IMAGES = jnp.asarray(RNG.integers(0, 255, (10_000, *SHAPE)), jnp.uint8)
LABELS = jnp.zeros(10_000, jnp.int32)
# Method -> the core, and arrays of 2 MB or more that it knows.
METHODS = {
    "rmt": lambda: (
        rmt(apply_fn, SGD, augmentation=plain),
        (Known(random(CLASSES, FEATURES), Labelled(IMAGES, LABELS)),),
    ),
    "adanpc": lambda: (
        adanpc(apply_fn, CLASSES, growth=8),
        (random(2_000, FEATURES), jnp.zeros(2_000, jnp.int32)),
    ),
    "sda": lambda: (sda(apply_fn, times), (random(FEATURES, CLASSES), (parameters(), {}))),
    "petal": lambda: (
        petal(apply_fn, SGD, num_augmentations=2, augmentation=plain),
        (parameters(),),
    ),
}
LARGE, SMALL = 1_500_000, 300_000  # bytes


@pytest.mark.parametrize("name", METHODS)
def test_programs_do_not_hold_the_arrays(name):
    core, known = METHODS[name]()
    args = (parameters(), {}, *known)
    assert sum(x.nbytes for x in jax.tree.leaves(known)) > LARGE
    state = jax.jit(core.init)(*args)
    batch, key = {"inputs": jnp.zeros((4, *SHAPE))}, jax.random.key(0)
    sizes = {
        "update": len(jax.jit(core.update).lower(state, batch, key).as_text()),
        "init": len(jax.jit(core.init).lower(*args).as_text()),
    }
    assert max(sizes.values()) < SMALL, sizes
    held = {x.shape for x in jax.tree.leaves(state)}
    assert held >= {x.shape for x in jax.tree.leaves(known)}, "a checkpoint must have them"
    # The control: the same step on a state that is closed over.
    closed = jax.jit(lambda batch, key: core.update(state, batch, key))
    assert len(closed.lower(batch, key).as_text()) > LARGE


def selected(function, *args):
    """Shapes of what a program selects between, at any depth."""
    found = set()

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "select_n":
                found.add(equation.outvars[0].aval.shape)
            for inner in jax.tree.leaves(
                list(equation.params.values()),
                is_leaf=lambda x: isinstance(x, jax.extend.core.ClosedJaxpr),
            ):
                if isinstance(inner, jax.extend.core.ClosedJaxpr):
                    walk(inner.jaxpr)

    walk(jax.make_jaxpr(function)(*args).jaxpr)
    return found


@pytest.mark.parametrize("name", METHODS)
def test_resets_of_a_stream_do_not_copy_them(name):
    core, known = METHODS[name]()
    args, key = (parameters(), {}, *known), jax.random.key(0)
    stream = streams.continual([0, 1], 8, 4, seed=0, reset=True)
    images = jnp.zeros((2, 8, *SHAPE), jnp.uint8)
    run = functools.partial(evaluation.evaluate, core)
    shapes = selected(run, args, images, stream, key)
    large = {IMAGES.shape, (CLASSES, FEATURES), (2_000, FEATURES)}
    assert not shapes & large
    # The control: what a method does change is selected.
    changed = {"adanpc": (8, FEATURES), "sda": None}.get(name, (FEATURES, CLASSES))
    assert changed is None or changed in shapes


def test_regular_resets_keep_one_copy():
    core, known = METHODS["rmt"]()
    resetting = adaptation.reset_every(core, 2)
    state = resetting.init(parameters(), {}, *known)
    assert [x.shape for x in jax.tree.leaves(state)].count(IMAGES.shape) == 1
    update = jax.jit(resetting.update)
    start, batch = state.state, {"inputs": random(4, *SHAPE)}
    for i in range(2):
        state, _ = update(state, batch, jax.random.key(i))
    jax.tree.map(np.testing.assert_array_equal, state.state, start)


def test_seeds_share_one_copy():
    """Under vmap over keys the arrays have no axis for the seeds."""
    core, known = METHODS["rmt"]()
    state = jax.eval_shape(core.init, parameters(), {}, *known)
    batch = {"inputs": jax.ShapeDtypeStruct((4, *SHAPE), jnp.float32)}

    def seeds(state, batch, keys):
        def one(key):
            step = lambda state, key: (core.update(state, batch, key)[0], None)
            return jax.lax.scan(step, state, jax.random.split(key, 2))[0].params

        return jax.vmap(one)(keys)

    def shapes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (v.aval.shape for v in equation.outvars)
            for inner in jax.tree.leaves(list(equation.params.values())):
                if isinstance(inner, jax.extend.core.ClosedJaxpr):
                    yield from shapes(inner.jaxpr)

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 3))
    found = set(shapes(jax.make_jaxpr(seeds)(state, batch, keys).jaxpr))
    assert (3, FEATURES, CLASSES) in found and (3, *IMAGES.shape) not in found
