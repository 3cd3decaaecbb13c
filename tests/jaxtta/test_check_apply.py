"""Foreign networks that lack something are refused by a sentence while the program is traced."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.nets import Classified
from jaxtta import adaptation, images
from jaxtta.check_apply import checked
from jaxtta.images.batch_statistics import batch_norm, source
from jaxtta.selection import norm_parameters
from tests.jaxtta.images import tiny

OPTIMIZER = optax.sgd(0.1)
PARAMS, STATE = tiny.as_jax(tiny.variables(dtype=np.float32))
X = jnp.asarray(np.random.default_rng(0).uniform(size=(6, 4, 4, 3)), jnp.float32)
APPLY = tiny.network()


def traced(core, *args):
    """Traces init and one update, without running them."""
    run = lambda *args: core.update(core.init(*args), {"inputs": X}, jax.random.key(0))
    return jax.eval_shape(run, *args)


def answering(change):
    """The tiny network with another answer."""
    return lambda *args, **options: change(*APPLY(*args, **options))


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda found, state: found.logits, "an array of shape .* alone; let it return"),
        (lambda found, state: found, "Classified alone, without the model state"),
        (lambda found, state: (found.logits, state), "tuple of .*; let it return"),
        (lambda found, state: {"logits": found.logits}, "a dict; let it return"),
        (
            lambda found, state: (Classified(jnp.zeros((6, 8, 8, 4))), state),
            "a prediction for every pixel",
        ),
        (lambda found, state: (Classified(found.logits[0]), state), "one row per input"),
        (lambda found, state: (Classified(found.logits[:2]), state), r"one row per input, \(6,"),
    ],
)
@pytest.mark.parametrize("method", ["source", "tent", "cotta", "lame", "rotta"])
def test_another_answer_is_named(method, change, sentence):
    network = answering(change)
    core = {
        "source": lambda: images.source(network),
        "tent": lambda: images.tent(network, OPTIMIZER),
        "cotta": lambda: images.cotta(network, OPTIMIZER),
        "lame": lambda: images.lame(network),
        "rotta": lambda: images.rotta(network, OPTIMIZER, tiny.CLASSES, X.shape[1:]),
    }[method]()
    with pytest.raises(ValueError, match=sentence):
        traced(core, PARAMS, STATE)


@pytest.mark.parametrize("name", ["eta", "eata", "sar", "roid", "deyo", "rotta"])
def test_a_wrong_number_of_classes_is_named(name):
    make, more = getattr(images, name), ()
    known = ()
    if name == "rotta":
        more = (X.shape[1:],)
    if name == "eata":
        known = (adaptation.split(PARAMS, norm_parameters)[0],)
    core = make(APPLY, OPTIMIZER, 1000, *more)
    with pytest.raises(ValueError, match="4 classes .* num_classes=1000; pass num_classes=4"):
        traced(core, PARAMS, STATE, *known)


def test_a_fisher_diagonal_of_another_form_is_named():
    core = images.eata(APPLY, OPTIMIZER, tiny.CLASSES)
    fisher = adaptation.split(PARAMS, norm_parameters)[0]
    traced(core, PARAMS, STATE, fisher)
    with pytest.raises(ValueError, match="for 'dense1/kernel' the shape .*same select"):
        core.init(PARAMS, STATE, PARAMS)
    wrong = {**fisher, "norm1": {"scale": jnp.ones(3), "bias": fisher["norm1"]["bias"]}}
    with pytest.raises(ValueError, match=r"'norm1/scale' the shape \(3,\) in place of \(5,\)"):
        core.init(PARAMS, STATE, wrong)


def test_missing_arguments_are_named_before_anything_is_traced():
    with pytest.raises(ValueError, match="unexpected keyword argument 'norm'"):
        batch_norm(lambda params, state, x: APPLY(params, state, x))
    with pytest.raises(ValueError, match="unexpected keyword argument 'mask'"):
        source(lambda params, state, x, *, norm: APPLY(params, state, x, norm=norm))
    with pytest.raises(ValueError, match="too many positional .*nets.classifier"):
        source(tiny.Tiny())
    with pytest.raises(ValueError, match="is a function apply_fn.* but got 3"):
        source(3)


def test_what_is_looked_at_costs_nothing():
    plain = jax.make_jaxpr(lambda x: APPLY(PARAMS, STATE, x)[0].logits)(X)
    looked = jax.make_jaxpr(lambda x: checked(APPLY, 4)(PARAMS, STATE, x)[0].logits)(X)
    assert str(plain) == str(looked)
