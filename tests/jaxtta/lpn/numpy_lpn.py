"""The networks in NumPy, slow and token by token, on padded squares."""

import numpy as np


def layer_norm(x, params):
    centred = x - x.mean(-1, keepdims=True)
    x = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return x + params["bias"] if "bias" in params else x


def dense(x, params):
    return x @ params["kernel"] + params.get("bias", 0.0)


def turned(vectors, params, places):
    """Rotates neighbouring channels: the first half of the pairs by row, the rest by column."""
    pairs = vectors.reshape(len(vectors), -1, 2)
    angles = np.concatenate([places[:, a : a + 1] * np.exp(params[a]) for a in (0, 1)], axis=-1)
    pairs = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angles)
    return np.stack([pairs.real, pairs.imag], -1).reshape(vectors.shape)


def transformer(params, x, readable, places, config):
    """All blocks of a stack on tokens `[T, D]`; `readable[q, k]`: token q may read token k."""
    for name in sorted(name for name in params if name.startswith("TransformerLayer")):
        layer = params[name]
        attention, mlp = layer["MultiHeadAttention_0"], layer["MlpBlock_0"]
        normed = layer_norm(x, layer.get("LayerNorm_0", {}))
        heads = []
        for head in range(attention["query"]["kernel"].shape[1]):
            q, k, v = (
                normed @ attention[part]["kernel"][:, head]
                + (attention[part]["bias"][head] if config.use_bias else 0.0)
                for part in ("query", "key", "value")
            )
            if config.positions == "rope":
                frequencies = [
                    attention[f"{axis}_log_frequencies"][head] for axis in ("row", "col")
                ]
                q, k = turned(q, frequencies, places), turned(k, frequencies, places)
            weights = np.where(readable, np.exp(q @ k.T / np.sqrt(q.shape[-1])), 0.0)
            weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-300)
            heads.append(weights @ v @ attention["out"]["kernel"][head])
        x = x + sum(heads) + attention["out"].get("bias", 0.0)
        hidden = dense(layer_norm(x, layer.get("LayerNorm_1", {})), mlp["Dense_0"])
        active = {"silu": hidden / (1 + np.exp(-hidden)), "relu": np.maximum(hidden, 0)}
        x = x + dense(active[config.activation], mlp["Dense_1"])
    return x


def table(params, name):
    return params[name]["embedding"]


def largest(config):
    return config.max_rows, config.max_cols


def position_table(params, config, prefix=""):
    """Additive codes `[R, C, D]` and rotary places `[R, C, 2]` of all cells."""
    width, (num_rows, num_cols) = table(params, "colors_embed").shape[1], largest(config)
    codes, places = np.zeros((num_rows, num_cols, width)), np.zeros((num_rows, num_cols, 2))
    for r, c in np.ndindex(num_rows, num_cols):
        places[r, c] = (r + 0.5) / num_rows * 2 - 1, (c + 0.5) / num_cols * 2 - 1
        if config.positions == "rope":
            continue
        by_row, by_col = (table(params, f"{prefix}pos_{axis}_embed") for axis in ("row", "col"))
        if config.positions == "scaled":
            codes[r, c] = (r + 1) * by_row[0] + (c + 1) * by_col[0]
        else:
            codes[r, c] = by_row[r] + by_col[c]
    return codes, places


def numpy_encoder(params, square, shape, config, mask_padding=True):
    """Mean and log-variance of one padded pair `[R, C, 2]` with shapes `[axis, channel]`."""
    colours, channels = table(params, "colors_embed"), table(params, "channels_embed")
    codes, places = position_table(params, config)
    tokens = [(table(params, "cls_token")[0], True, np.zeros(2))]
    for axis, name in enumerate(("grid_shapes_row_embed", "grid_shapes_col_embed")):
        for channel in (0, 1):
            count = table(params, name)[shape[axis, channel] - 1]
            tokens.append((count + channels[channel], True, np.zeros(2)))
    for r, c in np.ndindex(*largest(config)):
        for channel in (0, 1):  # interleaved
            valid = r < shape[0, channel] and c < shape[1, channel]
            cell = colours[square[r, c, channel]] + codes[r, c] + channels[channel]
            tokens.append((cell, valid or not mask_padding, places[r, c]))
    x, valid, where = (np.array(part) for part in zip(*tokens, strict=True))
    x = transformer(params, x, valid[:, None] & valid[None], where, config)
    cls = layer_norm(x[0], params.get("cls_layer_norm", {}))
    return [cls @ params[f"Dense_{i}"]["kernel"] for i in range(1 + config.variational)]


def numpy_decoder(params, contexts, square, shape, config, row_start_rule=True):
    """Row, column and raster cell logits of one padded pair under contexts `[M, H]`."""
    colours, tags = table(params, "colors_embed"), table(params, "input_output_embed")
    counts = [table(params, f"grid_shapes_{axis}_embed") for axis in ("row", "col")]
    codes, places = position_table(params, config)
    separate = "input_" if config.separate_input_positions else ""
    positions = [position_table(params, config, separate), (codes, places)]
    rows, cols = shape[:, 1]
    if config.next_position:
        # Roll the table left; the last valid column continues at the start of the next row.
        positions[1] = [np.roll(x, -1, axis=1) for x in (codes, places)]
        for rolled, x in zip(positions[1], (codes, places), strict=True):
            rolled[:, cols - 1] = np.roll(x[:, 0], -1, axis=0)

    tokens = []  # (side, vector, valid, place)
    for side in (0, 1):
        if side == 1:
            for slot, context in enumerate(contexts):
                vector = dense(context, params["context_embed"])
                if config.num_slots:
                    vector = vector + table(params, "slot_embed")[slot]
                tokens.append(("context", vector, True, np.zeros(2)))
        for axis in (0, 1):
            tokens.append((side, counts[axis][shape[axis, side] - 1] + tags[side], True, (0, 0)))
        for r, c in np.ndindex(*largest(config)):
            valid = r < shape[0, side] and c < shape[1, side]
            code, place = (x[r, c] for x in positions[side])
            tokens.append((side, colours[square[r, c, side]] + tags[side] + code, valid, place))
    sides, x, valid, where = zip(*tokens, strict=True)

    readable = np.zeros((len(tokens), len(tokens)), bool)
    for q, k in np.ndindex(readable.shape):
        if sides[k] == 0:
            allowed = True
        elif sides[k] == "context":
            allowed = sides[q] != 0 or config.input_sees_context
        else:
            allowed = sides[q] == 1 and k <= q
        readable[q, k] = allowed and valid[q] and valid[k]
    x = transformer(params, np.array(x), readable, np.array(where), config)

    def head(name, hidden, kernel):
        normed = layer_norm(hidden, params.get(f"{name}_logits_layer_norm", {}))
        return normed @ params[kernel]["kernel"]

    num_rows, num_cols = largest(config)
    first = 2 + num_rows * num_cols  # the context token
    start = first + len(contexts)  # [rows_out]
    raw = head("grid", x[start + 1 : start + 1 + num_rows * num_cols], "grid_logits_proj")
    cells = raw.copy()
    for r in range(1, num_rows if row_start_rule else 1):
        cells[r * num_cols] = raw[(r - 1) * num_cols + cols]
    return (
        head("row", x[first], "shape_row_logits_proj"),
        head("col", x[start], "shape_col_logits_proj"),
        cells.reshape(num_rows, num_cols, -1)[:rows, :cols].reshape(rows * cols, -1),
    )
