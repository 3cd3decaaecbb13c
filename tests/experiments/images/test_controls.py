"""Controls: which rows stand beside a method, and that nothing is learned in them."""

import types

import jax
import numpy as np
import pytest

from experiments.images import controls, methods
from experiments.images.controls import changes_of, check_controls, with_controls
from experiments.images.settings import own_settings
from experiments.images.source import Source
from jaxtrain.host.config import UsageError, load
from jaxtrain.nets import BATCH
from jaxtta.images.petal import Posterior
from jaxtta.images.rmt import Labelled
from tests.jaxtta.images import tiny

IMAGE = (8, 8, tiny.CHANNELS)


def configured(*names, **changes):
    """The config of a debug run of these methods, with other controls."""
    config, _ = load("configs/tta_images.py:debug,method.vida.modules=dense")
    config.methods = names
    for name, given in changes.items():
        config.controls[name] = given
    return config


def source():
    params, stats = tiny.as_jax(tiny.variables(dtype=np.float32))
    network = tiny.network()
    return Source(network, params, stats, tiny.CLASSES, size=IMAGE[0])


def images(number, seed=0):
    drawn = np.random.default_rng(seed).uniform(size=(number, *IMAGE))
    return drawn.astype(np.float32)


def known():
    """What methods ask of the source, with weights that were trained again: all are larger."""
    model = source()
    larger = jax.tree.map(lambda x: 1.1 * x, model.params)
    variance = jax.tree.map(lambda x: 0.01 + 0 * x, model.params)
    pixels = (255 * images(16)).astype(np.uint8).reshape(2, 8, *IMAGE)
    return types.SimpleNamespace(
        posterior=Posterior(larger, model.model_state, variance),
        clean=Labelled(pixels, np.arange(16).reshape(2, 8) % tiny.CLASSES),
        prototypes=model.params["head"]["kernel"].T,
        saving=lambda *about: jax.lax.scan,
    )


def adapted(method, number=2):
    """Parameters before and after some batches, and the last logits."""
    state = method.core.init(*method.args)
    before, step = state.params, jax.jit(method.core.update)
    for i in range(number):
        batch = {"inputs": images(12, seed=i + 1), "mask": np.ones(12, bool)}
        state, out = step(state, batch, jax.random.key(i))
    return before, state.params, out.outputs.logits


def same(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def test_controls_follow_their_method_and_those_of_others_are_not_read():
    config = configured("cotta", "petal", nhl=("rate=0",))
    found = list(with_controls(own_settings(config)))
    assert found == [
        "source",
        "reset",
        "cotta",
        "cotta(learning_rate=0)",
        "petal",
        "petal(learning_rate=0)",
        "petal(weights_only)",
    ]
    assert "nhl" not in own_settings(config).controls
    assert list(with_controls(configured("cotta", cotta=()))) == ["source", "reset", "cotta"]


def test_settings_of_a_control_have_their_types():
    found = changes_of("rate=0,norms=False,optimizer=sgd,learning_rate=1e-4")
    assert found == {"rate": 0, "norms": False, "optimizer": "sgd", "learning_rate": 1e-4}


def test_a_rate_of_0_leaves_the_parameters_and_the_method_itself_does_not():
    builders = with_controls(configured("tent", tent=("learning_rate=0",)))
    before, after, logits = adapted(builders["tent"](source(), None))
    assert not same(before, after)
    before, after, unmoved = adapted(builders["tent(learning_rate=0)"](source(), None))
    assert same(before, after)
    assert not np.allclose(logits, unmoved)


@pytest.mark.parametrize("name", ["petal", "rmt", "vida"])
def test_weights_only_are_batch_statistics_with_the_weights_a_method_starts_from(name):
    """The weights are those of the method; a control on those of the source would be seen."""
    builders, model = with_controls(configured(name)), source()
    made = builders[f"{name}(weights_only)"](model, known())
    params = made.args[0]
    of = builders[name](model, known())
    start = of.core.init(*of.args).params
    assert same(params, start)
    whole = controls.with_adapters(model.apply) if name == "vida" else model.apply
    batch = {"inputs": images(12), "mask": np.ones(12, bool)}
    state, out = made.core.update(made.core.init(*made.args), batch, jax.random.key(0))
    expected, _ = whole(start, model.model_state, batch["inputs"], norm=BATCH)
    np.testing.assert_allclose(out.outputs.logits, expected.logits, rtol=1e-5, atol=1e-5)
    plain, _ = model.apply(*model.weights, batch["inputs"], norm=BATCH)
    assert not np.allclose(out.outputs.logits, plain.logits, atol=1e-3)


@pytest.mark.ci
@pytest.mark.parametrize("name", ["cotta", "rmt", "petal", "vida", "rotta", "vdp"])
def test_the_first_control_of_every_learner_learns_nothing(name):
    config = configured(name, **{name: configured().controls[name][:1]})
    config.method.rotta.capacity = config.method.rotta.update_every = 8
    learning, control = (build for key, build in with_controls(config).items() if name in key)
    before, after, logits = adapted(learning(source(), known()))
    assert not same(before, after)
    before, after, unmoved = adapted(control(source(), known()))
    assert same(before, after)
    assert not np.array_equal(logits, unmoved)


def test_the_warm_up_of_rmt_keeps_its_rate_in_the_control():
    """At rate 0 the student still starts from weights that were warmed up."""
    builders = with_controls(configured("rmt"))
    starts = []
    for name in ("rmt", "rmt(learning_rate=0)"):
        core, args = builders[name](source(), known())
        starts.append(core.init(*args).params)
    assert same(*starts) and not same(starts[0], source().params)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("cotta", "rate=0", "method.cotta has no setting 'rate'"),
        ("cotta", "learning_rate=-1", "method.cotta.learning_rate=-1 is impossible"),
        ("cotta", "learning_rate=none", "learning_rate='none' is impossible"),
        ("cotta", "weights_only", "starts from the weights of the source"),
        ("nhl", "norms=2", "norms is True or False"),
        ("nhl", "rate=True", "rate is no truth value"),
    ],
)
def test_controls_that_a_method_does_not_have_are_refused(name, text, sentence):
    with pytest.raises(UsageError, match=sentence):
        check_controls(configured(name, **{name: (text,)}))


def test_a_control_is_written_as_settings():
    for wrong in ("learning_rate", "a b=1", "../x=1", ""):
        with pytest.raises(UsageError, match=r"controls.cotta=.* is impossible; write settings"):
            load(f"configs/tta_images.py:debug,controls.cotta=({wrong!r},)")


def test_rescored_methods_have_rescored_controls(monkeypatch):
    monkeypatch.setattr(methods.adaptation, "rescored", lambda core, apply: "again")
    config = configured("tent", tent=("learning_rate=0",))
    config.rescored = ("tent",)
    found = with_controls(config)
    assert found["tent(learning_rate=0)"](source(), None).core == "again"
