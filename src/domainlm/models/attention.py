"""Attention on a CPU: prompts in blocks of rows, and one token at a time with grouped heads.

PyTorch's kernel for the CPU goes through shared keys once per head, and took two fifths of the time
of reading prompts of 690 tokens. Here the heads of a group are query rows of their shared keys, and
a block of rows meets only the keys before it: plain matrix products, each large.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "domainlm_grouped"
_ROWS = 48
"""Query rows of a block: more waste products on the upper triangle, fewer make them small."""
_SPECIAL = ("position_bias", "softcap", "cache", "sliding_window")


@dataclass(frozen=True, slots=True)
class Parts:
    """Keys, or values, of several chats that share a pass: of `rows` that decode one token each,
    `(rows, g, s, d)`, if there are any; then of each prompt, `(1, g, s, d)`, which is at the last
    `counts` tokens.
    """

    rows: int
    counts: Sequence[int]
    kept: Sequence[torch.Tensor]


def use_groups(model: Any) -> None:
    """Let a model on the CPU read and decode with grouped heads; other implementations stay, and
    models that read in chunks, whose masks are more than causal.
    """
    chunked = getattr(model.config.get_text_config(), "attention_chunk_size", None)
    own = model.config._attn_implementation == "sdpa"
    if model.device.type == "cpu" and own and not chunked:
        AttentionInterface.register(NAME, _forward)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)


def _forward(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor | Parts,
    value: torch.Tensor | Parts,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in the form that transformers calls.

    Shapes: h query heads share g key-value heads; query `(b, h, t, d)`, key and value
    `(b, g, s, d)`, mask `(b, 1, t, s)` true where a query may look, result `(b, t, h, d)`. Where
    chats share a pass, b is 1 and the mask, `(rows, 1, 1, s)`, that of the rows.

    Raises:
        NotImplementedError: chats share a pass, and the model asks for more than plain attention.
    """
    b, h, t, d = query.shape
    special = any(settings.get(name) is not None for name in _SPECIAL)
    if isinstance(key, Parts) or isinstance(value, Parts):
        assert isinstance(key, Parts) and isinstance(value, Parts)
        if special or not getattr(module, "is_causal", False):
            raise NotImplementedError("chats share no pass of this model")
        scale = d**-0.5 if scaling is None else scaling
        return _apart(query, key, value, attention_mask, scale).transpose(1, 2), None
    special = special or value.shape[-1] != d
    usual = attention_mask is None or (
        attention_mask.dtype == torch.bool and attention_mask.shape[1] == 1
    )
    causal = getattr(module, "is_causal", False) and settings.get("is_causal") is not False
    if torch.is_grad_enabled() or special or not usual or not causal:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout, scaling, **settings
        )
    scale = d**-0.5 if scaling is None else scaling
    if t > 1:
        return _in_blocks(query, key, value, attention_mask, scale).transpose(1, 2), None
    return _next(query, key, value, attention_mask, scale).transpose(1, 2), None


def _next(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Attention of one token of each chat, shapes as in `_forward`, result as the query."""
    (b, h, _, d), g = query.shape, key.shape[1]
    rows = query.reshape(b, g, h // g, d)
    out = scaled_dot_product_attention(rows, key, value, attn_mask=mask, scale=scale)
    return out.reshape(b, h, 1, d)


def _apart(
    query: torch.Tensor, keys: Parts, values: Parts, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """Attention of chats that share a pass, each within its own; result `(1, h, t, d)`."""
    out = torch.empty_like(query)
    kept = zip(keys.kept, values.kept, strict=True)
    if keys.rows:
        newest = query[:, :, : keys.rows].transpose(0, 2)  # (rows, h, 1, d)
        key, value = next(kept)
        out[:, :, : keys.rows] = _next(newest, key, value, mask, scale).transpose(0, 2)
    start = keys.rows
    for count, (key, value) in zip(keys.counts, kept, strict=True):
        end = start + count
        out[:, :, start:end] = _in_blocks(query[:, :, start:end], key, value, None, scale)
        start = end
    return out


def _in_blocks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Causal attention of the last t of s tokens, shapes as in `_forward`, result as the query;
    scores and softmax in fp32.
    """
    (b, h, t, d), (g, s) = query.shape, key.shape[1:3]
    queries = query.reshape(b * g, h // g, t, d)
    keys, values = key.reshape(b * g, s, d).float(), value.reshape(b * g, s, d)
    # The last token may look at all but padding.
    padded = torch.zeros(1, s, dtype=torch.bool) if mask is None else ~mask[:, 0, -1]
    places = padded.any(0).nonzero()[:, 0].tolist()
    out = torch.empty_like(queries)
    for low, high in blocks(t, _ROWS):
        rows, end = high - low, s - t + high
        block = (queries[:, :, low:high].float() * scale).reshape(b * g, -1, d)
        scores = torch.bmm(block, keys[:, :end].transpose(1, 2)).view(b, h, rows, end)
        # Not minus infinity: padding sees nothing, and must not become NaN.
        least = torch.finfo(scores.dtype).min
        later = torch.ones(rows, rows, dtype=torch.bool, device=query.device).triu_(1)
        scores[..., end - rows :].masked_fill_(later, least)
        if places:
            first, last = places[0], min(places[-1] + 1, end)
            scores[..., first:last].masked_fill_(padded[:, None, None, first:last], least)
        weights = torch.softmax(scores, -1).to(value.dtype).view(b * g, -1, end)
        out[:, :, low:high] = torch.bmm(weights, values[:, :end]).view(b * g, -1, rows, d)
    return out.view(b, h, t, d)


def blocks(length: int, rows: int) -> list[tuple[int, int]]:
    """Bounds of blocks of about so many rows, all alike in size."""
    count = max(1, round(length / rows))
    edges = [round(n * length / count) for n in range(count + 1)]
    return list(itertools.pairwise(edges))
