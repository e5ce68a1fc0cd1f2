"""Keys and values of what was read: room ahead, so that a new token does not copy all before it,
and rows that new chats take over while the others go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

ROOM = 64
"""Tokens of free room made at once."""


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """A layer whose keys and values `(b, g, s, d)` are the filled part of larger tensors.

    Appending to a tensor copies it: 16 chats of 450 tokens in the embedded model cost 350 MB of
    copies for each token.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, coming: int = 0) -> None:
        """Empty; makes room for `coming` tokens at once."""
        super().__init__()
        self._coming = coming

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **settings: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add new tokens' keys and values; returns all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._added("_keys", self.keys, key_states)
        self.values = self._added("_values", self.values, value_states)
        return self.keys, self.values

    def put(self, slots: Sequence[int], other: GrowingLayer, rows: int) -> None:
        """Let the rows of `other` take over rows of this layer, or new ones behind its last, where
        room for so many `rows` is made at once.

        All rows end at the same token; what stands before a row's own tokens is left to the mask.
        """
        self.keys = self._put("_keys", self.keys, slots, other.keys, rows)
        self.values = self._put("_values", self.values, slots, other.values, rows)

    def keep(self, rows: torch.Tensor, lead: int) -> None:
        """Drop all but `rows`, and the first `lead` tokens of each."""
        self.keys = self.keys[:, :, lead:].index_select(0, rows)
        self.values = self.values[:, :, lead:].index_select(0, rows)

    def _added(self, room: str, held: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        before = held.shape[-2] if held.numel() else 0
        (b, g, _, d), after = new.shape, before + new.shape[-2]
        place = self._place(room, held)
        if place is None or place.shape[-2] < after:
            place = new.new_empty(b, g, max(after + ROOM, self._coming), d)
            if before:
                place[..., :before, :] = held
            setattr(self, room, place)
        place[:b, :, before:after] = new
        return place[:b, :, :after]

    def _put(
        self, room: str, held: torch.Tensor, slots: Sequence[int], new: torch.Tensor, rows: int
    ) -> torch.Tensor:
        (b, g, s, d), t = held.shape, new.shape[2]
        needed, width = max(b, max(slots) + 1), max(s, t)
        place = self._place(room, held)
        # Zeros, for whatever is masked must still be a number.
        if width > s or needed > (b if place is None else len(place)):
            place = held.new_zeros(max(rows, needed), g, width + ROOM, d)
            place[:b, :, width - s : width] = held
            setattr(self, room, place)
        elif place is not None:
            place[b:needed] = 0
        held = held if place is None else place[:needed, :, :width]
        held[list(slots), :, width - t :] = new
        return held

    def _place(self, room: str, held: torch.Tensor) -> torch.Tensor | None:
        """The larger tensor that `held` is the filled part of, if it is still."""
        place: torch.Tensor | None = getattr(self, room, None)
        # Chats that were dropped, or anything else done to the layer, left other tensors.
        return place if place is not None and held.data_ptr() == place.data_ptr() else None


def fresh_cache(config: Any, coming: int = 0) -> DynamicCache:
    """An empty cache for a model, with room for `coming` tokens; sliding-window and recurrent
    layers stay its own.
    """
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer(coming) if type(x) is DynamicLayer else x for x in cache.layers]
    return cache
