"""One round of improvement: its logic with made-up steps, and once for real on a tiny model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from domainlm.cli import app
from domainlm.config import Config, make_config
from domainlm.corrections import corrected, read_corrections
from domainlm.errors import DataError
from domainlm.evaluation.gate import Measured
from domainlm.exclusions import Exclusions
from domainlm.improve import Round, Steps, play
from domainlm.registry import Registry
from domainlm.schema import (
    Adapter,
    Lessons,
    Message,
    PreferencePair,
    Question,
    QuestionSet,
    ThumbRow,
    TrainingRow,
)
from tests.unit.registry_sample import adapter_files
from tests.unit.test_gate import IDS, half, model


def row(question: str, answer: str = "old", *, events: Sequence[str] = ()) -> TrainingRow:
    prompt = (Message("user", f"{question}?"),)
    docs = (f"{question}.txt",)
    return TrainingRow(f"r-{question}", prompt, answer, "gold", question, "human", docs,
                       tuple(events))  # fmt: skip


def pairs(*events: str, docs: Sequence[str] = ()) -> tuple[PreferencePair, ...]:
    chat = (Message("user", "t1?"),)
    return tuple(
        PreferencePair(f"p-{e}", chat, "yes", "no", "t1", (e,), flip=0.1, doc_ids=tuple(docs))
        for e in events
    )


def thumbs(*events: str) -> tuple[ThumbRow, ...]:
    chat = (Message("user", "t2?"),)
    return tuple(ThumbRow(f"h-{e}", chat, e, n % 2 == 0, "t2", (e,)) for n, e in enumerate(events))


class Domain:
    """A registry with steps that count what they do; `skill` says how good a model with that many
    feedback events is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.registry = folder, Registry(folder / "models")
        self.lessons: list[Lessons] = []
        self.measured: list[str] = []
        self.skill = {0: half(0, 0.4), 1: half(1, 0.8)}
        few = {"min_pairs": 2, "min_thumbs": 1}
        self.config: Config = make_config({"documents": "d", "questions": "q", "improve": few})

    @property
    def trained(self) -> list[tuple[TrainingRow, ...]]:
        return [lessons.rows for lessons in self.lessons]

    def train(self, lessons: Lessons, recipe: str) -> Adapter:
        self.lessons.append(lessons)
        place = adapter_files(self.folder / "trained" / recipe, recipe)
        return Adapter("raft", str(place), "x", "tiny", len(lessons.rows), 1, 1.0)

    def measure(self, model_id: str, folder: Path, comparison: str) -> Measured:
        assert folder.name == model_id
        self.measured.append(model_id)
        return model(self.skill[len(self.registry.model(model_id).events)])

    def play(self, new: Lessons | list[TrainingRow], **changes: Any) -> Round:
        lessons = new if isinstance(new, Lessons) else Lessons(tuple(new))
        own = tuple(row(f"t{n}") for n in range(20))
        steps = Steps(
            arm="raft",
            base_model="tiny",
            base_digest="b",
            rows=self.registry.exclusions().keep(own),
            questions=tuple(Question(i, "?") for i in IDS),
            held_out=frozenset(IDS),
            documents={f"t{n}.txt": f"sha{n}" for n in range(20)},
            first=lambda: self.train(Lessons(own), "own"),
            train=self.train,
            measure=self.measure,
        )
        steps = dataclasses.replace(steps, **changes)
        return play(self.registry, lessons, steps, self.config)


@pytest.fixture
def domain(tmp_path: Path) -> Domain:
    return Domain(tmp_path)


def test_a_better_challenger_becomes_champion_with_its_whole_lineage(domain: Domain) -> None:
    done = domain.play([row("t3", "new", events=["e1"])])
    assert (done.result.decision, done.promoted) == ("PROMOTE", True)
    champion = domain.registry.model("champion")
    assert champion == done.challenger and champion.parent == done.champion
    assert champion.events == ("e1",) and ("t3.txt", "sha3") in champion.documents
    assert champion.rows == {"general": 2, "gold": 20}
    assert champion.replay_share == pytest.approx(2 / 22)
    # From the base, on all rows so far; the corrected question has its new answer only.
    learned = {r.question_id: r.completion for r in domain.trained[-1] if r.kind != "general"}
    assert learned == {f"t{n}": "old" for n in range(20)} | {"t3": "new"}
    assert domain.registry.origin("champion").parent.record.events == ()
    assert domain.measured == [done.champion, champion.id]


def test_nothing_new_is_refused_before_training(domain: Domain) -> None:
    with pytest.raises(DataError, match="nothing new to learn"):
        domain.play([])
    correction = [row("t3", "new", events=["e1"])]
    domain.play(correction)
    trained = len(domain.trained)
    with pytest.raises(DataError, match="the champion, was trained on exactly this"):
        domain.play(correction)
    assert len(domain.trained) == trained


