"""Questions of many threads, decoded together: a model behind a queue that forms batches.

On a CPU a batch of 16 takes little longer to decode than one chat, because the weights are read
once for all. `Batched` is a `ChatModel` itself: arms and stages call it from their own threads and
do not know of each other.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from domainlm.errors import ModelError
from domainlm.models.base import (
    ChatModel,
    EnsembleModel,
    Listener,
    StreamingModel,
    current_purpose,
    report_call,
)
from domainlm.schema import Chat, Generation, Sampling, Usage

WAIT_S = 0.1
"""How long a batch waits for questions that are on their way through retrieval."""


@dataclass(slots=True)
class Asking:
    """One question on its way: where its text goes, and whether anyone still waits for it."""

    on_text: Callable[[str], None] | None = None
    on_arrival: Callable[[], None] | None = None
    """Called once, when the question has reached a model's queue or will never reach one."""
    cancelled: threading.Event = field(default_factory=threading.Event)

    def arrive(self) -> None:
        """It no longer is on its way."""
        told, self.on_arrival = self.on_arrival, None
        if told is not None:
            told()

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


@dataclass(eq=False, slots=True)
class _Job:
    chat: Chat
    params: Sampling
    listener: Listener
    made: Future[Generation]


class Batched:
    """A chat model that decodes what several threads ask in common batches."""

    def __init__(
        self,
        model: ChatModel,
        *,
        most: int = 16,
        turn: threading.Lock | None = None,
        coming: Callable[[], int] = lambda: 0,
        told: Callable[[int], None] = lambda n: None,
    ) -> None:
        """Start the thread that decodes.

        Args:
            model: what is asked.
            most: chats in a batch.
            turn: held while decoding; models that share it do not fight for the same cores.
            coming: how many questions have not reached the model yet.
            told: told the size of each batch.
        """
        self.name = model.name
        self._model, self._most = model, most
        self._turn = turn or threading.Lock()
        self._coming, self._told = coming, told
        self._jobs: list[_Job] = []
        self._changed = threading.Condition()
        self._closed = False
        if isinstance(model, EnsembleModel):
            self.generate_ensemble = self._ensemble
        if hasattr(model, "surprise"):
            self.surprise = model.surprise
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
        listeners = listeners_for(len(chats))
        jobs = [_Job(c, params, w, Future()) for c, w in zip(chats, listeners, strict=True)]
        with self._changed:
            if self._closed:
                raise ModelError(f"{self.name} is being unloaded; ask again")
            self._jobs += jobs
            self._changed.notify_all()
        if one := _asking.get():
            one.arrive()
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

    def _work(self) -> None:
        while batch := self._next():
            with self._turn:
                self._decode(batch)

    def _next(self) -> list[_Job]:
        """The next chats with equal settings, oldest first; none when closed and done."""
        with self._changed:
            while not self._jobs and not self._closed:
                self._changed.wait()
            until = time.monotonic() + WAIT_S
            while len(self._jobs) < self._most and self._coming() > 0:
                left = until - time.monotonic()
                if left <= 0 or self._closed:
                    break
                # What is coming may also fail on its way, without a word to this queue.
                self._changed.wait(min(left, WAIT_S / 10))
            first = self._jobs[0].params if self._jobs else None
            batch = [job for job in self._jobs if job.params == first][: self._most]
            taken = set(batch)
            self._jobs = [job for job in self._jobs if job not in taken]
            return batch

    def _decode(self, batch: list[_Job]) -> None:
        wanted = [job for job in batch if job.listener("")]
        for job in batch:
            if job not in wanted:
                unread = Generation("", Usage(), 0.0, self.name, "error", "nobody waits any more")
                job.made.set_result(unread)
        if not wanted:
            return
        self._told(len(wanted))
        try:
            made = complete(
                self._model,
                [j.chat for j in wanted],
                wanted[0].params,
                [j.listener for j in wanted],
            )
        except Exception as error:  # whatever it is, those who wait must hear of it
            for job in wanted:
                job.made.set_exception(error)
            return
        for job, generation in zip(wanted, made, strict=True):
            job.made.set_result(generation)


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
        return complete(self._model, chats, params, listeners_for(len(chats)))

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


def complete(
    model: ChatModel, chats: Sequence[Chat], params: Sampling, listeners: Sequence[Listener]
) -> list[Generation]:
    """Ask a model, and tell what it says piece by piece if it can, else at once."""
    if isinstance(model, StreamingModel):
        return model.generate_streamed(chats, params, listeners)
    made = model.generate(chats, params)
    for generation, listener in zip(made, listeners, strict=True):
        if generation.text:
            listener(generation.text)
    return made
