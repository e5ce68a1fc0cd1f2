"""Tasks, their primary metric, and what counts as correct, wrong, abstained or failed.

| task           | primary, per question | of an arm     | correct when                            |
|----------------|-----------------------|---------------|-----------------------------------------|
| extractive     | token_f1              | mean          | exact match, or token F1 >= `CORRECT_F1`|
| multi_document | token_f1              | mean          | exact match, or token F1 >= `CORRECT_F1`|
| closed_form    | accuracy              | macro_f1      | the chosen answer is the right one      |
| numeric        | accuracy              | mean          | the number agrees (`quantities`)        |
| summary        | rouge_l_f             | mean          | ROUGE-L F >= `CORRECT_ROUGE`            |
| long_form      | rouge_l_f             | mean          | ROUGE-L F >= `CORRECT_ROUGE`            |
| unanswerable   | abstention            | abstention_f1 | the arm abstained                       |

What an arm scores is in `fscores`. An abstention on an answerable question is "abstained", not
wrong: return on investment prices the two differently. An empty answer is wrong, never an
abstention.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from domainlm.corpus.quantities import TOLERANCE, digits_match, numeric_match, quantities
from domainlm.errors import DataError
from domainlm.evaluation import metrics as m
from domainlm.evaluation.abstention import is_abstention
from domainlm.evaluation.claims import claim_coverage
from domainlm.models.base import Embedder
from domainlm.schema import Answer, Classified, Outcome, Question, Score, Task

PRIMARY: dict[Task, str] = {
    "extractive": "token_f1",
    "multi_document": "token_f1",
    "closed_form": "accuracy",
    "numeric": "accuracy",
    "summary": "rouge_l_f",
    "long_form": "rouge_l_f",
    "unanswerable": "abstention",
}
CORRECT_F1 = 0.6
"""A short answer wrapped in a sentence ("It expires on 1 March 2020.") still reaches this."""
CORRECT_ROUGE = 0.3

_YES_NO = ("yes", "no", "maybe")
_YES_NO_START = re.compile(r"^\W*(?:yes|no|maybe)(?:\W*$|\s*[,.;:])", re.IGNORECASE)


def choose(text: str, choices: Sequence[str]) -> str | None:
    """The choice a text settles on: equal to it, else the first one mentioned (longest on a tie).

    Single letters count only where a letter is clearly meant ("B", "(b)", "B. Delaware", "option
    B"), because "a" is also a word.
    """
    plain = _words(text)
    by_words = {_words(c): c for c in choices}
    if plain in by_words:
        return by_words[plain]
    found: list[tuple[int, int, str]] = []
    for words, choice in by_words.items():
        if len(words) == 1 and words.isalpha():
            pattern = (
                rf"^\W*{words}(?:[.):,]|\W*$)|(?:answer|option|choice)(?: is)?:? *\(?{words}\b"
            )
            hit = re.search(pattern, text.strip(), re.IGNORECASE)
        else:
            hit = re.search(rf"(?<!\S){re.escape(words)}(?!\S)", plain) if words else None
        if hit:
            found.append((hit.start(), -len(words), choice))
    return min(found)[2] if found else None


def classified(prediction: str, question: Question) -> Classified | None:
    """The class that a closed-form answer chose, and the right one; None if there are no classes.

    Without `choices`, references that begin with yes, no or maybe make those the choices.
    """
    choices: Sequence[str] = question.choices
    if not choices and all(_YES_NO_START.match(r) for r in question.references):
        choices = _YES_NO
    if not choices:
        return None
    said = choose(prediction, choices) or ""
    right = [choose(r, choices) or r for r in question.references]
    # Of several right classes the one that was said counts.
    right_one = said if said in right else right[0]
    return Classified(" | ".join(sorted(c.lower() for c in choices)), right_one, said)


def closed_form_accuracy(prediction: str, question: Question) -> float:
    """1 if the prediction settles on a right choice, number or (normalised) string."""
    found = classified(prediction, question)
    if found:
        return float(found.said == found.right)
    if m.exact_match(prediction, question.references):
        return 1.0
    numbers = [r for r in question.references if quantities(r) and len(r.split()) <= 3]
    return _best_number(prediction, replace(question, references=tuple(numbers)), numeric_match)


def _best_number(prediction: str, question: Question, match: Callable[..., bool]) -> float:
    tolerance = float(question.metadata.get("tolerance") or TOLERANCE)
    return float(
        any(
            match(prediction, r, question=question.text, tolerance=tolerance)
            for r in question.references
        )
    )


def clusters_of(questions: Sequence[Question]) -> dict[str, str]:
    """What inference resamples by, per question id: the gold documents (else the scope, else the
    question itself), joined where questions share documents, since their scores are correlated.
    """
    group: dict[str, set[str]] = {}
    for question in questions:
        documents = question.doc_ids or question.scope
        merged = set(documents).union(*(group.get(d, set()) for d in documents))
        group |= dict.fromkeys(merged, merged)
    return {
        q.id: " + ".join(sorted(group[d[0]])) if (d := q.doc_ids or q.scope) else q.id
        for q in questions
    }


def score_answers(
    answers: Sequence[Answer], questions: Sequence[Question], embedder: Embedder | None = None
) -> list[Score]:
    """Score every answer with every metric that applies, under its own name and as "primary".

    "correct" is 1 where the outcome is, so that shares of correct answers get intervals too. A
    failed answer scores zero and has the outcome "failed". Retrieval metrics belong to arms that
    retrieve: those with a passage in at least one answer. `embedder` adds `semantic_similarity`.

    Returns:
        One score per answer, in order.

    Raises:
        DataError: An answer's question is unknown, or an answerable question has no reference.
    """
    by_id = {q.id: q for q in questions}
    clusters = clusters_of(questions)
    for answer in answers:
        if answer.question_id not in by_id:
            raise DataError(
                f"answer of {answer.arm} is for question {answer.question_id!r}, which is not "
                f"among the {len(by_id)} questions given; pass the questions that were answered"
            )
    asked = [by_id[a.question_id] for a in answers]
    texts = ["" if a.failed else a.text.strip() for a in answers]
    wanted = [() if q.task == "unanswerable" else q.references for q in asked]
    similar: list[float | None] = [None] * len(answers)
    if embedder is not None:
        similar = m.semantic_similarities(texts, wanted, embedder)
    retrieving = {a.arm for a in answers if a.passages}
    scores = []
    for answer, question, text, similarity in zip(answers, asked, texts, similar, strict=True):
        values = _answer_metrics(text, question)
        if similarity is not None:
            values["semantic_similarity"] = similarity
        outcome = _outcome(answer, question, text, values)
        if answer.arm in retrieving:
            values |= m.retrieval_metrics(answer.passages, question)
        values["primary"] = values[PRIMARY[question.task]]
        values["correct"] = float(outcome == "correct")
        # An embedder may fail on a text; what is not known is absent.
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        cluster = clusters[question.id]
        chosen = classified(text, question) if question.task == "closed_form" else None
        scores.append(
            Score(
                question.id,
                answer.arm,
                question.task,
                question.split,
                cluster,
                values,
                outcome,
                chosen,
            )
        )
    return scores


def _answer_metrics(text: str, question: Question) -> dict[str, float]:
    if question.task == "unanswerable":
        return {"abstention": float(is_abstention(text))}
    references = question.references
    if not references:
        raise DataError(
            f"question {question.id!r} has no reference answer; add one, or give it the task "
            "'unanswerable'"
        )
    values = {
        "exact_match": m.exact_match(text, references),
        "token_f1": m.token_f1(text, references),
        "rouge_l_f": m.rouge_l_f(text, references),
        "rouge_l_recall": m.rouge_l_recall(text, references),
        "token_overlap_recall": m.token_overlap_recall(text, references),
    }
    if question.task == "closed_form":
        values["accuracy"] = closed_form_accuracy(text, question)
    elif question.task == "numeric":
        values["accuracy"] = _best_number(text, question, numeric_match)
        values["digits_match"] = _best_number(text, question, digits_match)
    elif question.task in ("summary", "long_form"):
        values["claim_coverage"] = claim_coverage(text, references)
    return values


def _outcome(answer: Answer, question: Question, text: str, values: dict[str, float]) -> Outcome:
    if answer.failed:
        return "failed"
    if _correct(question.task, values):
        return "correct"
    return "abstained" if is_abstention(text) else "wrong"


def _correct(task: Task, values: dict[str, float]) -> bool:
    if task in ("summary", "long_form"):
        return values["rouge_l_f"] >= CORRECT_ROUGE
    if task in ("closed_form", "numeric", "unanswerable"):
        return values[PRIMARY[task]] == 1.0
    return values["exact_match"] == 1.0 or values["token_f1"] >= CORRECT_F1


def _words(text: str) -> str:
    # Articles stay: "a" may be a choice.
    return " ".join(re.findall(r"\w+", text.lower()))
