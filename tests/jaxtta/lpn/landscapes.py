"""Scores whose maximum is known, and start points, for the tests of searches."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxtta.lpn.search import Scored, run_search

SIZE = 3
CURVATURE = np.array([0.5, 1.0, 3.0], np.float32)
KEY = jax.random.key(7)
ROOT = jax.random.fold_in(KEY, 0)  # of the searches that KEY is given to
STARTS = jnp.array([[0.0, 0.2, -0.1], [0.5, -0.5, 0.3]])
TARGET = jnp.array([1.0, 2.0, -1.0])

compiled = jax.jit(run_search, static_argnums=(0, 3), static_argnames=("early_exit", "patience"))


def quadratic(target, tolerance=0.0):
    """Concave score with its maximum 0 at `target`; exact within `tolerance` of it."""

    def score(latents):
        value = -0.5 * (CURVATURE[None] * (latents - target[None]) ** 2).sum(-1)
        return Scored(value, value >= -tolerance if tolerance else jnp.zeros(value.shape, bool))

    return score


def constant(latents):
    return Scored(jnp.zeros(len(latents)), jnp.zeros(len(latents), bool))


def mlp_score(params):
    def score(latents):
        value = (jnp.tanh(latents @ params["w"]) @ params["v"]).sum(-1)
        return Scored(value, jnp.zeros(value.shape, bool))

    return score


def mlp_params(dtype=jnp.float32):
    rng = np.random.default_rng(3)
    return {
        "w": jnp.asarray(rng.normal(size=(SIZE, 8)), dtype),
        "v": jnp.asarray(rng.normal(size=(8, 1)), dtype),
    }


def quadratic_gradient(target):
    return lambda latents: -CURVATURE * (latents - np.asarray(target))


def numpy_ascent(
    gradient_fn, starts, num_steps, rate, optimizer, *, joint=False, schedule=None, b1=0.9, b2=0.9
):
    """All iterates of starts `[..., H]`: clip, then SGD or Adam, from the equations, in float64."""
    latents = np.array(starts, np.float64)
    mean, square = np.zeros_like(latents), np.zeros_like(latents)
    iterates = [latents.copy()]
    for step in range(num_steps):
        gradient = gradient_fn(latents)
        if joint:
            gradient = gradient / max(1.0, np.sqrt((gradient**2).sum()))
        else:
            for index in np.ndindex(*gradient.shape[:-1]):
                gradient[index] /= max(1.0, np.sqrt((gradient[index] ** 2).sum()))
        now = rate
        if schedule is not None:
            now = rate * (0.5 * (1 + np.cos(np.pi * step / num_steps))) ** schedule
        if optimizer == "adam":
            mean = b1 * mean + (1 - b1) * gradient
            square = b2 * square + (1 - b2) * gradient**2
            m, v = mean / (1 - b1 ** (step + 1)), square / (1 - b2 ** (step + 1))
            latents = latents + now * m / (np.sqrt(v + 1e-8) + 1e-8)
        else:
            latents = latents + now * gradient
        iterates.append(latents.copy())
    return np.stack(iterates)
