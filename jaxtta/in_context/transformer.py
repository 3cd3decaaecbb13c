"""The causal transformer of GPICL, in two layouts of tokens, with kept keys and values.

`"shifted"`, the paper's: one token per example, W_in [x_t; onehot(y_{t-1})] + pos_t, causal mask.
Reading a label takes two hops, because x_{t-1} and y_{t-1} sit in neighbouring tokens.

`"paired"`, a fast variant of this project: context tokens W_in [x_i; onehot(y_i)] and query tokens
W_in [x_i; 0] + one learned embedding, no positions. Context i reads context j <= i; query i reads
context j < i and itself. One hop is enough, so the plateau at the start nearly vanishes.

Blocks are pre-norm with a GELU layer of 4 times the width, a final norm and a linear head. Keys,
queries and values have their own size whatever the width is. Weights of attention and feed-forward
layers have variance 2 / (layers * fan-in), positions a truncated normal of 0.1.

References:
  Kirsch et al., arXiv 2212.04458. Official code: google/learned_optimization,
  research/data_driven/transformer.py and models.py (no dropout; one token per image).
"""

import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxtrain.nets.attention import attend_with_own, keep, rotary_angles, with_room
from jaxtrain.nets.transformer import Attention, FeedForward, TransformerBlock
from jaxtta.in_context.learner import Learner, Memory, Params, check, check_step, empty

Layout = Literal["shifted", "paired"]
Positions = Literal["learned", "rotary", "none"]
LAYOUTS: tuple[Layout, ...] = ("shifted", "paired")
POSITIONS: tuple[Positions, ...] = ("learned", "rotary", "none")
KeyValues = tuple[Array, Array]


