"""Selection among samples against counting by hand and all subsets; real solutions of others."""

import functools
import gzip
import itertools
import json
import math
import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtta.search import selection
from tests.shared_data import DATA

RNG = np.random.default_rng(0)
P, N = 40, 7
ANSWERS = RNG.integers(-1, 4, (P, N))
SCORES = RNG.integers(0, 5, (P, N)).astype(np.float32)  # with ties, exact in float32
VALID = RNG.random((P, N)) < 0.8
CORRECT = RNG.random((P, N)) < 0.4


def vote_by_hand(answers, weights, valid):
    """The index of the first sample of the answer that wins; dictionaries keep their order."""
    votes = {}
    for answer, weight, there in zip(answers, weights, valid, strict=True):
        if there and answer >= 0:
            votes[answer] = votes.get(answer, 0) + weight
    if not votes:
        return 0
    winner = max(votes, key=votes.get)  # the first of equal ones
    return next(i for i in range(len(answers)) if valid[i] and answers[i] == winner)


def test_votes_are_those_counted_by_hand():
    for weights, chosen in [
        (np.ones((P, N)), jax.jit(selection.majority)(ANSWERS, VALID)),
        (SCORES, jax.jit(selection.weighted)(ANSWERS, SCORES, VALID)),
    ]:
        expected = [vote_by_hand(*row) for row in zip(ANSWERS, weights, VALID, strict=True)]
        assert chosen.tolist() == expected
    everything = [vote_by_hand(a, np.ones(N), np.ones(N)) for a in ANSWERS]
    assert selection.majority(jnp.array(ANSWERS)).tolist() == everything


def test_ties_go_to_the_first_seen():
    assert selection.majority(jnp.array([3, 1, 1, 3])) == 0
    assert selection.weighted(jnp.array([5, 2, 5]), jnp.array([1.0, 3.0, 2.0])) == 0
    assert selection.best(jnp.array([1.0, 2.0, 2.0])) == 1


def test_what_has_no_answer_never_wins():
    assert selection.majority(jnp.array([-1, -1, -1, 4])) == 3
    assert selection.majority(jnp.array([-1, -1])) == 0
    assert selection.weighted(jnp.array([-1, 4]), jnp.array([1.0, -9.0])) == 1
    valid = jnp.array([True, False, True])
    assert selection.best(jnp.array([-5.0, 9.0, -7.0]), valid) == 0


def test_what_is_no_score_never_wins():
    nan, inf = jnp.nan, jnp.inf
    assert selection.best(jnp.array([nan, 1.0, 2.0])) == 2
    assert selection.best(jnp.array([nan, -inf])) == 0
    assert selection.best(jnp.array([9.0, -inf, nan]), jnp.array([False, True, True])) == 1
    assert selection.weighted(jnp.array([1, 2, 1]), jnp.array([nan, 1.0, 0.5])) == 1
    assert not selection.reward_pass_at_k(
        jnp.array([nan, 1.0, 0.5]), jnp.array([True, False, False]), 2
    )
    assert selection.best(jnp.array([2**30 + 1, 2**30 + 2])) == 1, (
        "whole numbers are compared whole"
    )


def test_arrays_of_other_numbers_of_samples_are_refused():
    answers, one = jnp.array(ANSWERS), jnp.ones((P, 1))
    for call in (
        lambda: selection.best(jnp.array(SCORES), one > 0),
        lambda: selection.weighted(answers, one),
        lambda: selection.majority(answers, one > 0),
        lambda: selection.best_at_k(jnp.array(SCORES), one > 0, 1),
        lambda: selection.reward_pass_at_k(jnp.array(SCORES), one > 0, 1),
    ):
        with pytest.raises(ValueError, match="different numbers of samples .*7.* 1"):
            call()
    with pytest.raises(ValueError, match="4 scores and a mask for 3 steps"):
        selection.aggregate(jnp.ones(4), jnp.ones(3, bool), "min")
    with pytest.raises(ValueError, match="num_subsets is 0"):
        choose = functools.partial(selection.majority, answers)
        selection.subset_curve(jax.random.key(0), choose, jnp.array(CORRECT), [1], 0)


