"""One pass over the next token of running chats and stretches of prompts on their way in (chunked
prefill with decodes: Sarathi-Serve, Agrawal et al., OSDI 2024), so that those who read along need
not wait for a prompt to be read, and weights are loaded once for both.

Tokens of all chats stand in one row, without padding; keys and values are kept apart by chat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from domainlm.models.attention import NAME, Parts
from domainlm.models.cache import GrowingLayer, fresh_cache


@dataclass(eq=False, slots=True)
class Stretch:
    """Tokens of one prompt, the keys and values `(1, g, s, d)` of all before them, and whether
    they are its last.
    """

    tokens: Sequence[int]
    cache: Any
    last: bool

    @property
    def held(self) -> int:
        """Tokens that the cache holds: before the pass the position of the first of these."""
        return int(self.cache.get_seq_length())


@dataclass(slots=True)
class Decoding:
    """Rows of a batch: their newest tokens `(b, 1)`, positions `(b, 1)`, mask `(b, s)` that covers
    these tokens too, and the cache that will.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    cache: Any


class _Apart:
    """The caches of all chats of a pass, as layers of the model see them."""

    def __init__(self, rows: Decoding | None, stretches: Sequence[Stretch]) -> None:
        self._rows, self._stretches = rows, stretches

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *args: Any, **settings: Any
    ) -> tuple[Parts, Parts]:
        """Keep each chat's new keys and values `(1, g, n, d)` with its own; returns all of each."""
        b = len(self._rows.ids) if self._rows else 0
        counts = [len(stretch.tokens) for stretch in self._stretches]
        found: list[tuple[torch.Tensor, torch.Tensor]] = []
        if self._rows:
            kept = self._rows.cache.layers[layer]
            found.append(
                kept.update(keys[:, :, :b].transpose(0, 2), values[:, :, :b].transpose(0, 2))
            )
        after = [part.split(counts, dim=2) for part in (keys[:, :, b:], values[:, :, b:])]
        for stretch, new_keys, new_values in zip(self._stretches, *after, strict=True):
            found.append(stretch.cache.layers[layer].update(new_keys, new_values))
        return Parts(b, counts, [k for k, _ in found]), Parts(b, counts, [v for _, v in found])


def mixed_logits(model: Any, rows: Decoding | None, stretches: Sequence[Stretch]) -> torch.Tensor:
    """Logits of the next tokens: of each row, then of each stretch that is its prompt's last,
    `(k, v)`. All caches hold the new tokens afterwards.
    """
    device = model.device
    tokens = [token for stretch in stretches for token in stretch.tokens]
    starts = [(stretch.held, len(stretch.tokens)) for stretch in stretches]
    places = [place for start, n in starts for place in range(start, start + n)]
    ids, positions = torch.tensor([[tokens], [places]], dtype=torch.long, device=device)
    b, mask = 0, torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)
    if rows:
        b, mask = len(rows.ids), rows.mask.bool()[:, None, None]
        ids = torch.cat([rows.ids.T, ids], dim=1)
        positions = torch.cat([rows.positions.T, positions], dim=1)
    kept, end = list(range(b)), b
    for stretch in stretches:
        end += len(stretch.tokens)
        if stretch.last:
            kept.append(end - 1)
    logits: torch.Tensor = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=_Apart(rows, stretches),
        use_cache=True,
        logits_to_keep=torch.tensor(kept or [0], device=device),
    ).logits[0, : len(kept)]
    return logits


def can_mix(model: Any) -> bool:
    """Whether a model says the same in a mixed pass as alone, tried on a few tokens.

    Models whose attention is not the one of `attention.py`, or whose layers keep something else
    than all keys and values, cannot.
    """
    if model.config._attn_implementation != NAME:
        return False

    def cache() -> Any:
        return fresh_cache(model.config)

    if not all(type(layer) is GrowingLayer for layer in cache().layers):
        return False
    prompts = [[5, 9, 7, 6], [8, 6]]
    try:
        alone = [mixed_logits(model, None, [Stretch(p, cache(), True)])[0] for p in prompts]
        first, second = cache(), cache()
        mixed_logits(model, None, [Stretch(prompts[0][:3], first, False)])
        mask = torch.ones(1, 4, dtype=torch.long, device=model.device)
        rows = Decoding(torch.tensor([[6]]), torch.tensor([[3]]), mask, first)
        together = mixed_logits(model, rows, [Stretch(prompts[1], second, True)])
        plain = model(input_ids=torch.tensor(prompts[:1])).logits[0, -1]
    except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return False
    found = torch.stack([alone[0], together[0], alone[1] - together[1]]).float()
    right = torch.stack([plain, plain, torch.zeros_like(plain)]).float()
    return bool((found - right).abs().max() < 0.05 * plain.float().abs().max())
