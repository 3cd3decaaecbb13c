"""Returns and losses against loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import losses, returns

T, GAMMA, LAMBDA = 9, 0.9, 0.7
RNG = np.random.default_rng(0)
REWARD, VALUE, NEXT = (RNG.normal(size=T).astype(np.float32) for _ in range(3))
TERMINATED = np.array([0, 0, 1, 0, 0, 0, 0, 1, 0], bool)
TRUNCATED = np.array([0, 0, 0, 0, 1, 0, 0, 0, 0], bool)
ENDS = {"next_value_t": NEXT, "terminated_t": TERMINATED, "truncated_t": TRUNCATED}


def advantages_by_loop(reward, value, next_value, terminated, truncated):
    """A_t as the sum over k of (gamma lambda)^k delta_{t+k}, up to the end of the episode."""
    found = []
    for t in range(len(reward)):
        total, weight = 0.0, 1.0
        for k in range(t, len(reward)):
            future = 0.0 if terminated[k] else GAMMA * next_value[k]
            total += weight * (reward[k] + future - value[k])
            if terminated[k] or truncated[k]:
                break
            weight *= GAMMA * LAMBDA
        found.append(total)
    return np.array(found)


def test_advantages_are_sums_of_differences():
    found = returns.generalised_advantages(
        reward_t=REWARD, value_t=VALUE, **ENDS, gamma=GAMMA, lambda_=LAMBDA
    )
    expected = advantages_by_loop(REWARD, VALUE, NEXT, TERMINATED, TRUNCATED)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_control_one_flag_for_both_ends_is_another_number():
    both = TERMINATED | TRUNCATED
    found = returns.generalised_advantages(
        reward_t=REWARD, value_t=VALUE, **ENDS | {"terminated_t": both}, gamma=GAMMA, lambda_=LAMBDA
    )
    expected = advantages_by_loop(REWARD, VALUE, NEXT, TERMINATED, TRUNCATED)
    assert abs(found[4] - expected[4]) > 0.01


def test_lambda_returns_are_advantages_plus_values():
    # Inside episodes the next value is that of the next step.
    following = np.where(TERMINATED | TRUNCATED, NEXT, np.append(VALUE[1:], NEXT[-1]))
    ends = ENDS | {"next_value_t": following}
    targets = returns.lambda_returns(reward_t=REWARD, **ends, gamma=GAMMA, lambda_=LAMBDA)
    advantages = advantages_by_loop(REWARD, VALUE, following, TERMINATED, TRUNCATED)
    np.testing.assert_allclose(targets, advantages + VALUE, rtol=1e-5, atol=1e-6)


def test_lambda_one_is_the_discounted_sum():
    expected, total = np.zeros(T), NEXT[-1]
    for t in reversed(range(T)):
        total = 0.0 if TERMINATED[t] else NEXT[t] if TRUNCATED[t] else total
        expected[t] = total = REWARD[t] + GAMMA * total
    found = returns.lambda_returns(reward_t=REWARD, **ENDS, gamma=GAMMA, lambda_=1.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("ends", ["terminated_t", "truncated_t"])
@pytest.mark.parametrize("name", ["advantages", "returns"])
def test_nothing_crosses_the_end_of_an_episode(name, ends):
    """A NaN of the next episode, and one that stands where it says it is not used."""
    cut = np.arange(T) == 3
    flags = {"terminated_t": np.zeros(T, bool), "truncated_t": np.zeros(T, bool)} | {ends: cut}
    reward, following, value = REWARD.copy(), NEXT.copy(), VALUE.copy()
    reward[5] = following[6] = np.nan
    if ends == "terminated_t":
        following[3] = np.nan
    given = {"reward_t": reward, "next_value_t": following, **flags}
    fun = returns.lambda_returns
    if name == "advantages":
        fun, given = returns.generalised_advantages, given | {"value_t": value}
    found, grads = jax.value_and_grad(
        lambda given: (fun(**given, **flags, gamma=GAMMA, lambda_=LAMBDA)[:4]).sum()
    )({key: x for key, x in given.items() if key not in flags})
    assert np.isfinite(found) and all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_batched_trajectories_are_refused():
    with pytest.raises(ValueError, match="vmap over workers"):
        ends = {name: x[None] for name, x in ENDS.items()}
        returns.lambda_returns(reward_t=REWARD[None], **ends, gamma=0.9, lambda_=0.9)


def test_policy_gradient_of_the_mirror_loss_without_drift():
    """At rho = 1 the gradient is that of the policy gradient; at another rho it is rho times it."""
    gradient = jax.grad(losses.mirror_loss)(jnp.log(1.5), 2.0, 0.0)
    np.testing.assert_allclose(gradient, -3.0, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(losses.policy_gradient_loss)(-0.3, 2.0), -2.0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.1, 0.5 * 0.9**2), (0.5, 0.5 * 0.8**2), (2.0, 0.5 * 1.0)],
)
def test_clipped_value_loss(value, expected):
    """Old value 0, target 1, clip 0.2: moving further than 0.2 is not rewarded."""
    np.testing.assert_allclose(losses.value_loss(value, 0.0, 1.0, 0.2), expected, rtol=1e-6)
    np.testing.assert_allclose(losses.value_loss(value, 0.0, 1.0), 0.5 * (value - 1) ** 2)


def test_the_ratio_is_bounded():
    logs = jnp.array([-100.0, 0.0, 1.0, 20.0, 100.0])
    expected = np.exp(np.minimum([-100.0, 0.0, 1.0, 20.0, 100.0], 20.0))
    np.testing.assert_allclose(losses.ratio_of(logs), expected, rtol=1e-5, atol=1e-30)
    assert np.isfinite(losses.mirror_loss(logs, -3.0, 0.0)).all()


def test_kl_and_entropy():
    p, q = np.array([0.2, 0.3, 0.5], np.float32), np.array([0.4, 0.4, 0.2], np.float32)
    kl = sum(a * np.log(a / b) for a, b in zip(p, q, strict=True))
    np.testing.assert_allclose(losses.categorical_kl(p, q), kl, rtol=1e-5)
    np.testing.assert_allclose(losses.categorical_entropy(p), -(p * np.log(p)).sum(), rtol=1e-5)
    certain = jnp.array([1.0, 0.0, 0.0])
    assert np.isfinite(jax.grad(losses.categorical_kl)(certain, certain)).all()
