"""Foreign networks that lack something are refused by a sentence while the program is traced."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.nets import Classified
from jaxtrain.nets.norm import BATCH, SOURCE
from jaxtta import adaptation, images
from jaxtta.check_apply import check_apply, checked
from jaxtta.images.batch_statistics import batch_norm, source
from jaxtta.selection import all_parameters, norm_layers, norm_parameters
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


@pytest.mark.parametrize(
    "core",
    [
        lambda network: images.lame(network),
        lambda network: images.rotta(network, OPTIMIZER, tiny.CLASSES, X.shape[1:]),
        lambda network: images.eta(network, OPTIMIZER, tiny.CLASSES),
        lambda network: images.core(network, OPTIMIZER),
        lambda network: images.tent(network, OPTIMIZER, open_set_filter=True),
    ],
)
def test_pixels_are_refused_where_a_method_is_about_images(core):
    with pytest.raises(
        ValueError, match=r"\(6, 4, 4, 4\), a prediction for every pixel; this meth"
    ):
        traced(core(tiny.network(pixels=True)), PARAMS, STATE)


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


def test_a_sound_network_is_described():
    found = check_apply(APPLY, PARAMS, STATE, X, num_classes=tiny.CLASSES)
    norms = 2 * (tiny.HIDDEN + tiny.FEATURES)
    assert found == (tiny.CLASSES, tiny.FEATURES, True, norms)


def test_a_network_of_pixels_is_described():
    found = check_apply(tiny.network(pixels=True), PARAMS, STATE, X, num_classes=tiny.CLASSES)
    assert found == (tiny.CLASSES, tiny.FEATURES, True, 2 * (tiny.HIDDEN + tiny.FEATURES))


def without_statistics(params, state, x, *, norm=SOURCE, mask=None):
    """Layer norm of the pixels, and a linear layer."""
    flat = x.reshape(len(x), -1)
    scale, bias = params["ln"]["scale"][None], params["ln"]["bias"][None]
    flat = (flat - flat.mean(1, keepdims=True)) * scale + bias
    return Classified(flat @ params["w"]), state


SIZE = X[0].size
PLAIN = {
    "ln": {"scale": jnp.ones(SIZE), "bias": jnp.zeros(SIZE)},
    "w": jax.random.normal(jax.random.key(0), (SIZE, 3)),
}


def test_a_network_without_statistics_needs_none():
    assert check_apply(without_statistics, PLAIN, {}, X) == (3, 0, False, 2 * SIZE)
    with pytest.raises(ValueError, match="no parameter is selected; pass select=.*all_parameters"):
        check_apply(without_statistics, PLAIN, {}, X, select=lambda path: False)
    everything = check_apply(without_statistics, PLAIN, {}, X, select=all_parameters)
    assert everything.num_adapted == 2 * SIZE + PLAIN["w"].size


def applied(**changes):
    """The tiny network, with some of its arguments replaced."""

    def apply(params, state, x, *, norm=SOURCE, mask=None):
        given = {"norm": norm, "mask": mask}
        for name, change in changes.items():
            given[name] = change(given[name])
        return APPLY(params, state, x, **given)

    return apply


def impure(params, state, x, *, norm=SOURCE, mask=None):
    return APPLY(params, state, x, norm=norm._replace(momentum=0.5), mask=mask)


def listed(params, state, x, *, norm=SOURCE, mask=None):
    found, after = APPLY(params, state, x, norm=norm, mask=mask)
    return found, after if norm.momentum is None else after["batch_stats"]


def branching(params, state, x, *, norm=SOURCE, mask=None):
    return APPLY(
        params, state, x, norm=norm if norm.weight and norm.weight > 0 else SOURCE, mask=mask
    )


NOT_A_NUMBER = answering(lambda found, state: (found._replace(logits=found.logits / 0), state))
HALF = lambda norm: norm if norm.weight is None else norm._replace(weight=1.0)


@pytest.mark.parametrize(
    "apply_fn, sentence",
    [
        (applied(norm=lambda norm: SOURCE), "norm has no effect: .*batch_norm would be the source"),
        (applied(norm=lambda norm: BATCH), "mixes rows"),
        (applied(norm=HALF), "a mixture has no effect: .*alpha_norm would be batch_norm"),
        (applied(mask=lambda mask: None), "mask has no effect"),
        (applied(norm=lambda norm: norm._replace(momentum=None)), "momentum has no effect"),
        (impure, "changes without norm.momentum"),
        (listed, "another structure"),
        (branching, "asks in Python for the value of norm.weight"),
        (NOT_A_NUMBER, "not finite"),
        (answering(lambda found, state: found.logits), "an array of shape .* alone"),
    ],
)
def test_what_a_network_lacks_is_named(apply_fn, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_apply(apply_fn, PARAMS, STATE, X)


def test_inputs_and_parameters_are_looked_at():
    check = lambda x, params=PARAMS, **more: check_apply(APPLY, params, STATE, x, **more)
    with pytest.raises(ValueError, match="uint8; .*divide pixels by 255"):
        check(jnp.zeros((4, 4, 4, 3), jnp.uint8))
    with pytest.raises(ValueError, match=r"go from -2 to 1.5; .* standardise"):
        check(X.at[0, 0, 0].set(-2).at[0, 0, 1].set(1.5))
    with pytest.raises(ValueError, match="2 inputs; give three"):
        check(X[:2])
    with pytest.raises(ValueError, match="key 'params'.*alone"):
        check(X, {"params": PARAMS, **STATE})
    with pytest.raises(ValueError, match="4 classes .*num_classes=10"):
        check(X, num_classes=10)


def test_normalisation_layers_that_names_do_not_show_are_named():
    params = [PLAIN["w"], {"weight": jnp.ones(3), "bias": jnp.ones(3)}, {"bn1": PLAIN["ln"]}]
    apply = lambda params, state, x, *, norm, mask: (
        Classified(x.reshape(len(x), -1) @ params[0] * params[1]["weight"][None]),
        state,
    )
    with pytest.raises(ValueError, match="names show 2 of 4 .*not '1/bias'; pass select=.*norm_l"):
        check_apply(apply, params, {}, X)
    found = check_apply(apply, params, {}, X, select=norm_layers(params))
    assert found.num_adapted == 6 + 2 * SIZE
