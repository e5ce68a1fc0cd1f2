"""Every run joins a history: one append-only file beside the runs.

A run of the same name overwrites its result, so a `Snapshot` keeps what later comparisons need:
every arm's score, outcome, seconds and dollars of each test question, and digests of what made
them. A snapshot alone can be compared, drawn over time, pinned and gated against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from domainlm import stats
from domainlm.artifacts import Log, digest, dump_json, load_json, write_atomic, writing
from domainlm.errors import DataError
from domainlm.evaluation import summary
from domainlm.paired import (
    TEST_SPLITS,
    Asked,
    Comparison,
    Side,
    asked_of,
    compare,
    documents_of,
)
from domainlm.schema import (
    ArmSummary,
    Classified,
    Interval,
    Latency,
    Outcome,
    RunResult,
    Score,
    Split,
)

HISTORY = "history.jsonl"
_WAIT_S = 60.0
_FACTS = ("model", "embedder", "domainlm", "platform", "cpu_cores", "prices_as_of", "seed")


@dataclass(frozen=True, slots=True)
class Mark:
    """One arm's answer to one test question."""

    question_id: str
    primary: float
    outcome: Outcome
    latency_s: float
    cost_usd: float | None
    classified: Classified | None = None


@dataclass(frozen=True, slots=True)
class ArmRecord:
    """One arm over all test questions: dollars by document, the median of single questions' seconds
    by order statistics; `missed` are requirements that it was shown to miss.
    """

    arm: str
    quality: Interval
    outcomes: dict[str, int]
    cost_usd: Interval
    latency_s: Interval
    marks: tuple[Mark, ...]
    missed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One run as the history keeps it; `facts` name what made it: models, digests, versions."""

    id: str
    name: str
    created_at: str
    how: str
    """"run", or "score" where finished answers were scored again."""
    ship: str
    margin: float
    facts: dict[str, str]
    documents: int
    characters: int
    splits: dict[str, Split]
    asked: dict[str, Asked]
    arms: tuple[ArmRecord, ...]

    def arm(self, name: str) -> ArmRecord | None:
        """The record of one arm."""
        return next((a for a in self.arms if a.arm == name), None)

    def side(self, name: str = "") -> Side:
        """The snapshot as one side of a comparison."""
        scores = tuple(
            Score(
                m.question_id,
                record.arm,
                self.asked[m.question_id].task,
                self.splits[m.question_id],
                "",
                {"primary": m.primary, "correct": float(m.outcome == "correct")},
                m.outcome,
                m.classified,
            )
            for record in self.arms
            for m in record.marks
        )
        return Side(name or self.name, self.asked, scores, self.ship)


@dataclass(frozen=True, slots=True)
class Drift:
    """What changed from one snapshot of a run to the next: inputs in words, quality by test."""

    before: str
    after: str
    changes: tuple[str, ...]
    quality: Comparison | None
    note: str = ""
    """Why quality was not compared."""

    @property
    def moved(self) -> tuple[str, ...]:
        """Arms whose quality is shown to have changed."""
        pairs = self.quality.pairs if self.quality else ()
        return tuple(p.a for p in pairs if p.whole.verdict in ("better", "worse"))


def snapshot(
    result: RunResult, costs: Mapping[tuple[str, str], float] | None = None, how: str = "run"
) -> Snapshot:
    """What the history keeps of a run.

    Args:
        result: The run.
        costs: Dollars of each answer by arm and question.
        how: "run" or "score".
    """
    test = [q for q in result.questions if q.split in TEST_SPLITS]
    asked = asked_of(test)
    seconds = {(a.arm, a.question_id): a.latency_s for a in result.answers}
    whole = {s.arm: s for s in result.summaries if (s.task, s.split) == (summary.ALL, summary.TEST)}
    clusters = documents_of(Side(result.name, asked, ()), list(asked))
    records = []
    for arm, s in whole.items():
        marks = tuple(
            Mark(
                x.question_id,
                x.metrics["primary"],
                x.outcome,
                seconds.get((arm, x.question_id), 0.0),
                (costs or {}).get((arm, x.question_id)),
                x.classified,
            )
            for x in result.scores
            if x.arm == arm and x.question_id in asked and "primary" in x.metrics
        )
        standing = next((st for st in result.standings if st.arm == arm), None)
        missed = [r for r in standing.requirements if r.state == "misses"] if standing else []
        records.append(
            ArmRecord(
                arm,
                s.metrics["primary"],
                dict(s.outcomes),
                _cost(s, marks, clusters),
                _median(s, result.latency),
                marks,
                tuple(f"{r.name} {r.sense} {r.limit:g}" for r in missed),
            )
        )
    told = result.provenance
    facts = {key: told[key] for key in _FACTS if key in told}
    facts |= {key: value for key, value in told.items() if key.startswith("adapter_")}
    facts["documents"] = told.get("documents_digest", "")
    facts["pipeline"] = digest(result.rag)
    facts["decoding"] = digest(result.config.get("decoding"))
    scored = [[(m.question_id, m.primary, m.outcome) for m in r.marks] for r in records]
    return Snapshot(
        # Neither time nor latency: a run that is repeated or resumed is no new one.
        id=digest(result.name, facts, asked, sorted(r.arm for r in records), scored),
        name=result.name,
        created_at=result.created_at,
        how=how,
        ship=result.verdict.ship,
        margin=margin_of(result),
        facts=facts,
        documents=result.data.documents,
        characters=result.data.characters,
        splits={q.id: q.split for q in test},
        asked=asked,
        arms=tuple(records),
    )


def _cost(s: ArmSummary, marks: Sequence[Mark], clusters: Mapping[str, str]) -> Interval:
    """Dollars of a question; without an end where single answers were not priced."""
    paid = [(m.cost_usd, clusters[m.question_id]) for m in marks if m.cost_usd is not None]
    if not paid or len(paid) < len(marks):
        return Interval(s.cost_per_question_usd, None, None, s.n, "not priced one by one")
    return stats.cluster_interval([usd for usd, _ in paid], [c for _, c in paid])


def _median(s: ArmSummary, waits: Sequence[Latency]) -> Interval:
    """Median seconds; without an end where no question was timed alone."""
    alone = (w.end_to_end.get("p50") for w in waits if w.arm == s.arm and not w.rate)
    timed = next((p50 for p50 in alone if p50), None)
    return timed or Interval(s.latency_p50_s, None, None, s.n, "not timed one by one")


def margin_of(result: RunResult) -> float:
    """The equivalence margin that a run declared."""
    evaluation = result.config.get("evaluation")
    margin = evaluation.get("margin") if isinstance(evaluation, dict) else None
    return float(margin) if isinstance(margin, int | float) and margin > 0 else 0.05


def join(output: Path, made: Snapshot) -> bool:
    """Append a snapshot to the history of a folder of runs, unless the last one of this name is
    the same; several processes may do so at once.

    Raises:
        DataError: the folder cannot be written.
    """
    log = Log(output / HISTORY, Snapshot)
    with writing(log.path):
        output.mkdir(parents=True, exist_ok=True)
        lock = FileLock(output / f".{HISTORY}.lock", timeout=_WAIT_S)
        try:
            with lock:
                last = [s.id for s in log.read() if s.name == made.name][-1:]
                if last == [made.id]:
                    return False
                log.append([made])
        except Timeout:
            raise DataError(
                f"{log.path} has been locked by another process for {_WAIT_S:.0f} s; wait for it "
                "and run the same command again, finished work is kept"
            ) from None
    return True


def read(output: Path, name: str = "") -> list[Snapshot]:
    """The history of a folder of runs, oldest first.

    Raises:
        DataError: there is none, or none of that name.
    """
    path = output / HISTORY
    found: list[Snapshot] = Log(path, Snapshot).read()
    if not found and path.is_file() and path.stat().st_size:
        raise DataError(
            f"{path} holds no run that this version reads; move it away and add the finished runs "
            "again with `domainlm history --add RUN`"
        )
    if not found:
        raise DataError(
            f"{output} has no history yet; every `domainlm run` joins it, and "
            "`domainlm history --add RUN` adds a finished one"
        )
    named = [s for s in found if name in ("", s.name)]
    if not named:
        names = ", ".join(dict.fromkeys(s.name for s in found))
        raise DataError(f"the history of {output} has no run {name!r}; it has {names}")
    return sorted(named, key=lambda s: s.created_at)


def pin(made: Snapshot, path: Path) -> None:
    """Write one snapshot to a file that a gate may compare with.

    Raises:
        DataError: the file cannot be written.
    """
    write_atomic(path, dump_json(Snapshot, made))


def pinned(path: Path) -> Snapshot:
    """Read what `pin` wrote.

    Raises:
        DataError: the file is no pinned run.
    """
    found: Snapshot = load_json(Snapshot, path)
    return found


def drift(old: Snapshot, new: Snapshot) -> Drift:
    """What changed between two snapshots, and whether quality did on the questions they share."""
    quality, note = None, ""
    try:
        quality = compare(
            new.side(f"{new.name} (new)"), old.side(f"{old.name} (old)"), margin=new.margin
        )
    except DataError as error:
        note = str(error)
    return Drift(old.id, new.id, tuple(_changes(old, new)), quality, note)


def drifts(snapshots: Sequence[Snapshot]) -> list[Drift]:
    """Each snapshot against the one before it of the same name."""
    last: dict[str, Snapshot] = {}
    found = []
    for made in snapshots:
        if made.name in last:
            found.append(drift(last[made.name], made))
        last[made.name] = made
    return found


def _changes(old: Snapshot, new: Snapshot) -> list[str]:
    said = []
    if _documents_changed(old, new):
        count = f"{old.documents} -> {new.documents}"
        same = old.documents == new.documents
        said.append(f"documents changed{'' if same else f' ({count})'}")
    added = [q for q in new.asked if q not in old.asked]
    gone = [q for q in old.asked if q not in new.asked]
    both = [q for q in new.asked if q in old.asked]
    reworded = [q for q in both if new.asked[q].text != old.asked[q].text]
    judged = [q for q in both if q not in reworded and new.asked[q].gold != old.asked[q].gold]
    counts = ((added, "new"), (gone, "gone"), (reworded, "reworded"), (judged, "with other gold"))
    told = [f"{len(ids)} {word}" for ids, word in counts if ids]
    if told:
        said.append(f"test questions: {', '.join(told)}")
    for key in ("model", "embedder", "prices_as_of", "domainlm", "seed"):
        before, after = old.facts.get(key, ""), new.facts.get(key, "")
        if before != after:
            said.append(f"{key.replace('_', ' ')}: {before or '-'} -> {after or '-'}")
    adapters = sorted(
        key.removeprefix("adapter_")
        for key in old.facts.keys() | new.facts.keys()
        if key.startswith("adapter_") and old.facts.get(key) != new.facts.get(key)
    )
    if adapters:
        said.append(f"trained anew: {', '.join(adapters)}")
    for key in ("pipeline", "decoding"):
        if old.facts.get(key) != new.facts.get(key):
            said.append(f"{key} changed")
    if any(old.facts.get(k) != new.facts.get(k) for k in ("platform", "cpu_cores")):
        said.append("another machine, so seconds and dollars of machine time do not compare")
    if new.how == "score":
        said.append("finished answers were scored again")
    return said


def _documents_changed(old: Snapshot, new: Snapshot) -> bool:
    if old.facts.get("domainlm") == new.facts.get("domainlm"):
        return old.facts.get("documents") != new.facts.get("documents")
    # The digest holds the version of the readers; across versions only sizes compare.
    return (old.documents, old.characters) != (new.documents, new.characters)
