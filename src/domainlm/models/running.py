"""A batch that chats join and leave between two tokens (iteration-level scheduling, as in Orca: Yu
et al., OSDI 2022), so that a short answer need not wait for the longest one.

Rows are left-padded and end at the same column; a chat that joins takes over the row of one that
has ended.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from domainlm.models.adapted import Prefix, prefixed_cache
from domainlm.models.cache import ROOM, GrowingLayer, fresh_cache
from domainlm.models.decoding import Written, choose, log_probabilities, next_logits
from domainlm.models.shared import Beginnings

_DROP_AT = 0.75
"""Ended chats are dropped when less than this part of the batch is still decoding: each drop
copies the kept keys and values."""
_TOGETHER = 4
"""Chats join a nearly full batch when this part of it is free, so that several are read at once:
with 16 rows a quarter gives 1.03 answers a second, half .96, any .98 (means of two to four runs).
"""
_PASS = 32
"""Tokens that a CPU reads in the time that one more pass over the weights takes; what a pass takes
elsewhere hides the padding.
"""


@dataclass(eq=False, slots=True)
class Running:
    """A chat in a batch, or on its way into it."""

    prompt: list[int]
    temperature: float
    seed: int
    heard: Callable[[list[int]], bool]
    """Told all new tokens after each; whether to go on."""
    done: Callable[[Running, str], None]
    """Told once that it has ended, and why if it failed."""
    written: Written = field(default_factory=Written)
    stream: torch.Generator = field(default_factory=torch.Generator)
    seconds: float = 0.0
    """Its share of the time that the batch took."""
    first: float = 0.0
    """When its first token was there (`time.perf_counter`)."""

    def restart(self) -> None:
        """As before its first token."""
        self.written = Written()
        self.stream.manual_seed(self.seed)


class Batch:
    """Chats that decode together. Shapes: b rows, s columns kept, v vocabulary."""

    def __init__(self, model: Any, beginnings: Beginnings, *, pad: int) -> None:
        """An empty batch.

        Args:
            model: a causal transformers model.
            beginnings: what need not be read of a prompt, and what stands for it.
            pad: token that fills short prompts.
        """
        self._model, self._beginnings, self._pad = model, beginnings, pad
        self._rows: list[Running | None] = []
        self._cache = fresh_cache(model.config)
        self._ids = torch.zeros(0, 1, dtype=torch.long, device=model.device)  # (b, 1)
        self._positions = self._mask = self._ids  # (b, 1), (b, s)
        # Sliding-window and recurrent layers may not allow rows to come and go.
        self.flexible = all(type(layer) is GrowingLayer for layer in self._cache.layers)

    @property
    def chats(self) -> list[Running]:
        """Those still decoding."""
        return [row for row in self._rows if row is not None]

    @property
    def width(self) -> int:
        """Columns kept for each row."""
        return int(self._mask.shape[1]) if self.chats else 0

    def join(self, chats: Sequence[Running]) -> list[Running]:
        """Read the prompts of new chats and choose their first tokens; returns who has ended."""
        started = time.perf_counter()
        known, prefix = self._beginnings.of([chat.prompt for chat in chats])
        chats = sorted(chats, key=lambda chat: -len(chat.prompt))
        lengths = [len(chat.prompt) - known for chat in chats]
        spare = _PASS if self._model.device.type == "cpu" else sum(lengths)
        rows = max(len(self._rows) if self.chats else 0, len(self.chats) + len(chats))
        ended = []
        for low, high in alike(lengths, spare):
            ended += self._read(chats[low:high], known, prefix, rows, started)
            started = time.perf_counter()
        return ended

    def _read(
        self, chats: Sequence[Running], known: int, prefix: Prefix, rows: int, started: float
    ) -> list[Running]:
        """Read prompts but for their first `known` tokens, for which `prefix` stands; the batch
        will have `rows`.
        """
        device = self._model.device
        before = prefix[0][0].shape[2] if prefix else 0
        rest = [chat.prompt[known:] for chat in chats]
        width = max(map(len, rest))
        ids = [[self._pad] * (width - len(tokens)) + tokens for tokens in rest]
        kept = [[1] * before + [0] * (width - len(tokens)) + [1] * len(tokens) for tokens in rest]
        mask = torch.tensor(kept, device=device)  # (m, before + width)
        # Left padding must not shift the rotary positions of short prompts.
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, before:]  # (m, width)
        cache = prefixed_cache(self._model.config, prefix, len(chats))
        logits = next_logits(self._model, torch.tensor(ids, device=device), mask, positions, cache)
        if not self.chats:
            self._rows = list(chats)
            self._cache, self._mask, self._positions = cache, mask, positions[:, -1:]
            self._ids = mask.new_zeros(len(chats), 1)
            slots = list(range(len(chats)))
        else:
            slots = self._merge(chats, cache, mask, positions[:, -1:], rows)
        return self._chosen(slots, logits, started, read=True)

    def step(self) -> list[Running]:
        """One more token of every chat; returns who has ended."""
        started = time.perf_counter()
        self._drop()
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._rows), 1)], dim=1)
        self._positions = self._positions + 1
        logits = next_logits(self._model, self._ids, self._mask, self._positions, self._cache)
        slots = [n for n, row in enumerate(self._rows) if row is not None]
        picked = logits if len(slots) == len(logits) else logits[slots]
        return self._chosen(slots, picked, started, read=False)

    def forget(self) -> bool:
        """Free what was kept of earlier prompts; whether there was anything."""
        return self._beginnings.forget()

    def _merge(
        self,
        chats: Sequence[Running],
        cache: Any,
        mask: torch.Tensor,
        positions: torch.Tensor,
        rows: int,
    ) -> list[int]:
        """Put newly read chats into rows whose chats have ended, of at least so many `rows`."""
        rows = max(len(self._rows), rows)
        self._rows += [None] * (rows - len(self._rows))
        slots = [n for n, row in enumerate(self._rows) if row is None][: len(chats)]
        for layer, new in zip(self._cache.layers, cache.layers, strict=True):
            layer.put(slots, new, rows)
        width = max(self._mask.shape[1], mask.shape[1])
        before, self._mask = self._mask, self._mask.new_zeros(rows, width)
        self._mask[: len(before), width - before.shape[1] :] = before
        self._mask[slots] = 0
        self._mask[slots, width - mask.shape[1] :] = mask
        self._positions = _longer(self._positions, rows)
        self._positions[slots] = positions
        self._ids = _longer(self._ids, rows)
        for slot, chat in zip(slots, chats, strict=True):
            self._rows[slot] = chat
        return slots

    def _chosen(
        self, slots: Sequence[int], logits: torch.Tensor, started: float, *, read: bool
    ) -> list[Running]:
        """Give the chats in `slots` their next tokens, from logits `(len(slots), v)`."""
        chats = [row for n in slots if (row := self._rows[n]) is not None]
        heat = [chat.temperature for chat in chats]
        chosen = choose(logits, [chat.stream for chat in chats], heat)
        tokens, logps = chosen.tolist(), log_probabilities(logits, chosen).tolist()
        self._ids[list(slots)] = chosen.to(self._ids.device)[:, None]
        # Reading the tokens waits for the device, so this is no queued kernel's time.
        now = time.perf_counter()
        ended = []
        for slot, chat, token, logp in zip(slots, chats, tokens, logps, strict=True):
            chat.seconds += (now - started) / len(chats)
            if read:
                chat.first = now
            if not chat.heard(chat.written.add(token, logp)):
                self._rows[slot] = None
                # The row goes on until it is dropped; models with learned positions have an end.
                self._positions[slot] = 0
                ended.append(chat)
        return ended

    def _drop(self) -> None:
        """Let go of the rows of ended chats where they are many, and of columns nobody looks at."""
        if not self.flexible:
            return
        alive = [n for n, row in enumerate(self._rows) if row is not None]
        lead = int(self._mask[alive].any(0).int().argmax())
        few = len(alive) < _DROP_AT * len(self._rows)
        if not few and lead < ROOM:
            return
        kept = alive if few else list(range(len(self._rows)))
        rows = torch.tensor(kept, device=self._mask.device)
        for layer in self._cache.layers:
            layer.keep(rows, lead)
        self._rows = [self._rows[n] for n in kept]
        self._mask = self._mask[rows][:, lead:]
        self._positions, self._ids = self._positions[rows], self._ids[rows]


def decode(
    make: Callable[[], Batch],
    take: Callable[[int], Sequence[Running]],
    *,
    size: int,
    tokens: int,
) -> None:
    """Decode the chats that `take` gives, until all have ended and it gives no more; when memory
    runs out, fewer at once.

    Args:
        make: an empty batch.
        take: asked, whenever there is room, for at most so many chats.
        size: most chats in the batch.
        tokens: most padded tokens that the batch keeps; a quarter of it is read at once, and one
            chat always fits.
    """
    waiting: deque[Running] = deque()
    batch = make()
    while True:
        free = size - len(batch.chats)
        # Several prompts are read in less time than one after the other.
        open_ = free >= max(1, size // _TOGETHER) if batch.flexible else not batch.chats
        if open_ and free > len(waiting):
            for chat in take(free - len(waiting)):
                chat.restart()
                waiting.append(chat)
        group = _next(waiting, batch, free, tokens) if open_ else []
        if not group and not batch.chats:
            return
        try:
            ended = batch.join(group) if group else batch.step()
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            again = list(dict.fromkeys([*batch.chats, *group]))
            freed = batch.forget()
            batch, size = make(), max(1, len(again) // 2)
            if len(again) == 1 and not freed:
                again[0].done(again[0], "there is too little memory for a prompt")
                continue
            for chat in again:
                chat.restart()
            waiting.extendleft(reversed(again))
            continue
        for chat in ended:
            chat.done(chat, "")


def _next(waiting: deque[Running], batch: Batch, free: int, tokens: int) -> list[Running]:
    """Who is read next, in the order in which they wait."""
    group: list[Running] = []
    longest, held = 0, len(batch.chats)
    while waiting and len(group) < free:
        longest = max(longest, len(waiting[0].prompt))
        more = len(group) + 1
        kept = (held + more) * max(batch.width, longest)
        if (group and 4 * more * longest > tokens) or (held + len(group) and kept > tokens):
            break
        group.append(waiting.popleft())
    return group


def alike(lengths: Sequence[int], spare: int) -> list[tuple[int, int]]:
    """Bounds of groups of prompts that are read together, where padding all to the longest of its
    group and a group more, which costs as much as `spare` tokens, cost least.

    Args:
        lengths: of prompts, longest first.
        spare: tokens.
    """
    least, group = [0], [0]
    for end in range(1, len(lengths) + 1):
        cost, start = min(
            (least[low] + (end - low) * lengths[low] + spare, low) for low in range(end)
        )
        least.append(cost)
        group.append(start)
    bounds, end = [], len(lengths)
    while end:
        bounds.append((group[end], end))
        end = group[end]
    return bounds[::-1]


def _longer(column: torch.Tensor, rows: int) -> torch.Tensor:
    """A column `(b, 1)` with zeros for further rows."""
    return torch.cat([column, column.new_zeros(rows - len(column), 1)])
