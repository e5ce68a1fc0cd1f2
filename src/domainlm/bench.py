"""The bench: trains the adapters and lets every arm answer the same questions in the same way."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from domainlm.artifacts import Log, Progress, RunDir, digest, folder_bytes
from domainlm.config import ArmName, Config
from domainlm.contenders import base_checkpoint, load_model, stage_resources
from domainlm.memory import PeakMemory, release
from domainlm.models.base import ChatModel, Embedder
from domainlm.rag.arms import CLOSED_BOOK, arm_of
from domainlm.rag.pipeline import Answerer, Arm, Retrieval, closed_book
from domainlm.rag.preparing import bill_of
from domainlm.registry import registry_of
from domainlm.retrieval import Index
from domainlm.schema import (
    Adapter,
    Answer,
    Document,
    FetchPolicy,
    Lessons,
    Question,
    QuestionSet,
    RagSpec,
    RewardRow,
    Sampling,
    Setup,
    TrainingRow,
)
from domainlm.training import fetch
from domainlm.training.data import Synthesis, closed_book_rows, raft_rows, replay_rows
from domainlm.training.refine import refine_rows
from domainlm.training.rewards import reward_rows

ADAPTER_OF: dict[ArmName, str] = {"tuned": "tuned", "tuned+rag": "tuned", "raft": "raft"}
"""Which adapter each arm that needs one is served with."""
_BATCH = 32


class Bench:
    """Trains the adapters and lets every arm answer the same questions under one setting."""

    def __init__(
        self,
        config: Config,
        folder: RunDir,
        index: Index,
        documents: dict[str, Document],
        questions: QuestionSet,
        spec: RagSpec,
        embedder: Embedder,
        progress: Progress,
    ) -> None:
        self._config, self._folder, self._progress = config, folder, progress
        self._index, self._documents, self._questions = index, documents, questions
        self._spec = spec
        self._adapters: dict[str, Adapter] = {}
        self.row_counts: dict[str, int] = {}
        self.fetching: dict[str, FetchPolicy] = {}
        """What arms learned about showing passages; where timed or asked one by one, they do so."""
        self.resources = stage_resources(
            config, index, documents, questions, embedder, progress=progress
        )
        limits = config.evaluation
        self.asked: list[Question] = [
            *sample(questions.dev, limits.dev_questions),
            *sample(questions.test, limits.max_questions),
        ]

    def train(self, key: str, written: Synthesis) -> tuple[Adapter, ...]:
        """The adapters that the arms need, trained or loaded."""
        wanted = sorted({ADAPTER_OF[a] for a in self._config.arms if a in ADAPTER_OF})
        self._adapters = {name: self.train_one(name, key, written) for name in wanted}
        return tuple(self._adapters.values())

    def train_one(
        self, name: str, key: str, written: Synthesis, seed: int | None = None
    ) -> Adapter:
        """The adapter `name` on its own rows, trained or loaded; another `seed` than the run's
        trains it once more on the same rows.
        """
        training = self._config.training
        rows = self.own_rows(name, key, written)
        rows += tuple(replay_rows(len(rows), training.replay_share, self._config.seed))
        counts = Counter(f"{name}: {r.kind}, {r.origin}" for r in rows)
        self.row_counts |= dict(sorted(counts.items()))
        # Not the checkpoint's path: the cache may lie elsewhere on the next machine.
        key = digest(key, rows, self._config.model)
        label = name if seed is None else f"{name}-seed-{seed}"
        return self.fit(label, name, Lessons(rows), key, seed)

    def own_rows(self, name: str, key: str, written: Synthesis) -> tuple[TrainingRow, ...]:
        """Rows of train and written questions, without what is to be forgotten."""
        rows: tuple[TrainingRow, ...] = self._folder.stage(
            f"rows-{name}",
            # Rows of an older shape do not know their documents.
            digest(key, [f.name for f in dataclasses.fields(TrainingRow)]),
            tuple[TrainingRow, ...],
            lambda: (
                *self.rows(name, (*self._questions.train, *written.questions)),
                *self._refining(name),
            ),
        )
        # After the stage: what is excluded later must go too.
        return registry_of(self._config).exclusions().keep(rows)

    def fit(
        self, label: str, name: str, lessons: Lessons, key: str, seed: int | None = None
    ) -> Adapter:
        """Train an adapter of the kind `name` ("tuned" or "raft"), or load the one that was trained
        for `key` under this label; `seed` is the run's by default.

        Raises:
            DataError: there are no rows, or none of one kind fits.
        """
        config = self._config.training
        base = base_checkpoint(self._config)
        epochs = config.raft_epochs if name == "raft" else config.tuned_epochs
        place = f"adapters/{label}-{key}"

        def train() -> Adapter:
            # The trainers import torch, which only this stage needs.
            from domainlm.training.plan import train_adapter

            # Only a race of learning rates needs rows to decide by.
            dev = self.rows(name, self._questions.dev, every=True) if config.learning_rates else []
            made = train_adapter(
                label,
                lessons,
                base,
                self._folder.path / place,
                config,
                epochs=epochs,
                dev=dev,
                documents=tuple(self._documents.values()),
                rewarded=self._rewarded(name),
                seed=self._config.seed if seed is None else seed,
                progress=self._progress.update,
            )
            release()
            # Relative to the run folder, which may be moved; the last step's weights are meant.
            last = Path(made.path).relative_to(self._folder.path).as_posix()
            return dataclasses.replace(made, path=last)

        adapter: Adapter = self._folder.stage(f"adapter-{label}", key, Adapter, train)
        return adapter

    def rows(
        self, name: str, pool: Sequence[Question], *, every: bool = False
    ) -> list[TrainingRow]:
        """Questions with their answers as rows for an adapter, prompted as its arm will be.

        Args:
            name: "tuned" or "raft".
            pool: questions with references.
            every: each question becomes a row with its own answer; otherwise the configured limits
                draw from them and a share is shown without evidence.
        """
        training, seed = self._config.training, self._config.seed
        if name == "tuned":
            limit = 0 if every else training.tuned_rows
            return closed_book_rows(pool, limit, seed, phrasings=1 if every else training.phrasings)
        return raft_rows(
            # A sentence with a gap asks to recite, not to read.
            [q for q in pool if q.metadata.get("form") != "gap"],
            self._retrieval(),
            self._documents,
            limit=0 if every else training.raft_rows,
            absent_share=0.0 if every else training.absent_share,
            partial_share=0.0 if every else training.partial_share,
            phrasings=1 if every else training.phrasings,
            seed=seed,
            progress=self._progress.update,
        )

    def _rewarded(self, name: str) -> tuple[RewardRow, ...]:
        """Train questions on which GRPO goes on, prompted as the arm will be."""
        limit = self._config.training.reward.questions
        if not limit:
            return ()
        retrieval = self._retrieval() if name == "raft" else None
        rows = reward_rows(self._questions.train, retrieval, limit=limit, seed=self._config.seed)
        return registry_of(self._config).exclusions().keep(rows)

    def _refining(self, name: str) -> list[TrainingRow]:
        """Rows that teach to complete a sentence from intact, damaged or irrelevant text."""
        known = set(self._questions.train_doc_ids)
        limit = self._config.training.info_rag_rows if name == "raft" else 0
        if not limit:
            return []
        return refine_rows(
            [c for c in self._index.chunks() if c.doc_id in known],
            self._retrieval(),
            limit=limit,
            seed=self._config.seed,
            progress=self._progress.update,
        )

    def _retrieval(self) -> Retrieval:
        """The deployed pipeline, each question without what was learned from it."""
        resources = dataclasses.replace(self.resources, leave_one_out=True, cache={})
        return Retrieval(self._spec, resources)

    def answer(self, key: str) -> tuple[list[Answer], dict[str, int]]:
        """Answers of all arms, and each arm's peak memory.

        Answers are appended to a log batch by batch, so a killed run keeps every finished batch.
        One model is loaded at a time.
        """
        answers: list[Answer] = []
        memory: dict[str, int] = {}
        for adapter, arms in self.groups().items():
            models: list[ChatModel] = []
            for arm in arms:
                made, memory[arm] = self._arm_answers(arm, adapter, key, models)
                answers += made
            models.clear()
            release()
        order = {arm: n for n, arm in enumerate(self._config.arms)}
        place = {q.id: n for n, q in enumerate(self.asked)}
        answers.sort(key=lambda a: (order[a.arm], place[a.question_id]))  # type: ignore[index]
        return answers, memory

    def groups(self) -> dict[str, list[ArmName]]:
        """Arms by the adapter that they are served with ("" for none)."""
        groups: dict[str, list[ArmName]] = {}
        for arm in self._config.arms:
            groups.setdefault(ADAPTER_OF.get(arm, ""), []).append(arm)
        return groups

    def load(self, adapter: str) -> ChatModel:
        """The model with one adapter, or with none ("")."""
        return load_model(self._config, self._adapter_path(adapter))

    def _arm_answers(
        self, name: ArmName, adapter: str, key: str, models: list[ChatModel]
    ) -> tuple[list[Answer], int]:
        asked_key = digest(key, name, [q.id for q in self.asked])
        log, done = self._answered(f"{name}-{asked_key}")

        def arm() -> Arm:
            if not models:
                models.append(self.load(adapter))
            return self._arm(name, models[0])

        def complete() -> int:
            watch = PeakMemory()
            self._complete(arm, self.asked, log, done)
            return watch.peak()

        peak = self._folder.stage(f"answers-{name}", asked_key, int, complete)
        # What failed when the stage was made is asked again, and never left out of the score.
        self._complete(arm, self.asked, log, done)
        return [done[q.id] for q in self.asked], peak

    def serve(self, name: str, adapter: Path, base_model: str) -> None:
        """Let the arms that use the adapter `name` be served with another one of the same base."""
        own = self._adapters[name]
        if own.base_model == base_model:
            self._adapters[name] = dataclasses.replace(own, path=str(adapter.resolve()))

    def reader(self, name: ArmName, adapter: Adapter | None = None) -> ChatModel:
        """The model that an arm is served by, or would be with another adapter."""
        own = ADAPTER_OF.get(name, "")
        place = self._folder.path / adapter.path if adapter else self._adapter_path(own)
        return load_model(self._config, place)

    def keep(self, arm: Arm, asked: Sequence[Question], key: str) -> list[Answer]:
        """Answers of an arm of one's own making, kept batch by batch under `key`."""
        log, done = self._answered(f"{arm.name}-{key}")
        self._complete(lambda: arm, asked, log, done)
        return [done[q.id] for q in asked]

    def unaided(self, name: ArmName, asked: Sequence[Question], key: str) -> list[Answer]:
        """Closed-book answers by the weights of an arm, kept batch by batch under `key`."""
        log, done = self._answered(f"{name}-unaided-{key}")
        models: list[ChatModel] = []

        def arm() -> Arm:
            if not models:
                models.append(self.reader(name))
            return closed_book(name, models[0], self.sampling)

        self._complete(arm, asked, log, done)
        if models:
            models.clear()
            release()
        return [done[q.id] for q in asked]

    @property
    def sampling(self) -> Sampling:
        """How every arm decodes."""
        decoding = self._config.decoding
        return Sampling(decoding.max_tokens, decoding.temperature, decoding.seed)

    def contend(
        self, name: ArmName, model: ChatModel, asked: Sequence[Question], key: str
    ) -> list[Answer]:
        """Answers of an arm that is served by `model`, kept batch by batch under `key`."""
        log, done = self._answered(f"{name}-{key}")
        self._complete(lambda: self._arm(name, model), asked, log, done)
        return [done[q.id] for q in asked]

    def _answered(self, place: str) -> tuple[Log, dict[str, Answer]]:
        """The log of an arm's answers and what it holds."""
        log = Log(self._folder.path / "answers" / f"{place}.jsonl", Answer)
        # What failed (a server was down) is asked again.
        return log, {a.question_id: a for a in log.read() if not a.failed}

    def _complete(
        self,
        arm: Callable[[], Arm],
        asked: Sequence[Question],
        log: Log,
        done: dict[str, Answer],
    ) -> None:
        """Ask what has no answer yet, batch by batch."""
        left = [q for q in asked if q.id not in done]
        for start in range(0, len(left), _BATCH):
            batch = arm().answer(left[start : start + _BATCH])
            log.append(list(batch))
            done.update((a.question_id, a) for a in batch)
            release()
            self._progress.update(len(done), len(asked))

    def _adapter_path(self, name: str) -> Path | None:
        return self._folder.path / self._adapters[name].path if name else None

    def _arm(
        self,
        name: ArmName,
        model: ChatModel,
        *,
        timed: bool = False,
        policy: FetchPolicy | None = None,
    ) -> Arm:
        decoding = self._config.decoding
        sampling = Sampling(decoding.max_tokens, decoding.temperature, decoding.seed, stream=timed)
        retrieval = None
        if name not in CLOSED_BOOK:
            retrieval = Retrieval(self._spec, self.resources)
            retrieval.prepare([] if timed else self.asked)
        gate = fetch.gate(policy, self.resources) if policy else None
        return arm_of(name, model, sampling, retrieval, gate)

    def timed(self, name: ArmName, model: ChatModel) -> Answerer:
        """An arm whose answers are to be timed, warmed up with one question."""
        arm = self._arm(name, model, timed=True, policy=self.fetching.get(name))

        def answer(questions: Sequence[Question]) -> list[Answer]:
            # A user's question has not been embedded before.
            self._index.forget_queries()
            return arm.answer(questions)

        answer(self.asked[:1])
        return answer

    def ask(self, name: str, question: Question, spec: RagSpec | None = None) -> Answer:
        """Answer one question with a trained arm, through another pipeline if one is given."""
        self._spec = spec or self._spec
        adapter = ADAPTER_OF.get(name, "")  # type: ignore[call-overload]
        model = load_model(self._config, self._adapter_path(adapter))
        arm = self._arm(name, model, policy=self.fetching.get(name))  # type: ignore[arg-type]
        return arm.answer([question])[0]

    def setup(self, arm: str, adapters: Sequence[Adapter]) -> Setup:
        """What an arm took: machine time of index, question writing and training, and storage."""
        retrieves = arm not in CLOSED_BOOK
        trained = [a for a in adapters if a.name == ADAPTER_OF.get(arm)]  # type: ignore[call-overload]
        places = [self._folder.path / a.path for a in trained]
        indexing = 0.0
        if retrieves:
            indexing = self._index.delta.seconds + self._folder.seconds("retriever")
            indexing += bill_of(self._spec.retrieve, self.resources).seconds
            if self._index.folder:
                places.append(self._index.folder)
        rows_s = sum(self._folder.seconds(f"rows-{a.name}") for a in trained)
        rows_s += self._folder.seconds(f"fetch-{arm}")
        return Setup(
            index_s=indexing,
            training_s=rows_s + sum(a.seconds for a in trained),
            synthesis_s=self._folder.seconds("synthesis") if trained else 0.0,
            storage_gb=sum(map(folder_bytes, places)) / 1e9,
        )


def sample(questions: Sequence[Question], limit: int) -> list[Question]:
    """At most `limit` questions, spread over splits and tasks, drawn by hash so that adding
    questions does not reshuffle the rest; their order is kept.
    """
    if not limit or len(questions) <= limit:
        return list(questions)
    strata: dict[tuple[str, str], list[Question]] = {}
    drawn = sorted(questions, key=lambda q: hashlib.sha256(q.id.encode()).digest())
    for question in drawn:
        strata.setdefault((question.split, question.task), []).append(question)
    # The first of every stratum comes before any second; the rest in proportion.
    place = {q.id: n / len(group) for group in strata.values() for n, q in enumerate(group)}
    chosen = {q.id for q in sorted(drawn, key=lambda q: place[q.id])[:limit]}
    return [q for q in questions if q.id in chosen]