def test_impossible_counts_have_no_chance():
    found = selection.pass_at_k(jnp.array([-1, 0, 3, 4]), 3, 2)
    assert np.isnan(found).tolist() == [True, False, False, True]


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_pass_at_k_is_the_share_of_subsets(n):
    for k in range(1, n + 1):
        expected = [
            np.mean([any(i < c for i in s) for s in itertools.combinations(range(n), k)])
            for c in range(n + 1)
        ]
        found = selection.pass_at_k(jnp.arange(n + 1), n, k)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_pass_at_k_of_a_large_pool_is_the_quotient_of_binomials():
    n, k = 4096, 256
    c = np.array([0, 1, 3, 40, 4096])
    expected = [1 - math.comb(n - int(x), k) / math.comb(n, k) for x in c]
    np.testing.assert_allclose(selection.pass_at_k(c, n, k), expected, atol=1e-5)


def test_best_at_k_is_the_mean_over_subsets():
    for k in range(1, N + 1):
        sets = np.array(list(itertools.combinations(range(N), k)))
        right = [
            np.mean([correct[s[np.argmax(scores[s])]] for s in sets])
            for scores, correct in zip(SCORES, CORRECT, strict=True)
        ]
        found = selection.best_at_k(jnp.array(SCORES), jnp.array(CORRECT), k)
        np.testing.assert_allclose(found, right, atol=1e-6)
    top = [c[np.argsort(-s, kind="stable")[:2]].any() for s, c in zip(SCORES, CORRECT, strict=True)]
    found = selection.reward_pass_at_k(jnp.array(SCORES), jnp.array(CORRECT), 2)
    assert found.tolist() == top


def test_a_curve_is_the_mean_over_subsets_and_ends_in_the_choice():
    answers, draws = jnp.array(ANSWERS), 400
    choose = functools.partial(selection.majority, answers)
    sizes = [1, 3, N]
    curve = selection.subset_curve(jax.random.key(0), choose, jnp.array(CORRECT), sizes, draws)
    whole = np.take_along_axis(CORRECT, np.asarray(choose())[:, None], -1)[:, 0]
    assert (np.asarray(curve[-1]) == whole).all()
    exact = []
    for k in sizes[:-1]:
        sets = [[i in s for i in range(N)] for s in itertools.combinations(range(N), k)]
        chosen = [[vote_by_hand(a, np.ones(N), s) for s in sets] for a in ANSWERS]
        own = lambda i, sets=sets: np.array(sets)[np.arange(len(sets)), i]  # not so without answers
        exact.append([(c[i] & own(i)).mean() for c, i in zip(CORRECT, chosen, strict=True)])
    spread = np.sqrt(np.multiply(exact, np.subtract(1, exact)) / draws)
    assert (np.abs(curve[:-1] - np.array(exact)) <= 4.5 * spread + 1e-6).all()


@pytest.mark.parametrize("k", [0, 8, 2.5])
def test_subsets_that_do_not_exist_are_refused(k):
    match = "of 7 samples does not exist"
    with pytest.raises(ValueError, match=match):
        selection.pass_at_k(jnp.array([1]), N, k)
    with pytest.raises(ValueError, match=match):
        selection.best_at_k(jnp.array(SCORES), jnp.array(CORRECT), k)
    with pytest.raises(ValueError, match=match):
        choose = functools.partial(selection.best, jnp.array(SCORES))
        selection.subset_curve(jax.random.key(0), choose, jnp.array(CORRECT), [1, k], 2)


