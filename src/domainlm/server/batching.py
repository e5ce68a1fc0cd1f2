"""Questions of many threads, decoded together: a model behind a queue.

On a CPU a batch of 16 takes little longer to decode than one chat, because the weights are read
once for all, so a question joins those that are being decoded. `Batched` is a `ChatModel` itself:
arms and stages call it from their own threads and do not know of each other.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from domainlm.errors import ModelError
from domainlm.models.base import (
    ChatModel,
    EnsembleModel,
    JoiningModel,
    Listener,
    Request,
    StreamingModel,
    current_purpose,
    report_call,
)
from domainlm.schema import Chat, Generation, Sampling, Usage


@dataclass(slots=True)
class Asking:
    """One question on its way: where its text goes, and whether anyone still waits for it."""

    on_text: Callable[[str], None] | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)

    def listen(self, piece: str) -> bool:
        """Hand a piece on; whether to go on."""
        if self.cancelled.is_set():
            return False
        if piece and self.on_text is not None:
            self.on_text(piece)
        return True

    def watch(self, piece: str) -> bool:
        """Whether to go on, without handing anything on."""
        return not self.cancelled.is_set()


_asking: contextvars.ContextVar[Asking | None] = contextvars.ContextVar("asking", default=None)


@contextlib.contextmanager
def asking(one: Asking) -> Iterator[None]:
    """Model calls inside are made for `one`."""
    token = _asking.set(one)
    try:
        yield
    finally:
        _asking.reset(token)


class Turn:
    """Held by the one model that decodes: two at once would fight for the same cores. Whoever has
    waited longest is next.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._drawn = self._served = 0

    @property
    def wanted(self) -> bool:
        """Whether another thread waits for it."""
        return self._drawn - self._served > 1

    def __enter__(self) -> None:
        with self._changed:
            number, self._drawn = self._drawn, self._drawn + 1
            self._changed.wait_for(lambda: self._served == number)

    def __exit__(self, *failure: object) -> None:
        with self._changed:
            self._served += 1
            self._changed.notify_all()


@dataclass(eq=False, slots=True)
class _Job:
    chat: Chat
    params: Sampling
    listener: Listener
    repeat: int
    made: Future[Generation] = field(default_factory=Future)
    asked: float = field(default_factory=time.perf_counter)

    def end(self, generation: Generation) -> None:
        """Hand the answer on."""
        self.made.set_result(generation)


class LocalChat(ChatModel, JoiningModel, Protocol):
    """What can be batched."""


class Batched:
    """A chat model that decodes together what several threads ask."""

    def __init__(
        self,
        model: LocalChat,
        *,
        most: int = 16,
        turn: Turn | None = None,
        told: Callable[[int], None] = lambda n: None,
    ) -> None:
        """Start the thread that decodes.

        Args:
            model: what is asked.
            most: chats in a batch.
            turn: held while decoding, and given up for others that wait for it.
            told: told how many chats are decoded together, whenever some have joined.
        """
        self.name = model.name
        self._model, self._most = model, most
        self._turn = turn or Turn()
        self._told = told
        self._jobs: list[_Job] = []
        self._inside: list[_Job] = []
        self._begun = False
        self._changed = threading.Condition()
        self._closed = False
        if isinstance(model, EnsembleModel):
            self.generate_ensemble = self._ensemble
        if hasattr(model, "surprise"):
            self.surprise = self._surprise
        self._thread = threading.Thread(target=self._work, name=f"batch {self.name}", daemon=True)
        self._thread.start()

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` by the model's tokenizer."""
        return self._model.count_tokens(text)

    def generate(self, chats: Sequence[Chat], params: Sampling) -> list[Generation]:
        """Complete each chat, together with what other threads ask.

        Raises:
            ModelError: the model cannot be used, or is being closed.
        """
        jobs, seen = [], Counter[Chat]()
        for chat, listener in zip(chats, listeners_for(len(chats)), strict=True):
            jobs.append(_Job(chat, params, listener, seen[chat]))
            seen[chat] += 1
        with self._changed:
            if self._closed:
                raise ModelError(f"{self.name} is being unloaded; ask again")
            self._jobs += jobs
            self._changed.notify_all()
        made = [job.made.result() for job in jobs]
        # The batch's thread does not see this thread's ledger.
        for g in made:
            used = g.usage
            report_call(self.name, "generate", used.tokens_in, used.tokens_out, g.latency_s)
        return made

    def close(self) -> None:
        """Decode what waits, then let the model go."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _ensemble(
        self,
        groups: Sequence[Sequence[Chat]],
        weights: Sequence[Sequence[float]],
        params: Sampling,
    ) -> list[Generation]:
        assert isinstance(self._model, EnsembleModel)
        with self._turn:
            return self._model.generate_ensemble(groups, weights, params)

    def _surprise(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        with self._turn:
            found: list[float] = self._model.surprise(pairs)  # type: ignore[attr-defined]
            return found

    def _work(self) -> None:
        while self._wait():
            with self._turn:
                self._begun = False
                try:
                    self._model.generate_joining(self._take)
                except Exception as error:  # whatever it is, those who wait must hear of it
                    for job in self._inside:
                        if not job.made.done():
                            job.made.set_exception(error)

    def _wait(self) -> bool:
        """Until there is something to decode; false when closed and done."""
        with self._changed:
            while not self._jobs and not self._closed:
                self._changed.wait()
            return bool(self._jobs)

    def _take(self, most: int) -> list[Request]:
        """Who joins, the oldest first; nobody while another model waits for its turn."""
        if self._begun and self._turn.wanted:
            return []
        self._begun = True
        self._inside = [job for job in self._inside if not job.made.done()]
        with self._changed:
            room = min(most, self._most - len(self._inside))
            oldest, self._jobs = self._jobs[:room], self._jobs[room:]
        # Whatever fails from here on, they must hear of it.
        self._inside += oldest
        joined = []
        for job in oldest:
            if job.listener(""):
                joined.append(job)
            else:
                reason = "nobody waits any more"
                job.end(Generation("", Usage(), 0.0, self.name, "error", reason))
        if joined:
            self._told(sum(not job.made.done() for job in self._inside))
        return [Request(j.chat, j.params, j.listener, j.end, j.repeat, j.asked) for j in joined]


class Direct:
    """A model that is asked as it is, each thread for itself: a remote one batches on its own."""

    def __init__(self, model: ChatModel) -> None:
        self.name = model.name
        self._model = model

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` by the model's tokenizer."""
        return self._model.count_tokens(text)

    def generate(self, chats: Sequence[Chat], params: Sampling) -> list[Generation]:
        """Complete each chat.

        Raises:
            ModelError: the model cannot be used.
        """
        listeners = listeners_for(len(chats))
        if isinstance(self._model, StreamingModel):
            return self._model.generate_streamed(chats, params, listeners)
        made = self._model.generate(chats, params)
        for generation, listener in zip(made, listeners, strict=True):
            if generation.text:
                listener(generation.text)
        return made

    def close(self) -> None:
        """Nothing waits here."""


def listeners_for(chats: int) -> list[Listener]:
    """What the calls of this thread are heard by: an answer's text goes to whoever asked, if it is
    the only one; other calls only learn whether anyone still waits.
    """
    one = _asking.get()
    if one is None:
        return [_nobody] * chats
    heard = chats == 1 and current_purpose() == "answer"
    return [one.listen if heard else one.watch] * chats


def _nobody(piece: str) -> bool:
    return True
