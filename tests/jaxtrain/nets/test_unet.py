"""The U-Net against the published parameter count, a NumPy forward pass, and its promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxtrain import parallel, trees
from jaxtrain.nets.unet import UNet

SMALL = {"width": 8, "multipliers": (1, 2), "num_blocks": 1, "groups": 4, "attention_at": (4,)}


def variables(network, shape=(2, 8, 8, 3), seed=0):
    """Parameters with numbers in place of the zeros."""
    times = jnp.zeros(shape[0], jnp.int32)
    found = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(shape), times)
    leaves, structure = jax.tree.flatten(found)
    rng = np.random.default_rng(seed)
    draws = [rng.normal(0, 0.3, x.shape).astype(np.float32) for x in leaves]
    return jax.tree.unflatten(structure, map(jnp.asarray, draws))


def inputs(number=2, side=8, seed=1):
    x = np.random.default_rng(seed).normal(size=(number, side, side, 3)).astype(np.float32)
    return jnp.asarray(x), jnp.arange(number) * 300 + 7


def count(width, multipliers, num_blocks, attention_at, side, channels=3, classes=0, patch=1):
    """Layer by layer: the encoder's outputs are what the decoder takes up again."""
    embed, side = 4 * width, side // patch
    conv = lambda a, b, k=3: k * k * a * b + b
    norm = lambda a: 2 * a
    attention = lambda a: norm(a) + a * 3 * a + 3 * a + a * a + a

    def block(a, b):
        shortcut = conv(a, b, 1) if a != b else 0
        return norm(a) + conv(a, b) + embed * 2 * b + 2 * b + norm(b) + conv(b, b) + shortcut

    total = width * embed + embed + embed * embed + embed + (classes and (classes + 1) * embed)
    total += conv(channels * patch**2, width)
    skips, now = [width], width
    for level, multiplier in enumerate(multipliers):
        for _ in range(num_blocks):
            total += block(now, multiplier * width)
            now = multiplier * width
            total += attention(now) if side in attention_at else 0
            skips.append(now)
        if level + 1 < len(multipliers):
            total, side = total + block(now, now), side // 2
            skips.append(now)
    total += 2 * block(now, now) + attention(now)
    for level in reversed(range(len(multipliers))):
        for _ in range(num_blocks + 1):
            total += block(now + skips.pop(), multipliers[level] * width)
            now = multipliers[level] * width
            total += attention(now) if side in attention_at else 0
        if level:
            total, side = total + block(now, now), side * 2
    assert not skips
    return total + norm(now) + conv(now, channels * patch**2)


def size(network, side):
    abstract = jax.eval_shape(
        network.init, jax.random.key(0), jnp.zeros((1, side, side, 3)), jnp.zeros(1, jnp.int32)
    )
    return trees.size(abstract)


def test_parameter_counts():
    # Published: ADM for 256 pixels without classes, whose last layer also has 3 variances.
    assert size(UNet(), 256) == 552_814_086 - (9 * 256 * 3 + 3)
    assert count(256, (1, 1, 2, 2, 4, 4), 2, (32, 16, 8), 256) == 552_807_171
    small = UNet(**SMALL, num_classes=5, patch=2)
    assert size(small, 16) == count(8, (1, 2), 1, (4,), 16, classes=5, patch=2)


# --- The same in NumPy ----------------------------------------------------------------------------