def test_what_the_gate_rejected_is_not_trained_again(domain: Domain) -> None:
    domain.skill[1] = half(1, 0.1)
    correction = [row("t3", "new", events=["e1"])]
    done = domain.play(correction)
    assert (done.result.decision, done.promoted) == ("REJECT", False)
    assert domain.registry.model("champion").id == done.champion
    assert domain.registry.status(done.challenger.id) == "rejected"
    with pytest.raises(DataError, match="the gate said REJECT on the same questions"):
        domain.play(correction)
    # Other questions at the gate are a new round for the same model.
    again = domain.play(correction, questions=tuple(Question(i, "?") for i in IDS[:-1]))
    assert again.look.number == 2 and len(domain.trained) == 2


def test_a_round_killed_at_any_step_goes_on_and_looks_once(
    domain: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    correction = [row("t3", "new", events=["e1"])]
    domain.skill[1] = half(1, 0.1)
    domain.play([row("t2", "new", events=["e0"])])
    domain.skill[1] = half(1, 0.8)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for step in ("look", "judged", "promote"):
        with monkeypatch.context() as patch:
            patch.setattr(domain.registry, step, killed)
            with pytest.raises(KeyboardInterrupt):
                domain.play(correction)
        assert domain.registry.model("champion").events == ()
    done = domain.play(correction)
    assert done.promoted and done.look.number == 2
    assert len(domain.trained) == 3


def test_looks_are_shared_out_over_the_planned_rounds(domain: Domain) -> None:
    domain.skill |= {n: half(1, 0.45) for n in range(1, 9)}
    alphas = []
    for n in range(1, 7):
        done = domain.play([row(f"t{k}", "new", events=[f"e{k}"]) for k in range(n)])
        assert not done.promoted
        alphas.append(done.look.alpha)
    assert alphas == pytest.approx([0.05 / 6] * 6)
    with pytest.raises(DataError, match="looked at 6 times, as often as improve.rounds=6"):
        domain.play([row("t9", "new", events=["e9"])])
    assert len(domain.trained) == 7
    fresh = [Question(f"n{i}", "?") for i in IDS]
    assert domain.registry.spent([q.id for q in fresh]) == []


def test_another_base_starts_another_line(domain: Domain) -> None:
    domain.play([row("t3", "new", events=["e1"])])
    with pytest.raises(DataError, match="trained on tiny b, but the model is now tiny other"):
        domain.play([row("t4", "new", events=["e2"])], base_digest="other")


def test_forgetting_retrains_without_and_replaces_the_champion(domain: Domain) -> None:
    both = [row("t3", "new", events=["e1"]), row("t4", "new", events=["e2"])]
    domain.skill[2] = half(1, 0.8)
    first = domain.play(both)
    assert first.promoted
    assert [r.id for r in domain.registry.forget("e2")] == [first.challenger.id]
    domain.skill[1] = half(1, 0.8)
    second = domain.play(both)
    # No better than the one that must go, and that is enough.
    assert second.replaces_tainted and second.promoted
    champion = domain.registry.model("champion")
    assert champion.events == ("e1",)
    # The forgotten correction's question has its own row again.
    assert {r.completion for r in domain.trained[-1] if r.question_id == "t4"} == {"old"}
    assert [r.id for r in domain.registry.forget("t5.txt")] != []
    third = domain.play(both)
    assert "t5.txt" not in dict(third.challenger.documents)
    assert not [r for r in domain.trained[-1] if r.question_id == "t5"]


def test_pairs_and_thumbs_train_after_the_rows_and_are_part_of_the_lineage(
    domain: Domain,
) -> None:
    domain.skill[5] = half(1, 0.8)
    new = Lessons((row("t3", "new", events=["e1"]),), pairs("p1", "p2", docs=["t9.txt"]),
                  thumbs("h1", "h2"))  # fmt: skip
    done = domain.play(new)
    assert done.promoted and not [t.skipped for t in done.taught if t.skipped]
    learned = domain.lessons[-1]
    assert (learned.pairs, learned.thumbs) == (new.pairs, new.thumbs)
    assert learned.smoothing == pytest.approx(0.1)
    champion = done.challenger
    assert champion.events == ("e1", "h1", "h2", "p1", "p2")
    assert champion.rows == {"general": 2, "gold": 20, "pairs": 2, "thumbs": 2}
    assert {"pairs", "thumbs"} < champion.row_digests.keys()
    assert ("t9.txt", "sha9") in champion.documents
    assert champion.settings["feedback"] == {"smoothing": pytest.approx(0.1)}
    with pytest.raises(DataError, match="nothing new to learn"):
        domain.play(new)
    # A thumb that is forgotten taints, and its step loses its other kind.
    assert domain.registry.forget("h2") == (champion,)
    domain.skill[3] = half(1, 0.8)
    again = domain.play(new)
    assert again.replaces_tainted and "h2" not in again.challenger.events
    assert again.taught[2].skipped.startswith("1 good and 0 bad answers")
    assert not domain.lessons[-1].thumbs and domain.lessons[-1].pairs
    # A document behind a pair can be forgotten as well.
    domain.registry.forget("t9.txt")
    domain.skill[1] = half(1, 0.8)
    assert domain.play(new).challenger.rows == {"general": 2, "gold": 19}


def test_too_little_is_told_and_makes_no_other_model(domain: Domain) -> None:
    new = Lessons((row("t3", "new", events=["e1"]),), pairs("p1"), thumbs("h1"))
    done = domain.play(new)
    assert done.challenger.events == ("e1",) and not domain.lessons[-1].pairs
    assert [t.rows for t in done.taught] == [1, 0, 0]
    assert "1 pairs are fewer than improve.min_pairs=2" in done.taught[1].skipped
    with pytest.raises(DataError, match="nothing new to learn.*DPO: 0 pairs are fewer"):
        domain.play(dataclasses.replace(new, pairs=(), thumbs=()))


# --- corrections ------------------------------------------------------------------------------

QUESTIONS = QuestionSet(
    train=(Question("t1", "Who signs?", ("Ann",), doc_ids=("a",), metadata={"answer": "spans"}),),
    dev=(Question("d1", "When does the lease end?", ("May",), doc_ids=("b",), split="dev"),),
    test_known=(Question("k1", "How long is the notice period?", ("30 days",), doc_ids=("a",)),),
    test_new=(),
    train_doc_ids=("a",),
)


def corrections(path: Path, *records: dict[str, object], excluded: Sequence[str] = ()) -> Any:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), "utf-8")

    def build(pool: Sequence[Question]) -> list[TrainingRow]:
        return [row(q.id, q.references[0] if q.references else "-") for q in pool]

    return corrected(path, QUESTIONS, build, Exclusions(excluded))


