"""A decoder-only language model of the shapes of Llama, SmolLM2 and Qwen2, with kept keys.

The blocks are those of `jaxtrain.nets.transformer`: root-mean-square norms, grouped-query
attention with rotary positions on neighbouring pairs of channels, a gated feed-forward layer.

Rows live in slots. A block of new tokens takes the same slots in every row, so one number says
where it begins; a row with less to say marks the rest of its slots as empty. `valid` is that mark,
positions count the valid slots only, and a token reads the valid slots up to its own. Left padding,
ragged turns, injected text and restarts are thereby one and the same operation. Rows that hold
several texts number them 1, 2, ... in `valid`; 0 is empty.

    model = decoder(PUBLISHED["smollm2_135m"])
    hidden, cache = model.forward(params, tokens, valid)
    logits = model.logits(params, hidden[:, -1])

References:
  Touvron et al., LLaMA, arXiv 2302.13971. Yang et al., Qwen2, arXiv 2407.10671.
  Allal et al., SmolLM2, arXiv 2502.02737.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxtrain.lm.logits import LARGEST, PLAIN, Options, Scores, scores
from jaxtrain.nets.attention import keep, rotary_angles
from jaxtrain.nets.transformer import Attention, FeedForward, TransformerBlock

Cache = tuple[tuple[Array, Array], ...]
LARGEST_SIZE = 2**24
"""Of every axis: beyond what is published, and what a damaged file may ask for."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Structure of the network. Every field changes shapes or the program, none is sweepable.

    Attributes:
      vocabulary: V, number of tokens.
      width: D, channels of a token.
      num_layers: blocks.
      num_heads: H, query heads.
      num_kv_heads: key and value heads; divides `num_heads`.
      head_dim: channels of a head, an even number.
      hidden: width of the feed-forward layer.
      rotary_base: base of the rotary frequencies.
      norm_epsilon: added to the mean square in the norms.
      tied: the output matrix is the table of token vectors.
      qkv_bias: queries, keys and values have a bias (Qwen2).
      dtype: of the activations, `float32` or `bfloat16`; logits and softmax are float32.
      param_dtype: of the parameters.
      remat: recompute activations in the backward pass (memory for time, same numbers).
    """

    vocabulary: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    hidden: int
    rotary_base: float = 10_000.0
    norm_epsilon: float = 1e-5
    tied: bool = True
    qkv_bias: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"
    remat: bool = False

    def __post_init__(self) -> None:
        sizes = ("vocabulary", "width", "num_layers", "num_heads", "num_kv_heads", "hidden")
        for name in (*sizes, "head_dim"):
            size = getattr(self, name)
            if not isinstance(size, int) or not 1 <= size <= LARGEST_SIZE:
                raise ValueError(
                    f"{name} is {size}; it must be a whole number from 1 to {LARGEST_SIZE}."
                )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads is {self.num_kv_heads}; it must divide num_heads, which is "
                f"{self.num_heads}."
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim is {self.head_dim}; rotary pairs need an even number.")
        for name in ("rotary_base", "norm_epsilon"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it must be positive and finite."
                )
        for name in ("dtype", "param_dtype"):
            if getattr(self, name) not in ("float32", "bfloat16"):
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose float32 or bfloat16.")


_SMOLLM2 = Config(49_152, 576, 30, 9, 3, 64, 1536, rotary_base=1e5)
_QWEN2 = Config(151_936, 896, 24, 14, 2, 64, 4864, 1e6, norm_epsilon=1e-6, qkv_bias=True)

PUBLISHED = {
    "smollm2_135m": _SMOLLM2,
    "smollm2_360m": dataclasses.replace(
        _SMOLLM2, width=960, num_layers=32, num_heads=15, num_kv_heads=5, hidden=2560
    ),
    "smollm2_1.7b": Config(49_152, 2048, 24, 32, 32, 64, 8192, rotary_base=1.3e5),
    "qwen2.5_0.5b": _QWEN2,
    "qwen2.5_1.5b": dataclasses.replace(
        _QWEN2, width=1536, num_layers=28, num_heads=12, head_dim=128, hidden=8960
    ),
    "tinyllama_1.1b": Config(32_000, 2048, 22, 32, 4, 64, 5632, tied=False),
    "llama3_8b": Config(128_256, 4096, 32, 32, 8, 128, 14_336, rotary_base=5e5, tied=False),
}
"""Published networks by name, as their `config.json` files describe them."""


class Decoder(NamedTuple):
    """A language model as pure functions.

    Attributes:
      config: its structure.
      init: `key -> params`.
      embed: `(params, tokens [..., T]) -> vectors [..., T, D]`.
      forward: `(params, tokens, valid, cache=None, start=0, *, head_scale=None,
        every_layer=False) -> (hidden, cache)`, see `decoder`.
      logits: `(params, hidden [..., D]) -> [..., V]`, float32.
      log_probs: `(params, hidden [B, T, D], targets [B, T], mask=None, options=PLAIN,
        largest=LARGEST) -> Scores`, as `jaxtrain.lm.logits.scores`.
      empty_cache: `(rows, slots) -> cache`.
    """

    config: Config
    init: Callable[[Array], Any]
    embed: Callable[[Any, Array], Array]
    forward: Callable[..., tuple[Array, Cache]]
    logits: Callable[[Any, Array], Array]
    log_probs: Callable[..., Scores]
    empty_cache: Callable[[int, int], Cache]


def decoder(config: Config) -> Decoder:
    """The network of a config.

    `forward` reads T tokens per row. Its arguments are

    - `tokens`: ids `[B, T]`, or vectors `[B, T, D]` in their place (a continuous prefix);
    - `valid`: `[B, S]`, which of all slots hold a token, those of this block included; True and
      False, or numbers of the texts in packed rows;
    - `cache`: what an earlier call or `empty_cache` returned, S slots; None: this is all there is,
      S = T;
    - `start`: the slot of the first token. A block that does not fit is not kept;
    - `head_scale`: `[layers, H]`, factors on what the heads read; None: ones;
    - `every_layer`: states of all layers instead of the last.

    It returns `hidden` `[B, T, D]`, or `[layers + 1, B, T, D]` of the token vectors and of what
    every block made of them, all through the last norm, so that `logits` reads any of them; and the
    cache, per layer keys and values `[B, num_kv_heads, S, head_dim]`.

    Raises:
      ValueError: (of `forward`) shapes that do not fit each other, or a known `start` without room.
    """
    network = _Network(config)
    call = lambda params, *args, **options: network.apply({"params": params}, *args, **options)

    def init(key: Array) -> Any:
        return network.init(key, method="everything")["params"]

    def embed(params: Any, tokens: Array) -> Array:
        made: Any = call(params, tokens, method="embed")
        return made

    def forward(
        params: Any,
        tokens: Array,
        valid: Array,
        cache: Cache | None = None,
        start: Array | int = 0,
        *,
        head_scale: Array | None = None,
        every_layer: bool = False,
    ) -> tuple[Array, Cache]:
        if tokens.ndim not in (2, 3) or jnp.issubdtype(tokens.dtype, jnp.integer) != (
            tokens.ndim == 2
        ):
            raise ValueError(
                f"tokens are {tokens.dtype} of shape {tokens.shape}; give ids, whole numbers "
                "[B, T], or vectors [B, T, D]."
            )
        slots = tokens.shape[1] if cache is None else cache[0][0].shape[-2]
        if valid.shape != (tokens.shape[0], slots):
            raise ValueError(
                f"valid has shape {valid.shape}, but {tokens.shape[0]} rows have {slots} slots; "
                "mark every slot, those of earlier blocks and free ones too."
            )
        if head_scale is not None and head_scale.shape != (config.num_layers, config.num_heads):
            raise ValueError(
                f"head_scale has shape {head_scale.shape}; give a factor for each of the "
                f"{config.num_layers} layers and {config.num_heads} heads."
            )
        made: Any = call(params, tokens, valid, cache, start, head_scale, every_layer)
        return made

    def logits(params: Any, hidden: Array) -> Array:
        made: Any = call(params, hidden, method="read")
        return made

    def log_probs(
        params: Any,
        hidden: Array,
        targets: Array,
        mask: Array | None = None,
        options: Options = PLAIN,
        largest: int = LARGEST,
    ) -> Scores:
        read = functools.partial(logits, params)
        return scores(read, hidden, targets, mask, options, largest)

    def empty_cache(rows: int, slots: int) -> Cache:
        shape = (rows, config.num_kv_heads, slots, config.head_dim)
        room = lambda: jnp.zeros(shape, config.dtype)  # arrays of their own, to be donated
        return tuple((room(), room()) for _ in range(config.num_layers))

    return Decoder(config, init, embed, forward, logits, log_probs, empty_cache)


def score(
    model: Decoder,
    params: Any,
    tokens: Array,
    valid: Array,
    mask: Array | None = None,
    options: Options = PLAIN,
    *,
    prefix: Array | None = None,
    largest: int = LARGEST,
) -> Scores:
    """How probable every token of given rows was after what its row holds before it.

    Args:
      model: the language model.
      params: its parameters.
      tokens: `[B, S]`.
      valid: `[B, S]`, as in `decoder`; slots may be empty anywhere.
      mask: `[B, S]`, True where a score is wanted; None: everywhere.
      options: what the tokens were sampled with.
      prefix: vectors `[B, W, D]` instead of the first W tokens.
      largest: as in `jaxtrain.lm.logits.scores`.

    Returns:
      Three arrays `[B, S]`; 0 for empty slots, for the first token of a text and outside the mask.
    """
    hidden, wanted = states_before(model, params, tokens, valid, prefix)
    if mask is not None:
        wanted &= mask > 0
    return model.log_probs(params, hidden, tokens, wanted, options, largest)


def states_before(
    model: Decoder, params: Any, tokens: Array, valid: Array, prefix: Array | None = None
) -> tuple[Array, Array]:
    """The states that the tokens of given rows are drawn from.

    Args:
      model: the language model.
      params: its parameters.
      tokens: `[B, S]`.
      valid: `[B, S]`, as in `decoder`; slots may be empty anywhere.
      prefix: vectors `[B, W, D]` instead of the first W tokens.

    Returns:
      For every token the state after what its row holds before it, `[B, S, D]`; and where there is
      one, `[B, S]`, bool: not in empty slots, and not for the first token of a text.
    """
    hidden, _ = model.forward(params, behind(model, params, prefix, tokens), valid)
    slots = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    filled = jax.lax.cummax(jnp.where(valid > 0, slots, -1), axis=1)
    earlier = jnp.pad(filled[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    read = jnp.maximum(earlier, 0)
    same = jnp.take_along_axis(valid, read, axis=1) == valid
    hidden = jnp.take_along_axis(hidden, read[..., None], axis=1)
    return hidden, (valid > 0) & (earlier >= 0) & same


def behind(model: Decoder, params: Any, prefix: Array | None, tokens: Array) -> Array:
    """What `forward` takes for `tokens` `[B, T]` whose first W are the vectors `prefix`."""
    if prefix is None:
        return tokens
    rest = model.embed(params, tokens[:, prefix.shape[1] :])
    return jnp.concatenate([prefix.astype(rest.dtype), rest], axis=1)


def positions(valid: Array) -> Array:
    """Place `[B, S]` of every valid slot in its text, counted from 0; see `decoder` for `valid`."""
    text = valid.astype(jnp.int32)
    count = jnp.cumsum(text > 0, axis=1) - 1
    before = jnp.pad(jax.lax.cummax(text, axis=1)[:, :-1], ((0, 0), (1, 0)))
    begin = jax.lax.cummax(jnp.where(text > before, count, 0), axis=1)
    return jnp.maximum(count - begin, 0)


class _Network(nn.Module):
    config: Config

    def setup(self) -> None:
        c = self.config
        types: dict[str, Any] = dict(dtype=c.dtype, param_dtype=c.param_dtype)
        attention = functools.partial(
            Attention,
            c.width,
            c.num_heads,
            c.head_dim,
            num_kv_heads=c.num_kv_heads,
            use_bias=False,
            qkv_bias=c.qkv_bias,
            rotary=functools.partial(rotary_angles, size=c.head_dim, base=c.rotary_base),
            **types,
        )
        feed_forward = functools.partial(
            FeedForward, c.hidden, nn.silu, gated=True, use_bias=False, **types
        )
        norm = functools.partial(nn.RMSNorm, epsilon=c.norm_epsilon, **types)
        block = TransformerBlock
        if c.remat:
            block = nn.remat(TransformerBlock, methods=["project", "attend", "finish"])
        start = nn.initializers.normal(c.width**-0.5)
        self.embedding = nn.Embed(c.vocabulary, c.width, embedding_init=start, **types)
        self.blocks = [
            block(attention, feed_forward, norm, name=f"block{i}") for i in range(c.num_layers)
        ]
        self.norm = norm()
        if not c.tied:
            self.head = nn.Dense(c.vocabulary, use_bias=False, **types)

    def everything(self) -> Array:
        """Uses every parameter once."""
        valid = jnp.ones((1, 1), bool)
        return self.read(self(jnp.zeros((1, 1), jnp.int32), valid, None, 0, None, False)[0])

    def embed(self, tokens: Array) -> Array:
        return self.embedding(tokens)

    def read(self, hidden: Array) -> Array:
        if not self.config.tied:
            return self.head(hidden).astype(jnp.float32)
        # The table comes first: the other way round XLA copies it, transposed, for every token.
        table = self.embedding.embedding.astype(hidden.dtype)
        return jnp.moveaxis(jnp.tensordot(table, hidden, (1, -1)), 0, -1).astype(jnp.float32)

    def __call__(
        self,
        tokens: Array,
        valid: Array,
        cache: Cache | None,
        start: Array | int,
        head_scale: Array | None,
        every_layer: bool,
    ) -> tuple[Array, Cache]:
        length, slots = tokens.shape[1], valid.shape[1]
        block = lambda x: jax.lax.dynamic_slice_in_dim(x, start, length, axis=1)
        reader, slot = block(valid)[:, None, :, None], start + jnp.arange(length)
        past = jnp.arange(slots)[None, :] <= slot[:, None]
        mask = (reader == valid[:, None, None]) & (reader > 0) & past[None, None]
        places = block(positions(valid))
        x = self.embed(tokens) if jnp.issubdtype(tokens.dtype, jnp.integer) else tokens
        states, kept = [x], []
        # One axis of tokens for the layers: with two XLA moves whole activations for gradients.
        rows = len(x)
        in_rows = lambda y: y.reshape(len(y), rows, length, -1).swapaxes(0, 1)
        flat = lambda y: y.reshape(rows * length, -1)
        for i, layer in enumerate(self.blocks):
            q, k, v = map(in_rows, layer.project(flat(x), places.reshape(-1)))
            if cache is not None:
                k, v = keep(cache[i], (k, v), start)
            mixed = layer.attend(q, k, v, mask)
            if head_scale is not None:
                mixed = mixed * head_scale[i].reshape(1, -1, 1, 1).astype(mixed.dtype)
            mixed = mixed.swapaxes(0, 1).reshape(mixed.shape[1], rows * length, -1)
            x = layer.finish(flat(x), mixed).reshape(x.shape)
            kept.append((k, v))
            states.append(x)
        return self.norm(jnp.stack(states) if every_layer else x), tuple(kept)
