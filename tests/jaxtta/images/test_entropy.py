"""Entropy methods step by step against NumPy loops in float64, their limits, and their edges."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtta import adaptation
from jaxtta.images import entropy
from jaxtta.images.batch_statistics import batch_norm
from jaxtta.images.deyo import destroyed, deyo, deyo_draws
from jaxtta.images.eata import eata, eta, fisher_diagonal
from jaxtta.images.sar import sar
from tests.jaxtta.images import reference, tiny

SGD, ADAM = (optax.sgd(0.01, momentum=0.9), tiny.Sgd), (optax.adam(0.01), tiny.Adam)
APPLY = tiny.network()
CLOSE = {"rtol": 1e-8, "atol": 1e-10}


def masks(number=4, size=12):
    """All rows, then a ragged batch, then a batch of padding alone, then all rows."""
    found = np.ones((number, size), bool)
    found[1, 8:] = False
    found[2:3] = False
    return found


def run(core, args, batches, valid, key=0):
    """Replays under jit in float64; keys are fold_in(key, i)."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(key), jnp.arange(len(batches)))
    given = {"inputs": jnp.asarray(batches), "mask": jnp.asarray(valid)}
    replay = jax.jit(lambda args, given: adaptation.replay(core, args, given, keys))
    return jax.tree.map(np.asarray, replay(tiny.as_jax(args), given))


def thetas(replayed):
    number = len(jax.tree.leaves(replayed.params)[0])
    steps = [jax.tree.map(lambda x, i=i: x[i], replayed.params) for i in range(number)]
    return np.stack([tiny.flat(step) for step in steps])


def compare(core, method, batches, valid, each=lambda i: None, known=()):
    """Logits, rows and parameters after every batch."""
    replayed = run(core, (*tiny.variables(), *known), batches, valid)
    found, selections = thetas(replayed), []
    for i, (x, mask) in enumerate(zip(batches, valid, strict=True)):
        each(i)
        logits, selected = method.step(x, mask)
        np.testing.assert_allclose(replayed.outputs.logits[i][mask], logits[mask], **CLOSE)
        np.testing.assert_array_equal(replayed.outputs.selected[i], selected)
        np.testing.assert_allclose(found[i], method.theta, **CLOSE)
        assert replayed.metrics["num_selected"][i] == selected.sum()
        selections.append(selected)
    moved = np.abs(found[-1] - method.theta0).max()
    assert moved > 1e-3, "the test saw no adaptation"
    return replayed, np.stack(selections)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def test_the_reference_gradient_is_right():
    """Against central differences, all parameters, with rows left out of the statistics."""
    (params, _), x = tiny.variables(), tiny.batches()[0]
    mask = masks()[1]
    names = [(a, b) for a, group in params.items() for b in group]
    weights = np.random.default_rng(5).normal(size=(len(x), tiny.CLASSES))
    theta = tiny.flat(params, names)
    loss = lambda t: (tiny.forward(tiny.with_flat(params, t, names), x, mask)[0] * weights).sum()
    _, cache = tiny.forward(params, x, mask)
    found = tiny.flat(tiny.backward(params, cache, weights), names)
    basis = 1e-6 * np.eye(len(theta))
    expected = np.array([(loss(theta + h) - loss(theta - h)) / 2e-6 for h in basis])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=["sgd", "adam"])
def test_tent(optimizer):
    method = reference.Tent(tiny.variables()[0], optimizer[1]())
    compare(entropy.tent(APPLY, optimizer[0]), method, tiny.batches(), masks())


def test_open_set():
    optimizer = ADAM
    method = reference.OpenSet(tiny.variables()[0], optimizer[1]())
    core = entropy.open_set(APPLY, optimizer[0])
    replayed, kept = compare(core, method, tiny.batches(5), masks(5))
    assert kept[0].all(), "at first both models are the same"
    assert 0 < kept[3:].sum() < kept[3:].size, "the filter was never at work"