def test_scores_of_steps():
    scores = jnp.array([[0.5, 0.2, 0.8, 0.1], [0.5, 0.2, 0.8, 0.1], [0.3, 0.3, 0.3, 0.3]])
    mask = jnp.array([[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
    expected = {
        "min": [0.2, 0.1],
        "prod": [0.08, 0.008],
        "last": [0.8, 0.1],
        "mean": [0.5, 0.4],
        "geomean": [0.08 ** (1 / 3), 0.008**0.25],
    }
    for how, values in expected.items():
        found = selection.aggregate(scores, mask, how)
        np.testing.assert_allclose(found, [*values, -1], rtol=1e-5, err_msg=how)
    with pytest.raises(ValueError, match="no 'median'"):
        selection.aggregate(scores, mask, "median")


def test_self_certainty_is_the_divergence_from_uniform():
    p = RNG.dirichlet(np.ones(5), (3, 4))
    mask = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], bool)
    divergence = (0.2 * np.log(0.2 / p)).sum(-1)
    expected = [divergence[0][mask[0]].mean(), 0, divergence[2].mean()]
    found = selection.self_certainty(jnp.log(jnp.array(p)), jnp.array(mask))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert (selection.self_certainty(jnp.log(jnp.full((4, 5), 0.2)), jnp.array(mask[2]))) < 1e-6


def test_borda_votes_go_from_majority_to_best():
    scores = jnp.array([0.1, 0.9, 0.5, 0.5])
    assert selection.borda_votes(scores, 1).tolist() == [1, 4, 3, 2]
    answers = jnp.array(ANSWERS)
    flat = selection.weighted(answers, selection.borda_votes(jnp.array(SCORES), 0))
    assert (flat == selection.majority(answers)).all()
    steep = selection.weighted(answers, selection.borda_votes(jnp.array(SCORES), 30))
    top = selection.best(jnp.array(SCORES), answers >= 0)
    answer_of = lambda index: np.take_along_axis(ANSWERS, np.asarray(index)[:, None], 1)
    assert (answer_of(steep) == answer_of(top)).all()


def lines(name):
    path = DATA / "text" / f"{name}.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not there")
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


def test_chains_of_gpt_4_for_the_game_of_24():
    """100 puzzles x 100 chains: 4.0 % are right, 49 puzzles have a right one."""
    rows = lines("game24_gpt4_cot100")
    correct = np.array([row["correct"] for row in rows], bool)
    final = [[s.rsplit("Answer:", 1)[-1].strip() for s in row["samples"]] for row in rows]
    number = {text: i for i, text in enumerate(sorted({t for row in final for t in row}))}
    answers = jnp.array([[number[text] for text in row] for row in final])
    coverage = [selection.pass_at_k(correct.sum(-1), 100, k).mean() for k in (1, 10, 100)]
    assert abs(coverage[0] - 0.0398) < 5e-4 and abs(coverage[2] - 0.49) < 1e-6
    draws = [correct[:, RNG.permutation(100)[:10]].any(-1).mean() for _ in range(400)]
    assert abs(coverage[1] - np.mean(draws)) < 0.01
    votes = [Counter(row).most_common(1)[0][0] for row in final]  # ties to the first seen
    chosen = selection.majority(answers)
    assert [row[i] for row, i in zip(final, chosen, strict=True)] == votes


def test_solvers_of_gsm8k_voting():
    """Four solvers of known accuracy: a vote that trusts the better ones beats a plain one."""
    rows = lines("gsm8k_model_solutions")
    solvers = ["6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"]
    accuracy = jnp.array([0.217, 0.390, 0.347, 0.563])
    correct = np.array([[row[s]["is_correct"] for s in solvers] for row in rows])
    np.testing.assert_allclose(correct.mean(0), accuracy, atol=1e-3)

    def answer(row, solver):
        found = re.search(r"A:\s*(-?[\d.,]+)", row[solver]["solution"])
        return found[1].replace(",", "").rstrip(".") if found else None

    texts = [[answer(row, s) for s in solvers] for row in rows]
    number = {t: i for i, t in enumerate(sorted({t for row in texts for t in row if t}))}
    answers = jnp.array([[number.get(t, -1) for t in row] for row in texts])
    right = lambda chosen: float(np.take_along_axis(correct, np.asarray(chosen)[:, None], 1).mean())
    plain, trusting = (
        right(selection.majority(answers)),
        right(selection.weighted(answers, jnp.broadcast_to(accuracy**2, answers.shape))),
    )
    expected = [
        vote_by_hand(a, np.asarray(accuracy**2), np.ones(4)) for a in np.asarray(answers).tolist()
    ]
    assert abs(trusting - right(expected)) < 2e-3
    assert plain < trusting and trusting > 0.55
    assert right(selection.best(jnp.broadcast_to(accuracy, answers.shape))) == correct[:, 3].mean()
