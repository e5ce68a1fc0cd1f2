"""What the pages are made of, without a server: citations, excerpts, turns, conflicts, charts."""

from __future__ import annotations

import dataclasses
import re

import pytest

from domainlm.artifacts import RunDir
from domainlm.errors import ConfigError
from domainlm.feedback.log import EventLog, current_view
from domainlm.feedback.opinions import grades
from domainlm.feedback.record import Words, from_run
from domainlm.report.html import style_and_script
from domainlm.schema import (
    Actor,
    Anchor,
    Answer,
    Citation,
    Document,
    Edit,
    Judgement,
    Passage,
)
from domainlm.server.pages import trends
from domainlm.server.pages.assets import assets, themed
from domainlm.server.pages.citing import view_of
from domainlm.server.pages.conflicts import allowed, conflicts, settled
from domainlm.server.pages.excerpt import excerpt, page_of, place_name
from domainlm.server.pages.feedback import what
from domainlm.server.pages.history import compare
from domainlm.server.pages.labelling import next_turn, others, turn_of
from domainlm.server.pages.login import within
from domainlm.server.pages.roi import SLIDERS, changed
from tests.unit.report_sample import sample

RUN = sample(questions=40)


def answer(text: str, *citations: Citation) -> Answer:
    passages = (Passage("c1", "a b.md", "Title", "x" * 90, 10, 100, 0.5, "2 Costs"),)
    return Answer("q", "rag", text, (), passages, (), 0.1, 1, 1, citations=citations)


def test_sentences_get_the_number_of_their_source() -> None:
    text = "One. Two. Three. Four."
    made = view_of(
        answer(
            text,
            Citation(0, 4, "a b.md", 20, 30, 1.0),
            Citation(5, 9),
            Citation(10, 16, "a b.md", 20, 30, 1.0),
            Citation(17, 22, "gone.md", 1, 2, 1.0),
        ),
        "id",
    )
    assert "".join(p.text for p in made.pieces) == text
    assert [p.source for p in made.pieces if p.text.strip()] == [1, 0, 1, 2]
    assert made.unsupported and [s.title for s in made.sources] == ["Title", "gone.md"]
    assert made.pieces[0].href == "/documents/view?id=a+b.md&start=20&end=30#hit"
    assert made.pieces[0].label == "Title, 2 Costs"


def test_citations_that_overlap_or_run_over_the_end_lose_no_text() -> None:
    text = "One. Two."
    cites = (Citation(0, 6, "a", 1, 2), Citation(3, 9, "a", 1, 2), Citation(6, 40, "a", 1, 2))
    assert "".join(p.text for p in view_of(answer(text, *cites)).pieces) == text


def test_an_excerpt_holds_the_exact_span_and_says_what_is_cut() -> None:
    text = "".join(f"line {n}\n" for n in range(5_000))
    start = text.index("line 2500")
    found = excerpt(text, start, start + 9, around=400)
    assert found.hit == "line 2500" and found.before.startswith("line")
    assert re.fullmatch(r"(\nline \d{4})+", found.after)
    assert found.cut_before + len(found.before) == start
    assert found.cut_after == len(text) - start - 9 - len(found.after)
    outside = excerpt("short", 90, 99)
    assert (outside.before, outside.hit, outside.cut_after) == ("short", "", 0)


def test_places_have_names() -> None:
    anchors = (Anchor(0, 50, "page", "1"), Anchor(50, 99, "page", "2"))
    inner = Anchor(55, 60, "section", "Costs")
    document = Document("d", "", "d.pdf", "x" * 99, "application/pdf", "", (*anchors, inner))
    assert page_of(document, 57) == 2 and place_name(document, 57) == "section Costs"
    assert page_of(document, 0) == 1 and page_of(document, 99) is None
    assert place_name(document, 99) == ""


def said(log: EventLog, who: str, question: str, words: Words, *arms: str, role: str = "") -> str:
    event, texts = from_run(RUN, question, arms, words, Actor("person", who, role))
    return log.append([event], texts)[0].id


def test_conflicts_are_found_and_settled(tmp_path) -> None:
    one, two = RUN.questions[0].id, RUN.questions[1].id
    with EventLog(tmp_path / "log.sqlite") as log:
        said(log, "ann", one, Words(thumb="up"), "raft")
        said(log, "ben", one, Words(rating=1), "raft")
        said(log, "ann", one, Words(rating=3), "rag")
        said(log, "ben", one, Words(rating=5), "rag")
        differ = next(
            q.id
            for q in RUN.questions
            if len(
                {a.text for a in RUN.answers if a.question_id == q.id and a.arm in ("raft", "rag")}
            )
            == 2
        )
        said(log, "ann", differ, Words(prefer="raft"), "raft", "rag")
        said(log, "ben", differ, Words(prefer="rag"), "raft", "rag")
        said(log, "ann", two, Words(edit="this"), "raft")
        said(log, "ben", two, Words(edit="that"), "raft")

        def found():
            current = log.current()
            shas = {e.payload.text_sha256 for e in current if isinstance(e.payload, Edit)}
            shas |= {s.text_sha256 for e in current for s in e.shown}
            return conflicts(current, log.texts(shas))

        open_ = found()
        assert sorted(c.kind for c in open_) == ["choice", "edit", "grade"]
        grade = next(c for c in open_ if c.kind == "grade")
        assert [(v.name, v.choice) for v in grade.voices] == [("ann", "good"), ("ben", "bad")]
        edit = next(c for c in open_ if c.kind == "edit")
        assert {v.text for v in edit.voices} == {"this", "that"}
        by_id = {e.id: e for e in log.current()}
        judge = Actor("person", "eve", "adjudicator")
        for conflict in open_:
            origin = by_id[conflict.voices[0].event_id]
            log.append([settled(conflict, allowed(conflict)[0], judge, origin)])
        assert found() == []
        assert log.verify().broken == ""


