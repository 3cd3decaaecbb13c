"""The methods as loops in NumPy, written from their equations. One `step(x, mask)` per batch.

Every method holds `theta`, the adapted vector (scale and bias of both norms), and returns the
scored logits and the rows it learned from.
"""

import copy

import numpy as np

from tests.jaxtta.images import tiny


class Method:
    names = tiny.NORMS

    def __init__(self, params, optimizer):
        self.start, self.optimizer = params, optimizer
        self.theta0 = tiny.flat(params, self.names)
        self.theta = self.theta0.copy()

    def params(self, theta=None):
        return tiny.with_flat(self.start, self.theta if theta is None else theta, self.names)

    def gradient(self, cache, dlogits, theta=None):
        return tiny.flat(tiny.backward(self.params(theta), cache, dlogits), self.names)

    def forward(self, x, mask):
        logits, cache = tiny.forward(self.params(), x, mask)
        return logits, cache


class Tent(Method):
    def step(self, x, mask):
        logits, cache = self.forward(x, mask)
        if mask.any():
            d = np.where(mask[:, None], tiny.entropy_gradient(logits), 0) / mask.sum()
            self.theta = self.optimizer.step(self.theta, self.gradient(cache, d))
        return logits, mask


class OpenSet(Method):
    diversity = 0.5

    def step(self, x, mask):
        logits, cache = self.forward(x, mask)
        original, _ = tiny.forward(self.start, x, mask)
        p, p0 = tiny.softmax(logits), tiny.softmax(original)
        kept = np.array(
            [mask[i] and p[i, p0[i].argmax()] >= p0[i].max() - 1e-6 for i in range(len(x))]
        )
        if kept.any():
            d = np.where(kept[:, None], tiny.entropy_gradient(logits), 0) / kept.sum()
            mean = p[mask].mean(0)
            # d(-H(mean))/dz_i = p_i * (log mean - p_i . log mean) / n; "+1" terms cancel.
            pull = np.log(mean)
            extra = p * (pull - (p @ pull)[:, None]) / mask.sum()
            d = d + self.diversity * np.where(mask[:, None], extra, 0)
            self.theta = self.optimizer.step(self.theta, self.gradient(cache, d))
        return logits, kept


class Eata(Method):
    threshold, redundancy, fisher, fisher_weight = 0.9, 0.4, None, 1.0
    mean = None

    def step(self, x, mask):
        logits, cache = self.forward(x, mask)
        p, e = tiny.softmax(logits), tiny.entropy(logits)
        selected = mask & (e < self.threshold)
        if self.mean is not None:
            for i in np.flatnonzero(selected):
                cosine = self.mean @ p[i] / np.linalg.norm(self.mean) / np.linalg.norm(p[i])
                selected[i] = abs(cosine) < self.redundancy
        if selected.any():
            weights = np.exp(self.threshold - e)
            d = weights[:, None] * tiny.entropy_gradient(logits)
            gradient = self.gradient(cache, np.where(selected[:, None], d, 0) / selected.sum())
            if self.fisher is not None:
                gradient += 2 * self.fisher_weight * self.fisher * (self.theta - self.theta0)
            self.theta = self.optimizer.step(self.theta, gradient)
            new = p[selected].mean(0)
            self.mean = new if self.mean is None else 0.9 * self.mean + 0.1 * new
        return logits, selected


def fisher(params, batches):
    """Mean over batches of the squared gradient of the batch-mean cross-entropy."""
    total = 0.0
    for x in batches:
        logits, cache = tiny.forward(params, x)
        p = tiny.softmax(logits)
        d = (p - np.eye(p.shape[1])[logits.argmax(-1)]) / len(x)
        total = total + tiny.flat(tiny.backward(params, cache, d)) ** 2
    return total / len(batches)


