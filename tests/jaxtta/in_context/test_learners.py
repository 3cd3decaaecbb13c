"""Every learner: parallel equals online, causality, queries, state sizes; cells against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxtrain import trees
from jaxtta import in_context as icl
from jaxtta.in_context.transformer import _turn

pytestmark = pytest.mark.slow  # mostly compilation

N, C, T, B = 6, 3, 5, 2
LEARNERS = {
    "shifted": lambda: icl.transformer(N, C, T + 1, num_layers=2, width=8, num_heads=2, key_size=4),
    "paired": lambda: icl.transformer(
        N, C, T, num_layers=2, width=8, num_heads=2, key_size=4, layout="paired"
    ),
    "rotary": lambda: icl.transformer(
        N, C, T, num_layers=2, width=8, num_heads=2, key_size=4, positions="rotary"
    ),
    "lstm": lambda: icl.lstm(N, C, width=7),
    "outer_product_lstm": lambda: icl.outer_product_lstm(N, C, num_heads=2, head_size=3),
    "fast_weights": lambda: icl.fast_weights(N, C, width=5, memory_size=3),
    "vsml": lambda: icl.vsml(N, C, hidden_size=4, message_size=2),
    "unsymmetric_vsml": lambda: icl.unsymmetric_vsml(N, C, side=2, hidden_size=4, message_size=2),
    "mlp": lambda: icl.mlp(N, C, width=4),
    "online": lambda: icl.gradient_learner(N, C, optax.adam(0.1), width=4),
    "maml": lambda: icl.gradient_learner(N, C, optax.sgd(0.5), width=4, learned_init=True),
}


# Compiling takes the time: the others are run with -m slow, and every cell has its own test below.
QUICK = ("shifted", "paired", "lstm", "vsml", "mlp")
EVERY = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in LEARNERS]


@functools.cache
def made(name):
    """A learner with weights whose biases are not zero, so that every path counts."""
    learner = LEARNERS[name]()
    params = jax.jit(learner.init)(jax.random.key(1))
    noise = lambda i, w: w + 0.1 * jax.random.normal(jax.random.key(i), w.shape)
    leaves, structure = jax.tree.flatten(params)
    return learner, jax.tree.unflatten(structure, [noise(i, w) for i, w in enumerate(leaves)])


def sequences(seed=0, num=B, length=T, inputs=N, classes=C):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num, length, inputs)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(rng.integers(0, classes, (num, length)), jnp.int32)


@functools.cache
def logits_of(name):
    return jax.jit(made(name)[0].logits)


@functools.cache
def asked(name):
    """`(params, x, y, queries) -> answers` after reading x and y."""
    learner = made(name)[0]

    def answers(params, x, y, queries):
        return icl.answer(learner, params, learner.read(params, x, y), queries)

    return jax.jit(answers)


@pytest.mark.parametrize("name", EVERY)
def test_online_equals_parallel(name):
    learner, params = made(name)
    x, y = sequences()
    whole = logits_of(name)(params, x, y)
    assert whole.shape == (B, T, C)
    online = jax.jit(functools.partial(icl.online, learner))(params, x, y)
    np.testing.assert_allclose(online, whole, atol=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_each_label_counts_from_the_next_position_on(name):
    learner, params = made(name)
    x, y = sequences()
    logits = logits_of(name)
    before = logits(params, x, y)
    for t in range(T):
        other = logits(params, x, y.at[:, t].set((y[:, t] + 1) % C))
        np.testing.assert_array_equal(other[:, : t + 1], before[:, : t + 1])
        if t + 1 < T and name != "mlp":
            assert (jnp.abs(other[:, t + 1] - before[:, t + 1]).max(-1) > 1e-6).all(), t


@pytest.mark.parametrize("name", EVERY)
def test_later_examples_leave_earlier_predictions_alone(name):
    _, params = made(name)
    x, y = sequences()
    order = np.array([0, 1, 2, 4, 3])
    moved = logits_of(name)(params, x[:, order], y[:, order])
    before = logits_of(name)(params, x, y)
    np.testing.assert_allclose(moved[:, :3], before[:, :3], atol=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_many_queries_on_one_context(name):
    """Each query alone, at the end of its own sequence, gives the same answer, and the last label
    of the context is not dropped."""
    _, params = made(name)
    x, y = sequences()
    queries = sequences(1, B, 4)[0]
    answers = asked(name)(params, x[:, :-1], y[:, :-1], queries)
    assert answers.shape == (B, 4, C)
    for q in range(4):
        alone = logits_of(name)(params, x.at[:, -1].set(queries[:, q]), y)[:, -1]
        np.testing.assert_allclose(answers[:, q], alone, atol=1e-5)
    if name != "mlp":
        last = y[:, :-1].at[:, -1].set((y[:, -2] + 1) % C)
        changed = asked(name)(params, x[:, :-1], last, queries)
        assert jnp.abs(changed - answers).max() > 1e-6


@pytest.mark.parametrize("name", LEARNERS)
def test_state_size_is_the_size_of_what_is_carried(name):
    learner, params = made(name)
    memory = jax.eval_shape(lambda p: learner.start(p, 1), params)
    assert trees.size(memory.state) == learner.state_size


@pytest.mark.parametrize("name, expected", [
    ("shifted", 2 * 2 * 2 * 4 * (T + 1)),
    ("lstm", 2 * 7),
    ("outer_product_lstm", 2 * 9 + 2 * 3),
    ("fast_weights", 2 * 5 + 27),
    ("vsml", 2 * N * C * 4 + (N + C) * 2),
    ("unsymmetric_vsml", 2 * 4 * 4 + 4 * 2),
    ("mlp", 0),
])  # fmt: skip
def test_state_size_follows_the_published_table(name, expected):
    assert made(name)[0].state_size == expected


def test_cache_holds_the_context_and_nothing_else():
    learner, params = made("shifted")
    x, y = sequences()
    read = jax.jit(learner.read)(params, x, y)
    memory, step = learner.start(params, B), jax.jit(learner.step)
    for t in range(T):  # one program for all positions
        memory, _ = step(params, memory, x[:, t], y[:, t])
    for a, b in zip(jax.tree.leaves(read), jax.tree.leaves(memory), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert all((leaf[:, :, T:] == 0).all() for leaf in jax.tree.leaves(memory.state))


def test_first_token_carries_no_label_and_token_t_the_label_before():
    """What the embedding of the shifted layout is given."""
    learner, params = made("shifted")
    x, y = sequences()
    captured = {}

    def interceptor(call, args, kwargs, context):
        if context.module.name == "embed":
            captured["tokens"] = args[0]
        return call(*args, **kwargs)

    def tokens_of(params, x, y):
        with nn.intercept_methods(interceptor):
            learner.logits(params, x, y)
        return captured["tokens"]

    tokens = np.asarray(jax.jit(tokens_of)(params, x, y))
    np.testing.assert_array_equal(tokens[..., :N], x)
    np.testing.assert_array_equal(tokens[:, 0, N:], 0)
    for t in range(1, T):
        np.testing.assert_array_equal(tokens[:, t, N:], np.eye(C)[np.asarray(y)[:, t - 1]])


# --- The transformer against loops over tokens ----------------------------------------------------


def norm(x, p):
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    return x * p["scale"] + p["bias"]


def dense(x, p):
    return np.tensordot(x, p["kernel"], axes=p["kernel"].ndim - p["bias"].ndim) + p["bias"]


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def block(p, tokens, readable):
    """One block on a list of tokens; `readable[i]` lists what token i reads."""
    normed = [norm(t, p["attention_norm"]) for t in tokens]
    q, k, v = ([dense(t, p[name]) for t in normed] for name in ("query", "key", "value"))
    out = []
    for i, token in enumerate(tokens):
        heads = []
        for h in range(q[0].shape[0]):
            scores = np.array([q[i][h] @ k[j][h] for j in readable[i]]) / np.sqrt(q[0].shape[1])
            weights = np.exp(scores - scores.max())
            weights /= weights.sum()
            heads.append(sum(w * v[j][h] for w, j in zip(weights, readable[i], strict=True)))
        mixed = np.stack(heads)
        token = token + np.tensordot(mixed, p["out"]["kernel"], axes=2) + p["out"]["bias"]
        hidden = gelu(dense(norm(token, p["mlp_norm"]), p["up"]))
        out.append(token + dense(hidden, p["down"]))
    return out


@pytest.mark.parametrize("layout", ["shifted", "paired"])
def test_transformer_against_token_loops(layout):
    learner, params = made(layout)
    x, y = sequences()
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    got = logits_of(layout)(params, x, y)
    hot = lambda label: np.eye(C)[label] if label >= 0 else np.zeros(C)
    for b in range(B):
        xs, ys = np.asarray(x[b], np.float64), [int(label) for label in y[b]]
        if layout == "shifted":
            tokens = [
                dense(np.concatenate([xs[t], hot(ys[t - 1] if t else -1)]), p["embed"])
                + p["positions"][t]
                for t in range(T)
            ]
            readable = [list(range(t + 1)) for t in range(T)]
            outputs = list(range(T))
        else:
            tokens = [dense(np.concatenate([xs[t], hot(ys[t])]), p["embed"]) for t in range(T)]
            tokens += [
                dense(np.concatenate([xs[t], hot(-1)]), p["embed"]) + p["query"] for t in range(T)
            ]
            readable = [list(range(t + 1)) for t in range(T)]
            readable += [[*range(t), T + t] for t in range(T)]
            outputs = list(range(T, 2 * T))
        for layer in range(2):
            tokens = block(p[f"layers_{layer}"], tokens, readable)
        expected = [dense(norm(tokens[i], p["norm"]), p["head"]) for i in outputs]
        np.testing.assert_allclose(got[b], expected, atol=1e-4)


def test_rotary_scores_depend_on_distances_only():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 3, 8))

    def scores(shift):
        place = jnp.arange(3) + shift
        return jnp.einsum("bhqd,bhkd->bhqk", _turn(q, place), _turn(k, place))

    np.testing.assert_allclose(scores(0), scores(5), atol=1e-5)
    assert jnp.abs(scores(0) - jnp.einsum("bhqd,bhkd->bhqk", q, k)).max() > 1e-2
    np.testing.assert_array_equal(_turn(q, jnp.arange(3) + 4)[..., 4:], q[..., 4:])


# --- Recurrent cells ------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_outer_product_lstm_with_one_head_of_size_one_is_scalar_arithmetic():
    learner = icl.outer_product_lstm(N, C, num_heads=1, head_size=1, width=2)
    params = jax.tree.map(
        lambda w: w + 0.3 * jax.random.normal(jax.random.key(w.size), w.shape),
        learner.init(jax.random.key(0)),
    )
    x, y = sequences(num=1)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    h = c = 0.0
    label, expected = np.zeros(C), []
    alpha = np.log1p(np.exp(p["key_scale"]))
    for t in range(T):
        u = np.concatenate([np.asarray(x[0, t], np.float64), label])
        for name in ("first", "second"):
            u = np.maximum(dense(u, p["embed"][name]), 0)
        numbers = dense(np.concatenate([u, [h]]), p["gates"])
        ki, kg, kf, ji, jg, jf, q, o = (float(n) for n in numbers)
        i, g, f = (alpha * np.tanh(a) * np.tanh(b) for a, b in ((ki, ji), (kg, jg), (kf, jf)))
        c = sigmoid(f + 1) * c + sigmoid(i) * g
        h = sigmoid(o) * np.tanh(c * q)
        expected.append(dense(np.array([h]), p["head"]))
        label = np.eye(C)[int(y[0, t])]
    np.testing.assert_allclose(learner.logits(params, x, y)[0], expected, atol=1e-5)


def test_outer_product_lstm_against_loops():
    learner, params = made("outer_product_lstm")
    x, y = sequences()
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    n, s = 2, 3
    got = logits_of("outer_product_lstm")(params, x, y)
    alpha = np.log1p(np.exp(p["key_scale"]))
    for b in range(B):
        h, cell, label = np.zeros(n * s), np.zeros((n, s, s)), np.zeros(C)
        for t in range(T):
            u = np.concatenate([np.asarray(x[b, t], np.float64), label])
            for name in ("first", "second"):
                u = np.maximum(dense(u, p["embed"][name]), 0)
            numbers = dense(np.concatenate([u, h]), p["gates"]).reshape(n, 8 * s)
            new = np.zeros(n * s)
            for head in range(n):
                row = numbers[head]
                k1, k2 = row[: 3 * s].reshape(3, s), row[3 * s : 6 * s].reshape(3, s)
                q, o = row[6 * s : 7 * s], row[7 * s :]
                for i in range(s):
                    for j in range(s):
                        gate = [alpha * np.tanh(k1[g, i]) * np.tanh(k2[g, j]) for g in range(3)]
                        cell[head, i, j] = sigmoid(gate[2] + 1) * cell[head, i, j]
                        cell[head, i, j] += sigmoid(gate[0]) * gate[1]
                for j in range(s):
                    r = sum(cell[head, i, j] * q[i] for i in range(s))
                    new[head * s + j] = sigmoid(o[j]) * np.tanh(r)
            h = new
            np.testing.assert_allclose(got[b, t], dense(h, p["head"]), atol=1e-5)
            label = np.eye(C)[int(y[b, t])]


def test_lstm_against_loops():
    learner, params = made("lstm")
    x, y = sequences()
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    got = logits_of("lstm")(params, x, y)
    for b in range(B):
        h, c, label = np.zeros(7), np.zeros(7), np.zeros(C)
        for t in range(T):
            u = np.concatenate([np.asarray(x[b, t], np.float64), label])
            for name in ("first", "second"):
                u = np.maximum(dense(u, p["embed"][name]), 0)
            i, g, f, o = np.split(dense(np.concatenate([u, h]), p["gates"]), 4)
            c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            np.testing.assert_allclose(got[b, t], dense(h, p["head"]), atol=1e-5)
            label = np.eye(C)[int(y[b, t])]


def test_fast_weights_against_loops():
    """The delta rule by its definition: after writing with beta = 1, the key reads the value."""
    learner, params = made("fast_weights")
    x, y = sequences()
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    got = logits_of("fast_weights")(params, x, y)
    m = 3
    for b in range(B):
        h, c, memory, label = np.zeros(5), np.zeros(5), np.zeros((m, m, m)), np.zeros(C)
        for t in range(T):
            u = np.concatenate([np.asarray(x[b, t], np.float64), label, h])
            i, g, f, o = np.split(dense(u, p["gates"]), 4)
            c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            write = dense(h, p["write"])
            k1, k2, v = np.split(np.tanh(write[:-1]), 3)
            key = np.outer(k1, k2)
            for row in range(m):
                error = v[row] - (memory[row] * key).sum()
                memory[row] += sigmoid(write[-1]) * error * key
            r1, r2 = np.split(np.tanh(dense(h, p["read"])), 2)
            read = np.array([(memory[row] * np.outer(r1, r2)).sum() for row in range(m)])
            read = (read - read.mean()) / np.sqrt(read.var() + 1e-5) * p["norm"]["scale"]
            np.testing.assert_allclose(
                got[b, t], dense(h + dense(read, p["project"]), p["head"]), atol=1e-4
            )
            label = np.eye(C)[int(y[b, t])]


def test_vsml_against_loops_over_cells():
    learner, params = made("vsml")
    x, y = sequences(num=1)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)["grid"]
    got = logits_of("vsml")(params, x, y)
    size, message = 4, 2
    h, c = np.zeros((N, C, size)), np.zeros((N, C, size))
    forward, backward, label = np.zeros((C, message)), np.zeros((N, message)), np.zeros(C)
    for t in range(T):
        for a in range(N):
            for k in range(C):
                row = np.concatenate([backward[a], [float(x[0, t, a])]])
                column = np.concatenate([forward[k], [label[k]]])
                for _ in range(2):
                    gates = dense(row, p["row"]) + column @ p["column"]["kernel"]
                    i, g, f, o = np.split(gates + h[a, k] @ p["hidden"]["kernel"], 4)
                    c[a, k] = sigmoid(f + 1) * c[a, k] + sigmoid(i) * np.tanh(g)
                    h[a, k] = sigmoid(o) * np.tanh(c[a, k])
        forward = np.stack(
            [np.mean([dense(h[a, k], p["forward"]) for a in range(N)], 0) for k in range(C)]
        )
        backward = np.stack(
            [np.mean([dense(h[a, k], p["backward"]) for k in range(C)], 0) for a in range(N)]
        )
        np.testing.assert_allclose(got[0, t], forward[:, 0], atol=1e-5)
        label = np.eye(C)[int(y[0, t])]


def test_vsml_permutes_with_inputs_and_classes_and_takes_any_size():
    learner, params = made("vsml")
    x, y = sequences()
    got = logits_of("vsml")(params, x, y)
    inputs, classes = np.array([3, 1, 5, 0, 2, 4]), np.array([2, 0, 1])
    np.testing.assert_allclose(logits_of("vsml")(params, x[..., inputs], y), got, atol=1e-5)
    renamed = logits_of("vsml")(params, x, jnp.asarray(classes)[y])
    np.testing.assert_allclose(renamed[..., classes], got, atol=1e-5)
    wider = icl.vsml(9, 5, hidden_size=4, message_size=2)
    more = wider.logits(params, *sequences(inputs=9, classes=5))
    assert more.shape == (B, T, 5)
    # Control: the form without symmetries has none.
    other, weights = made("unsymmetric_vsml")
    before = logits_of("unsymmetric_vsml")(weights, x, y)
    moved = logits_of("unsymmetric_vsml")(weights, x[..., inputs], y)
    assert jnp.abs(moved - before).max() > 1e-3


# --- Networks trained on the sequence -------------------------------------------------------------


@pytest.mark.parametrize("name", ["maml", "online"])
def test_gradient_learner_takes_one_step_per_example(name):
    learner, params = made(name)
    x, y = sequences(num=1)
    got = logits_of(name)(params, x, y)
    weights = jax.tree.map(lambda w: w[0], learner.start(params, 1).state[0])

    def forward(weights, x):
        hidden = jax.nn.relu(x @ weights["Dense_0"]["kernel"] + weights["Dense_0"]["bias"])
        return hidden @ weights["head"]["kernel"] + weights["head"]["bias"]

    loss = lambda w, x, y: -jax.nn.log_softmax(forward(w, x))[y]
    moments = jax.tree.map(lambda w: (jnp.zeros_like(w), jnp.zeros_like(w)), weights)
    for t in range(T):
        np.testing.assert_allclose(got[0, t], forward(weights, x[0, t]), atol=1e-4)
        grads = jax.grad(loss)(weights, x[0, t], y[0, t])
        if name == "maml":
            weights = jax.tree.map(lambda w, g: w - 0.5 * g, weights, grads)
            continue

        def adam(w, g, state, t=t):
            m, v = 0.9 * state[0] + 0.1 * g, 0.999 * state[1] + 0.001 * g**2
            root = jnp.sqrt(v / (1 - 0.999 ** (t + 1))) + 1e-8
            return w - 0.1 * m / (1 - 0.9 ** (t + 1)) / root, (m, v)

        pairs = jax.tree.map(adam, weights, grads, moments)
        is_pair = lambda node: isinstance(node, tuple) and not isinstance(node[0], tuple)
        weights = jax.tree.map(lambda pair: pair[0], pairs, is_leaf=is_pair)
        moments = jax.tree.map(lambda pair: pair[1], pairs, is_leaf=is_pair)


def test_online_learner_starts_every_sequence_afresh_and_has_nothing_to_train():
    learner, params = made("online")
    assert not jax.tree.leaves(params)
    kernel = learner.start(params, 3).state[0]["head"]["kernel"]
    assert (kernel[0] != kernel[1]).any() and (kernel[1] != kernel[2]).any()
    maml, weights = made("maml")
    for kernel in maml.start(weights, 2).state[0]["head"]["kernel"]:
        np.testing.assert_array_equal(kernel, weights["head"]["kernel"])


def test_maml_gradient_reaches_the_initial_weights_through_all_steps():
    """Against finite differences of the loss at the last position, with Adam inside."""
    learner = icl.gradient_learner(
        N, C, optax.adam(0.05, eps_root=1e-8), width=4, learned_init=True
    )
    params = jax.jit(learner.init)(jax.random.key(0))
    x, y = sequences()

    @jax.jit
    def loss(params):
        return -jax.nn.log_softmax(learner.logits(params, x, y)[:, -1])[
            jnp.arange(B), y[:, -1]
        ].mean()

    grads = jax.jit(jax.grad(loss))(params)
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads))
    direction = jax.tree.map(lambda w: jax.random.normal(jax.random.key(w.size), w.shape), params)
    move = lambda size: jax.tree.map(lambda w, d: w + size * d, params, direction)
    slope = (loss(move(1e-3)) - loss(move(-1e-3))) / 2e-3
    inner = sum(jax.tree.leaves(jax.tree.map(lambda g, d: (g * d).sum(), grads, direction)))
    np.testing.assert_allclose(inner, slope, rtol=0.05)


# --- Errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, sentence",
    [
        (lambda: icl.transformer(N, C, T, layout="mixed"), "choose one of shifted, paired"),
        (lambda: icl.transformer(N, C, T, positions="sinus"), "learned, rotary, none"),
        (
            lambda: icl.transformer(N, C, T, layout="paired", positions="learned"),
            "has no positions",
        ),
        (lambda: icl.transformer(N, C, T, positions="rotary", key_size=6), "divisible by 4"),
        (
            lambda: logits_of("lstm")(made("lstm")[1], *sequences(inputs=N + 1)),
            r"need shape \[B, T, 6\]",
        ),
        (
            lambda: logits_of("paired")(made("paired")[1], *sequences(length=T + 1)),
            "hold 6 examples but the learner has places for 5",
        ),
        (
            lambda: logits_of("vsml")(made("vsml")[1], sequences()[0], sequences(length=2)[1]),
            "one per input",
        ),
    ],
)
def test_impossible_calls_are_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
