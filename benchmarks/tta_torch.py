"""Adaptation steps here against the same steps in PyTorch, on the same weights and batches.

python -m benchmarks.tta_torch --weights cifar10_resnet20.npz

Needs PyTorch, which the project itself does not depend on. The weights are the state_dict of a
CIFAR ResNet-20 (akamaster/pytorch_resnet_cifar10) as npz. Network and methods are written again
below, eagerly as PyTorch users run them. Both sides take turns batch by batch on `--threads`
threads (pin the process to as many cores, XLA takes all that it sees); times are medians over the
batches after the first, so without compilation. So that results can be compared, the Fisher
diagonal of EATA is 1, and CoTTA's augmentation is a shared random brightness per pass; numbers are
restored with probability 0, though both sides draw.
"""

import argparse
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import timing
from experiments.data.images import loader as data
from jaxtrain import nets
from jaxtrain.host import arrays
from jaxtrain.nets.torch_weights import CIFAR_RESNET
from jaxtta import adaptation
from jaxtta.images import batch_statistics as norm
from jaxtta.images import entropy, mean_teacher
from jaxtta.images.eata import eata
from jaxtta.selection import norm_parameters

try:
    import torch
    from torch import nn
    from torch.nn import functional as F
except ImportError:
    raise SystemExit(
        "benchmarks.tta_torch compares with PyTorch, which is not installed; "
        "pip install torch (the CPU build is enough)"
    ) from None

METHODS = ("source", "tent", "eata", "cotta")
RATE, THRESHOLD, REDUNDANCY, DECAY = 1e-3, 0.4 * np.log(10), 0.4, 0.999


# --- PyTorch --------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, before, width):
        super().__init__()
        self.stride = 1 if before == width else 2
        self.conv1 = nn.Conv2d(before, width, 3, self.stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        missing = (y.shape[1] - x.shape[1]) // 2
        x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, missing, missing))
        return F.relu(x + y)


class ResNet20(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        stage = lambda before, width: nn.Sequential(
            *(Block(before if i == 0 else width, width) for i in range(3))
        )
        self.layer1, self.layer2, self.layer3 = stage(16, 16), stage(16, 32), stage(32, 64)
        self.linear = nn.Linear(64, 10)
        pixels = lambda x: torch.tensor(x).reshape(1, 3, 1, 1)
        self.mean, self.std = pixels((0.485, 0.456, 0.406)), pixels((0.229, 0.224, 0.225))

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1((x - self.mean) / self.std)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def loaded(path, batch_statistics):
    """The network with its weights; with `batch_statistics` it normalises by those of a batch."""
    network = ResNet20().requires_grad_(False)
    tensors = {name: torch.tensor(x) for name, x in arrays.read(path).items()}
    network.load_state_dict(tensors, strict=False)
    network.train(batch_statistics)
    for module in network.modules():
        if batch_statistics and isinstance(module, nn.BatchNorm2d):
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
    return network


def norms_of(network):
    found = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    return [p.requires_grad_() for m in found for p in (m.weight, m.bias)]


def entropy_of(logits):
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1)


def torch_source(path, factors):
    network = loaded(path, False)

    def step(x, t):
        with torch.no_grad():
            return network(x)

    return step


def torch_tent(path, factors):
    network = loaded(path, True)
    optimizer = torch.optim.Adam(norms_of(network), RATE)

    def step(x, t):
        logits = network(x)
        optimizer.zero_grad()
        entropy_of(logits).mean().backward()
        optimizer.step()
        return logits.detach()

    return step


def torch_eata(path, factors):
    network, mean = loaded(path, True), None
    params = norms_of(network)
    first = [p.detach().clone() for p in params]
    optimizer = torch.optim.Adam(params, RATE)

    def step(x, t):
        nonlocal mean
        logits = network(x)
        uncertainty, p = entropy_of(logits), logits.detach().softmax(1)
        chosen = uncertainty.detach() < THRESHOLD
        if mean is not None:
            chosen &= F.cosine_similarity(mean[None], p).abs() < REDUNDANCY
        if chosen.any():
            new = p[chosen].mean(0)
            mean = new if mean is None else 0.9 * mean + 0.1 * new
            kept = uncertainty[chosen]
            loss = (torch.exp(THRESHOLD - kept.detach()) * kept).mean()
            loss = loss + sum(((q - q0) ** 2).sum() for q, q0 in zip(params, first, strict=True))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return logits.detach()

    return step


