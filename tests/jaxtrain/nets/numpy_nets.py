"""Forward passes in NumPy, written from the PyTorch definitions and their `state_dict` names.

Arrays are float64, images `[B, C, H, W]`, already standardised.
"""

import math

import numpy as np


def conv(x, weight, stride=1, padding=0, groups=1):
    """Cross-correlation with zero padding; weight (out, in / groups, h, w)."""
    out, _, height, width = weight.shape
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (height, width), axis=(2, 3))
    windows = windows[:, :, ::stride, ::stride]
    parts = []
    for w, g in zip(np.split(weight, groups), np.split(windows, groups, axis=1), strict=True):
        parts.append(np.einsum("bcyxhw,ochw->boyx", g, w, optimize=True))
    assert sum(p.shape[1] for p in parts) == out
    return np.concatenate(parts, axis=1)


def relu(x):
    return np.maximum(x, 0)


def column(v):
    return v[None, :, None, None]


def batch_norm(x, weights, name, batch=False):
    """With stored statistics, or with those of the batch and the biased variance."""
    if batch:
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
    else:
        mean, var = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    normal = (x - column(mean)) / np.sqrt(column(var) + 1e-5)
    return normal * column(weights[f"{name}.weight"]) + column(weights[f"{name}.bias"])


def group_norm(x, weights, name, groups=8):
    rows = x.reshape(len(x), groups, -1)
    rows = (rows - rows.mean(-1, keepdims=True)) / np.sqrt(rows.var(-1, keepdims=True) + 1e-5)
    normal = rows.reshape(x.shape)
    return normal * column(weights[f"{name}.weight"]) + column(weights[f"{name}.bias"])


def linear(x, weights, name):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def num_blocks(weights, prefix):
    found = {n[len(prefix) + 1 :].split(".")[0] for n in weights if n.startswith(prefix + ".")}
    return len(found)


def cifar_resnet(x, w, batch=False):
    bn = lambda y, name: batch_norm(y, w, name, batch)
    x = relu(bn(conv(x, w["conv1.weight"], padding=1), "bn1"))
    for layer in (1, 2, 3):
        for i in range(num_blocks(w, f"layer{layer}")):
            name = f"layer{layer}.{i}"
            stride = 2 if layer > 1 and i == 0 else 1
            y = relu(bn(conv(x, w[f"{name}.conv1.weight"], stride, 1), f"{name}.bn1"))
            y = bn(conv(y, w[f"{name}.conv2.weight"], 1, 1), f"{name}.bn2")
            if x.shape != y.shape:
                x = x[:, :, ::2, ::2]
                quarter = y.shape[1] // 4
                x = np.pad(x, ((0, 0), (quarter, quarter), (0, 0), (0, 0)))
            x = relu(x + y)
    return linear(x.mean((2, 3)), w, "linear")


def wide_resnet(x, w):
    x = conv(x, w["conv1.weight"], padding=1)
    for layer in (1, 2, 3):
        for i in range(num_blocks(w, f"block{layer}.layer")):
            name = f"block{layer}.layer.{i}"
            stride = 2 if layer > 1 and i == 0 else 1
            active = relu(batch_norm(x, w, f"{name}.bn1"))
            y = relu(
                batch_norm(conv(active, w[f"{name}.conv1.weight"], stride, 1), w, f"{name}.bn2")
            )
            y = conv(y, w[f"{name}.conv2.weight"], 1, 1)
            if f"{name}.convShortcut.weight" in w:
                x = conv(active, w[f"{name}.convShortcut.weight"], stride)
            x = x + y
    return linear(relu(batch_norm(x, w, "bn1")).mean((2, 3)), w, "fc")