def test_corrections_become_rows_with_their_events(tmp_path: Path) -> None:
    made = corrections(
        tmp_path / "c.jsonl",
        {"id": "e1", "question_id": "t1", "answer": "Bob"},
        {"id": "e2", "question_id": "t1", "answer": "Eve"},
        {"id": "e3", "question_id": "n1", "text": "Who pays?", "answer": "Ann", "doc_ids": ["a"]},
        {"question_id": "n2", "text": "Who is the queen?", "answer": "Not in the documents."},
    )
    found = {r.question_id: (r.completion, r.events) for r in made.rows}
    assert found["t1"] == ("Eve", ("e2",)) and found["n1"] == ("Ann", ("e3",))
    assert found["n2"][0] == "-" and len(found["n2"][1][0]) == 16
    assert made.refused == (("e1", "a later correction, 'e2', takes its place"),)


def test_corrections_near_what_is_measured_are_set_aside(tmp_path: Path) -> None:
    made = corrections(
        tmp_path / "c.jsonl",
        {"id": "e1", "question_id": "k1", "answer": "60 days"},
        {"id": "e2", "question_id": "x", "answer": "60 days"},
        {"id": "e3", "question_id": "y", "text": "Rent?", "answer": "1", "doc_ids": ["b"]},
        {"id": "e4", "question_id": "z", "text": "How long is the notice period?", "answer": "9",
         "doc_ids": ["a"]},
        {"id": "e5", "question_id": "w", "text": "when does the lease end", "answer": "June"},
    )  # fmt: skip
    assert made.rows == ()
    reasons = dict(made.refused)
    assert "held out" in reasons["e1"] and "has no text" in reasons["e2"]
    assert "'b' is unknown or held out" in reasons["e3"] and "near-duplicate" in reasons["e4"]
    assert "repeats held-out question 'd1'" in reasons["e5"]


def test_an_excluded_correction_counts_as_never_written(tmp_path: Path) -> None:
    made = corrections(
        tmp_path / "c.jsonl",
        {"id": "e1", "question_id": "t1", "answer": "Bob"},
        {"id": "e2", "question_id": "t1", "answer": "Eve"},
        excluded=["e2"],
    )
    assert [(r.completion, r.events) for r in made.rows] == [("Bob", ("e1",))]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "line 1"),
        ('{"question_id": "a"}', "line 1: answer"),
        ('\n{"question_id": "a", "answer": " "}', "line 2: the answer has 0 characters"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "c.jsonl").write_text(text)
    with pytest.raises(DataError, match=says):
        read_corrections(tmp_path / "c.jsonl")
    with pytest.raises(DataError, match="does not exist"):
        read_corrections(tmp_path / "none.jsonl")


def test_the_command_passes_the_trust_that_a_judge_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float | None] = []

    def stop(*_: object, trust: float | None = None) -> Round:
        seen.append(trust)
        raise DataError("far enough")

    monkeypatch.setattr("domainlm.improve.improve", stop)
    (tmp_path / "c.yaml").write_text("documents: d\nquestions: q\n")
    command = ["improve", str(tmp_path / "c.yaml")]
    for more in ([], ["--trust", "0.4"]):
        assert CliRunner().invoke(app, [*command, *more]).exit_code != 0
    assert seen == [None, 0.4]
    assert CliRunner().invoke(app, [*command, "--trust", "1.5"]).exit_code == 2
    assert len(seen) == 2