class Sar(Method):
    threshold, radius, reset_below = 0.9, 0.05, 0.2
    empty, after_reset = "skip", "clear"
    mean = None

    def __init__(self, params, optimizer):
        super().__init__(params, optimizer)
        self.fresh = copy.deepcopy(optimizer)
        self.did_reset = False

    def step(self, x, mask):
        logits, cache = self.forward(x, mask)
        first = mask & (tiny.entropy(logits) < self.threshold)
        d = np.where(first[:, None], tiny.entropy_gradient(logits), 0) / max(first.sum(), 1)
        g1 = self.gradient(cache, d)
        climbed = self.theta + self.radius * g1 / (np.sqrt((g1**2).sum()) + 1e-12)
        again, cache = tiny.forward(self.params(climbed), x, mask)
        e2 = tiny.entropy(again)
        second = first & (e2 < self.threshold)
        d = np.where(second[:, None], tiny.entropy_gradient(again), 0) / max(second.sum(), 1)
        g2 = self.gradient(cache, d, climbed)
        if second.any() or self.empty == "momentum":
            self.theta = self.optimizer.step(self.theta, g2)
        if second.any():
            new = e2[second].mean()
            self.mean = new if self.mean is None else 0.9 * self.mean + 0.1 * new
        self.did_reset = self.mean is not None and self.mean < self.reset_below
        if self.did_reset:
            self.theta, self.optimizer = self.theta0.copy(), copy.deepcopy(self.fresh)
            if self.after_reset == "clear":
                self.mean = None
        return logits, second


class Deyo(Method):
    threshold, margin, min_difference = 1.1, 0.7, 0.2
    orders = None  # permutations [B, tiles] of the current batch

    def step(self, x, mask):
        logits, cache = self.forward(x, mask)
        p, e = tiny.softmax(logits), tiny.entropy(logits)
        first = mask & (e < self.threshold)
        shuffled = np.stack(
            [tiles_in_order(image, order) for image, order in zip(x, self.orders, strict=True)]
        )
        p2 = tiny.softmax(tiny.forward(self.params(), shuffled, first)[0])
        y = logits.argmax(-1)
        difference = np.array([p[i, y[i]] - p2[i, y[i]] for i in range(len(x))])
        selected = first & (difference > self.min_difference)
        if selected.any():
            weights = np.exp(self.margin - e) + np.exp(difference)
            d = weights[:, None] * tiny.entropy_gradient(logits)
            d = np.where(selected[:, None], d, 0) / selected.sum()
            self.theta = self.optimizer.step(self.theta, self.gradient(cache, d))
        return logits, selected


def tiles_in_order(image, order, n=2):
    """The tiles of an n x n grid, tile `order[k]` at place k."""
    height, width = image.shape[0] // n, image.shape[1] // n
    tiles = [
        image[i * height : (i + 1) * height, j * width : (j + 1) * width]
        for i in range(n)
        for j in range(n)
    ]
    rows = [
        np.concatenate([tiles[k] for k in order[i * n : (i + 1) * n]], axis=1) for i in range(n)
    ]
    return np.concatenate(rows, axis=0)


class Core(Method):
    """Class-correlation loss under mixed statistics; gradient by central differences."""

    weight, stats, unbiased = 0.3, None, True

    def logits(self, theta, x, mask):
        params, h = self.params(theta), x
        for i in (1, 2):
            a = h @ params[f"dense{i}"]["kernel"]
            mean, var = a[mask].mean((0, 1, 2)), a[mask].var((0, 1, 2), ddof=int(self.unbiased))
            old = self.stats[f"norm{i}"]
            mean = (1 - self.weight) * old["mean"] + self.weight * mean
            var = (1 - self.weight) * old["var"] + self.weight * var
            y = (a - mean) / np.sqrt(var + 1e-5)
            h = np.maximum(y * params[f"norm{i}"]["scale"] + params[f"norm{i}"]["bias"], 0)
        return h.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]

    def loss(self, theta, x, mask):
        p = tiny.softmax(self.logits(theta, x, mask))[mask]
        r = p.T @ p
        r = r / r.sum(1, keepdims=True)
        return (r.sum() - np.trace(r)) / (r.size - len(r))

    def step(self, x, mask):
        logits, gradient = self.logits(self.theta, x, mask), np.zeros_like(self.theta)
        for j in range(len(self.theta)):
            h = np.zeros_like(self.theta)
            h[j] = 1e-5
            up, down = self.loss(self.theta + h, x, mask), self.loss(self.theta - h, x, mask)
            gradient[j] = (up - down) / 2e-5
        self.theta = self.optimizer.step(self.theta, gradient)
        return logits, mask
