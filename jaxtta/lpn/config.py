"""Structure of the Latent Program Network: sizes, positions and switches."""

import dataclasses
from typing import Literal

from flax import linen as nn

from jaxtrain.nets.attention import Fused

NUM_COLOURS = 10
POSITIONS = ("learned", "scaled", "rope")
ACTIVATIONS = {"silu": nn.silu, "relu": nn.relu}


@dataclasses.dataclass(frozen=True)
class Block:
    """Sizes of one stack of transformer blocks.

    Attributes:
      num_layers: number of blocks; 0 is allowed (the published single-task encoders have none).
      num_heads: attention heads per block.
      head_dim: channels per head; the width is `num_heads * head_dim`.
      mlp_factor: width of the feed-forward layer over the width of the block.
    """

    num_layers: int = 2
    num_heads: int = 8
    head_dim: int = 16
    mlp_factor: float = 4.0

    def __post_init__(self) -> None:
        if self.num_layers < 0 or min(self.num_heads, self.head_dim) < 1 or self.mlp_factor <= 0:
            raise ValueError(
                f"{self} is impossible; num_layers must be at least 0, num_heads and head_dim at "
                "least 1 and mlp_factor above 0."
            )

    @property
    def width(self) -> int:
        return self.num_heads * self.head_dim


@dataclasses.dataclass(frozen=True)
class Config:
    """Structure of the network. Every field changes shapes or the program, none is sweepable.

    Attributes:
      max_rows: R, largest number of rows.
      max_cols: C, largest number of columns.
      latent_dim: H, size of a latent program.
      encoder: blocks of the encoder.
      decoder: blocks of the decoder.
      positions: `learned` tables (the authors' code and all Pattern runs), `scaled` (one learned
        vector times index + 1) or `rope` (axial rotary with learnable frequencies and no tables;
        the form of the paper's ARC runs, not in the released code: tokens without a cell get angle
        0, output tokens the position of the cell they predict).
      rope_max_frequency: largest initial rotary frequency, over pi / 2.
      variational: Gaussian encoder; False gives a point encoder and no KL terms.
      next_position: output tokens carry the position of the cell they predict.
      separate_input_positions: input cells of the decoder get position tables of their own.
      use_bias: biases in dense layers of the blocks and in norms.
      activation: `silu` or `relu`.
      dropout: rate on embeddings and residual branches. Its masks are drawn for padded streams and
        pairs: above 0 (in no published run) numbers depend on how tasks are padded and bucketed.
      dtype: of the activations between the blocks and in them, `float32` or `bfloat16`. Parameters
        and their gradients, embeddings, readouts, rotations, softmax and norms are float32 in both
        (the authors' mixed precision has embeddings, readouts and softmax in bfloat16, too).
      input_sees_context: input tokens attend to the context token (the published model). False
        makes the input side independent of the latent, so that a search computes it once per task.
      num_slots: 0 for the latent program network; n > 0 gives each of up to n context tokens a
        learned slot vector (the in-context baseline).
      remat: recompute block activations in the backward pass (memory for time, same numbers).
      fused: implementation of fused attention, `xla` or `cudnn` (as
        `jaxtrain.nets.attention.attend_fused`; the same numbers but for rounding); None: none.
    """

    max_rows: int = 30
    max_cols: int = 30
    latent_dim: int = 32
    encoder: Block = Block()
    decoder: Block = Block()
    positions: Literal["learned", "scaled", "rope"] = "learned"
    rope_max_frequency: float = 10.0
    variational: bool = True
    next_position: bool = True
    separate_input_positions: bool = False
    use_bias: bool = False
    activation: Literal["silu", "relu"] = "silu"
    dropout: float = 0.0
    dtype: str = "float32"
    input_sees_context: bool = True
    num_slots: int = 0
    remat: bool = False
    fused: Fused | None = None

    def __post_init__(self) -> None:
        if self.positions not in POSITIONS:
            raise ValueError(
                f"positions is {self.positions!r}; choose one of {', '.join(POSITIONS)}."
            )
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation is {self.activation!r}; choose one of {', '.join(ACTIVATIONS)}."
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is {self.dtype!r}; choose float32 or bfloat16.")
        if self.fused not in (None, "xla", "cudnn"):
            raise ValueError(f"fused is {self.fused!r}; choose xla, cudnn or None.")
        if self.fused == "cudnn" and not self.suits_cudnn:
            raise ValueError(
                "fused is 'cudnn', which needs dtype 'bfloat16' and heads of at most 128 channels "
                "in multiples of 8; change them, or choose xla."
            )
        for name in ("max_rows", "max_cols", "latent_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be at least 0 and below 1.")
        for name in ("encoder", "decoder"):
            if self.positions == "rope" and getattr(self, name).head_dim % 4:
                raise ValueError(
                    f"{name}.head_dim is {getattr(self, name).head_dim}; rotary positions need a "
                    "multiple of 4."
                )
        if self.decoder.num_layers < 1:
            raise ValueError("decoder.num_layers must be at least 1.")

    @property
    def suits_cudnn(self) -> bool:
        """Whether the attention of cuDNN can be used."""
        sizes = {self.encoder.head_dim, self.decoder.head_dim}
        return self.dtype == "bfloat16" and all(n <= 128 and n % 8 == 0 for n in sizes)