def test_the_queue_gives_second_opinions_and_hides_none_of_mine(tmp_path) -> None:
    with EventLog(tmp_path / "log.sqlite") as log:
        queue, first = next_turn(RUN, [], "ann")
        assert (
            first is not None
            and not first.second
            and {queue.a, queue.b} == {a.arm for a in first.answers}
        )
        _, skipped = next_turn(RUN, [], "ann", {first.question.id})
        assert skipped is not None and skipped.question.id != first.question.id
        arms = [a.arm for a in first.answers]
        said(log, "ben", first.question.id, Words(prefer=arms[0]), *arms)
        for _ in range(4):
            _, turn = next_turn(RUN, log.current(), "ann")
            assert turn is not None and not turn.second
            mine = [a.arm for a in turn.answers]
            said(log, "ann", turn.question.id, Words(prefer=mine[1]), *mine)
        _, fifth = next_turn(RUN, log.current(), "ann")
        assert fifth is not None and fifth.second and fifth.question.id == first.question.id
        shown = [a.arm for a in fifth.answers]
        said(log, "ann", first.question.id, Words(prefer=shown[0]), *shown)
        event, texts = from_run(RUN, first.question.id, arms, Words(prefer=arms[0]),
                                Actor("person", "x"))  # fmt: skip
        actor = Actor("judge", "a judge", prompt_digest="p")
        judged = dataclasses.replace(event, actor=actor, payload=Judgement(preferred="b"))
        log.append([judged], texts)
        told = others(
            RUN, log.current(), "ann", turn_of(RUN, first.question.id, (shown[0], shown[1]))
        )
        side = "a" if shown[0] == arms[0] else "b"
        assert told.people == {side: 1} and told.seen == 1
        assert told.agree == (side == "a")
        assert told.judges == (("a judge", "b" if side == "a" else "a"),)


def test_ratings_over_weeks(tmp_path) -> None:
    with EventLog(tmp_path / "log.sqlite") as log:
        for n, (day, score) in enumerate([("2026-03-02", 5), ("2026-03-04", 1), ("2026-03-10", 4)]):
            event, texts = from_run(RUN, RUN.questions[n].id, ["raft"], Words(rating=score),
                                    Actor("person", "ann"))  # fmt: skip
            log.append([dataclasses.replace(event, time=f"{day}T10:00:00+00:00")], texts)
        events = current_view(list(log.read()))
    found = trends.weeks(events, grades(events))
    assert [(str(w.start), w.mean, w.n) for w in found] == [
        ("2026-03-02", 0.5, 2),
        ("2026-03-09", 0.75, 1),
    ]
    assert "0.50 to 0.75" in trends.ratings(found) and trends.ratings(found[:1]) is None
    assert what(events[0]) == "5 of 5"


def test_two_runs_are_compared() -> None:
    later = dataclasses.replace(
        sample(seed=3, questions=40),
        config={**RUN.config, "budget": "full"},
        provenance={**RUN.provenance, "torch": "9"},
    )
    found = compare(RUN, later)
    assert {c.arm for c in found.arms} == {s.arm for s in RUN.summaries}
    assert found.settings == (("budget", "small", "full"),)
    assert ("torch", RUN.provenance["torch"], "9") in found.drift
    assert found.same_questions and not compare(RUN, sample(questions=20)).same_questions


def test_both_themes_know_the_same_colours() -> None:
    style = themed(style_and_script()[0])
    dark = [part.split("}")[0] for part in style.split(':root[data-theme="dark"] {')[1:]]
    by_system = style.split(':root:not([data-theme="light"]) {')[1].split("}")[0]
    assert dark == [by_system] and "--link" in by_system


def test_static_files_are_small_and_known_by_their_content() -> None:
    first = ("family.css", "app.css", "theme.js", "htmx.min.js", "app.js", "ask.js", "icon.svg")
    assert sum(len(assets()[name].body) for name in first) < 125_000
    assert "Zero-Clause BSD" in assets()["htmx.min.js"].body[:200].decode()
    assert len({a.digest for a in assets().values()}) == len(assets())


@pytest.mark.parametrize(
    "address",
    ["//evil.example", "https://evil.example/", "/\\evil.example", "evil", "/a\nb", "javascript:x"],
)
def test_signing_in_leads_to_this_site_only(address: str) -> None:
    assert within(address) == "/ask"


def test_signing_in_leads_back() -> None:
    assert within("/feedback?q=a%20b&page=2") == "/feedback?q=a%20b&page=2"


def test_what_a_slider_sends() -> None:
    given = dict.fromkeys((s.name for s in SLIDERS), "") | {"volume": "2e4", "churn": "0.1"}
    found = changed(given)
    assert found["volume"] == 20_000 and found["churn"] == 0.1
    assert found["value_correct_usd"] is None and found["months"] == 12
    with pytest.raises(ConfigError, match="volume is 'many'"):
        changed({"volume": "many"})


def test_a_stage_that_is_in_force_again_is_the_newest(tmp_path) -> None:
    with RunDir(tmp_path) as folder:
        for key in ("a", "b", "a"):
            assert (
                folder.stage("documents", key, str, lambda key=key: f"as of {key}")
                == f"as of {key}"
            )
        assert folder.newest("documents", str) == "as of a"