@pytest.mark.parametrize(
    "optimizer, anchored", [(ADAM, False), (SGD, True)], ids=["eta-adam", "eata-sgd"]
)
def test_eata(optimizer, anchored):
    params, stats = tiny.variables()
    core = eta(APPLY, optimizer[0], tiny.CLASSES, threshold=0.9, redundancy=0.95)
    method, known = reference.Eata(params, optimizer[1]()), ()
    method.redundancy = 0.95
    if anchored:
        clean = tiny.batches(3, seed=9)
        method.fisher, method.fisher_weight = reference.fisher(params, clean), 50.0
        known = (fisher_diagonal(APPLY, *tiny.as_jax((params, stats)), clean),)
        options = {"threshold": 0.9, "redundancy": 0.95, "fisher_weight": 50.0}
        core = eata(APPLY, optimizer[0], tiny.CLASSES, **options)
    _, selected = compare(core, method, tiny.batches(5), masks(5), known=known)
    assert 0 < selected[0].sum() < 12 and 0 < selected[3].sum() < 12


@pytest.mark.parametrize("per_example", [False, True])
def test_fisher_diagonal(per_example):
    args, clean = tiny.variables(), tiny.batches(3, size=6, seed=9)
    found = fisher_diagonal(APPLY, *tiny.as_jax(args), clean, per_example=per_example)
    expected = reference.fisher(args[0], clean)
    if per_example:
        total = 0.0
        for x in clean:
            logits, cache = tiny.forward(args[0], x)
            d = tiny.softmax(logits) - np.eye(tiny.CLASSES)[logits.argmax(-1)]
            for i in range(len(x)):
                one = np.where(np.arange(len(x))[:, None] == i, d, 0)
                total = total + tiny.flat(tiny.backward(args[0], cache, one)) ** 2
        expected = total / clean.shape[0] / clean.shape[1]
    np.testing.assert_allclose(tiny.flat(found), expected, **CLOSE)


@pytest.mark.parametrize("empty, after_reset", [("skip", "clear"), ("momentum", "stale")])
def test_sar(empty, after_reset):
    options = {"threshold": 0.9, "reset_below": 0.65, "empty": empty, "after_reset": after_reset}
    method = reference.Sar(tiny.variables()[0], tiny.Sgd(0.02))
    method.reset_below, method.empty, method.after_reset = 0.65, empty, after_reset
    core = sar(APPLY, optax.sgd(0.02, momentum=0.9), tiny.CLASSES, **options)
    resets = []
    batches, valid = tiny.batches(8), masks(8)
    replayed = run(core, tiny.variables(), batches, valid)
    found = thetas(replayed)
    for i in range(8):
        logits, selected = method.step(batches[i], valid[i])
        np.testing.assert_allclose(replayed.outputs.logits[i][valid[i]], logits[valid[i]], **CLOSE)
        np.testing.assert_array_equal(replayed.outputs.selected[i], selected)
        np.testing.assert_allclose(found[i], method.theta, **CLOSE)
        assert replayed.metrics["did_reset"][i] == method.did_reset
        resets.append(method.did_reset)
    assert 0 < sum(resets) < 8, "the test must see a reset and steps without one"


def test_deyo():
    batches, valid = tiny.batches(5), masks(5)
    keys = [jax.random.fold_in(jax.random.key(0), i) for i in range(5)]
    orders = [np.asarray(deyo_draws(k, (2, 4, 3), 12, num_patches=2).order) for k in keys]
    method = reference.Deyo(tiny.variables()[0], tiny.Sgd())
    method.min_difference = 0.02

    def inject(i):
        method.orders = orders[i]

    core = deyo(
        APPLY,
        SGD[0],
        tiny.CLASSES,
        threshold=1.1,
        margin=0.7,
        min_difference=0.02,
        num_patches=2,
    )
    _, selected = compare(core, method, batches, valid, inject)
    assert 0 < selected[0].sum() < 12


