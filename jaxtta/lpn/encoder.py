"""The encoder of the Latent Program Network: one (input, output) pair to a Gaussian over programs.

References:
  Macfarlane and Bonnet, Searching Latent Program Spaces, arXiv 2411.08706.
  Official code: clement-bonnet/lpn (src/models/transformer.py).
"""

from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxtta.lpn.config import NUM_COLOURS
from jaxtta.lpn.grids import Grid, coordinates
from jaxtta.lpn.stack import Stack, cat, lift


class Posterior(NamedTuple):
    """Gaussian over latent programs.

    Attributes:
      mean: mu, `[..., H]`, float32.
      logvar: log sigma^2, `[..., H]`, float32; None when the encoder is not variational.
    """

    mean: Array
    logvar: Array | None


class Encoder(Stack):
    """q(z | input, output): one pair of grids to a Gaussian, read at a CLS token."""

    def setup(self) -> None:
        c = self.config
        self.colours = self.table(NUM_COLOURS, "colors_embed")
        self.channels = self.table(2, "channels_embed")
        self.cls = self.table(1, "cls_token")
        self.positions = self.places()
        self.row_counts = self.table(c.max_rows, "grid_shapes_row_embed")
        self.col_counts = self.table(c.max_cols, "grid_shapes_col_embed")
        self.layers = self.blocks()
        self.drop = nn.Dropout(c.dropout)
        self.cls_norm = self.norm("cls_layer_norm")
        self.to_mean = self.head(c.latent_dim, "Dense_0")
        if c.variational:
            self.to_logvar = self.head(c.latent_dim, "Dense_1")

    def __call__(self, inputs: Grid, outputs: Grid) -> Posterior:
        tag = self.channels(jnp.arange(2))
        cls = self.cls(jnp.zeros((*inputs.shape.shape[:-1], 1), jnp.int32))
        tokens, coords = [cls], [jnp.zeros((*cls.shape[:-1], 2))]
        valid = [jnp.ones(cls.shape[:-1], bool)]
        for channel, grid in enumerate((inputs, outputs)):
            rows, cols, inside = coordinates(grid.shape, grid.cells.shape[-1])
            counts = jnp.stack(
                [self.row_counts(grid.shape[..., 0] - 1), self.col_counts(grid.shape[..., 1] - 1)],
                axis=-2,
            )
            cells = self.colours(grid.cells) + self.positions(rows, cols)
            here = lift(tag[channel], counts.ndim)
            tokens += [counts + here, cells + here]
            coords += [jnp.zeros((*counts.shape[:-1], 2)), self.coords(rows, cols)]
            valid += [jnp.ones(counts.shape[:-1], bool), inside]
        x, places = self.embedded(cat(*tokens)), cat(*coords)
        mask = cat(*valid, axis=-1)[..., None, None, :]
        for i, layer in enumerate(self.layers):
            q, k, v = layer.project(x, places)
            if i == self.block.num_layers - 1:  # Only the CLS token is read after the last block.
                x, q = x[..., :1, :], q[..., :1, :]
            x = layer.finish(x, layer.attend(q, k, v, mask))
        cls = self.cls_norm(x[..., 0, :])
        return Posterior(
            self.to_mean(cls), self.to_logvar(cls) if self.config.variational else None
        )
