"""Questions in, answers out: each arm and each registered model by name, batched and bounded.

A question runs in a thread of its own, through the same arms as the benchmark's; the threads meet
in `Batched`, where their prompts are decoded together.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from domainlm import contenders, doubts, fetching
from domainlm.config import Config
from domainlm.errors import DataError, DomainLMError
from domainlm.evaluation import selective
from domainlm.feedback import asked
from domainlm.models.base import Array, Embedder
from domainlm.rag.arms import arm_of
from domainlm.rag.pipeline import Gate, Retrieval
from domainlm.registry import Registry
from domainlm.schema import Answer, Message, Passage, Question, RunResult, Sampling
from domainlm.server.answers import Answers, Given
from domainlm.server.batching import Asking, asking
from domainlm.server.catalogue import Catalogue, ModelCard
from domainlm.server.failures import Busy, HttpFailure, NotFound
from domainlm.server.ground import Ground, has_index, open_ground
from domainlm.server.loaded import Models
from domainlm.server.metrics import Metrics
from domainlm.training import fetch

MAX_QUESTION = 20_000
"""Characters; the event log keeps no longer question either."""
_LOOK_S = 0.25
_log = logging.getLogger(__name__)
T = TypeVar("T")
State = Literal["starting", "ready", "failed", "closing"]


@dataclass(frozen=True)
class _Opened:
    """A ground with its pipeline, ready to answer."""

    ground: Ground
    retrieval: Retrieval | None = None


@dataclass(slots=True)
class _Question:
    """One question on its way through a thread."""

    text: str
    card: ModelCard
    sampling: Sampling
    put: Callable[[str | Given | Exception], None]
    by: str = ""
    asking: Asking = field(default_factory=Asking)
    started: float = field(default_factory=time.monotonic)


class Engine:
    """Answers with whatever the run has built so far; opens and loads in the background."""

    def __init__(
        self, config: Config, registry: Registry, answers: Answers, metrics: Metrics
    ) -> None:
        self._config = config
        self._catalogue = Catalogue(config, registry, lambda: self.ground)
        self._answers, self._metrics = answers, metrics
        self._lock = threading.Lock()
        # Opening takes seconds, in which questions in flight must be able to end.
        self._opening = threading.RLock()
        self._opened: _Opened | None = None
        self._embedder: Embedder | None = None
        self._models = Models(config, told=metrics.batch.observe)
        self._pool = ThreadPoolExecutor(config.serve.queue, thread_name_prefix="ask")
        self._questions: dict[int, _Question] = {}
        self._pace_s = 1.0
        self._failure = ""
        self._closing = False
        self._starter = threading.Thread(target=self._start, name="start", daemon=True)
        self._starter.start()

    # --- what there is ----------------------------------------------------------------------

    @property
    def state(self) -> tuple[State, str]:
        """Whether questions can be answered, and why not."""
        if self._closing:
            return "closing", ""
        if self._failure:
            return "failed", self._failure
        return ("starting", "") if self._starter.is_alive() else ("ready", "")

    @property
    def ground(self) -> Ground:
        """Documents, questions, pipeline and result as they are served now.

        Raises:
            DomainLMError: they cannot be opened.
        """
        return self._open().ground

    def result(self) -> RunResult | None:
        """The finished run, if there is one."""
        return self.ground.result

    def models(self) -> list[ModelCard]:
        """Everything that can be asked: arms first, then registered models, newest first."""
        return self._catalogue.models()

    def card(self, name: str = "") -> ModelCard:
        """The model of that name; without one, the arm that the verdict ships, else `rag`.

        Raises:
            NotFound: there is none.
        """
        return self._catalogue.card(name)

    # --- asking -----------------------------------------------------------------------------

    async def answer(
        self,
        text: str,
        model: str = "",
        *,
        by: str = "",
        sampling: Sampling | None = None,
        gone: Callable[[], Awaitable[bool]] | None = None,
    ) -> Given:
        """The whole answer; the rest is as in `stream`."""
        async for item in self.stream(text, model, by=by, sampling=sampling, gone=gone):
            if isinstance(item, Given):
                return item
        raise AssertionError("unreachable: a stream ends with its answer or raises")

    async def stream(
        self,
        text: str,
        model: str = "",
        *,
        by: str = "",
        sampling: Sampling | None = None,
        gone: Callable[[], Awaitable[bool]] | None = None,
    ) -> AsyncIterator[str | Given]:
        """The answer piece by piece, and in the end the whole of it as it is kept.

        Closing the iterator cancels the question.

        Args:
            text: what is asked.
            model: a name of `models`; empty for the best.
            by: the user who signed in and asks; holds no more than a share of the queue.
            sampling: how it is decoded; by default as configured.
            gone: whether whoever asked has hung up; looked at four times a second.

        Raises:
            Busy: too many questions are being answered, or too many of this user.
            NotFound: there is no such model.
            HttpFailure: the question is empty or too long, was not answered in time, or whoever
                asked hung up.
            DomainLMError: the model or the index cannot be used.
        """
        check_question(text)
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[str | Given | Exception] = asyncio.Queue()

        def put(item: str | Given | Exception) -> None:
            # The loop may be gone when a cancelled question ends.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(queue.put_nowait, item)

        card = await asyncio.to_thread(self.card, model)
        question = _Question(text, card, sampling or self.sampling(), put, by)
        self._admit(question)
        told = ""
        try:
            self._pool.submit(self._work, question)
            while True:
                item = await self._next(queue, question, gone)
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, Given):
                    whole = item.answer.text
                    if whole.startswith(told) and len(whole) > len(told):
                        yield whole[len(told) :]
                    yield item
                    return
                told += item
                yield item
        finally:
            question.asking.cancelled.set()

    async def _next(
        self,
        queue: asyncio.Queue[str | Given | Exception],
        question: _Question,
        gone: Callable[[], Awaitable[bool]] | None,
    ) -> str | Given | Exception:
        limit = self._config.serve.answer_seconds
        while True:
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(queue.get(), _LOOK_S)
            if gone is not None and await gone():
                raise HttpFailure(499, "whoever asked has hung up", code="gone")
            if time.monotonic() - question.started > limit:
                raise HttpFailure(
                    503,
                    f"no answer within serve.answer_seconds={limit:g}; ask a smaller model, fewer "
                    "tokens, or later",
                    code="timeout",
                    headers={"Retry-After": "5"},
                )

    def sampling(self, **given: object) -> Sampling:
        """The configured decoding, with what is given in its place."""
        d = self._config.decoding
        return replace(Sampling(d.max_tokens, d.temperature, d.seed), **given)  # type: ignore[arg-type]

    def retrieve(self, text: str, k: int) -> list[Passage]:
        """The `k` best passages for a question.

        Raises:
            HttpFailure: nothing is indexed yet, or the question is empty or too long.
        """
        check_question(text)

        def find(opened: _Opened) -> list[Passage]:
            if opened.retrieval is None:
                raise no_index()
            return opened.retrieval(Question("ask", text), k)

        return self._twice(find)

    def embed(self, texts: Sequence[str], kind: Literal["query", "passage"]) -> Array:
        """Unit vectors of texts, shape (n, d).

        Raises:
            DomainLMError: the embedder cannot be loaded or fails.
        """
        return self._load_embedder().embed(texts, kind)

    def _admit(self, question: _Question) -> None:
        most = self._config.serve.queue
        with self._lock:
            if self._closing:
                raise HttpFailure(
                    503,
                    "the server is shutting down; ask again when it is back",
                    code="closing",
                    headers={"Retry-After": "5"},
                )
            if len(self._questions) >= most:
                wait = self._pace_s * most / self._config.serve.batch
                raise Busy(
                    f"{most} questions are being answered already (serve.queue={most}); ask again "
                    "after as many seconds as Retry-After says",
                    min(wait, 60.0),
                )
            share = max(1, int(most * self._config.serve.queue_share))
            if question.by and sum(q.by == question.by for q in self._questions.values()) >= share:
                raise Busy(
                    f"{share} questions of {question.by} are being answered "
                    f"(serve.queue_share of serve.queue={most}); "
                    "ask again when some are answered",
                    min(self._pace_s * share / self._config.serve.batch, 60.0),
                )
            self._questions[id(question)] = question
        self._metrics.asking.inc()

    def _work(self, question: _Question) -> None:
        outcome = "failed"
        try:
            given = self._answer(question)
            outcome = "answered" if given is not None else "cancelled"
            if given is not None:
                question.put(given)
        except DomainLMError as error:
            question.put(error)
        except Exception:  # a fault of ours: the log tells of it, whoever asked gets a sentence
            _log.exception("a question was not answered")
            question.put(HttpFailure(500, "the question could not be answered; see the log"))
        finally:
            with self._lock:
                del self._questions[id(question)]
                took = time.monotonic() - question.started
                self._pace_s += 0.2 * (took - self._pace_s)
            self._metrics.asking.dec()
            self._metrics.answers.labels(question.card.name, outcome).inc()
            self._metrics.answer_s.observe(took)

    def _answer(self, question: _Question) -> Given | None:
        card, one = question.card, question.asking
        if one.cancelled.is_set():
            return None
        with self._models.use(self._catalogue.weights(card)) as model, asking(one):

            def make(opened: _Opened) -> Answer:
                if card.retrieves and opened.retrieval is None:
                    raise no_index()
                # Other readers write drafts before the answer, and what may yet be withheld must
                # not be told piece by piece.
                whole = self._config.decoding.keep is not None
                if not whole and (not card.retrieves or opened.ground.spec.reader == "together"):
                    one.on_text = self._telling(question)
                gate = self._gate(opened, card)
                arm = arm_of(card.arm, model, question.sampling, opened.retrieval, gate)
                return arm.answer([Question("ask", question.text)])[0]

            answer = self._twice(make)
        if one.cancelled.is_set():
            return None
        if answer.failed:
            raise HttpFailure(422, f"{card.name} did not answer: {answer.error}", code="no_answer")
        self._metrics.tokens.labels("in").inc(answer.tokens_in)
        self._metrics.tokens.labels("out").inc(answer.tokens_out)
        ground = self.ground
        answer = self._withheld(ground, question.text, answer)
        place = asked.placed(question.text, ground.questions, ground.written)
        if not ground.split:
            # It may turn out to repeat a question that will be held out.
            place = replace(place, split="")
        return self._answers.keep(place, answer)

    def _gate(self, opened: _Opened, card: ModelCard) -> Gate | None:
        """What the run learned about showing passages, for its own weights: a model that was
        promoted since always shows them.
        """
        result = opened.ground.result
        if opened.retrieval is None or result is None or card.model:
            return None
        policy = fetching.learned(self._config, result).get(card.arm)
        return fetch.gate(policy, opened.retrieval.resources) if policy else None

    def _withheld(self, ground: Ground, text: str, answer: Answer) -> Answer:
        """The answer, or the abstention where the run learned that its arm had better not say."""
        if self._config.decoding.keep is None or ground.result is None or ground.known is None:
            return answer
        learned = {d.arm: d for d in doubts.learned(self._config, ground.result)}
        if answer.arm not in learned:
            return answer
        asked_now = [Question(answer.question_id, text)]
        embedder = self._load_embedder()
        return selective.withhold([answer], asked_now, learned, ground.known, embedder)[0]

    def _telling(self, question: _Question) -> Callable[[str], None]:
        """Hands pieces on, and times the first."""
        first = True

        def tell(piece: str) -> None:
            nonlocal first
            if first:
                first = False
                self._metrics.first_token_s.observe(time.monotonic() - question.started)
            question.put(piece)

        return tell

    # --- opening and closing ----------------------------------------------------------------

    def reload(self) -> None:
        """Serve what was built since: documents, index, pipeline, adapters, result."""
        with self._opening:
            self._failure = ""
            self._opened = self._read()

    def close(self) -> None:
        """Cancel what is being answered and let the models go."""
        with self._lock:
            self._closing = True
            waiting = list(self._questions.values())
        for question in waiting:
            question.asking.cancelled.set()
            question.put(HttpFailure(503, "the server is shutting down", code="closing"))
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._models.close()

    def _start(self) -> None:
        """Open what was built and load the model that is asked first."""
        try:
            card = self.card()
            with self._models.use(self._catalogue.weights(card)) as model:
                model.generate([(Message("user", "Hello"),)], Sampling(max_tokens=1))
        except NotFound:
            return
        except DomainLMError as error:
            self._failure = str(error)
            _log.warning("nothing can be answered yet: %s", error)

    def _open(self) -> _Opened:
        if self._opened is None:
            with self._opening:
                if self._opened is None:
                    self._opened = self._read()
        return self._opened

    def _read(self) -> _Opened:
        config = self._config
        embedder = self._load_embedder() if has_index(config) else None
        ground = open_ground(config, embedder)
        if ground.index is None or embedder is None:
            return _Opened(ground)
        resources = contenders.stage_resources(
            config, ground.index, ground.documents, ground.questions, embedder
        )
        resources = replace(resources, load_model=self._models.base)
        retrieval = Retrieval(ground.spec, resources)
        retrieval.prepare([])
        return _Opened(ground, retrieval)

    def _load_embedder(self) -> Embedder:
        with self._opening:
            if self._embedder is None:
                self._embedder = contenders.load_configured_embedder(self._config)
            return self._embedder

    def _twice(self, make: Callable[[_Opened], T]) -> T:
        """Do something with what is open; once more where a worker has changed it meanwhile."""
        opened = self._open()
        try:
            return make(opened)
        except DataError:
            if not has_index(self._config):
                raise
            self.reload()
            return make(self._open())


def check_question(text: str) -> None:
    """Refuse a question that is empty or too long.

    Raises:
        HttpFailure: it is.
    """
    if not text.strip():
        raise HttpFailure(400, "the question is empty; ask something", code="empty")
    if len(text) > MAX_QUESTION:
        raise HttpFailure(
            413,
            f"the question has {len(text):,} characters; at most {MAX_QUESTION:,} are read",
            code="too_large",
        )


def no_index() -> HttpFailure:
    """Nothing is indexed."""
    return HttpFailure(
        409,
        "no documents are indexed yet; add some and start the job 'ingest' or 'run'",
        code="no_index",
    )