def torch_cotta(path, factors):
    anchor, teacher, student = (loaded(path, True) for _ in range(3))
    params = list(student.requires_grad_().parameters())
    first = list(anchor.parameters())
    optimizer = torch.optim.Adam(params, RATE)

    def step(x, t):
        with torch.no_grad():
            anchor(x).softmax(1).max(1).values.mean()  # the confidence; always augmented here
            target = sum(teacher(x * float(f)) for f in factors[t]) / len(factors[t])
        loss = -(target.softmax(1) * student(x).log_softmax(1)).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for p_teacher, p, p0 in zip(teacher.parameters(), params, first, strict=True):
                p_teacher.mul_(DECAY).add_(p, alpha=1 - DECAY)
                p.copy_(torch.where(torch.rand_like(p) < 0, p0, p))
        return target

    return step


# --- Here -----------------------------------------------------------------------------------------


def brightness(key):
    return jax.random.uniform(key, minval=0.8, maxval=1.0)


def drawn_factors(num_batches, number):
    """Brightness of every augmented pass of `mean_teacher.cotta`, `[batches, number]`."""

    def of(t):
        key, _ = jax.random.split(jax.random.fold_in(jax.random.key(0), t))
        first = lambda key: brightness(jax.random.split(key)[0])
        return jax.vmap(first)(jax.random.split(key, number))

    return np.asarray(jax.vmap(of)(jnp.arange(num_batches)))


def cores(network, params, number):
    fisher = jax.tree.map(jnp.ones_like, adaptation.split(params, norm_parameters)[0])
    adam = optax.adam(RATE)
    return {
        "source": (norm.source(network), (), torch_source),
        "tent": (entropy.tent(network, adam), (), torch_tent),
        "eata": (eata(network, adam, 10), (fisher,), torch_eata),
        "cotta": (
            mean_teacher.cotta(
                network,
                adam,
                num_augmentations=number,
                min_confidence=1.1,
                restore_probability=0.0,
                augmentation=lambda x, key, rows: x * brightness(key),
            ),
            (),
            torch_cotta,
        ),
    }


def compare(core, their_step, args, batches):
    """Seconds per batch of both sides, and the largest difference of logits, `[batches]` each."""
    step = jax.jit(core.update, donate_argnums=0)
    state, rows = core.init(*args), []
    for t, x in enumerate(batches):
        key = jax.random.fold_in(jax.random.key(0), t)
        ours, theirs = jnp.asarray(x), torch.tensor(x.transpose(0, 3, 1, 2))
        theirs = theirs.contiguous()
        begin = time.perf_counter()
        state, out = step(state, {"inputs": ours}, key)
        jax.block_until_ready((state, out))
        middle = time.perf_counter()
        logits = their_step(theirs, t)
        end = time.perf_counter()
        difference = np.abs(np.asarray(out.outputs.logits) - logits.numpy()).max()
        rows.append((middle - begin, end - middle, difference))
    return np.array(rows).T


@timing.told()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", required=True, help="npz of a PyTorch state_dict, ResNet-20")
    parser.add_argument("--data", default="cifar10", choices=data.SETS)
    parser.add_argument("--data_dir", default="", help="folder of the images; else JAXTTA_DATA")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--augmentations", type=int, default=32, help="of CoTTA")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    options = parser.parse_args()
    if not Path(options.weights).is_file():
        raise SystemExit(f"--weights={options.weights} is no file; give the npz of a state_dict")
    torch.set_num_threads(options.threads)
    found = data.load(options.data, "test", options.data_dir, options.batch * options.batches)
    noise = np.random.default_rng(0).normal(0, 0.1, found.images.shape)
    x = np.clip(found.images / 255 + noise, 0, 1).astype(np.float32)
    batches = x.reshape(options.batches, options.batch, *x.shape[1:])
    module = nets.cifar_resnet(20)
    expected = jax.eval_shape(nets.from_linen(module).init, jax.random.key(0), batches[0][:1])
    weights = nets.import_torch(arrays.read(options.weights), *expected, CIFAR_RESNET)
    factors = drawn_factors(options.batches, options.augmentations)
    table = cores(nets.classifier(module), weights[0], options.augmentations)
    print(
        f"ResNet-20, {options.batches} batches of {options.batch}, {found.provenance} with noise, "
        f"PyTorch {torch.__version__}, {options.threads} thread(s), CoTTA with "
        f"{options.augmentations} augmentations"
    )
    print(f"{'method':<8} {'ours s':>8} {'torch s':>8} {'torch/ours':>11} {'logits differ':>14}")
    for name in options.methods:
        core, known, make = table[name]
        step, args = make(options.weights, factors), (*weights, *known)
        ours, theirs, difference = compare(core, step, args, batches)
        assert difference[0] < 1e-3, difference  # before the first update
        ratio = statistics.median(theirs[1:] / ours[1:])
        print(
            f"{name:<8} {np.median(ours[1:]):8.3f} {np.median(theirs[1:]):8.3f} {ratio:11.2f} "
            f"{difference.max():14.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
