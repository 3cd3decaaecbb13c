"""The two models behind AutoLRS: where a loss series is heading, and which rate to try next.

An exponential decay forecasts the loss at the end of a stage. A Gaussian process over log10 of the
rate, with the lower confidence bound as acquisition, proposes candidates. Both are pure functions
of fixed shapes, so they run inside a compiled, vmapped update.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

DIVERGED = 1e6  # what a candidate is told whose loss is not finite
_DECAYS = np.logspace(-2, 2, 32)  # decay rates per series
_SLOWEST = 0.5  # slower decays cannot be told from a line, and forecasts of them are worthless


# --- Forecast -------------------------------------------------------------------------------------


class Forecast(NamedTuple):
    """y(x) = a exp(b x) + c over a series scaled to x in (0, 1]. All float32 `[]`, `ok` bool.

    `forecast` is y(horizon) where the fit is `ok`, else the mean of the last tenth of the series.
    """

    a: Array
    b: Array
    c: Array
    forecast: Array
    ok: Array


def _least_squares(y: Array, x: Array, keep: Array, rate: Array) -> tuple[Array, ...]:
    """a, c and squared error of the best y = a exp(-rate x) + c over the kept points."""
    n = jnp.maximum(keep.sum(), 1.0)
    e = jnp.exp(-rate * x)
    e_mean, y_mean = (e * keep).sum() / n, (y * keep).sum() / n
    covariance = (keep * (e - e_mean) * (y - y_mean)).sum()
    a = covariance / jnp.maximum((keep * (e - e_mean) ** 2).sum(), 1e-12)
    c = y_mean - a * e_mean
    return a, c, (keep * (y - a * e - c) ** 2).sum()


def _decay(y: Array, x: Array, keep: Array) -> Array:
    """The decay rate of the best exponential: the best of a grid, refined by golden section."""
    error = lambda log_rate: _least_squares(y, x, keep, jnp.exp(log_rate))[2]
    grid = jnp.asarray(np.log(_DECAYS), jnp.float32)
    best = jnp.argmin(jax.vmap(error)(grid))
    ratio = (np.sqrt(5) - 1) / 2

    def shrink(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        go_left = error(left) < error(right)
        return jnp.where(go_left, low, left), jnp.where(go_left, right, high)

    low, high = grid[jnp.maximum(best - 1, 0)], grid[jnp.minimum(best + 1, len(grid) - 1)]
    low, high = jax.lax.fori_loop(0, 20, shrink, (low, high))
    return jnp.exp((low + high) / 2)


def fit_exponential(
    y: ArrayLike,
    horizon: ArrayLike,
    num_points: ArrayLike | None = None,
    *,
    drop: float = 0.03,
    rounds: int = 10,
) -> Forecast:
    """Fits an exponential decay to a loss series and forecasts the loss at `horizon`.

    In each of `rounds` rounds, the share `drop` of the points of the first half, those farthest
    from the fit, are left out of the next one (rounded down; a `drop` of 1 or more is a number).

    Args:
      y: losses, `[n]`; those after `num_points` are not looked at.
      horizon: how many times the length of the series the forecast lies from its start.
      num_points: length of the series, at most n; may be traced.
      drop: what to leave out per round.
      rounds: how often.
    """
    y = jnp.asarray(y, jnp.float32)
    n = jnp.asarray(len(y) if num_points is None else num_points)
    index = jnp.arange(len(y))
    x = (index + 1) / n
    given = (index < n).astype(jnp.float32)
    first_half = index < n // 2
    count = jnp.where(drop < 1, jnp.floor(drop * (n // 2)), drop).astype(jnp.int32)

    def leave_out(i: int, keep: Array) -> Array:
        rate = _decay(y, x, keep)
        a, c, _ = _least_squares(y, x, keep, rate)
        distance = jnp.abs(y - a * jnp.exp(-rate * x) - c) * keep * first_half
        order = jnp.argsort(-distance)
        rank = jnp.zeros_like(order).at[order].set(index)
        return keep * ~((rank < count) & first_half)

    keep = jax.lax.fori_loop(0, rounds, leave_out, given)
    rate = _decay(y, x, keep)
    a, c, _ = _least_squares(y, x, keep, rate)
    last = given * (index >= n - jnp.maximum(n // 10, 1))
    fallback = (last * y).sum() / last.sum()
    lowest = jnp.where(given > 0, y, jnp.inf).min()
    predicted = a * jnp.exp(-rate * horizon) + c
    ok = (a > 0) & (rate >= _SLOWEST) & ((c >= 0) | (lowest < 0)) & jnp.isfinite(predicted)
    return Forecast(a, -rate, c, jnp.where(ok, predicted, fallback), ok)


# --- Search ---------------------------------------------------------------------------------------


def gp_posterior(
    x_obs: Array,
    y_obs: Array,
    x_query: Array,
    lengthscale: ArrayLike = 0.5,
    noise: ArrayLike = 1e-2,
    known: Array | None = None,
) -> tuple[Array, Array]:
    """Mean and standard deviation of a Gaussian process with a Matern 5/2 kernel of variance 1.

    Args:
      x_obs, y_obs: observations, `[n]`; mean zero is assumed.
      x_query: where to predict, `[m]`.
      lengthscale: in units of x.
      noise: variance of the observations' noise.
      known: which observations exist, `[n]` bool; all by default.

    Returns:
      Two arrays `[m]`.
    """

    def kernel(a: Array, b: Array) -> Array:
        d = jnp.sqrt(5.0) * jnp.abs(a[:, None] - b[None, :]) / lengthscale
        return (1 + d + d**2 / 3) * jnp.exp(-d)

    exists = jnp.ones(x_obs.shape, bool) if known is None else known
    both = exists[:, None] & exists[None, :]
    diagonal = jnp.diag(jnp.where(exists, noise, 1.0))  # a missing point is known to be nothing
    factor = jnp.linalg.cholesky(jnp.where(both, kernel(x_obs, x_obs), 0.0) + diagonal)
    cross = jnp.where(exists[:, None], kernel(x_obs, x_query), 0.0)
    solved = jax.scipy.linalg.solve_triangular(factor, cross, lower=True)
    whitened = jax.scipy.linalg.solve_triangular(factor, jnp.where(exists, y_obs, 0.0), lower=True)
    variance = 1.0 - (solved**2).sum(0)
    return solved.T @ whitened, jnp.sqrt(jnp.maximum(variance, 1e-10))


def lcb_next(
    x_obs: Array,
    y_obs: Array,
    known: Array,
    grid: Array,
    kappa: ArrayLike,
    lengthscale: ArrayLike = 0.5,
    noise: ArrayLike = 1e-2,
) -> Array:
    """The point of `grid` with the lowest confidence bound mean - kappa std, not asked for before.

    Args:
      x_obs, y_obs: points asked for and their losses, `[n]`.
      known: which of them exist, `[n]` bool, at least one.
      grid: `[m]`, evenly spaced.
      kappa: weight of the uncertainty.
      lengthscale, noise: of `gp_posterior`.
    """
    fine = known & (y_obs < DIVERGED)
    # A candidate that diverged counts as the worst of the others: 1e6 would flatten them all.
    y = jnp.minimum(y_obs, jnp.where(fine, y_obs, -jnp.inf).max())
    y = jnp.where(jnp.isfinite(y), y, 0.0)  # all diverged
    n = known.sum()
    mean = jnp.where(known, y, 0.0).sum() / n
    std = jnp.sqrt(jnp.where(known, (y - mean) ** 2, 0.0).sum() / n)
    y = (y - mean) / jnp.maximum(std, 1e-6)
    mu, sigma = gp_posterior(x_obs, y, grid, lengthscale, noise, known)
    near = jnp.abs(grid[:, None] - x_obs[None, :]) < 0.5 * (grid[1] - grid[0])
    return grid[jnp.argmin(jnp.where((near & known[None]).any(1), jnp.inf, mu - kappa * sigma))]
