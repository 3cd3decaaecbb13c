"""The Latent Program Network as pure functions of one parameter tree.

The encoder maps one (input, output) pair of grids to a Gaussian over latent programs; the decoder
executes a latent program on an input grid, one cell at a time.

Both read grids as raster streams (`jaxtta.lpn.grids`): a grid of r x c cells costs r * c tokens,
whatever the largest grid of the model. This is the authors' network with its padding removed:
there, padded cells are masked out everywhere, and the logit of the first cell of a row is taken
from the last *valid* token of the row above, which in a raster stream is simply the token before
it. Outputs are equal.

References:
  Macfarlane and Bonnet, Searching Latent Program Spaces, arXiv 2411.08706.
  Official code: clement-bonnet/lpn (src/models/transformer.py).
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxtta.lpn.config import Config
from jaxtta.lpn.decoder import Decoder, Kept, Logits, Tokens
from jaxtta.lpn.encoder import Encoder, Posterior
from jaxtta.lpn.grids import Grid, Pairs

Params = Any
Made = TypeVar("Made")


class Prepared(NamedTuple):
    """Pairs, embedded once for many latents.

    Attributes:
      inputs: input side, tokens or (with `input_sees_context=False`) finished keys and values.
      outputs: output tokens.
      targets: the output grids themselves.
    """

    inputs: Tokens | Kept
    outputs: Tokens
    targets: Grid


class LPN:
    """The two networks as pure functions of one parameter tree `{"encoder": ..., "decoder": ...}`.

    All grids and latents may have any leading (batch) dimensions; generation, losses and searches
    are written in terms of these functions.

    Args:
      config: structure of the network.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._encoder = Encoder(config, config.encoder)
        self._decoder = Decoder(config, config.decoder)

    def init(self, key: Array) -> Params:
        """Parameters, float32. Compile with `jax.jit` (no grid is needed)."""
        grid = Grid(jnp.zeros((1,), jnp.uint8), jnp.ones((2,), jnp.int32))
        key_encoder, key_decoder = jax.random.split(key)
        contexts = jnp.zeros((max(1, self.config.num_slots), self.config.latent_dim))
        encoder = self._encoder.init(key_encoder, grid, grid)
        decoder = self._decoder.init(key_decoder, grid, grid, contexts, method=Decoder.everything)
        return {"encoder": encoder["params"], "decoder": decoder["params"]}

    def encode(self, params: Params, pairs: Pairs, *, key: Array | None = None) -> Posterior:
        """Encodes every pair on its own.

        Args:
          params: parameters.
          pairs: `[..., N]` pairs.
          key: dropout key; None for no dropout.

        Returns:
          Mean and log-variance, `[..., N, H]`. Rows of masked pairs carry no information.
        """
        made: Posterior = self._apply(
            self._encoder, params["encoder"], Encoder.__call__, pairs.inputs, pairs.outputs, key=key
        )
        return made

    def decoder(
        self, params: Params, method: Callable[..., Made], *args: Any, key: Array | None = None
    ) -> Made:
        """Calls a method of `Decoder`, such as `Decoder.read`, on `params`."""
        made: Made = self._apply(self._decoder, params["decoder"], method, *args, key=key)
        return made

    def _apply(
        self, module: nn.Module, params: Params, method: Callable, *args: Any, key: Array | None
    ) -> Any:
        rngs = None if key is None or not self.config.dropout else {"dropout": key}
        return module.apply({"params": params}, *args, method=method, rngs=rngs)

    def prepare(self, params: Params, pairs: Pairs, *, key: Array | None = None) -> Prepared:
        """What does not depend on the latent: do it once per pair, search many times."""
        # Separate keys: each call starts its random stream anew.
        key_inputs, key_outputs = (None, None) if key is None else jax.random.split(key)
        return Prepared(
            self.decoder(params, Decoder.prepare_inputs, pairs.inputs, key=key_inputs),
            self.decoder(params, Decoder.embed_outputs, pairs.outputs, key=key_outputs),
            pairs.outputs,
        )

    def attended(self, params: Params, prepared: Prepared) -> Prepared:
        """`prepared` with the first block's attention to all but the context token.

        It pays where several latents are tried on the same pairs. Networks with fused attention,
        with context slots or whose inputs are read already are left as they are.
        """
        tokens, outputs = prepared.inputs, prepared.outputs
        if self.config.fused or self.config.num_slots or isinstance(tokens, Kept):
            return prepared
        found = self.decoder(params, Decoder.attended, tokens, outputs)
        return Prepared(*found, prepared.targets)

    def logits(
        self,
        params: Params,
        contexts: Array,
        prepared: Prepared,
        *,
        context_valid: Array | None = None,
        key: Array | None = None,
    ) -> Logits:
        """Teacher-forced predictions of the outputs of `prepared` under `contexts`.

        Args:
          params: parameters.
          contexts: latent programs `[..., H]`, one per pair; `[..., M, H]` when `num_slots > 0`.
          prepared: from `prepare`.
          context_valid: `[..., M]`, only with slots.
          key: dropout key; None for no dropout.
        """
        if not self.config.num_slots:
            contexts = contexts[..., None, :]
        if context_valid is None:
            context_valid = jnp.ones(contexts.shape[:-1], bool)
        tokens = (prepared.inputs, prepared.outputs)
        return self.decoder(params, Decoder.__call__, *tokens, contexts, context_valid, key=key)

    def num_parameters(self) -> dict[str, int]:
        """Exact parameter counts: `encoder`, `decoder` and `total`, of one copy."""
        tree = jax.eval_shape(self.init, jax.random.key(0))
        counts = {
            part: sum(leaf.size for leaf in jax.tree.leaves(tree[part]))
            for part in ("encoder", "decoder")
        }
        return {**counts, "total": sum(counts.values())}
