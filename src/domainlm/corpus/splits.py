"""Questions are split by document, and train questions that give a held-out one away are refused.

Documents are split first, whole near-duplicate groups at a time; questions, chunks and synthetic
rows inherit. There are two test sets: new questions about known documents, and new documents.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Sequence

from domainlm.corpus.similarity import EmbedTexts, document_groups, find_duplicates
from domainlm.errors import ConfigError, DataError
from domainlm.schema import Document, Question, QuestionSet, Split

_DEV_FROM = 4
"""Groups of documents from which dev gets documents of its own."""


def split_questions(
    questions: Sequence[Question],
    documents: Sequence[Document],
    *,
    seed: int = 0,
    dev: float = 0.15,
    test_new: float = 0.2,
    test_known: float = 0.2,
    near_duplicate: float = 0.85,
    embed: EmbedTexts | None = None,
) -> QuestionSet:
    """Split by document, then hold out questions about the train documents.

    Groups of near-duplicate documents are ordered by a hash of seed and id and fill test_new, then
    dev, then train, so one more document moves few others. Only documents with questions are
    counted; the rest go to train. A question belongs to the most held-out of its documents.
    Questions without documents are spread by hash: unanswerable ones over all splits, answerable
    ones over all but test_new, since nobody can say that their document is new.

    With one group of documents there is no test_new: train, dev and test_known are split by
    question, and test_known takes both test shares. With fewer than four groups dev is split by
    question from the train documents. If every question names its split, that split is kept.

    Args:
        questions: with `doc_ids` as `check_documents` returns them.
        documents: the whole corpus.
        seed: another seed gives another split; the same seed always the same.
        dev: share of documents for dev.
        test_new: share of documents for test_new.
        test_known: share of the train documents' questions held out, per task.
        near_duplicate: word overlap from which a train question repeats a held-out one.
        embed: adds a check by cosine (.95) among questions about one document.

    Raises:
        DataError: there are no questions, a question names an unknown document, only some name a
            split, a train question is about a test_new document, or no test question results.
        ConfigError: the shares leave nothing to train on.
    """
    if not questions:
        raise DataError("there are no questions to split; add some to the question file")
    _check_shares(dev, test_new, test_known)
    known = {d.id for d in documents}
    for question in questions:
        missing = [d for d in (*question.doc_ids, *question.scope) if d not in known]
        if missing:
            raise DataError(
                f"question {question.id!r} is about {missing[0]!r}, which is not in the corpus; "
                "run check_documents first"
            )
    groups = document_groups(documents)
    stated = sum(bool(q.split) for q in questions)
    if stated == len(questions):
        assigned = {q.id: q.split for q in questions}
        held = _stated_documents(questions, groups)
    elif stated:
        raise DataError(
            f"{stated} of {len(questions)} questions name a split; give every question one, or none"
        )
    else:
        held = _split_documents(questions, groups, seed, dev, test_new)
        assigned = _assign(questions, groups, held, seed, dev, test_new, test_known)
    placed = [dataclasses.replace(q, split=assigned[q.id]) for q in questions]
    held_out = [q for q in placed if q.split != "train"]
    candidates = [q for q in placed if q.split == "train"]
    train, dropped = near_duplicate_filter(
        candidates, held_out, threshold=near_duplicate, groups=groups, embed=embed
    )
    result = QuestionSet(
        train=tuple(train),
        dev=tuple(q for q in held_out if q.split == "dev"),
        test_known=tuple(q for q in held_out if q.split == "test_known"),
        test_new=tuple(q for q in held_out if q.split == "test_new"),
        train_doc_ids=tuple(d.id for d in documents if held.get(groups[d.id], "train") == "train"),
        dropped=tuple(dropped),
    )
    if not result.test:
        raise DataError(
            f"{len(questions)} questions leave none to test on; add questions or raise "
            "test_known or test_new"
        )
    return result


def near_duplicate_filter(
    candidates: Sequence[Question],
    against: Sequence[Question],
    *,
    threshold: float = 0.85,
    groups: dict[str, str] | None = None,
    embed: EmbedTexts | None = None,
) -> tuple[list[Question], list[tuple[str, str]]]:
    """Drop candidates that repeat a question of `against` (see `similarity.find_duplicates`).

    Args:
        candidates: train questions, human or synthetic.
        against: the held-out questions.
        threshold: Jaccard index of the word sets, 0 to 1.
        groups: document id -> near-duplicate group; by default each document is its own.
        embed: adds the cosine check.

    Returns:
        The candidates kept, in order, and (question id, reason) of those dropped.
    """
    mapping = groups or {}
    found = find_duplicates(
        candidates, against, threshold=threshold, group=lambda d: mapping.get(d, d), embed=embed
    )
    kept = [q for i, q in enumerate(candidates) if i not in found]
    dropped: list[tuple[str, str]] = []
    for i, (j, how) in sorted(found.items()):
        place = against[j].split or "held-out"
        reason = f"near-duplicate of {place} question {against[j].id!r} ({how})"
        dropped.append((candidates[i].id, reason))
    return kept, dropped


def leakage(
    train_texts: Sequence[str], held_out: Sequence[Question], *, threshold: float = 0.85
) -> list[tuple[int, str, str]]:
    """Train texts that repeat a held-out question, whatever their documents and answers.

    Returns:
        (index in `train_texts`, id of the held-out question, how alike).
    """
    # One shared, made-up document makes every pair comparable.
    place = ("*",)
    candidates = [Question(str(i), text, doc_ids=place) for i, text in enumerate(train_texts)]
    against = [dataclasses.replace(q, doc_ids=place, scope=()) for q in held_out]
    found = find_duplicates(candidates, against, threshold=threshold)
    return [(i, against[j].id, how) for i, (j, how) in sorted(found.items())]


def _check_shares(dev: float, test_new: float, test_known: float) -> None:
    for name, value in (("dev", dev), ("test_new", test_new), ("test_known", test_known)):
        if not 0 <= value < 1:
            raise ConfigError(f"split {name} is {value}; it must be from 0 to below 1")
    if dev + test_new >= 1:
        raise ConfigError(f"split dev + test_new is {dev + test_new:g}; keep it below 1")


def _hash(seed: int, purpose: str, name: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    digest = hashlib.sha256(f"{seed}\0{purpose}\0{name}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:7], "big") / (1 << 56)


def _about(question: Question) -> tuple[str, ...]:
    return question.doc_ids or question.scope


def _split_documents(
    questions: Sequence[Question],
    groups: dict[str, str],
    seed: int,
    dev: float,
    test_new: float,
) -> dict[str, Split]:
    """Group -> test_new or dev; all others are train."""
    members: dict[str, set[str]] = defaultdict(set)
    for question in questions:
        for doc_id in _about(question):
            members[groups[doc_id]].add(doc_id)
    order = sorted(members, key=lambda g: (_hash(seed, "document", g), g))
    total = sum(len(m) for m in members.values())
    held: dict[str, Split] = {}
    if len(order) < 2:
        return held
    shares: list[tuple[Split, float]] = [("test_new", test_new)]
    if len(order) >= _DEV_FROM:
        shares.append(("dev", dev))
    for split, share in shares:
        target = max(1, round(share * total)) if share else 0
        filled = 0
        free = [g for g in order if g not in held]
        for group in free:
            if filled + len(members[group]) <= target:
                held[group] = split
                filled += len(members[group])
        if target and not filled and len(free) > 1:
            held[min(free, key=lambda g: (len(members[g]), order.index(g)))] = split
    return held


def _assign(
    questions: Sequence[Question],
    groups: dict[str, str],
    held: dict[str, Split],
    seed: int,
    dev: float,
    test_new: float,
    test_known: float,
) -> dict[str, Split]:
    """Question id -> split, given the splits of the document groups."""
    dev_by_question = 0.0 if "dev" in held.values() else dev
    if "test_new" not in held.values():
        test_known = min(test_known + test_new, 0.9)
        test_new = 0.0
    assigned: dict[str, Split] = {}
    known: dict[str, list[str]] = defaultdict(list)
    for question in questions:
        splits = {held.get(groups[d], "train") for d in _about(question)}
        if not splits:
            u = _hash(seed, "question", question.id)
            new = test_new if question.task == "unanswerable" else 0.0
            if u < new:
                splits = {"test_new"}
            elif dev_by_question == 0 and u < new + dev:
                splits = {"dev"}
        chosen: Split = next((s for s in ("test_new", "dev") if s in splits), "train")
        assigned[question.id] = chosen
        if chosen == "train":
            known[question.task].append(question.id)
    for ids in known.values():
        ids.sort(key=lambda i: (_hash(seed, "known", i), i))
        _hold_out(ids, test_known, dev_by_question, assigned)
    train = [i for ids in known.values() for i in ids]
    if test_known and len(train) > 1 and not {"test_known"} & {assigned[i] for i in train}:
        # Every task has too few questions for its share; one test question beats none.
        assigned[min(train, key=lambda i: (_hash(seed, "known", i), i))] = "test_known"
    return assigned


def _hold_out(
    ids: Sequence[str], test_known: float, dev: float, assigned: dict[str, Split]
) -> None:
    n_test = round(test_known * len(ids))
    n_dev = round(dev * len(ids))
    for i in ids[:n_test]:
        assigned[i] = "test_known"
    for i in ids[n_test : n_test + n_dev]:
        assigned[i] = "dev"


def _stated_documents(questions: Sequence[Question], groups: dict[str, str]) -> dict[str, Split]:
    """Group -> split as the questions state it.

    Raises:
        DataError: a train or test_known question is about a test_new document.
    """
    new = {groups[d]: (q, d) for q in questions if q.split == "test_new" for d in _about(q)}
    for question in questions:
        if question.split not in ("train", "test_known"):
            continue
        for doc_id in _about(question):
            other = new.get(groups[doc_id])
            if other and (question.split == "train" or doc_id == other[1]):
                same = "" if doc_id == other[1] else f" (a near-duplicate of {other[1]!r})"
                raise DataError(
                    f"{question.split} question {question.id!r} is about {doc_id!r}{same}, which "
                    f"test_new question {other[0].id!r} says is new; move one of them"
                )
    train = {groups[d] for q in questions if q.split == "train" for d in _about(q)}
    held: dict[str, Split] = dict.fromkeys(new, "test_new")
    for question in questions:
        if question.split == "dev":
            for group in {groups[d] for d in _about(question)} - train - set(new):
                held[group] = "dev"
    return held
