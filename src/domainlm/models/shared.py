"""Beginnings that prompts share are read once: the instructions before every question, or the same
passage before several (as in SGLang's RadixAttention, 2312.07104, with a handful of beginnings
instead of a tree).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import torch

from domainlm.models.adapted import Prefix, prefixed_cache
from domainlm.models.cache import GrowingLayer, fresh_cache

_LEAST = 48
"""Tokens that reading a beginning by itself must spare: one pass more costs as much time."""
_AGAIN = 1.5
"""Prompts to come that are taken to begin like two that followed each other."""
_LONGEST = 1_024
"""Tokens of a beginning, so that long prompts of one user do not fill the memory."""
_KEPT = 4
"""Beginnings kept, the last used ones; each costs the memory of its keys and values."""


class Beginnings:
    """Keys and values of the prompts' common beginnings."""

    def __init__(self, model: Any, prefix: Prefix) -> None:
        """Nothing is known but a trained `prefix`, which stands before every prompt."""
        self._model, self._prefix = model, prefix
        self._known: OrderedDict[tuple[int, ...], Prefix] = OrderedDict({(): prefix})
        self._last: Sequence[int] = ()
        # Other layers than these forget, or fold what they read into a state.
        self._able = all(type(layer) is GrowingLayer for layer in fresh_cache(model.config).layers)

    def of(self, prompts: Sequence[Sequence[int]]) -> tuple[int, Prefix]:
        """How many first tokens of all prompts need no reading, and what stands for them: keys and
        values of each layer, `(1, g, s, d)`, after the trained prefix.
        """
        if not self._able:
            return 0, self._prefix
        # The last token must be read, to be gone on from.
        most = min(_LONGEST, *(len(prompt) - 1 for prompt in prompts))
        shared = _common(prompts)[:most]
        head = max((k for k in self._known if shared[: len(k)] == k), key=len)
        fresh = _common([shared, self._last]) if len(prompts) == 1 else shared
        if (len(fresh) - len(head)) * max(len(prompts) - 1, _AGAIN) >= _LEAST:
            self._known[fresh] = self._read(head, fresh)
            head = fresh
        self._last = prompts[-1]
        self._known.move_to_end(head)
        self._known.move_to_end((), last=False)
        while len(self._known) > _KEPT + 1:
            del self._known[next(k for k in self._known if k)]
        return len(head), self._known[head]

    def forget(self) -> bool:
        """Free the memory of what is known but the trained prefix; whether there was any."""
        held = len(self._known) > 1
        self._known = OrderedDict({(): self._prefix})
        self._last = ()
        return held

    def _read(self, head: tuple[int, ...], tokens: tuple[int, ...]) -> Prefix:
        """Keys and values of a beginning whose own beginning is known."""
        cache = prefixed_cache(self._model.config, self._known[head], 1)
        ids = torch.tensor([tokens[len(head) :]], device=self._model.device)
        positions = torch.arange(len(tokens), device=ids.device)[None, len(head) :]
        self._model(
            input_ids=ids,
            position_ids=positions + self._virtual,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return tuple((layer.keys.clone(), layer.values.clone()) for layer in cache.layers)

    @property
    def _virtual(self) -> int:
        return self._prefix[0][0].shape[2] if self._prefix else 0


def _common(rows: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The longest beginning that all share."""
    same = takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))
    return tuple(column[0] for column in same)
