"""A tiny classifier with two batch norms: as a Linen module, and in NumPy with its gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.nets import Classified, classifier
from jaxtrain.nets.norm import SOURCE, BatchNorm, Norm

CHANNELS, HIDDEN, FEATURES, CLASSES = 3, 5, 6, 4


class Tiny(nn.Module):
    """1 x 1 convolution, norm, ReLU, twice; mean over positions, unless it classifies pixels;
    linear head."""

    axis_name: str | None = None
    pixels: bool = False

    @nn.compact
    def __call__(self, inputs, *, norm: Norm = SOURCE, mask=None) -> Classified:
        x = inputs
        for i, size in enumerate((HIDDEN, FEATURES), 1):
            x = nn.Dense(size, use_bias=False, name=f"dense{i}")(x)
            x = nn.relu(BatchNorm(axis_name=self.axis_name, name=f"norm{i}")(x, norm, mask))
        features = x if self.pixels else x.mean((1, 2))
        return Classified(nn.Dense(CLASSES, name="head")(features), features)


def network(axis_name=None, pixels=False):
    return classifier(Tiny(axis_name, pixels))


def variables(seed=0, dtype=np.float64, scale=2.0):
    """Parameters and stored statistics as NumPy arrays; a large head makes sure predictions."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).astype(dtype)
    params = {
        "dense1": {"kernel": draw(CHANNELS, HIDDEN)},
        "norm1": {"scale": 1 + 0.2 * draw(HIDDEN), "bias": 0.2 * draw(HIDDEN)},
        "dense2": {"kernel": draw(HIDDEN, FEATURES)},
        "norm2": {"scale": 1 + 0.2 * draw(FEATURES), "bias": 0.2 * draw(FEATURES)},
        "head": {"kernel": scale * draw(FEATURES, CLASSES), "bias": 0.1 * draw(CLASSES)},
    }
    stats = {
        "norm1": {"mean": draw(HIDDEN), "var": rng.uniform(1, 2, HIDDEN).astype(dtype)},
        "norm2": {"mean": draw(FEATURES), "var": rng.uniform(1, 2, FEATURES).astype(dtype)},
    }
    return params, {"batch_stats": stats}


def batches(number=4, size=12, seed=1, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return rng.uniform(size=(number, size, 2, 4, CHANNELS)).astype(dtype)


def as_jax(tree):
    return jax.tree.map(jnp.asarray, tree)


# --- The same in NumPy ----------------------------------------------------------------------------


def forward(params, x, mask=None, stats=None):
    """Logits, and what `backward` needs. Statistics of the rows in `mask`, or those given."""
    mask = np.ones(len(x), bool) if mask is None else mask
    cache = {"mask": mask}
    for i in (1, 2):
        cache[f"in{i}"] = x
        a = x @ params[f"dense{i}"]["kernel"]
        if stats is None:
            if mask.any():
                mean, var = a[mask].mean((0, 1, 2)), a[mask].var((0, 1, 2))
            else:
                mean = var = np.zeros(a.shape[-1])
        else:
            mean, var = stats[f"norm{i}"]["mean"], stats[f"norm{i}"]["var"]
        std = np.sqrt(var + 1e-5)
        hat = (a - mean) / std
        y = hat * params[f"norm{i}"]["scale"] + params[f"norm{i}"]["bias"]
        cache[f"hat{i}"], cache[f"std{i}"], cache[f"on{i}"] = hat, std, y > 0
        x = np.maximum(y, 0)
    cache["features"] = x.mean((1, 2))
    return cache["features"] @ params["head"]["kernel"] + params["head"]["bias"], cache


def backward(params, cache, dlogits):
    """Gradient of a loss with respect to all parameters, through the batch statistics."""
    grads = {
        "head": {"kernel": cache["features"].T @ dlogits, "bias": dlogits.sum(0)},
    }
    dfeatures = dlogits @ params["head"]["kernel"].T
    positions = cache["hat2"].shape[1] * cache["hat2"].shape[2]
    dx = np.broadcast_to(dfeatures[:, None, None], cache["hat2"].shape) / positions
    rows = cache["mask"][:, None, None, None].astype(float)
    number = max(rows.sum() * positions, 1)
    for i in (2, 1):
        hat, std = cache[f"hat{i}"], cache[f"std{i}"]
        dy = dx * cache[f"on{i}"]
        grads[f"norm{i}"] = {
            "scale": (dy * hat).sum((0, 1, 2)),
            "bias": dy.sum((0, 1, 2)),
        }
        dhat = dy * params[f"norm{i}"]["scale"]
        da = dhat / std
        da = da - rows * (dhat.sum((0, 1, 2)) + hat * (dhat * hat).sum((0, 1, 2))) / (std * number)
        before = cache[f"in{i}"]
        flat = lambda z: z.reshape(-1, z.shape[-1])
        grads[f"dense{i}"] = {"kernel": flat(before).T @ flat(da)}
        dx = da @ params[f"dense{i}"]["kernel"].T
    return grads


NORMS = [("norm1", "scale"), ("norm1", "bias"), ("norm2", "scale"), ("norm2", "bias")]


def flat(tree, names=NORMS):
    return np.concatenate([np.asarray(tree[a][b]).ravel() for a, b in names])


def with_flat(params, vector, names=NORMS):
    """A copy of the parameters with the named ones taken from a vector."""
    new = {a: dict(b) for a, b in params.items()}
    at = 0
    for a, b in names:
        size = new[a][b].size
        new[a][b] = vector[at : at + size].reshape(new[a][b].shape)
        at += size
    return new


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def entropy(z):
    return -(softmax(z) * log_softmax(z)).sum(-1)


def entropy_gradient(z):
    """dH_i / dz_i, `[B, C]`."""
    return -softmax(z) * (log_softmax(z) + entropy(z)[:, None])


class Sgd:
    def __init__(self, rate=0.01, momentum=0.9):
        self.rate, self.momentum, self.buffer = rate, momentum, 0.0

    def step(self, theta, gradient):
        self.buffer = gradient + self.momentum * self.buffer
        return theta - self.rate * self.buffer


class Adam:
    def __init__(self, rate=0.01):
        self.rate, self.m, self.v, self.t = rate, 0.0, 0.0, 0

    def step(self, theta, gradient):
        self.t += 1
        self.m = 0.9 * self.m + 0.1 * gradient
        self.v = 0.999 * self.v + 0.001 * gradient**2
        m, v = self.m / (1 - 0.9**self.t), self.v / (1 - 0.999**self.t)
        return theta - self.rate * m / (np.sqrt(v) + 1e-8)
