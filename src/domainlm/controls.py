"""Diagnostic arms beside the contenders: what perfect, foreign and more context would do.

None of them can ship, so none belongs to the family of contrasts that the verdict rests on; their
comparisons are corrected among themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from domainlm import stats
from domainlm.artifacts import RunDir, digest
from domainlm.bench import Bench
from domainlm.config import ArmName, Config
from domainlm.evaluation import fscores, summary
from domainlm.evaluation.tasks import score_answers
from domainlm.memory import release
from domainlm.models.base import ChatModel, purpose, record_calls
from domainlm.rag import prompts
from domainlm.rag.pipeline import Arm, Retrieved, generate
from domainlm.rag.rocchio import evidence_spans
from domainlm.schema import (
    Answer,
    Contrast,
    Control,
    Document,
    Message,
    Passage,
    Question,
    Sampling,
    Score,
)

EXAMPLES = 4
LONG_CHARS = 12_000
"""Document text of the long context: about 3,000 tokens, which small models still take."""
_MARGIN = 300
"""Characters shown on either side of the evidence, as a retrieved passage would."""

Passages = Mapping[str, Sequence[Passage]]


@dataclass(frozen=True, slots=True)
class _Kind:
    """A diagnostic arm: the arm whose reader it shares, what it shows, what that tells."""

    name: str
    reader: ArmName
    what: str


ORACLE, SHUFFLED, FEW_SHOT, LONG = "oracle", "shuffled", "few-shot", "long context"
_KINDS = (
    _Kind(ORACLE, "rag", "the labelled evidence in place of what search found"),
    _Kind(ORACLE, "raft", "the labelled evidence in place of what search found"),
    _Kind(SHUFFLED, "rag", "passages that were found for another question (placebo)"),
    _Kind(SHUFFLED, "raft", "passages that were found for another question (placebo)"),
    _Kind(LONG, "rag", f"the documents found, up to {LONG_CHARS:,} characters of them"),
    _Kind(FEW_SHOT, "base", f"{EXAMPLES} train questions with their answers in the prompt"),
)


def stage(
    config: Config,
    folder: RunDir,
    bench: Bench,
    documents: Mapping[str, Document],
    train: Sequence[Question],
    answers: Sequence[Answer],
    scores: Sequence[Score],
    key: str,
) -> tuple[Control, ...]:
    """`diagnose` as a stage of a run, if `evaluation.diagnostics` asks for it."""
    if not config.evaluation.diagnostics:
        return ()
    found: tuple[Control, ...] = folder.stage(
        "controls",
        digest(key, scores, config.evaluation.margin),
        tuple[Control, ...],
        lambda: diagnose(bench, config, documents, train, answers, scores, key),
    )
    return found


def diagnose(
    bench: Bench,
    config: Config,
    documents: Mapping[str, Document],
    train: Sequence[Question],
    answers: Sequence[Answer],
    scores: Sequence[Score],
    key: str,
) -> tuple[Control, ...]:
    """Let the diagnostic arms answer the test questions, and compare each with its reference.

    Args:
        bench: Holds the readers.
        config: The run's settings.
        documents: By id.
        train: Questions that may serve as examples.
        answers: Of the contenders, with what their pipeline found.
        scores: Of what they said, with nothing withheld, as diagnostic arms withhold nothing.
        key: Digest of what the contenders' answers depend on.
    """
    test = [q for q in bench.asked if q.split != "dev"]
    # Other readers than the usual one would differ from their reference in more than the passages.
    arms = config.arms if config.rag.reader == "together" else ("base",)
    wanted = [k for k in _KINDS if k.reader in arms and k.reader in config.arms]
    found = {a.question_id: a.passages for a in answers if a.arm in ("rag", "raft")}
    shown = {
        ORACLE: oracle(test, documents),
        SHUFFLED: shuffled(test, found),
        LONG: long_context(test, found, documents),
    }
    made: list[tuple[_Kind, list[Answer]]] = []
    for reader in dict.fromkeys(k.reader for k in wanted):
        kinds = [k for k in wanted if k.reader == reader]
        made += _of_reader(bench, kinds, test, shown, examples_of(train), key)
        release()
    return compared(made, test, scores, config.evaluation.margin)


def _of_reader(
    bench: Bench,
    kinds: Sequence[_Kind],
    test: Sequence[Question],
    shown: Mapping[str, Passages],
    examples: Sequence[Question],
    key: str,
) -> list[tuple[_Kind, list[Answer]]]:
    """The answers of the diagnostic arms of one reader, which is loaded for them and let go."""
    model = bench.reader(kinds[0].reader)
    made = []
    for kind in kinds:
        name = _name(kind)
        if kind.name == FEW_SHOT:
            asked = list(test)
            arm = few_shot(name, model, bench.sampling, examples)
        else:
            asked = [q for q in test if shown[kind.name].get(q.id)]
            arm = _reading(name, model, bench.sampling, shown[kind.name])
        if asked:
            at = digest(key, name, [q.id for q in asked], EXAMPLES, LONG_CHARS, _MARGIN)
            made.append((kind, bench.keep(arm, asked, at)))
    return made


def compared(
    made: Sequence[tuple[_Kind, Sequence[Answer]]],
    test: Sequence[Question],
    scores: Sequence[Score],
    margin: float,
) -> tuple[Control, ...]:
    """Each diagnostic arm against its reference, on the questions that both answered."""
    by_id = {q.id: q for q in test}
    clusters = {s.question_id: s.cluster for s in scores}
    own: list[Score] = []
    for _, answers in made:
        own += score_answers(answers, [by_id[a.question_id] for a in answers])
    own = [replace(s, cluster=clusters.get(s.question_id, s.cluster)) for s in own]
    family = {_name(k): {_name(k): 1, k.reader: -1} for k, _ in made}
    found = summary.pairwise([*scores, *own], family, margin=margin)
    whole = {c.name: c for c in found if c.task == summary.ALL}
    controls = []
    for kind, _ in made:
        name = _name(kind)
        if name not in whole:
            continue
        mine = [s for s in own if s.arm == name]
        quality = stats.cluster_interval(fscores.primary(mine), [s.cluster for s in mine])
        failed = sum(s.outcome == "failed" for s in mine)
        sentence = _sentence(kind, whole[name]) + (
            f" {failed} of its prompts failed or did not fit the model." if failed else ""
        )
        unread = kind.name == SHUFFLED and whole[name].verdict in ("equivalent", "better")
        controls.append(
            Control(name, kind.reader, kind.what, len(mine), quality, whole[name], sentence, unread)
        )
    return tuple(controls)


def oracle(questions: Sequence[Question], documents: Mapping[str, Document]) -> Passages:
    """The labelled evidence of each question with some text around it, for those that have any."""
    shown: dict[str, Sequence[Passage]] = {}
    for question in questions:
        passages = []
        for doc_id in question.doc_ids:
            document = documents.get(doc_id)
            spans = evidence_spans(question, document) if document else []
            for start, end in spans:
                assert document is not None
                passages.append(
                    _passage(
                        document, max(0, start - _MARGIN), min(len(document.text), end + _MARGIN)
                    )
                )
        if passages:
            shown[question.id] = passages
    return shown


def shuffled(questions: Sequence[Question], found: Passages) -> Passages:
    """For each question what was found for another one about other documents."""
    order = sorted(
        (q for q in questions if found.get(q.id)),
        key=lambda q: hashlib.sha256(q.id.encode()).digest(),
    )
    shown: dict[str, Sequence[Passage]] = {}
    for n, question in enumerate(order):
        own = set(question.doc_ids) | {p.doc_id for p in found[question.id]}
        others = (order[(n + step) % len(order)] for step in range(1, len(order)))
        foreign = next(
            (o for o in others if not own & {p.doc_id for p in found[o.id]}),
            None,
        )
        if foreign:
            shown[question.id] = found[foreign.id]
    return shown


def long_context(
    questions: Sequence[Question],
    found: Passages,
    documents: Mapping[str, Document],
    limit: int = LONG_CHARS,
) -> Passages:
    """The whole documents that search found, best first, up to `limit` characters."""
    shown: dict[str, Sequence[Passage]] = {}
    for question in questions:
        passages, left = [], limit
        for doc_id in dict.fromkeys(p.doc_id for p in found.get(question.id, ())):
            document = documents.get(doc_id)
            if document and left > 0 and document.text.strip():
                passages.append(_passage(document, 0, min(len(document.text), left)))
                left -= len(document.text)
        if passages:
            shown[question.id] = passages
    return shown


def examples_of(train: Sequence[Question]) -> list[Question]:
    """The same few train questions for every test question, one of each task first."""
    usable = [q for q in train if q.references and q.origin == "human"]
    drawn = sorted(usable, key=lambda q: hashlib.sha256(q.id.encode()).digest())
    first = {q.task: q for q in reversed(drawn)}
    rest = [q for q in drawn if q not in first.values()]
    return [*first.values(), *rest][:EXAMPLES]


def few_shot(name: str, model: ChatModel, sampling: Sampling, examples: Sequence[Question]) -> Arm:
    """Closed book, with solved examples before the question."""

    def chat(question: Question) -> tuple[Message, ...]:
        system, asked = prompts.closed_book(question)
        turns: list[Message] = []
        for example in examples:
            turns += [prompts.closed_book(example)[1], Message("assistant", example.references[0])]
        return (system, *turns, asked)

    def answer(questions: Sequence[Question]) -> list[Answer]:
        chats = [chat(q) for q in questions]
        with record_calls(), purpose("answer"):
            generations = model.generate(chats, sampling)
        return [
            Answer(
                q.id,
                name,
                made.text.strip(),
                shown,
                (),
                (),
                made.latency_s,
                made.usage.tokens_in,
                made.usage.tokens_out,
                failed=made.finish == "error",
                error=made.error,
            )
            for q, shown, made in zip(questions, chats, generations, strict=True)
        ]

    return Arm(name, answer, retrieves=False)


def _reading(name: str, model: ChatModel, sampling: Sampling, shown: Passages) -> Arm:
    """An arm that reads given passages, in the prompt of all arms."""

    def answer(questions: Sequence[Question]) -> list[Answer]:
        nothing: list[Retrieved] = [(0.0, [], ()) for _ in questions]
        given = [shown[q.id] for q in questions]
        return generate(name, model, sampling, questions, given, nothing)

    return Arm(name, answer, retrieves=True)


def _passage(document: Document, start: int, end: int) -> Passage:
    text = document.text[start:end]
    return Passage(f"{document.id}:{start}", document.id, document.title, text, start, end, 1.0)


def _name(kind: _Kind) -> str:
    return f"{kind.reader}, {kind.name}"


def _sentence(kind: _Kind, c: Contrast) -> str:
    reader, more = kind.reader, "more" if c.difference.value >= 0 else "less"
    gap = f"{100 * abs(c.difference.value):.1f} points {more}"
    told = f"({c.verdict}, {c.n_questions} questions)"
    if kind.name == ORACLE:
        tail = {
            "better": "what better search could still bring",
            "undecided": "too few questions to say what better search would bring",
        }.get(c.verdict, "search is not what it lacks")
        return f"With the labelled evidence {reader} scores {gap} {told}: {tail}."
    if kind.name == SHUFFLED and c.verdict in ("equivalent", "better"):
        return (
            f"{reader} does as well with passages of another question {told}: it does not answer "
            "from what it is shown."
        )
    if kind.name == SHUFFLED:
        return f"With passages of another question {reader} scores {gap} {told}."
    what = "whole documents" if kind.name == LONG else "solved examples in its prompt"
    return f"With {what} {reader} scores {gap} {told}."
