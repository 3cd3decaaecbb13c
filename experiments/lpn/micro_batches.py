"""How many training tasks are computed at once, and what `micro_batch=-1` stands for.

Attention writes a score for every query and key. On CPUs a step is faster while the scores of a
micro-batch stay in the caches, so -1 chooses it from their bytes; accelerators take the whole batch
at once, which their memory decides (`experiments.plan`).
"""

from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxtrain.host.config import UsageError
from jaxtrain.parallel import AnyMesh, num_shards

CHOSEN = -1
# The second-level caches of two cores; `lpn_arc:small` is 1.4 times as fast with the 8 tasks whose
# scores they hold as with all 32 at once.
CACHED_BYTES = 4 * 2**20


def score_bytes(config: ConfigDict) -> int:
    """Bytes of the float32 attention scores of one block for one training task.

    Of encoder and decoder it is the larger: the encoder reads every pair once, 2 L + 5 tokens for
    grids of L cells; in the decoder L + 1 output tokens of every decoded pair read 2 L + 4. Latents
    of pair i that are searched or tried decode all pairs but i.
    """
    data, train = config.data, config.train
    cells = max(data.lengths) if "lengths" in data else data.num_rows * data.num_cols
    encoder, decoder = config.model.encoder, config.model.decoder
    encoded = data.num_pairs if encoder.num_layers else 0
    decoded = data.num_pairs
    if train.mode not in ("mean", "in_context"):
        decoded *= data.num_pairs - 1
    if train.mode in ("random_search", "gradient_ascent"):
        search, options = train.search, train.search.random_search
        at_once = search.include_mean_latent + search.perturbations
        at_once += search.include_all_latents * (data.num_pairs - 1)
        if train.mode == "random_search":
            at_once += options.num_samples
            at_once = min(options.scan_batch_size or at_once, at_once)
        elif search.gradient_ascent.scan_starts:
            at_once = 1
        decoded *= at_once
    of_encoder = encoded * encoder.num_heads * (2 * cells + 5) ** 2
    of_decoder = decoded * decoder.num_heads * (cells + 1) * (2 * cells + 4)
    return 4 * max(of_encoder, of_decoder)


def cached(batch_size: int, task_bytes: int, devices: int) -> int:
    """The largest micro-batch whose scores stay within `CACHED_BYTES` on each of the devices.

    Args:
      batch_size: of a step, a multiple of `devices`; so is the result, which divides it.
      task_bytes: scores of one task.
      devices: devices that share every micro-batch; each computes one task at least.
    """
    share = batch_size // devices
    most = max(1, CACHED_BYTES // task_bytes)
    return devices * max(n for n in range(1, min(share, most) + 1) if share % n == 0)


def settled(config: ConfigDict, mesh: AnyMesh) -> ConfigDict:
    """The config with the micro-batch that -1 stands for on these devices."""
    if config.micro_batch != CHOSEN:
        return config
    config = config.copy_and_resolve_references()
    on_cpu = isinstance(mesh, Mesh) and mesh.devices.flat[0].platform == "cpu"
    config.micro_batch = (
        cached(config.batch_size, score_bytes(config), num_shards(mesh)) if on_cpu else 0
    )
    return config


def num_micro_batches(config: ConfigDict, devices: int) -> int:
    """Micro-batches per update.

    Raises:
      UsageError: the batch does not divide.
    """
    size = config.micro_batch or config.batch_size
    if size < 1 or config.batch_size % size or size % devices:
        raise UsageError(
            f"micro_batch={size} does not fit batch_size={config.batch_size} on {devices} devices; "
            f"use a divisor of the batch that is a multiple of {devices}, or 0"
        )
    return config.batch_size // size
