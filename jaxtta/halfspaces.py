"""Halfspaces with a certificate: a tester-learner returns one, or refuses the sample.

A learner trusts that inputs are standard Gaussian. A tester-learner looks: it accepts a halfspace
through the origin only where the sample has what the argument for its error needs, so that the
error of what it accepts is near the best one whatever the inputs are, and it accepts nearly always
if they are Gaussian. A refusal says that there is no certificate, not that the halfspace is bad.

1. Learn on one half of the sample: projected stochastic gradient descent on a smooth ramp of width
sigma, over unit vectors. 2. Of the vectors on the way take the one whose gradient on the other half
is smallest, with the sign that errs less. 3. Test on the other half: is it stationary; has the band
around its boundary the mass, the covariance and bounded fourth moments of a Gaussian there; have
strips further out no more mass and spread than Gaussian ones (so that a small angle is a small
disagreement); are fourth moments near 3. All of it for every sigma of a grid; one that passes is
enough.

The structure is the paper's. It has constants in the place of numbers: those of `Limits` are ours,
as is the grid of sigma for both kinds of noise.

Reference: Gollakota, Klivans, Stavropoulos and Vasilyan, An Efficient Tester-Learner for
Halfspaces, ICLR 2024, arXiv 2302.14853.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.stats import norm
from jax.typing import ArrayLike

from jaxtrain.known_numbers import check_known, check_whole


class Limits(NamedTuple):
    """What passes. Deviations that chance makes are added where a count is stated.

    Attributes:
      gradient: greatest norm of the gradient of the ramp loss.
      mass: smallest and greatest ratio of the mass of a band to that of a Gaussian.
      second: how far eigenvalues of a local covariance may be from 1, besides `slack` sqrt(d / n).
      local_fourth: greatest fourth moment within a band, besides `slack` sqrt(96 / n).
      fourth: smallest and greatest fourth moment of all points along a direction.
      strip: width of a strip.
      num_strips: how many, from the boundary on.
      slack: deviations of chance that are let pass.
    """

    gradient: float = 0.15
    mass: tuple[float, float] = (0.8, 1.25)
    second: float = 0.1
    local_fourth: float = 4.5
    fourth: tuple[float, float] = (2.4, 3.8)
    strip: float = 0.5
    num_strips: int = 6
    slack: float = 3.0


LIMITS = Limits()


class Check(NamedTuple):
    """One test: numbers and what they may be, of one shape."""

    value: Array
    low: Array
    high: Array

    @property
    def passed(self) -> Array:
        """Whether every number is where it may be, `[]`; NaN is not."""
        return ((self.value >= self.low) & (self.value <= self.high)).all()


class Verdict(NamedTuple):
    """What a tester-learner says.

    Attributes:
      accepted: whether some sigma passed every test, `[]`, bool.
      weights: unit vector of the halfspace: of the sigma that passed with the smallest error, or
        with the smallest error of all where none did, `[d]`.
      error: share of the testing half that it gets wrong, `[]`.
      chosen: which sigma, `[]`.
      passed: test -> whether each sigma passed it, `[sigmas]`.
      checks: test -> its numbers for every sigma, `[sigmas, ...]`.
    """

    accepted: Array
    weights: Array
    error: Array
    chosen: Array
    passed: dict[str, Array]
    checks: dict[str, Check]


def unit(w: Array) -> Array:
    """The vector at length 1, `[d]`; zeros stay."""
    return w / jnp.maximum(jnp.linalg.norm(w), 1e-12)


def ramp(t: Array, sigma: ArrayLike) -> Array:
    """A smooth step from 0 below -sigma / 2 to 1 above sigma / 2, `[...]`.

    It is 1 / 2 + t / sigma up to sigma / 6 from the middle; its derivative is continuous, even and
    at most 4 / (3 sigma).
    """
    u = jnp.minimum(jnp.abs(t) / sigma, 0.5)
    v = 3 * u - 0.5
    outer = jnp.sign(t) * (1 / 6 + (v + v**2 - v**3) / 3)
    return 0.5 + jnp.where(u <= 1 / 6, t / sigma, outer)


def ramp_loss(w: Array, x: Array, y: Array, sigma: ArrayLike) -> Array:
    """Mean ramp of -y <w, x> / |w|, `[]`; its gradient is orthogonal to w."""
    return ramp(-y * (x @ w) / jnp.linalg.norm(w), sigma).mean()


def error(w: Array, x: Array, y: Array) -> Array:
    """Share of the rows whose label is not the sign of <w, x>, `[]`."""
    return (y * (x @ w) <= 0).mean(dtype=jnp.float32)


def descent(
    key: Array,
    x: Array,
    y: Array,
    sigma: ArrayLike,
    *,
    num_steps: int = 2000,
    batch_size: int = 256,
    rate: ArrayLike | None = None,
    num_kept: int = 16,
) -> Array:
    """Projected stochastic gradient descent on the ramp loss over unit vectors.

    Args:
      key: of the batches.
      x: `[N, d]`.
      y: -1 or 1, `[N]`.
      sigma: width of the ramp; may be traced.
      num_steps: updates, a multiple of `num_kept`.
      batch_size: rows of an update, drawn with replacement.
      rate: None for 0.1 sigma; may be traced.
      num_kept: vectors on the way that are returned.

    Returns:
      Unit vectors, `[num_kept + 1, d]`: mean of y x, where it starts, then at equal distances.
    """
    check_whole(1, 2**31 - 1, num_steps=num_steps, batch_size=batch_size, num_kept=num_kept)
    if num_steps % num_kept:
        raise ValueError(f"num_steps is {num_steps}; it must be a multiple of num_kept={num_kept}.")
    step = 0.1 * jnp.asarray(sigma) if rate is None else rate

    def body(w: Array, key: Array) -> tuple[Array, None]:
        rows = jax.random.randint(key, (batch_size,), 0, len(x))
        return unit(w - step * jax.grad(ramp_loss)(w, x[rows], y[rows], sigma)), None

    def leg(w: Array, keys: Array) -> tuple[Array, Array]:
        w, _ = jax.lax.scan(body, w, keys)
        return w, w

    start = unit((y[:, None] * x).mean(0))
    keys = jax.random.split(key, (num_kept, num_steps // num_kept))
    _, kept = jax.lax.scan(leg, start, keys)
    return jnp.concatenate([start[None], kept])


# --- Tests ----------------------------------------------------------------------------------------


def _orthogonal(w: Array, x: Array) -> tuple[Array, Array]:
    """<w, x> `[N]`, and what is left of the rows, `[N, d]`."""
    along = x @ w
    return along, x - along[:, None] * w[None]


def mass_ratio(w: Array, x: Array, low: ArrayLike, high: ArrayLike) -> Array:
    """Share of rows with low <= |<w, x>| <= high over that of a Gaussian, `[]`."""
    distance = jnp.abs(x @ w)
    inside = (distance >= low) & (distance <= high)
    return inside.mean(dtype=jnp.float32) / (2 * (norm.cdf(high) - norm.cdf(low)))


def local_spread(w: Array, x: Array, low: ArrayLike, high: ArrayLike) -> tuple[Array, Array, Array]:
    """Spread orthogonal to w of the rows with low <= |<w, x>| <= high.

    Returns:
      Smallest and largest eigenvalue of the second moments, and the number of rows, `[]` each. Of
      no rows the eigenvalues are 0.
    """
    along, rest = _orthogonal(w, x)
    inside = (jnp.abs(along) >= low) & (jnp.abs(along) <= high)
    count = inside.sum(dtype=jnp.float32)
    second = (jnp.where(inside[:, None], rest, 0).T @ rest) / jnp.maximum(count, 1)
    # w itself gets the mean of the others, which is between the smallest and the largest.
    filled = second + jnp.trace(second) / (len(w) - 1) * jnp.outer(w, w)
    eigenvalues = jnp.linalg.eigvalsh(filled)
    return eigenvalues[0], eigenvalues[-1], count


def local_fourth(w: Array, x: Array, directions: Array, high: ArrayLike) -> Array:
    """Largest fourth moment of the rows with |<w, x>| <= high along directions `[k, d]`, `[]`.

    Directions are made orthogonal to w first.
    """
    along, rest = _orthogonal(w, x)
    inside = (jnp.abs(along) <= high).astype(x.dtype)
    across = jax.vmap(unit)(_orthogonal(w, directions)[1])
    total = inside @ (rest @ across.T) ** 4
    return (total / jnp.maximum(inside.sum(), 1)).max()


def checks_of(
    w: Array, x: Array, y: Array, sigma: ArrayLike, directions: Array, limits: Limits = LIMITS
) -> dict[str, Check]:
    """Every test of a unit vector, by name.

    Args:
      w: `[d]`.
      x: the testing half, `[N, d]`.
      y: -1 or 1, `[N]`.
      sigma: width of the ramp; may be traced. Bands end at sigma / 6 and sigma / 2.
      directions: for fourth moments, unit vectors `[k, d]`; w is added.
      limits: what passes.
    """
    number, size = x.shape
    gradient = jnp.linalg.norm(jax.grad(ramp_loss)(w, x, y, sigma))
    bands = jnp.asarray(sigma) * jnp.array([1 / 6, 1 / 2])
    edges = limits.strip * jnp.arange(limits.num_strips + 1)
    inner, outer = edges[:-1], edges[1:]
    zero, one = jnp.zeros(()), jnp.ones(())

    ratio = jax.vmap(lambda high: mass_ratio(w, x, zero, high))(bands)
    low, high, count = jax.vmap(lambda high: local_spread(w, x, zero, high))(bands)
    reach = limits.second + limits.slack * jnp.sqrt(size / jnp.maximum(count, 1))
    fourth = jax.vmap(lambda high: local_fourth(w, x, directions, high))(bands)
    most = limits.local_fourth + limits.slack * jnp.sqrt(96 / jnp.maximum(count, 1))

    strips = jax.vmap(lambda a, b: mass_ratio(w, x, a, b))(inner, outer)
    expected = 2 * number * (norm.cdf(outer) - norm.cdf(inner))
    heaviest = limits.mass[1] + limits.slack / jnp.sqrt(expected)
    _, widest, rows = jax.vmap(lambda a, b: local_spread(w, x, a, b))(inner, outer)
    allowed = 1 + limits.second + limits.slack * jnp.sqrt(size / jnp.maximum(rows, 1))
    everywhere = ((x @ jnp.concatenate([directions, w[None]]).T) ** 4).mean(0)

    same = lambda value, like: jnp.full_like(like, value)
    return {
        "gradient": Check(gradient, zero, one * limits.gradient),
        "band mass": Check(ratio, same(limits.mass[0], ratio), same(limits.mass[1], ratio)),
        "band covariance": Check(
            jnp.stack([low, high]), jnp.stack([1 - reach] * 2), jnp.stack([1 + reach] * 2)
        ),
        "band fourth moments": Check(fourth, same(0, fourth), most),
        "strip mass": Check(strips, same(0, strips), heaviest),
        "strip spread": Check(widest, same(0, widest), allowed),
        "fourth moments": Check(
            everywhere, same(limits.fourth[0], everywhere), same(limits.fourth[1], everywhere)
        ),
    }


def tester_learner(
    key: Array,
    x: Array,
    y: Array,
    sigmas: Array,
    *,
    num_steps: int = 2000,
    batch_size: int = 256,
    num_directions: int = 32,
    limits: Limits = LIMITS,
) -> Verdict:
    """Learns a halfspace through the origin and says whether its error is certified.

    Args:
      key: splits the sample in halves, draws batches and directions.
      x: `[N, d]`, d at least 2; N is even or one row is left out.
      y: -1 or 1, `[N]`.
      sigmas: widths of the ramp, `[sigmas]`; may be traced.
      num_steps: updates of `descent`, a multiple of 16.
      batch_size: rows of an update.
      num_directions: random ones for fourth moments, besides the axes and the vector itself.
      limits: what passes.

    Raises:
      ValueError: shapes that do not belong together, or fewer than 2 features or 2 rows.
    """
    if x.ndim != 2 or y.shape != x.shape[:1] or min(x.shape) < 2:
        raise ValueError(
            f"a tester-learner takes rows [N, d] with N and d at least 2, and labels [N], but got "
            f"{x.shape} and {y.shape}."
        )
    check_known(lambda v: v >= 0, "at least 0", **limits._asdict())
    check_whole(0, 2**16, num_directions=num_directions)
    key_order, key_descent, key_directions = jax.random.split(key, 3)
    half, size = len(x) // 2, x.shape[1]
    order = jax.random.permutation(key_order, len(x))
    learning, testing = order[:half], order[half : 2 * half]
    x1, y1, x2, y2 = x[learning], y[learning], x[testing], y[testing]
    random = jax.random.normal(key_directions, (num_directions, size), x.dtype)
    directions = jnp.concatenate([jnp.eye(size, dtype=x.dtype), jax.vmap(unit)(random)])

    def at(sigma: Array) -> tuple[Array, Array, dict[str, Check]]:
        options = dict(num_steps=num_steps, batch_size=batch_size)
        kept = descent(key_descent, x1, y1, sigma, **options)
        slope = lambda w: jnp.linalg.norm(jax.grad(ramp_loss)(w, x2, y2, sigma))
        w = kept[jax.lax.map(slope, kept).argmin()]
        wrong = error(w, x2, y2)
        turned = error(-w, x2, y2)
        w = jnp.where(wrong <= turned, w, -w)
        return w, jnp.minimum(wrong, turned), checks_of(w, x2, y2, sigma, directions, limits)

    weights, errors, checks = jax.vmap(at)(jnp.asarray(sigmas))
    passed = {name: jax.vmap(lambda c: c.passed)(check) for name, check in checks.items()}
    good = jnp.stack(list(passed.values())).all(0)
    # Errors are at most 1, so what did not pass comes after everything that did.
    chosen = (errors + jnp.where(good, 0, 2)).argmin()
    return Verdict(good.any(), weights[chosen], errors[chosen], chosen, passed, checks)
