"""What a round learns: sources joined, what is held out or too little left out, steps in a row."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from domainlm.exclusions import Exclusions
from domainlm.feedback.lessons import admit, enough, joined, learned, merged
from domainlm.feedback.log import EventLog
from domainlm.schema import Lessons, Message, PreferencePair, ThumbRow, TrainingRow
from tests.unit.feedback_sample import ANN, BOB, Book, questions
from tests.unit.tiny import ask, row, save_tiny, training

CHAT = (Message("user", "?"),)


def made(question: str, answer: str, *events: str) -> TrainingRow:
    return TrainingRow(f"r-{question}", CHAT, answer, "gold", question, events=events)


def test_the_file_has_the_last_word_on_a_question() -> None:
    log = Lessons(
        (made("t1", "log", "e1"), made("t2", "log", "e2")),
        (
            PreferencePair("p1", CHAT, "log", "old", "t1", ("e1",)),
            PreferencePair("p2", CHAT, "log", "old", "t2", ("e2",)),
        ),
        (ThumbRow("h", CHAT, "x", True, "t1", ("e3",)),),
        (("e9", "late"),),
    )
    both = joined(Lessons((made("t1", "file", "c1"),)), log)
    assert [(r.question_id, r.completion) for r in both.rows] == [("t1", "file"), ("t2", "log")]
    assert [p.id for p in both.pairs] == ["p2"] and both.thumbs == log.thumbs
    assert [e for e, _ in both.refused] == ["e9", "e1"]
    assert merged([made("t1", "own"), made("t3", "own")], both).rows == (
        made("t3", "own"), *both.rows,
    )  # fmt: skip


def test_what_is_about_held_out_questions_never_trains() -> None:
    pair = PreferencePair("p", CHAT, "a", "b", "t1", ("e4",))
    thumb = ThumbRow("h", CHAT, "x", True, "t1", ("e5",))
    lessons = Lessons(
        (made("t1", "x", "e1"), made("d1", "x", "e2"), made("", "x")),
        (pair, dataclasses.replace(pair, question_id="d1", events=("e6", "e7"))),
        (thumb, dataclasses.replace(thumb, question_id="d1", events=("e8",))),
        (("e0", "before"),),
    )
    kept = admit(lessons, frozenset({"d1"}))
    assert [r.question_id for r in (*kept.rows, *kept.pairs, *kept.thumbs)] == ["t1"] * 3
    assert [e for e, _ in kept.refused] == ["e0", "e2", "r-", "e6", "e7", "e8"]
    assert dict(kept.refused)["e8"] == "question 'd1' is held out for measuring"
    assert dict(kept.refused)["r-"] == "it names no question"


@pytest.mark.parametrize(
    ("pairs", "good", "bad", "steps"),
    [(8, 4, 4, (8, 8)), (7, 4, 4, (0, 8)), (8, 4, 3, (8, 0)), (0, 50, 0, (0, 0))],
)
def test_a_step_needs_enough(pairs: int, good: int, bad: int, steps: tuple[int, int]) -> None:
    from domainlm.config import make_config

    pair = PreferencePair("p", CHAT, "a", "b", "t1")
    lessons = Lessons(
        (),
        (pair,) * pairs,
        tuple(ThumbRow("h", CHAT, "x", n < good, "t1") for n in range(good + bad)),
    )
    config = make_config({"documents": "d", "questions": "q"})
    kept, taught = enough(lessons, config.improve)
    assert (len(kept.pairs), len(kept.thumbs)) == steps == (taught[1].rows, taught[2].rows)
    assert [bool(t.skipped) for t in taught] == [True, not steps[0], not steps[1]]


def test_a_log_teaches_and_a_forgotten_event_was_never_written(tmp_path: Path) -> None:
    book = Book()
    book.edit(ANN, "q1", "roughly", "exactly")
    book.thumb(ANN, "q2", "so", True)
    book.thumb(BOB, "q2", "so", False)
    book.thumb(ANN, "q3", "right", True)
    book.thumb(ANN, "q9", "held out", True)
    with EventLog(tmp_path / "log.sqlite") as log:
        log.append(book.events, book.texts)
    known = questions(["q1", "q2", "q3"], dev=["q9"])
    lessons = learned(tmp_path / "log.sqlite", known).lessons
    assert [r.events for r in lessons.rows] == [("e1",)] == [p.events for p in lessons.pairs]
    assert [t.events for t in lessons.thumbs] == [("e4",)]
    reasons = dict(lessons.refused)
    assert "held out (dev)" in reasons["e5"] and "contradict" in reasons["e2"]
    # Without the one who contradicted her, she is heard.
    lessons = learned(tmp_path / "log.sqlite", known, excluded=Exclusions(["e3", "e1"])).lessons
    assert not lessons.rows and not lessons.pairs
    assert sorted(t.events for t in lessons.thumbs) == [("e2",), ("e4",)]


def test_preferences_go_on_from_the_rows_and_a_killed_step_repeats_no_other(
    tmp_path: Path,
) -> None:
    from domainlm.models.local import LocalModel
    from domainlm.training.plan import train_adapter

    class Killed(Exception):
        pass

    base = save_tiny(tmp_path / "base")
    prompts = [ask(f"what is the {word} ?") for word in ("pump", "valve", "gate", "weir")]
    rows = tuple(row(n, "red") for n in range(8))
    lessons = Lessons(
        rows,
        tuple(PreferencePair("p", p, "blue", "red", "q") for p in prompts),
        tuple(ThumbRow("h", p, c, c == "blue", "q") for p in prompts for c in ("blue", "green")),
    )
    config = training(learning_rate=2e-2, preference={"learning_rate": 2e-2, "epochs": 4})
    seen: list[int] = []
    kill = [True]

    def progress(done: int, steps: int, note: str = "", loss: float | None = None) -> None:
        seen.append(done)
        if kill[0] and len(list((tmp_path / "a").glob("*-adapter.json"))) and done == 2:
            raise Killed

    def train():
        return train_adapter(
            "x", lessons, base, tmp_path / "a", config, epochs=2, seed=1, progress=progress
        )

    with pytest.raises(Killed):
        train()
    assert seen == [1, 2, 3, 4, 1, 2]
    seen.clear()
    kill[0] = False
    made = train()
    assert made.path == str(tmp_path / "a" / "kto" / "adapter") and Path(made.path).is_dir()
    assert seen == [1, 2, 3, 4, *range(1, 9)]
    assert made.rows == 8 + 4 + 8
    assert train() == made and len(seen) == 12
    context = "<s> user what is the pump ? </s> <s> assistant"

    def likes(adapter: Path) -> float:
        blue, red = LocalModel(base, adapter).surprise([(context, "blue"), (context, "red")])
        return red - blue

    assert likes(Path(made.path)) > likes(tmp_path / "a" / "adapter") + 0.5