# --- What methods are in their limits -------------------------------------------------------------


def outputs(core, key=0):
    return run(core, tiny.variables(), tiny.batches(), masks(), key)


def same(a, b):
    valid = masks()
    np.testing.assert_allclose(a.outputs.logits[valid], b.outputs.logits[valid], **CLOSE)
    np.testing.assert_allclose(thetas(a), thetas(b), **CLOSE)


def test_tent_with_rate_zero_is_batch_norm():
    replayed = run(batch_norm(APPLY), tiny.variables(), tiny.batches(), masks())
    found = outputs(entropy.tent(APPLY, optax.sgd(0.0)))
    np.testing.assert_allclose(found.outputs.logits, replayed.outputs.logits, **CLOSE)


def test_eta_without_its_parts_is_tent():
    core = eta(APPLY, ADAM[0], tiny.CLASSES, threshold=jnp.inf, redundancy=1.1, reweight=False)
    same(outputs(core), outputs(entropy.tent(APPLY, ADAM[0])))


def test_sar_without_its_parts_is_tent():
    core = sar(APPLY, SGD[0], tiny.CLASSES, radius=0.0, threshold=jnp.inf, reset_below=-1.0)
    same(outputs(core), outputs(entropy.tent(APPLY, SGD[0])))


def test_deyo_without_thresholds_uses_every_row():
    core = deyo(APPLY, SGD[0], tiny.CLASSES, threshold=jnp.inf, min_difference=-1.1, num_patches=2)
    np.testing.assert_array_equal(outputs(core).outputs.selected, masks())


def test_open_set_filter_composes_and_starts_as_tent():
    filtered = outputs(entropy.tent(APPLY, ADAM[0], open_set_filter=True))
    plain = outputs(entropy.tent(APPLY, ADAM[0]))
    np.testing.assert_allclose(thetas(filtered)[:1], thetas(plain)[:1], **CLOSE)
    assert not filtered.outputs.selected[3].all() and plain.outputs.selected[3].all()
    both = outputs(eta(APPLY, ADAM[0], tiny.CLASSES, redundancy=2.0, open_set_filter=True))
    alone = outputs(eta(APPLY, ADAM[0], tiny.CLASSES, redundancy=2.0))
    np.testing.assert_array_equal(both.outputs.selected[0], alone.outputs.selected[0])