def convolved(p, x):
    kernel, bias = p["kernel"], p["bias"]
    side = kernel.shape[0]
    padded = np.pad(x, ((0, 0), (side // 2,) * 2, (side // 2,) * 2, (0, 0)))
    out = np.zeros((*x.shape[:3], kernel.shape[-1]))
    for i in range(side):
        for j in range(side):
            out += padded[:, i : i + x.shape[1], j : j + x.shape[2]] @ kernel[i, j]
    return out + bias


def normed(p, x, groups=4):
    out = np.empty_like(x)
    size = x.shape[-1] // groups
    for row in range(len(x)):
        for g in range(groups):
            part = x[row, ..., g * size : (g + 1) * size]
            out[row, ..., g * size : (g + 1) * size] = (part - part.mean()) / np.sqrt(
                part.var() + 1e-5
            )
    return out * p["scale"] + p["bias"]


def silu(x):
    return x / (1 + np.exp(-x))


def linear(p, x):
    return x @ p["kernel"] + p["bias"]


def block(p, x, embedding, change=lambda x: x):
    y = convolved(p["conv1"], change(silu(normed(p["norm1"], x))))
    scale, shift = np.split(linear(p["embedding"], silu(embedding)), 2, -1)
    y = normed(p["norm2"], y) * (1 + scale[:, None, None]) + shift[:, None, None]
    y, x = convolved(p["conv2"], silu(y)), change(x)
    x = y + (convolved(p["conv_shortcut"], x) if "conv_shortcut" in p else x)
    if "attention" in p:
        tokens = normed(p["norm_attention"], x).reshape(len(x), -1, x.shape[-1])
        query, key, value = np.split(linear(p["attention"]["qkv"], tokens), 3, -1)
        scores = query @ key.swapaxes(1, 2) / np.sqrt(x.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = weights / weights.sum(-1, keepdims=True) @ value
        x = x + linear(p["attention"]["proj"], mixed).reshape(x.shape)
    return x


def forward(p, x, times, labels):
    frequencies = 10_000.0 ** -(np.arange(4) / 4)
    angles = times[:, None] * frequencies
    embedding = linear(p["time1"], np.concatenate([np.cos(angles), np.sin(angles)], -1))
    embedding = linear(p["time2"], silu(embedding)) + p["classes"]["embedding"][labels]
    half = lambda x: (
        x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]
    ) / 4  # fmt: skip
    twice = lambda x: np.kron(x, np.ones((1, 2, 2, 1)))
    a = convolved(p["conv_in"], x)
    b = block(p["down0_0"], a, embedding)
    c = block(p["shrink0"], b, embedding, half)
    d = block(p["down1_0"], c, embedding)
    x = block(p["middle1"], block(p["middle0"], d, embedding), embedding)
    for name, skip in (("up1_0", d), ("up1_1", c)):
        x = block(p[name], np.concatenate([x, skip], -1), embedding)
    x = block(p["grow1"], x, embedding, twice)
    for name, skip in (("up0_0", b), ("up0_1", a)):
        x = block(p[name], np.concatenate([x, skip], -1), embedding)
    return convolved(p["conv_out"], silu(normed(p["norm_out"], x)))


def test_forward_pass():
    network = UNet(**SMALL, num_classes=3)
    params = variables(network)
    x, times = inputs()
    expected = forward(
        jax.tree.map(lambda a: np.asarray(a, np.float64), params["params"]),
        np.asarray(x, np.float64), np.asarray(times), np.array([2, 3]),
    )  # fmt: skip
    apply = jax.jit(network.apply)
    found = apply(params, x, times, jnp.array([2, 3]))
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    # Without labels every row has the last class; rows do not meet.
    without = apply(params, x, times)
    np.testing.assert_allclose(without[1], found[1], rtol=1e-5, atol=1e-5)
    assert np.abs(without[0] - found[0]).max() > 1e-2
    later = apply(params, x, times + 100, jnp.array([2, 3]))
    assert np.abs(later - found).max() > 1e-2


@pytest.mark.ci
def test_zero_before_training_with_finite_gradients():
    """With patches, in a loop, as training runs."""
    network = UNet(**(SMALL | {"attention_at": ()}), patch=2)
    x, times = inputs()
    start = jax.jit(network.init)(jax.random.key(0), x, times)
    assert not np.asarray(jax.jit(network.apply)(start, x, times)).any()
    loss = lambda params: ((network.apply(params, x, times) - x) ** 2).mean()

    def body(params, _):
        value, grads = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), (value, grads)

    _, (losses, grads) = jax.jit(lambda p: jax.lax.scan(body, p, length=6))(start)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert losses[-1] < 0.95 * losses[0]
    # Once the zeros have moved, everything learns.
    moved = {
        name: np.abs(g[-1]).max()
        for name, g in zip(trees.path_names(start), jax.tree.leaves(grads), strict=True)
    }
    assert min(moved.values()) > 0, [name for name, value in moved.items() if value == 0]


@pytest.mark.ci
def test_gradient_is_that_of_the_whole_batch_on_any_number_of_devices():
    """With one device here, with eight by `tests/multidevice`."""
    network = UNet(**(SMALL | {"multipliers": (1,)}), num_classes=3)
    params = variables(network, (2, 4, 4, 3))
    x, times = inputs(2 * jax.device_count(), side=4)
    labels = times % 4

    def loss(params, x, times, labels):
        return ((network.apply(params, x, times, labels) - x) ** 2).mean()

    mesh = jax.make_mesh((len(x) // 2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.shard_map(
        parallel.value_and_grad(loss, "data"),
        mesh=mesh,
        in_specs=(P(), P("data"), P("data"), P("data")),
        out_specs=P(),
    )
    found = jax.jit(split)(params, x, times, labels)
    expected = jax.jit(jax.value_and_grad(loss))(params, x, times, labels)
    largest = max(np.abs(g).max() for g in jax.tree.leaves(expected))
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * largest)


def test_errors():
    network, (x, times) = UNet(**SMALL, patch=2), inputs()
    with pytest.raises(ValueError, match="7 x 8 pixels must have sides divisible by 4"):
        network.init(jax.random.key(0), x[:, :7], times)
    with pytest.raises(ValueError, match="num_classes=0"):
        network.init(jax.random.key(0), x, times, times)
