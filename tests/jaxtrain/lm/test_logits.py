"""Truncation, samples and scores against plain Python; memory against the program's arrays."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from jaxtrain.lm.logits import Options, choose, distributions, scores
from tests.jaxtrain.lm.numpy_decoder import log_softmax

V = 7


def truncated(row, temperature=1.0, top_k=None, top_p=None, min_p=None, forbidden=()):
    """Probabilities `[V]` of one row of logits, token by token."""
    row = [float(x) / (temperature or 1) for x in row]
    order = sorted((t for t in range(V) if t not in forbidden), key=lambda t: (-row[t], t))
    order = order[:top_k]
    total, kept = sum(np.exp(row[t]) for t in order), []
    for t in order:
        if top_p is None or not kept or sum(np.exp(row[s]) for s in kept) / total < top_p:
            kept.append(t)
    kept = [t for t in kept if min_p is None or np.exp(row[t] - row[kept[0]]) >= min_p]
    kept = kept[:1] if temperature == 0 else kept
    p = np.zeros(V)
    p[kept] = np.exp([row[t] for t in kept])
    return p / p.sum()


ROWS = [
    {},
    {"temperature": 0.5},
    {"temperature": 0.0},
    {"top_k": 3},
    {"top_k": 1, "temperature": 2.0},
    {"top_p": 0.8},
    {"top_p": 1e-6},
    {"min_p": 0.2},
    {"min_p": 1.0},
    {"forbidden": (1, 3)},
    {"temperature": 0.0, "forbidden": (0,)},
    {"temperature": 2.0, "top_k": 5, "top_p": 0.9, "min_p": 0.3, "forbidden": (2,)},
    {"temperature": 2.0, "top_k": 4, "top_p": 0.8},
]
OFF = {"temperature": 1.0, "top_k": V, "top_p": 2.0, "min_p": 0.0, "forbidden": ()}


def logits_of_rows():
    x = np.random.default_rng(0).normal(size=(len(ROWS), V)).astype(np.float32) * 2
    x[0, :3] = x[3] = 1.5  # ties
    return x


def all_options():
    columns = {name: [row.get(name, off) for row in ROWS] for name, off in OFF.items()}
    forbidden = np.zeros((len(ROWS), V), bool)
    for row, ids in enumerate(columns.pop("forbidden")):
        forbidden[row, list(ids)] = True
    numbers = {name: np.array(x, np.float32) for name, x in columns.items()}
    return Options(**numbers, forbidden=forbidden)


def test_every_row_has_its_own_truncation():
    x = logits_of_rows()
    plain, drawn = jax.jit(distributions)(x, all_options())
    for row, options in enumerate(ROWS):
        expected = truncated(x[row], **options)
        np.testing.assert_allclose(np.exp(drawn[row]), expected, atol=1e-6, err_msg=str(options))
        heat = options.get("temperature", 1) or 1
        np.testing.assert_allclose(plain[row], log_softmax(x[row] / heat), atol=1e-5)


@pytest.mark.parametrize("row", [0, 2, 9, 11, 12])
def test_one_option_for_all_rows(row):
    x, options = logits_of_rows(), dict(ROWS[row])
    if "forbidden" in options:
        options["forbidden"] = np.isin(np.arange(V), options["forbidden"])
    _, drawn = distributions(x, Options(**options))
    for logits, found in zip(x, drawn, strict=True):
        np.testing.assert_allclose(np.exp(found), truncated(logits, **ROWS[row]), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (Options(-1.0), "temperature is -1.0; it must be 0, or from 1e-6 and finite"),
        (Options(float("nan")), "temperature is nan"),
        (Options(1e-30), "temperature is 1e-30"),
        (Options(float("inf")), "temperature is inf"),
        (Options(top_k=0), "top_k is 0; it must be a whole number from 1"),
        (Options(top_k=2.5), "top_k is 2.5"),
        (Options(top_p=0.0), "top_p is 0.0; it must be above 0 and at most 1"),
        (Options(top_p=float("nan")), "top_p is nan"),
        (Options(min_p=1.5), "min_p is 1.5; it must be from 0 to 1"),
    ],
)
def test_options_that_say_nothing_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        distributions(logits_of_rows(), options)


def test_samples_follow_the_truncated_distribution():
    x, number = logits_of_rows()[[11]], 4000
    keys = jax.random.split(jax.random.key(1), number)
    mask = np.arange(V) == 2
    options = Options(2.0, 5, 0.9, 0.3, mask)
    tokens, logp, sampled = jax.jit(choose)(keys, jnp.repeat(x, number, 0), options)
    expected = truncated(x[0], **ROWS[11])
    share = np.bincount(tokens, minlength=V) / number
    assert (expected > 0).sum() == 3 and not share[expected == 0].any()
    assert np.abs(share - expected).max() < 4 * np.sqrt(0.25 / number)
    np.testing.assert_allclose(sampled, np.log(expected[tokens]), atol=1e-5)
    np.testing.assert_allclose(logp, log_softmax(x[0] / 2)[tokens], atol=1e-5)


# --- Scores of texts ------------------------------------------------------------------------------

B, T, D = 3, 5, 4
RNG = np.random.default_rng(3)
HIDDEN = RNG.normal(size=(B, T, D)).astype(np.float32)
OUTPUT = RNG.normal(size=(D, V)).astype(np.float32)
TARGETS = RNG.integers(0, V, (B, T))
MASK = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 0, 1, 1]])
HEAT = np.array([1.0, 0.5, 2.0], np.float32)
HEATED = Options(HEAT)
WEIGHTS = RNG.normal(size=(2, B, T)).astype(np.float32)


def loss(hidden, output, largest, options=HEATED):
    found = scores(lambda x: x @ output, hidden, TARGETS, MASK, options, largest)
    return (found.logp * WEIGHTS[0] + found.entropy * WEIGHTS[1]).sum(), found


def in_numpy():
    """Scores and the gradients of `loss`, by hand."""
    hidden, output = np.float64(HIDDEN), np.float64(OUTPUT)
    logp, entropy = np.zeros((2, B, T))
    of_hidden, of_output = np.zeros_like(hidden), np.zeros_like(output)
    for b, t in np.argwhere(MASK):
        l = log_softmax(hidden[b, t] @ output / HEAT[b])
        p = np.exp(l)
        logp[b, t], entropy[b, t] = l[TARGETS[b, t]], -(p * l).sum()
        of_logits = WEIGHTS[0, b, t] * (np.eye(V)[TARGETS[b, t]] - p)
        of_logits -= WEIGHTS[1, b, t] * p * (l + entropy[b, t])
        of_hidden[b, t] = output @ of_logits / HEAT[b]
        of_output += np.outer(hidden[b, t], of_logits) / HEAT[b]
    return logp, entropy, of_hidden, of_output


@pytest.mark.parametrize("largest", [1, 2 * V, 4 * V + 1, 10**6])
def test_scores_and_gradients_equal_the_formula_in_chunks_of_any_size(largest):
    run = jax.jit(jax.grad(functools.partial(loss, largest=largest), argnums=(0, 1), has_aux=True))
    (of_hidden, of_output), found = run(HIDDEN, OUTPUT)
    expected = in_numpy()
    for got, want in zip((found.logp, found.entropy, of_hidden, of_output), expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)
    assert not np.asarray(of_hidden)[MASK == 0].any(), "exactly zero"
    np.testing.assert_array_equal(found.sampled, found.logp)


@pytest.mark.parametrize("largest", [2 * V, 10**6])
def test_scores_of_the_truncated_distribution(largest):
    forbidden = np.zeros((B, V), bool)
    forbidden[2, 0] = True
    options = Options(HEAT, top_k=np.array([3, 7, 5]), forbidden=forbidden)
    found = jax.jit(functools.partial(loss, largest=largest, options=options))(HIDDEN, OUTPUT)[1]
    np.testing.assert_allclose(found.entropy, in_numpy()[1], atol=1e-5)
    for b, t in np.argwhere(MASK):
        ids = (0,) if b == 2 else ()
        p = truncated(HIDDEN[b, t] @ OUTPUT, HEAT[b], (3, 7, 5)[b], forbidden=ids)
        np.testing.assert_allclose(np.exp(found.sampled[b, t]), p[TARGETS[b, t]], atol=1e-5)


def sizes(jaxpr):
    """Numbers of every array of a program, those of the programs in it too."""
    for equation in jaxpr.eqns:
        yield from (v.aval.size for v in equation.outvars if hasattr(v.aval, "size"))
        for inner in jaxprs_in_params(equation.params):
            yield from sizes(inner)


def test_no_array_of_all_logits():
    """64 x 32 tokens of 1,000 entries: 2 million logits, of which 20,000 are held."""
    hidden, output = np.zeros((64, 32, 8), np.float32), np.zeros((8, 1000), np.float32)

    def run(hidden, output, largest):
        zeros = np.zeros((64, 32), int)
        made = scores(lambda x: x @ output, hidden, zeros, options=Options(0.5), largest=largest)
        return made.logp.sum() + made.entropy.sum()

    def largest_array(largest):
        program = jax.make_jaxpr(jax.grad(functools.partial(run, largest=largest), (0, 1)))
        return max(sizes(program(hidden, output).jaxpr))

    assert largest_array(20_000) <= 20_000
    assert largest_array(10**9) == 64 * 32 * 1000


def test_chunks_without_a_wanted_token_are_left_out():
    seen = []

    def read(x):
        jax.debug.callback(lambda: seen.append(1))
        return x @ OUTPUT

    run = jax.jit(lambda mask: scores(read, HIDDEN, TARGETS, mask, largest=V))
    jax.block_until_ready(run(MASK))
    jax.effects_barrier()
    assert len(seen) == MASK.sum()