METHODS = {
    "tent": lambda **o: entropy.tent(APPLY, ADAM[0], **o),
    "open_set": lambda **o: entropy.open_set(APPLY, ADAM[0], **o),
    "eta": lambda **o: eta(APPLY, ADAM[0], tiny.CLASSES, threshold=1.2, **o),
    "sar": lambda **o: sar(APPLY, ADAM[0], tiny.CLASSES, threshold=1.2, **o),
    "deyo": lambda **o: deyo(
        APPLY, ADAM[0], tiny.CLASSES, threshold=1.2, min_difference=-1.0, num_patches=2, **o
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_padding_never_matters_and_nothing_selected_changes_nothing(name):
    core, args = METHODS[name](), tiny.as_jax(tiny.variables())
    x, mask = tiny.batches()[0], masks()[1]
    spoiled = np.where(mask[:, None, None, None], x, 1e3)
    update = jax.jit(core.update)
    key, start = jax.random.key(0), core.init(*args)
    one = update(start, {"inputs": x, "mask": mask}, key)
    two = update(start, {"inputs": spoiled, "mask": mask}, key)
    jax.tree.map(np.testing.assert_array_equal, one[0], two[0])
    np.testing.assert_array_equal(one[1].outputs.logits[mask], two[1].outputs.logits[mask])
    assert one[1].metrics["did_update"] == 1

    after, out = update(one[0], {"inputs": x, "mask": jnp.zeros(12, bool)}, key)
    jax.tree.map(np.testing.assert_array_equal, after, one[0])
    assert out.metrics["did_update"] == 0 and np.isfinite(list(out.metrics.values())).all()


@pytest.mark.parametrize("name", METHODS)
def test_batch_of_one_is_finite_and_init_again_is_a_reset(name):
    core, args = METHODS[name](), tiny.as_jax(tiny.variables())
    update = jax.jit(core.update)
    batch = {"inputs": jnp.asarray(tiny.batches()[0][:1])}
    key = jax.random.key(0)
    state, first = update(core.init(*args), batch, key)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((state, first)))
    _, again = update(core.init(*args), batch, key)
    jax.tree.map(np.testing.assert_array_equal, again, first)


def test_float32_stays_float32():
    with jax.enable_x64(False):
        args = tiny.as_jax(tiny.variables(dtype=np.float32))
        core = METHODS["eta"]()
        state = core.init(*args)
        batch = {"inputs": jnp.asarray(tiny.batches(dtype=np.float32)[0])}
        after, _ = jax.jit(core.update)(state, batch, jax.random.key(0))
        types = lambda tree: jax.tree.map(lambda x: x.dtype, tree)
        assert types(after) == types(state)
        exact = run_one_float64(core_name="eta")
        np.testing.assert_allclose(tiny.flat(after.params), exact, rtol=1e-4, atol=1e-5)


def run_one_float64(core_name):
    with jax.enable_x64(True):
        core = METHODS[core_name]()
        batch = {"inputs": jnp.asarray(tiny.batches(dtype=np.float32)[0].astype(np.float64))}
        args = jax.tree.map(lambda x: x.astype(np.float64), tiny.variables(dtype=np.float32))
        state, _ = jax.jit(core.update)(core.init(*tiny.as_jax(args)), batch, jax.random.key(0))
        return tiny.flat(state.params)


# --- Shape destruction ----------------------------------------------------------------------------


def test_patches_are_a_permutation_of_tiles_per_image():
    images = np.random.default_rng(0).random((3, 8, 8, 3))
    drawn = deyo_draws(jax.random.key(0), (8, 8, 3), 3)
    found = np.asarray(destroyed(jnp.asarray(images), drawn, "patch", 4))
    keys = adaptation.row_keys(jax.random.key(0), 3, None)
    orders = [np.asarray(jax.random.permutation(k, 16)) for k in keys]
    for image, order, changed in zip(images, orders, found, strict=True):
        np.testing.assert_array_equal(changed, reference.tiles_in_order(image, order, 4))
    assert not np.array_equal(orders[0], orders[1])


def test_other_ways_to_destroy():
    images = np.random.default_rng(0).random((2, 6, 6, 3))
    draw = lambda kind: deyo_draws(jax.random.key(0), (6, 6, 3), 2, destruction=kind)
    pixel = np.asarray(destroyed(jnp.asarray(images), draw("pixel"), "pixel"))
    order = [
        np.flatnonzero((images[0].reshape(36, 3) == v).all(-1))[0] for v in pixel[0].reshape(36, 3)
    ]
    np.testing.assert_array_equal(pixel[1].reshape(36, 3), images[1].reshape(36, 3)[order])
    hidden = np.asarray(destroyed(jnp.asarray(images), draw("occlusion"), "occlusion"))
    np.testing.assert_allclose(hidden[:, 2, 3], images.mean((1, 2)))
    np.testing.assert_array_equal(hidden[:, 0], images[:, 0])
    resized = destroyed(jnp.asarray(images), draw("patch"), "patch", 4)
    assert resized.shape == images.shape
    with pytest.raises(ValueError, match="unknown way 'blur'"):
        destroyed(jnp.asarray(images), draw("patch"), "blur")


def test_row_keys_do_not_depend_on_the_number_of_devices():
    key = jax.random.key(3)
    data = lambda keys: np.asarray(jax.random.key_data(keys))
    split = jax.vmap(lambda _: adaptation.row_keys(key, 4, "i"), axis_name="i", axis_size=2)
    parts = split(jnp.arange(2))
    np.testing.assert_array_equal(
        data(parts).reshape(8, -1), data(adaptation.row_keys(key, 8, None))
    )


# --- Combinators, selection, errors ---------------------------------------------------------------


def test_reset_every_starts_again():
    x = tiny.batches(5)
    core = adaptation.reset_every(entropy.tent(APPLY, SGD[0]), 2)
    keys = jax.random.split(jax.random.key(0), 5)
    args = tiny.as_jax(tiny.variables())
    replayed = jax.jit(lambda: adaptation.replay(core, args, {"inputs": jnp.asarray(x)}, keys))()
    method, found = None, replayed.outputs.logits
    for i in range(5):
        if i % 2 == 0:
            method = reference.Tent(tiny.variables()[0], tiny.Sgd())
        logits, _ = method.step(x[i], np.ones(12, bool))
        np.testing.assert_allclose(found[i], logits, **CLOSE)
    with pytest.raises(ValueError, match="num_batches is 0"):
        adaptation.reset_every(core, 0)


def test_rescored_sees_the_updated_model():
    x = tiny.batches(2)
    core = adaptation.rescored(entropy.tent(APPLY, SGD[0]), APPLY)
    replayed = run(core, tiny.variables(), x, np.ones((2, 12), bool))
    method = reference.Tent(tiny.variables()[0], tiny.Sgd())
    for i in range(2):
        method.step(x[i], np.ones(12, bool))
        np.testing.assert_allclose(
            replayed.outputs.logits[i], method.forward(x[i], None)[0], **CLOSE
        )


def test_window_of_single_images():
    """Predicted in the window they end; learned from when it has been refilled."""
    x = tiny.batches(1, size=10)[0]
    core = adaptation.windowed(entropy.tent(APPLY, SGD[0]), 4, x.shape[1:])
    args = tiny.as_jax(tiny.variables())
    keys = jax.random.split(jax.random.key(0), 10)
    given = {"inputs": jnp.asarray(x)[:, None]}
    replayed = jax.jit(lambda: adaptation.replay(core, args, given, keys))()
    method = reference.Tent(tiny.variables()[0], tiny.Sgd())
    for i in range(10):
        window = x[max(0, i - 3) : i + 1]
        logits, _ = method.forward(window, None)
        np.testing.assert_allclose(replayed.outputs.logits[i], logits[-1:], **CLOSE)
        assert replayed.outputs.selected[i, 0] == (i in (3, 7))
        if i in (3, 7):
            method.step(window, np.ones(4, bool))
    found = tiny.flat(jax.tree.map(lambda v: v[-1], replayed.params.state.params))
    np.testing.assert_allclose(found, method.theta, **CLOSE)
    with pytest.raises(ValueError, match="size 0"):
        adaptation.windowed(core, 0, x.shape[1:])
    with pytest.raises(ValueError, match="one image"):
        core.update(core.init(*args), {"inputs": x}, keys[0])


def test_errors():
    core, args = METHODS["tent"](), tiny.as_jax(tiny.variables())
    state, x = core.init(*args), tiny.batches()[0]
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"also has \['labels'\]; keep labels outside"):
        core.update(state, {"inputs": x, "labels": np.zeros(12)}, key)
    with pytest.raises(ValueError, match="a dict with 'inputs'"):
        core.update(state, x, key)
    with pytest.raises(ValueError, match=r"row mask has shape \(3,\) but there are 12"):
        core.update(state, {"inputs": x, "mask": np.ones(3, bool)}, key)
    with pytest.raises(ValueError, match="no parameter of the network is selected"):
        core.init({"head": args[0]["head"]}, {})
    with pytest.raises(ValueError, match="empty='hold'"):
        sar(APPLY, SGD[0], 4, empty="hold")
    assert math.isclose(float(adaptation.entropy(jnp.zeros((1, 4)))[0]), math.log(4))
