"""Questions that users ask outside any run: what they are called, and a record of their answers.

`domainlm ask` appends each answer to a file beside the event log, so that feedback can name it
later. A question that stands in the question set keeps its id and split there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from domainlm.artifacts import Log, digest, timestamp
from domainlm.corpus.similarity import normalised
from domainlm.errors import DataError
from domainlm.feedback.quarantine import repeats
from domainlm.schema import Answer, Question, QuestionSet


@dataclass(frozen=True, slots=True)
class Asked:
    """One answer that was given; `question.split` is empty where the question is too like a
    held-out one to tell.
    """

    question: Question
    answer: Answer
    time: str


def asked_id(text: str) -> str:
    """The id of a question that is in no set; the same words give the same id."""
    return f"asked-{digest(normalised(text))}"


def by_text(questions: Iterable[Question]) -> dict[str, Question]:
    """Questions by normalised text. A text that is asked of several documents, some perhaps held
    out, is left out: there only the id tells.
    """
    known = list(questions)
    times = Counter(normalised(q.text) for q in known)
    return {t: q for q in known if times[t := normalised(q.text)] == 1}


def placed(text: str, questions: QuestionSet, written: Iterable[Question] = ()) -> Question:
    """The known question of that text, or a new one, which counts as train if it repeats no
    held-out question.
    """
    known = by_text((*questions.train, *questions.dev, *questions.test, *written))
    if found := known.get(normalised(text)):
        return found
    return Question(asked_id(text), text, split="" if repeats([text], questions) else "train")


def keep(path: Path, question: Question, answer: Answer) -> Asked:
    """Append an answer to the record, as one to `question`.

    Raises:
        DataError: the record cannot be written.
    """
    now = timestamp()
    made = Asked(question, replace(answer, question_id=question.id), now)
    Log(path, Asked).append([made])
    return made


def last(path: Path) -> Asked:
    """The newest answer of the record.

    Raises:
        DataError: there is none.
    """
    found: list[Asked] = Log(path, Asked).read()
    if not found:
        raise DataError(f"{path} holds no answer yet; ask first, with `domainlm ask`")
    return found[-1]
