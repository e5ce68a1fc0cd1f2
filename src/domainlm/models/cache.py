"""Keys and values of what was read: room ahead, so that a new token does not copy all before it."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

_ROOM = 64
"""Tokens of free room made at once."""


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """A layer whose keys and values `(b, g, s, d)` are the filled part of larger tensors.

    Appending to a tensor copies it: 16 chats of 450 tokens in the embedded model cost 350 MB of
    copies for each token.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **settings: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add new tokens' keys and values; returns all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._added("_keys", self.keys, key_states)
        self.values = self._added("_values", self.values, value_states)
        return self.keys, self.values

    def _added(self, room: str, held: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        before = held.shape[-2] if held.numel() else 0
        after = before + new.shape[-2]
        place: torch.Tensor | None = getattr(self, room, None)
        # Chats that were dropped, or anything else done to the layer, left other tensors.
        mine = place is not None and held.data_ptr() == place.data_ptr()
        if place is None or not mine or place.shape[-2] < after or len(place) != len(new):
            b, g, _, d = new.shape
            place = new.new_empty(b, g, after + _ROOM, d)
            if before:
                place[..., :before, :] = held
            setattr(self, room, place)
        place[..., before:after, :] = new
        return place[..., :after, :]


def fresh_cache(config: Any) -> DynamicCache:
    """An empty cache for a model; sliding-window and recurrent layers stay its own."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(x) is DynamicLayer else x for x in cache.layers]
    return cache
