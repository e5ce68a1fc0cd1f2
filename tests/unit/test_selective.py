"""Answers that an arm had better withhold: learned on dev, without a look at the rest."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from domainlm.errors import DataError
from domainlm.evaluation import selective
from domainlm.evaluation.abstention import is_abstention
from domainlm.schema import ABSTENTION, Answer, Certainty, Passage, Question

WORDS = ("turbine", "invoice", "harbour", "licence", "warranty", "orchard", "railway", "glacier")


class Bags:
    """Texts as bags of eight words."""

    name = "bags"

    def embed(self, texts, kind):
        found = np.array([[float(w in t) for w in WORDS] for t in texts], dtype=np.float32) + 1e-3
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def question(n: int, word: str, answerable: bool) -> Question:
    return Question(
        f"q{n}",
        f"What about the {word}?",
        references=(f"the {word} it is",) if answerable else (),
        doc_ids=(f"d{n % 12}",),
        task="extractive" if answerable else "unanswerable",
    )


def answer(q: Question, text: str, sure: float) -> Answer:
    passage = Passage(f"c{q.id}", q.doc_ids[0], "", "words", 0, 5, sure + 2)
    certainty = Certainty(4 * sure, 2 * sure, sure)
    return Answer(q.id, "raft", text, (), (passage,), (), 0.1, 9, 3, certainty=certainty)


def drawn(n: int, seed: int, prefix: str = "q"):
    """Questions, every third without an answer; wrong answers are off topic and less sure."""
    rng = random.Random(seed)
    questions, answers = [], []
    for k in range(n):
        word = WORDS[k % 8]
        q = replace(question(k, word, k % 3 != 0), id=f"{prefix}{k}")
        off = rng.random() < (0.8 if k % 3 == 0 else 0.1)
        said = WORDS[(k + 3) % 8] if off else word
        questions.append(q)
        answers.append(answer(q, f"the {said} it is", rng.gauss(-1.0 if k % 3 == 0 else -0.4, 0.3)))
    return questions, answers


@pytest.fixture(scope="module")
def known():
    train = [question(100 + n, word, True) for n, word in enumerate(WORDS * 2)]
    return selective.known_answers(train, Bags())


def shares(answers, questions):
    by_id = {q.id: q for q in questions}
    kept = [not is_abstention(a.text) for a in answers if by_id[a.question_id].references]
    gone = [is_abstention(a.text) for a in answers if not by_id[a.question_id].references]
    return np.mean(kept), np.mean(gone)


def test_most_unanswerable_questions_are_refused_and_the_promised_share_stays(known) -> None:
    dev, said = drawn(120, 1)
    doubt = selective.learn("raft", said, dev, known, Bags(), 0.85)
    assert doubt is not None
    assert doubt.kept >= 0.85
    test, later = drawn(240, 2, "t")
    made = selective.withhold(later, test, {"raft": doubt}, known, Bags())
    kept, gone = shares(made, test)
    assert kept > 0.78
    assert gone > 0.6
    refused = [a for a in made if a.withheld]
    assert all(a.text == ABSTENTION and not a.citations for a in refused)
    assert {a.withheld for a in refused} <= {a.text for a in later}


def test_keeping_everything_withholds_nothing(known) -> None:
    dev, said = drawn(120, 1)
    doubt = selective.learn("raft", said, dev, known, Bags(), 1.0)
    assert doubt is not None
    assert (doubt.cutoff, doubt.kept) == (None, 1.0)
    assert selective.withhold(said, dev, {"raft": doubt}, known, Bags()) == said


def test_signs_that_tell_nothing_refuse_no_more_than_chance(known) -> None:
    dev, said = drawn(150, 3)
    rng = random.Random(4)
    blind = [replace(a, text="yes", certainty=None, passages=()) for a in said]
    shuffled = [replace(a, text=f"the {rng.choice(WORDS)} it is", certainty=None) for a in blind]
    doubt = selective.learn("raft", shuffled, dev, known, Bags(), 0.85)
    assert doubt is not None
    assert doubt.refused < 0.35


def test_too_few_questions_teach_nothing(known) -> None:
    dev, said = drawn(27, 1)
    assert selective.learn("raft", said, dev, known, Bags(), 0.85) is None
    answerable = [q for q in drawn(120, 1)[0] if q.references]
    assert selective.learn("raft", drawn(120, 1)[1], answerable, known, Bags(), 0.85) is None


def test_failures_and_abstentions_stay_as_they_are(known) -> None:
    dev, said = drawn(120, 1)
    doubt = selective.learn("raft", said, dev, known, Bags(), 0.5)
    assert doubt is not None
    odd = [
        replace(said[0], text="", failed=True, error="down"),
        replace(said[1], text=ABSTENTION),
        replace(said[2], arm="rag"),
    ]
    assert selective.withhold(odd, dev, {"raft": doubt}, known, Bags()) == odd


def test_abstentions_use_up_the_share_that_may_go(known) -> None:
    dev, said = drawn(120, 1)
    by_id = {q.id: q for q in dev}
    lost = 0
    for n, a in enumerate(said):
        if by_id[a.question_id].references and lost < 12:
            said[n] = replace(a, text=ABSTENTION)
            lost += 1
    doubt = selective.learn("raft", said, dev, known, Bags(), 0.85)
    assert doubt is not None
    # 80 answerable, 12 of them abstained: nothing more may go.
    assert doubt.cutoff is None
    assert math.isclose(doubt.kept, 68 / 80)


def test_what_another_version_learned_is_refused(known) -> None:
    dev, said = drawn(120, 1)
    doubt = selective.learn("raft", said, dev, known, Bags(), 0.85)
    assert doubt is not None
    short = replace(doubt, centre=doubt.centre[:-1])
    with pytest.raises(DataError, match="8 signs"):
        selective.withhold(said, dev, {"raft": short}, known, Bags())


def test_a_constant_sign_does_not_blow_up_later(known) -> None:
    dev, said = drawn(120, 1)
    flat = [replace(a, certainty=None) for a in said]
    doubt = selective.learn("raft", flat, dev, known, Bags(), 0.85)
    assert doubt is not None
    stray = [replace(a, certainty=Certainty(-400.0, -30.0, -20.0)) for a in said]
    plain = selective.withhold(flat, dev, {"raft": doubt}, known, Bags())
    moved = selective.withhold(stray, dev, {"raft": doubt}, known, Bags())
    assert [a.text for a in plain] == [a.text for a in moved]


def test_no_reference_leaves_likeness_out() -> None:
    nothing = selective.known_answers([question(1, "turbine", False)], Bags())
    assert nothing.questions == ()
    dev, said = drawn(9, 1)
    assert not selective.signs(said, dev, nothing, Bags())[:, 6:].any()


def test_nothing_is_learned_from_a_single_document(known) -> None:
    dev, said = drawn(120, 1)
    one = [replace(q, doc_ids=("d0",)) for q in dev]
    assert selective.learn("raft", said, one, known, Bags(), 0.85) is None