def transformer(
    num_inputs: int,
    num_classes: int,
    length: int,
    *,
    num_layers: int = 4,
    width: int = 256,
    num_heads: int = 8,
    key_size: int = 32,
    widening: float = 4.0,
    layout: Layout = "shifted",
    positions: Positions | None = None,
    dtype: jnp.dtype = jnp.float32,
) -> Learner:
    """The learner; its state is 2 * layers * heads * key_size * length numbers.

    Args:
      num_inputs: N.
      num_classes: C.
      length: places for examples, in the position table and in the kept keys and values. Learned
        positions are taken by queries too: after `length` examples there is none left for one.
      num_layers: blocks.
      width: model width.
      num_heads: attention heads.
      key_size: channels of keys, queries and values per head.
      widening: width of the feed-forward layer over `width`.
      layout: `"shifted"` or `"paired"`.
      positions: `"learned"` (default of the shifted layout), `"rotary"` (on half of each head) or
        `"none"` (default and only choice of the paired layout, which treats the context as a set).
      dtype: of activations; softmax and norm statistics are float32, parameters too.

    Raises:
      ValueError: an unknown layout or impossible positions.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; choose one of {', '.join(LAYOUTS)}.")
    chosen = positions or ("learned" if layout == "shifted" else "none")
    if chosen not in POSITIONS:
        raise ValueError(f"positions is {positions!r}; choose one of {', '.join(POSITIONS)}.")
    if layout == "paired" and chosen != "none":
        raise ValueError(f"the paired layout has no positions, but positions is {positions!r}.")
    if chosen == "rotary" and key_size % 4:
        raise ValueError(f"rotary positions need key_size divisible by 4 but it is {key_size}.")
    network = _Transformer(
        num_classes, length, num_layers, width, num_heads, key_size, widening, layout, chosen, dtype
    )
    last = length - 1 if chosen == "learned" else length  # position of the last prediction
    call = lambda params, method, *args: network.apply({"params": params}, *args, method=method)

    def init(key: Array) -> Params:
        x, y = jnp.zeros((1, 1, num_inputs)), jnp.zeros((1, 1), jnp.int32)
        return network.init(key, x, y)["params"]

    def start(params: Params, batch_size: int) -> Memory:
        room = jnp.zeros((batch_size, num_heads, length, key_size), dtype)
        return empty(tuple((room, room) for _ in range(num_layers)), batch_size)

    def logits(params: Params, x: Array, y: Array) -> Array:
        check(learner, x, y)
        made: Any = network.apply({"params": params}, x, y)
        return made

    def read(params: Params, x: Array, y: Array) -> Memory:
        check(learner, x, y)
        state = with_room(call(params, "keys_and_values", x, y), length - x.shape[1])
        return Memory(state, y[:, -1].astype(jnp.int32), jnp.int32(x.shape[1]))

    def step(params: Params, memory: Memory, x: Array, y: Array) -> tuple[Memory, Array]:
        check_step(learner, memory, x, y)
        made: Any = call(params, "step", memory, x, y)
        after, logits = made
        return after, jnp.where(memory.position <= last, logits, jnp.nan)

    learner = Learner(
        init,
        start,
        step,
        read,
        logits,
        state_size=2 * num_layers * num_heads * key_size * length,
        num_inputs=num_inputs,
        num_classes=num_classes,
        max_length=length,
        max_context=last,
    )
    return learner


def _mask(allowed: Array) -> Array:
    """`[queries, keys]` for all sequences and heads."""
    return allowed[None, None]


class _Transformer(nn.Module):
    num_classes: int
    length: int
    num_layers: int
    width: int
    num_heads: int
    key_size: int
    widening: float
    layout: Layout
    positions: Positions
    dtype: jnp.dtype

    def setup(self) -> None:
        self.embed = nn.Dense(self.width, dtype=self.dtype)
        init = nn.initializers.variance_scaling(2 / self.num_layers, "fan_in", "truncated_normal")
        rotary = functools.partial(rotary_angles, size=self.key_size // 2)
        options: dict[str, Any] = dict(kernel_init=init, dtype=self.dtype)
        attention = functools.partial(
            Attention,
            self.width,
            self.num_heads,
            self.key_size,
            rotary=rotary if self.positions == "rotary" else None,
            **options,
        )
        feed_forward = functools.partial(FeedForward, int(self.widening * self.width), **options)
        norm = functools.partial(nn.LayerNorm, epsilon=1e-5, dtype=self.dtype)
        names = ("attention_norm", "", "mlp_norm", "")
        self.layers = [
            TransformerBlock(attention, feed_forward, norm, names=names)
            for _ in range(self.num_layers)
        ]
        self.norm = norm()
        self.head = nn.Dense(self.num_classes)
        small = nn.initializers.truncated_normal(0.1)
        if self.positions == "learned":
            self.position_table = self.param("positions", small, (self.length, self.width))
        if self.layout == "paired":
            self.query_embedding = self.param("query", small, (self.width,))

    def __call__(self, x: Array, y: Array) -> Array:
        return self._predict((self._shifted if self.layout == "shifted" else self._paired)(x, y)[0])

    def keys_and_values(self, x: Array, y: Array) -> tuple[KeyValues, ...]:
        """Those of every layer after reading whole sequences."""
        return (self._shifted if self.layout == "shifted" else self._paired)(x, y)[1]

    def step(self, memory: Memory, x: Array, y: Array) -> tuple[Memory, Array]:
        """Predicts one example against kept keys and values, then adds its own."""
        place = memory.position[None]
        before = _mask(jnp.arange(self.length)[None] < memory.position)
        if self.layout == "shifted":
            token = self._token(x[:, None], memory.label[:, None])
            if self.positions == "learned":
                here = jax.lax.dynamic_slice_in_dim(self.position_table, memory.position, 1)
                token = token + here.astype(self.dtype)[None]
            token, own = self._against(memory.state, token, place, before)
            output = token
        else:
            query = self._token(x[:, None], None)
            output, _ = self._against(memory.state, query, place, before)
            context = self._token(x[:, None], y[:, None])
            _, own = self._against(memory.state, context, place, before)
        state = keep(memory.state, own, memory.position)
        memory = Memory(state, y.astype(jnp.int32), memory.position + 1)
        return memory, self._predict(output)[:, 0]

    def _token(self, x: Array, label: Array | None) -> Array:
        """W_in [x; onehot(label)]; no label (-1 or None) is the zero vector."""
        shape = (*x.shape[:-1], self.num_classes)
        hot = jnp.zeros(shape) if label is None else jax.nn.one_hot(label, self.num_classes)
        embedded = self.embed(jnp.concatenate([x, hot.astype(x.dtype)], axis=-1))
        if label is None:
            embedded = embedded + self.query_embedding.astype(self.dtype)[None, None]
        return embedded

    def _shifted(self, x: Array, y: Array) -> tuple[Array, tuple[KeyValues, ...]]:
        before = jnp.concatenate([jnp.full_like(y[:, :1], -1), y[:, :-1]], axis=1)
        tokens, size = self._token(x, before), x.shape[1]
        if self.positions == "learned":
            tokens = tokens + self.position_table[:size].astype(self.dtype)[None]
        causal, kept = _mask(jnp.tri(size, dtype=bool)), []
        for layer in self.layers:
            q, k, v = layer.project(tokens, jnp.arange(size))
            tokens = layer.finish(tokens, layer.attend(q, k, v, causal))
            kept.append((k, v))
        return tokens, tuple(kept)

    def _paired(self, x: Array, y: Array) -> tuple[Array, tuple[KeyValues, ...]]:
        context, queries, size = self._token(x, y), self._token(x, None), x.shape[1]
        causal, kept, place = _mask(jnp.tri(size, dtype=bool)), [], jnp.arange(size)
        earlier = _mask(jnp.tri(size, k=-1, dtype=bool))
        for layer in self.layers:
            q, k, v = layer.project(context, place)
            query_q, query_k, query_v = layer.project(queries, place)
            mixed = attend_with_own(query_q, k, v, earlier, query_k, query_v)
            queries = layer.finish(queries, mixed)
            context = layer.finish(context, layer.attend(q, k, v, causal))
            kept.append((k, v))
        return queries, tuple(kept)

    def _against(
        self, kept: Sequence[KeyValues], tokens: Array, place: Array, before: Array
    ) -> tuple[Array, tuple[KeyValues, ...]]:
        """Runs one token per sequence against kept keys and values; returns its own too."""
        new = []
        for layer, (keys, values) in zip(self.layers, kept, strict=True):
            q, k, v = layer.project(tokens, place)
            tokens = layer.finish(tokens, attend_with_own(q, keys, values, before, k, v))
            new.append((k, v))
        return tokens, tuple(new)

    def _predict(self, tokens: Array) -> Array:
        return self.head(self.norm(tokens).astype(jnp.float32))
