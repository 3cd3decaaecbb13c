"""Meta-training, meta-testing, and the numbers that describe a run."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtta import in_context as icl
from jaxtta.in_context.evaluate import Probe
from jaxtta.in_context.train import loss_and_accuracy

N, C, T = 5, 3, 6
BASE = jax.random.key(1)
SQUARE = icl.Projection(N, N)


def clusters(n=60, seed=0):
    """C well separated clusters, label by cluster."""
    rng = np.random.default_rng(seed)
    centres = np.eye(C, N) * 3
    labels = np.arange(n) % C
    inputs = centres[labels] + 0.1 * rng.normal(size=(n, N))
    inputs = (inputs - inputs.mean()) / inputs.std()
    return icl.Data(jnp.asarray(inputs, jnp.float32), jnp.asarray(labels, jnp.int32))


def sampler(num_tasks=4, batch_size=8, **changes):
    options = dict(length=T, batch_size=batch_size, num_tasks=num_tasks) | changes
    return icl.sampler(clusters(), BASE, SQUARE, C, **options)


def small(**changes):
    sizes = dict(num_layers=1, width=8, num_heads=2, key_size=4, layout="paired")
    return icl.transformer(N, C, T, **(sizes | changes))


# --- Loss and optimiser ---------------------------------------------------------------------------


def test_loss_and_accuracy_against_loops():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 4, C)), rng.integers(0, C, (2, 4))
    total, right = 0.0, np.zeros((2, 4))
    for b in range(2):
        for t in range(4):
            total -= logits[b, t, labels[b, t]] - math.log(np.exp(logits[b, t]).sum())
            right[b, t] = logits[b, t].argmax() == labels[b, t]
    loss, metrics = loss_and_accuracy(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(loss, total / 8, rtol=1e-5)
    assert metrics["accuracy"] == right.mean()
    assert metrics["accuracy_first"] == right[:, 0].mean()
    assert metrics["accuracy_last"] == right[:, -1].mean()


# --- The core -------------------------------------------------------------------------------------


def test_update_is_the_gradient_step_on_the_drawn_sequences():
    learner, sample = small(), sampler()
    core = icl.meta_training(learner, sample, optax.sgd(0.5))
    state = jax.jit(core.init)(jax.random.key(0))
    key, index = jax.random.key(9), jnp.arange(8)
    after, out = jax.jit(core.update)(state, index, key)
    x, y = jax.jit(sample)(jax.random.split(key)[0], index, 0)

    def loss(params):
        log_p = jax.nn.log_softmax(learner.logits(params, x, y))
        return -jnp.take_along_axis(log_p, y[..., None], axis=-1).mean()

    value, grads = jax.jit(jax.value_and_grad(loss))(state.params)
    np.testing.assert_allclose(out.metrics["loss"], value, rtol=1e-5)
    expected = jax.tree.map(lambda w, g: w - 0.5 * g, state.params, grads)
    for a, b in zip(jax.tree.leaves(after.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert after.model_state == 1.0


def test_seeds_tasks_bias_and_epsilons_are_traced():
    """One program for settings that differ in everything that is a number; equals one by one."""

    def run(seed, num_tasks, bias, eps):
        base, key = jax.random.key(seed), jax.random.key(seed + 10)
        sample = icl.sampler(
            clusters(), base, SQUARE, C, length=T, batch_size=4, num_tasks=num_tasks, bias=bias
        )
        core = icl.meta_training(
            icl.mlp(N, C, width=4), sample, optax.adam(1e-2, eps=eps, eps_root=eps)
        )
        step = lambda state, i: core.update(state, jnp.arange(4), jax.random.fold_in(key, i))
        _, out = jax.lax.scan(step, core.init(key), jnp.arange(3))
        return out.metrics["loss"]

    settings = (
        jnp.array([0, 1]),
        jnp.array([1, 2**20]),
        jnp.array([0.0, 0.9]),
        jnp.array([1e-8, 1e-4]),
    )
    together = jax.jit(jax.vmap(run))(*settings)
    alone = jax.jit(run)
    for i in range(2):
        np.testing.assert_allclose(together[i], alone(*(s[i] for s in settings)), atol=1e-4)
    assert jnp.abs(together[0] - together[1]).max() > 1e-3


# --- Meta-testing ---------------------------------------------------------------------------------


def test_curves_against_loops_over_sequences():
    learner = small()
    params = jax.jit(learner.init)(jax.random.key(0))
    key = jax.random.key(5)
    probes = {"unseen": Probe(clusters()), "seen": Probe(clusters(), seen=True)}
    curves = jax.jit(
        lambda p: icl.meta_test(
            learner, p, key, BASE, probes, SQUARE,
            length=T, num_tasks=2, num_sequences=12, batch_size=4,
        )
    )(params)  # fmt: skip
    for i, name in enumerate(probes):
        sample = sampler(
            2 if name == "seen" else 2**16,
            12,
            first_task=0 if name == "seen" else icl.FIRST_UNSEEN,
        )
        x, y = jax.jit(sample)(jax.random.split(jax.random.fold_in(key, i))[0], jnp.arange(12))
        right, loss = np.zeros((12, T)), np.zeros((12, T))
        logits = np.asarray(jax.jit(learner.logits)(params, x, y), np.float64)
        for s in range(12):
            for t in range(T):
                label = int(y[s, t])
                right[s, t] = logits[s, t].argmax() == label
                loss[s, t] = np.log(np.exp(logits[s, t]).sum()) - logits[s, t, label]
        np.testing.assert_allclose(curves[name].accuracy, right.mean(0), atol=1e-6)
        np.testing.assert_allclose(curves[name].loss, loss.mean(0), atol=1e-4)
        error = right.std(0, ddof=1) / np.sqrt(12)
        np.testing.assert_allclose(curves[name].accuracy_error, error, atol=1e-5)


def nearest():
    """Answers with the label of the nearest example before: learns in context for sure."""

    def logits(params, x, y):
        distance = ((x[:, :, None] - x[:, None]) ** 2).sum(-1)
        earlier = jnp.tri(x.shape[1], k=-1, dtype=bool)[None]
        weight = jnp.where(earlier, jax.nn.softmax(jnp.where(earlier, -10 * distance, -1e9)), 0)
        return jnp.log(jnp.einsum("bqk,bkc->bqc", weight, jax.nn.one_hot(y, C)) + 1e-3)

    return small()._replace(logits=logits)


def test_curve_rises_for_a_learner_and_not_with_shuffled_labels():
    probes = {
        "unseen": Probe(clusters()),
        "raw": Probe(clusters(), raw=True),
        "shuffled": Probe(clusters(), shuffled=True),
    }
    curves = jax.jit(
        lambda: icl.meta_test(
            nearest(), {}, jax.random.key(0), BASE, probes, SQUARE,
            length=T, num_tasks=2, num_sequences=256, batch_size=128,
        )
    )()  # fmt: skip
    first, last = icl.ends(np.asarray(curves["unseen"].accuracy))
    assert abs(first - 1 / C) < 0.1 and last > 0.75
    assert curves["raw"].accuracy[-1] > 0.75
    assert abs(float(curves["shuffled"].accuracy[-1]) - 1 / C) < 0.12


def test_predictions_for_a_new_data_set_use_its_labels():
    learner = small()
    params = jax.jit(learner.init)(jax.random.key(0))
    data = clusters(9)
    predict = jax.jit(lambda *data: icl.predict(learner, params, *data))
    given = predict(data.inputs[:5], data.labels[:5], data.inputs[5:])
    assert given.shape == (4, C)
    np.testing.assert_allclose(given.sum(-1), 1, rtol=1e-5)
    x = jnp.concatenate([data.inputs[:5], data.inputs[7:8]])[None]
    y = jnp.concatenate([data.labels[:5], jnp.array([0])])[None]
    alone = jax.nn.softmax(jax.jit(learner.logits)(params, x, y)[0, -1])
    np.testing.assert_allclose(given[2], alone, atol=1e-5)


def test_batches_must_divide():
    with pytest.raises(ValueError, match="not a multiple of the batch of 5"):
        icl.meta_test(
            small(), {}, BASE, BASE, {}, SQUARE,
            length=T, num_tasks=1, num_sequences=12, batch_size=5,
        )  # fmt: skip


# --- Regimes and plateaus -------------------------------------------------------------------------

CURVES = {
    # name: (seen curve, unseen curve), chance 0.25
    "memorisation": (np.full(10, 0.95), np.full(10, 0.26)),
    "identification": (np.linspace(0.6, 0.9, 10), np.full(10, 0.27)),
    "general": (np.linspace(0.3, 0.8, 10), np.linspace(0.3, 0.78, 10)),
    "failed": (np.full(10, 0.26), np.full(10, 0.24)),
}


@pytest.mark.parametrize("regime", CURVES)
def test_regimes_of_synthetic_curves(regime):
    seen, unseen = (icl.ends(curve) for curve in CURVES[regime])
    found = icl.classify_run(seen[0], seen[1] - seen[0], unseen[1] - unseen[0], chance=0.25)
    assert found == regime and found in icl.REGIMES


def test_a_difference_at_the_threshold_does_not_count():
    assert icl.classify_run(0.3, 0.05, 0.05, 0.25) == "failed"
    assert icl.classify_run(0.3, 0.05, 0.05, 0.25, threshold=0.04) == "general"


def test_ends_average_the_first_and_last_positions():
    curve = np.array([[0.1, 0.2, 0.3, 0.8]])
    np.testing.assert_allclose(icl.ends(curve, 2, 1), ([0.15], [0.8]))
    with pytest.raises(ValueError, match="4 positions"):
        icl.ends(curve, 5, 1)


def test_plateau_ends_where_the_smoothed_loss_first_leaves_it():
    steps = np.arange(10, 110, 10)
    losses = np.full(10, math.log(4))
    losses[3] -= 0.3  # one lucky record is smoothed away
    losses[6:] = 1.0
    running = [losses[max(i - 4, 0) : i + 1].mean() for i in range(10)]
    expected = steps[next(i for i, loss in enumerate(running) if loss < math.log(4) - 0.1)]
    assert icl.plateau_length(steps, losses, 4) == expected > 60
    assert icl.plateau_length(steps, losses, 4, smoothing=1) == 40
    assert icl.plateau_length(steps, np.full(10, 1.38), 4) == math.inf
    with pytest.raises(ValueError, match="as many losses"):
        icl.plateau_length(steps, losses[:3], 4)