def resnet26_gn(x, w):
    x = conv(x, w["conv1.weight"], padding=1)
    for layer in (1, 2, 3):
        for i in range(num_blocks(w, f"layer{layer}")):
            name = f"layer{layer}.{i}"
            stride = 2 if layer > 1 and i == 0 else 1
            y = relu(group_norm(x, w, f"{name}.bn1"))
            y = relu(group_norm(conv(y, w[f"{name}.conv1.weight"], stride, 1), w, f"{name}.bn2"))
            y = conv(y, w[f"{name}.conv2.weight"], 1, 1)
            if stride == 2:
                b, c, h, v = x.shape
                x = x.reshape(b, c, h // 2, 2, v // 2, 2).mean((3, 5))
                x = np.concatenate([x, np.zeros_like(x)], axis=1)
            x = x + y
    return linear(relu(group_norm(x, w, "bn")).mean((2, 3)), w, "fc")


def bottlenecks(x, w, names, convs, norms, groups):
    """Stages of bottleneck blocks; `names` are the prefixes of the stages."""
    for k, stage in enumerate(names):
        for i in range(num_blocks(w, stage)):
            name, stride = f"{stage}.{i}", 2 if k and not i else 1
            y = relu(batch_norm(conv(x, w[f"{name}.{convs[0]}.weight"]), w, f"{name}.{norms[0]}"))
            y = conv(y, w[f"{name}.{convs[1]}.weight"], stride, 1, groups)
            y = relu(batch_norm(y, w, f"{name}.{norms[1]}"))
            y = batch_norm(conv(y, w[f"{name}.{convs[2]}.weight"]), w, f"{name}.{norms[2]}")
            if f"{name}.downsample.0.weight" in w:
                x = conv(x, w[f"{name}.downsample.0.weight"], stride)
                x = batch_norm(x, w, f"{name}.downsample.1")
            x = relu(x + y)
    return x


def resnext29(x, w, groups):
    x = relu(batch_norm(conv(x, w["conv_1_3x3.weight"], padding=1), w, "bn_1"))
    convs, norms = ("conv_reduce", "conv_conv", "conv_expand"), ("bn_reduce", "bn", "bn_expand")
    x = bottlenecks(x, w, ["stage_1", "stage_2", "stage_3"], convs, norms, groups)
    return linear(x.mean((2, 3)), w, "classifier")


def imagenet_stem(x, w):
    x = relu(batch_norm(conv(x, w["conv1.weight"], 2, 3), w, "bn1"))
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
    return windows[:, :, ::2, ::2].max((-1, -2))


def resnet50(x, w):
    convs, norms = ("conv1", "conv2", "conv3"), ("bn1", "bn2", "bn3")
    layers = ["layer1", "layer2", "layer3", "layer4"]
    x = bottlenecks(imagenet_stem(x, w), w, layers, convs, norms, 1)
    return linear(x.mean((2, 3)), w, "fc")


def layer_norm(x, w, name):
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return normal * w[f"{name}.weight"] + w[f"{name}.bias"]


def vit(x, w, num_heads, patch):
    x = conv(x, w["patch_embed.proj.weight"], patch)
    x = x + column(w["patch_embed.proj.bias"])
    x = x.reshape(*x.shape[:2], -1).transpose(0, 2, 1)
    x = np.concatenate([np.repeat(w["cls_token"], len(x), 0), x], axis=1) + w["pos_embed"]
    width = x.shape[-1]
    for i in range(num_blocks(w, "blocks")):
        name = f"blocks.{i}"
        qkv = linear(layer_norm(x, w, f"{name}.norm1"), w, f"{name}.attn.qkv")
        heads = []
        for h in range(num_heads):
            part = slice(h * width // num_heads, (h + 1) * width // num_heads)
            q, k, v = (qkv[..., j * width : (j + 1) * width][..., part] for j in range(3))
            scores = q @ k.transpose(0, 2, 1) / math.sqrt(width // num_heads)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(weights / weights.sum(-1, keepdims=True) @ v)
        x = x + linear(np.concatenate(heads, -1), w, f"{name}.attn.proj")
        hidden = linear(layer_norm(x, w, f"{name}.norm2"), w, f"{name}.mlp.fc1")
        hidden = 0.5 * hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
        x = x + linear(hidden, w, f"{name}.mlp.fc2")
    return linear(layer_norm(x, w, "norm")[:, 0], w, "head")
