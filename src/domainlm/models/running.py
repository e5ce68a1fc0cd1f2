"""A batch that chats join and leave between two tokens (iteration-level scheduling, as in Orca: Yu
et al., OSDI 2022), so that a short answer need not wait for the longest one.

Rows are left-padded and end at the same column; a chat that joins takes over the row of one that
has ended. Where the model allows it (`mixed.py`), prompts are read piece by piece in the passes
that decode; elsewhere those who decode wait until a prompt is read.
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
from domainlm.models.mixed import Decoding, Stretch, mixed_logits
from domainlm.models.shared import Beginnings

_DROP_AT = 0.75
"""Ended chats are dropped when less than this part of the batch is still decoding: each drop
copies the kept keys and values."""
_TOGETHER = 4
"""Chats join a nearly full batch when this part of it is free, so that several are read at once:
with 16 rows a quarter gives 1.03 answers a second, half .96, any .98 (means of two to four runs).
"""
_PIECE = 512
"""Tokens of prompts read in a pass that decodes too, whose next tokens wait for them. Less is dear:
with 128 a token costs the embedded model a quarter more, for what was read before is gone through
with every piece.
"""
_PIECES = 1_024
"""The same in a pass where nobody waits."""
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
    """When its first token was there (`time.perf_counter`); 0 before."""

    def restart(self) -> None:
        """As before its first token."""
        self.written, self.first = Written(), 0.0
        self.stream.manual_seed(self.seed)


@dataclass(eq=False, slots=True)
class _Reading:
    """A chat whose prompt is read up to what `cache` holds."""

    chat: Running
    left: list[int]
    cache: Any


class Batch:
    """Chats that decode together. Shapes: b rows, s columns kept, v vocabulary."""

    def __init__(self, model: Any, beginnings: Beginnings, *, pad: int, mixes: bool) -> None:
        """An empty batch.

        Args:
            model: a causal transformers model.
            beginnings: what need not be read of a prompt, and what stands for it.
            pad: token that fills short prompts.
            mixes: whether it reads and decodes in one pass (`mixed.can_mix`).
        """
        self._model, self._beginnings, self._pad = model, beginnings, pad
        self.mixes = mixes
        self._coming: deque[_Reading] = deque()
        self._rows: list[Running | None] = []
        self._cache = fresh_cache(model.config)
        self._ids = torch.zeros(0, 1, dtype=torch.long, device=model.device)  # (b, 1)
        self._positions = self._mask = self._ids  # (b, 1), (b, s)
        # Sliding-window and recurrent layers may not allow rows to come and go.
        self.flexible = all(type(layer) is GrowingLayer for layer in self._cache.layers)

    @property
    def chats(self) -> list[Running]:
        """Those still decoding, and those whose prompts are being read."""
        return [*self._decoding, *(reading.chat for reading in self._coming)]

    @property
    def _decoding(self) -> list[Running]:
        return [row for row in self._rows if row is not None]

    @property
    def width(self) -> int:
        """Columns that each row will have."""
        kept = int(self._mask.shape[1]) if self._decoding else 0
        return max([kept, *(len(reading.chat.prompt) for reading in self._coming)])

    def join(self, chats: Sequence[Running]) -> list[Running]:
        """Take new chats in, which mostly means to read their prompts and choose their first
        tokens; returns who has ended.
        """
        started = time.perf_counter()
        known, prefix = self._beginnings.of([chat.prompt for chat in chats])
        if self.mixes:
            each = (time.perf_counter() - started) / len(chats)
            for chat in chats:
                chat.seconds += each
                left = chat.prompt[known:]
                cache = prefixed_cache(self._model.config, prefix, 1, len(left))
                self._coming.append(_Reading(chat, left, cache))
            return []
        chats = sorted(chats, key=lambda chat: -len(chat.prompt))
        lengths = [len(chat.prompt) - known for chat in chats]
        spare = _PASS if self._model.device.type == "cpu" else sum(lengths)
        rows = len(self._decoding) + len(chats)
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
        slots = self._enter(chats, cache, mask, positions[:, -1:], rows)
        return self._chosen(slots, logits, started)

    def step(self) -> list[Running]:
        """One more token of every chat that decodes, and the next piece of the prompts on their
        way in; returns who has ended.
        """
        started = time.perf_counter()
        self._drop()
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._rows), 1)], dim=1)
        self._positions = self._positions + 1
        slots = [n for n, row in enumerate(self._rows) if row is not None]
        if self._coming:
            return self._mixed(slots, started)
        logits = next_logits(self._model, self._ids, self._mask, self._positions, self._cache)
        picked = logits if len(slots) == len(logits) else logits[slots]
        return self._chosen(slots, picked, started)

    def _mixed(self, slots: list[int], started: float) -> list[Running]:
        """A step of the chats in `slots` that reads on, too."""
        room = _PIECE if slots else _PIECES
        read: list[tuple[_Reading, Stretch]] = []
        for reading in self._coming:
            if read and len(reading.left) > room:
                break
            tokens, reading.left = reading.left[:room], reading.left[room:]
            read.append((reading, Stretch(tokens, reading.cache, not reading.left)))
            room -= len(tokens)
        decoding = Decoding(self._ids, self._positions, self._mask, self._cache) if slots else None
        logits = mixed_logits(self._model, decoding, [stretch for _, stretch in read])
        now = time.perf_counter()
        each = (now - started) / (len(slots) + sum(len(stretch.tokens) for _, stretch in read))
        for chat in self._decoding:
            chat.seconds += each
        rows, in_all, entered = len(self._ids), len(slots) + len(self._coming), []
        for reading, stretch in read:
            reading.chat.seconds += each * len(stretch.tokens)
            if stretch.last:
                self._coming.popleft()
                mask = self._mask.new_ones(1, stretch.held)
                end = mask[:, :1] * (stretch.held - 1)
                entered += self._enter([reading.chat], reading.cache, mask, end, in_all)
        picked = [*slots, *range(rows, rows + len(entered))]
        return self._chosen([*slots, *entered], logits[picked], now)

    def forget(self) -> bool:
        """Free what was kept of earlier prompts; whether there was anything."""
        return self._beginnings.forget()

    def _enter(
        self,
        chats: Sequence[Running],
        cache: Any,
        mask: torch.Tensor,
        positions: torch.Tensor,
        rows: int,
    ) -> list[int]:
        """Put newly read chats into rows whose chats have ended, then behind the last; there will
        be so many `rows` soon.
        """
        if not self._decoding:
            self._rows = list(chats)
            self._cache, self._mask, self._positions = cache, mask, positions
            self._ids = mask.new_zeros(len(chats), 1)
            return list(range(len(chats)))
        ended = [n for n, row in enumerate(self._rows) if row is None]
        more = range(len(self._rows), len(self._rows) + len(chats))
        slots = [*ended, *more][: len(chats)]
        for layer, new in zip(self._cache.layers, cache.layers, strict=True):
            layer.put(slots, new, rows)
        rows = max(len(self._rows), max(slots) + 1)
        self._rows += [None] * (rows - len(self._rows))
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

    def _chosen(self, slots: Sequence[int], logits: torch.Tensor, started: float) -> list[Running]:
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
            chat.first = chat.first or now
            if not chat.heard(chat.written.add(token, logp)):
                self._rows[slot] = None
                # The row goes on until it is dropped; models with learned positions have an end.
                self._positions[slot] = 0
                ended.append(chat)
        return ended

    def _drop(self) -> None:
        """Let go of the rows of ended chats where they are many and no others come, and of columns
        nobody looks at.
        """
        if not self.flexible:
            return
        alive = [n for n, row in enumerate(self._rows) if row is not None]
        if not alive:
            self._rows = []
            self._positions = self._mask = self._ids = self._ids[:0]
            return
        lead = int(self._mask[alive].any(0).int().argmax())
        few = not self._coming and len(alive) < _DROP_AT * len(self._rows)
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
        # Passes that only read are worth making for several prompts.
        together = 1 if batch.mixes else max(1, size // _TOGETHER)
        open_ = free >= together if batch.flexible else not batch.chats
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
