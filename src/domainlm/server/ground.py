"""What was built, opened to be read: the server never writes the run's folder nor holds its lock.

So a worker process may run, improve or index beside it; when it is done, the server opens the
newest again.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path

from domainlm.artifacts import RunDir, digest
from domainlm.bench import ADAPTER_OF
from domainlm.config import Config
from domainlm.errors import DataError
from domainlm.experiment import RESULT, load_result
from domainlm.models.base import Embedder
from domainlm.retrieval import MANIFEST, Index
from domainlm.schema import (
    Adapter,
    Document,
    Known,
    Quarantined,
    Question,
    QuestionSet,
    RagSpec,
    RunResult,
    Trial,
)
from domainlm.training.data import Synthesis

Corpus = tuple[tuple[Document, ...], tuple[Quarantined, ...]]
_NO_QUESTIONS = QuestionSet((), (), (), (), ())


@dataclass(frozen=True)
class Ground:
    """The newest of everything that a run has made; what is missing is empty."""

    documents: dict[str, Document] = field(default_factory=dict)
    quarantined: tuple[Quarantined, ...] = ()
    questions: QuestionSet = _NO_QUESTIONS
    written: tuple[Question, ...] = ()
    index: Index | None = None
    spec: RagSpec = RagSpec()
    adapters: dict[str, Adapter] = field(default_factory=dict)
    """"tuned" or "raft" -> its own adapter, with a path that can be opened."""
    result: RunResult | None = None
    known: Known | None = None
    """What right answers look like, where the run learned to withhold others."""

    @property
    def split(self) -> bool:
        """Whether the questions have been split, so that one can tell which are held out."""
        return self.questions is not _NO_QUESTIONS


def has_index(config: Config) -> bool:
    """Whether any index was built for this run."""
    return next(config.folder.glob(f"index-*/{MANIFEST}"), None) is not None


def open_ground(config: Config, embedder: Embedder | None) -> Ground:
    """The newest of a run, as far as there is any; the index only with its embedder.

    Raises:
        DataError: the index cannot be used.
    """
    if not config.folder.is_dir():
        return Ground()
    folder = RunDir(config.folder)
    corpus: Corpus = folder.newest("documents", Corpus) or ((), ())
    trials: tuple[Trial, ...] = folder.newest("pipeline", tuple[Trial, ...]) or ()
    written: Synthesis | None = folder.newest("synthesis", Synthesis)
    result = None
    if (config.folder / RESULT).exists():
        # A result of another version is as good as none: the run can be made again.
        with contextlib.suppress(DataError):
            result = load_result(config.folder)
    given = config.rag.spec()
    spec = trials[0].spec if trials else given or RagSpec(passages=config.rag.passages)
    return Ground(
        {d.id: d for d in corpus[0]},
        corpus[1],
        folder.newest("questions", QuestionSet) or _NO_QUESTIONS,
        written.questions if written else (),
        _index(config, embedder),
        spec,
        _adapters(config, folder, result),
        result,
        folder.newest("known", Known) if result and result.doubts else None,
    )


def _index(config: Config, embedder: Embedder | None) -> Index | None:
    if embedder is None:
        return None
    place = config.folder / f"index-{digest(embedder.name)}"
    return Index.open(place, embedder) if (place / MANIFEST).exists() else None


def _adapters(config: Config, folder: RunDir, result: RunResult | None) -> dict[str, Adapter]:
    """Those of the finished run, or else the newest that were trained."""
    made: dict[str, Adapter] = {a.name: a for a in result.adapters} if result else {}
    for name in sorted(set(ADAPTER_OF.values()) - set(made)):
        newest: Adapter | None = folder.newest(f"adapter-{name}", Adapter)
        if newest is not None:
            made[name] = newest
    opened = {n: replace(a, path=str(config.folder / a.path)) for n, a in made.items()}
    return {name: adapter for name, adapter in opened.items() if Path(adapter.path).is_dir()}
