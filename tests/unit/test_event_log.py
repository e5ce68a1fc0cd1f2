import dataclasses
import json
import multiprocessing
import os
import random
import signal
import sqlite3
import time

import pytest

from domainlm.errors import DataError
from domainlm.feedback.events import text_digest
from domainlm.feedback.exchange import export_log, import_log
from domainlm.feedback.log import EventLog, current_view
from domainlm.schema import Actor, Flag, Judgement, Pairwise, Rank, Rating, Retract, Thumb
from tests.unit.feedback_sample import ANN, BOB, CHIEF, JUDGE, Book


@pytest.fixture
def log(tmp_path):
    with EventLog(tmp_path / "log.sqlite") as opened:
        yield opened


def filled(log, n=5, prefix=""):
    book = Book()
    for i in range(n):
        book.thumb(ANN, f"q{i}", f"answer {i}", bool(i % 2), id=f"{prefix}e{i}")
    log.append(book.events, book.texts)
    return book


def tamper(path, statement, *values):
    """Change a log behind its back."""
    with sqlite3.connect(path) as db:
        for trigger in ("no_change", "no_removal"):
            db.execute(f"DROP TRIGGER IF EXISTS {trigger}")
        db.execute(statement, values)


def test_events_come_back_as_they_were_given_with_texts_and_a_chain(log):
    book = Book()
    book.rate(ANN, "q1", "an answer\x07 with a bell", 4)
    book.edit(BOB, "q1", "an answer", "a better one")
    book.rank(ANN, "q2", "best", "middle", "worst")
    kept = log.append(book.events, book.texts)
    assert [dataclasses.replace(e, hash="", prev_hash="") for e in kept] == book.events
    assert list(log.read()) == kept and len(log) == 3
    assert kept[0].prev_hash == "" and kept[1].prev_hash == kept[0].hash
    assert log.texts(book.texts) == book.texts
    assert log.verify() == type(log.verify())(3, kept[2].hash)


def test_the_log_gives_ids_and_times(log):
    book = Book()
    event = book.thumb(ANN, "q1", "x", True)
    [kept] = log.append([dataclasses.replace(event, id="", time="")], book.texts)
    assert len(kept.id) == 32 and kept.time.endswith("+00:00")


def test_nothing_can_be_changed_or_removed_through_sql(log):
    filled(log)
    with sqlite3.connect(log.path) as db:
        for statement in ("UPDATE events SET body = ''", "DELETE FROM events"):
            with pytest.raises(sqlite3.IntegrityError, match="events are never"):
                db.execute(statement)


def test_a_retry_is_harmless_and_a_taken_id_is_refused(log):
    book = filled(log)
    assert log.append(book.events[:1], book.texts)[0].hash and len(log) == 5
    other = dataclasses.replace(book.events[0], payload=Thumb(True))
    with pytest.raises(DataError, match="'e0' is taken"):
        log.append([other], book.texts)


def test_a_bad_event_leaves_nothing_of_its_batch(log):
    book = Book()
    book.thumb(ANN, "q1", "x", True)
    book.rate(ANN, "q1", "x", 6)
    with pytest.raises(
        DataError, match="rating 6 is out of range; give a whole number from 1 to 5"
    ):
        log.append(book.events, book.texts)
    book = Book()
    book.thumb(ANN, "q1", "x", True)
    book.thumb(ANN, "q2", "y", True, supersedes="nowhere")
    with pytest.raises(DataError, match="no event 'nowhere' to supersede"):
        log.append(book.events, book.texts)
    assert len(log) == 0 and log.verify().head == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question_id": "q\0"}, "control characters"),
        ({"question_id": ""}, "question's id is empty"),
        ({"question_id": "q" * 201}, "201 characters; at most 200"),
        ({"question": "what\0?"}, "NUL character at 4"),
        ({"question": "  "}, "no text"),
        ({"question": "x" * 20_001}, "20,001 characters"),
        ({"question": "\ud800"}, "lone surrogate"),
        ({"split": "nowhere"}, "split 'nowhere' is unknown"),
        ({"time": "yesterday"}, "not ISO 8601 in UTC"),
        ({"time": "2026-01-31T09:00:00+02:00"}, "not ISO 8601 in UTC"),
        ({"rubric": "v\x1b[2J"}, "control characters"),
        ({"actor": Actor("person", "")}, "pseudonym is empty"),
        ({"actor": Actor("judge", "m")}, "prompt digest is empty"),
        ({"actor": JUDGE}, "a judge cannot give a thumb"),
        ({"payload": Judgement(score=0.5)}, "a person cannot give a judge"),
        ({"payload": Flag(" ")}, "a flag has no reason"),
        ({"payload": Flag("x" * 2001)}, "2,001 characters"),
        ({"payload": Pairwise("a")}, "shows 1 answers; it must show 2"),
        ({"payload": Rank(("x",))}, "shows 1 answers; it must show 2 to 20"),
        ({"shown": ()}, "shows 0 answers; it must show 1"),
        ({"schema_version": 9}, "schema version 9"),
        ({"payload": Rating(True)}, "whole number"),
    ],
)
def test_hostile_events_are_refused_in_one_sentence(log, change, message):
    book = Book()
    event = dataclasses.replace(book.thumb(ANN, "q1", "x", True), **change)
    with pytest.raises(DataError, match=message) as caught:
        log.append([event], book.texts)
    assert "\n" not in str(caught.value) and len(log) == 0


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan"), float("inf")])
def test_judge_scores_outside_0_to_1_are_refused(log, score):
    book = Book()
    book.judge("q1", "x", score)
    with pytest.raises(DataError, match="out of range; give 0 to 1"):
        log.append(book.events, book.texts)


def test_unknown_answers_and_texts_are_refused(log):
    book = Book()
    event = book.rank(ANN, "q1", "one", "two")
    stranger = dataclasses.replace(event, payload=Rank(("one", "three")))
    with pytest.raises(DataError, match="name each answer that was shown once"):
        log.append([stranger], book.texts)
    with pytest.raises(DataError, match="was not given"):
        log.append([event], {})
    twice = dataclasses.replace(event, shown=(event.shown[0],) * 2)
    with pytest.raises(DataError, match="shown twice"):
        log.append([twice], book.texts)
    wrong = {sha: text + "!" for sha, text in book.texts.items()}
    with pytest.raises(DataError, match="it was changed"):
        log.append([event], wrong)
    long = Book()
    long.thumb(ANN, "q1", "x" * 200_001, True)
    with pytest.raises(DataError, match="200,001 characters"):
        log.append(long.events, long.texts)


def test_the_current_view_folds_supersedes_and_retractions(log):
    book = Book()
    book.thumb(ANN, "q1", "x", True, id="first")
    book.thumb(ANN, "q1", "x", False, id="second", supersedes="first")
    book.thumb(BOB, "q1", "x", True, id="bob")
    log.append(book.events, book.texts)
    assert [e.id for e in log.current()] == ["second", "bob"]
    retract = Book()
    retract.add(BOB, Retract("bob", "slipped"), "", id="r1")
    log.append(retract.events)
    assert [e.id for e in log.current()] == ["second"]
    undo = Book()
    undo.add(BOB, Retract("r1"), "", id="r2")
    undo.add(ANN, Retract("second"), "", id="r3")
    log.append(undo.events)
    # Without its successor, the first word counts again.
    assert [e.id for e in log.current()] == ["first", "bob"]
    assert len(log) == 6 and not log.verify().broken


def test_only_the_author_or_an_adjudicator_takes_an_event_back(log):
    filled(log, 2)
    by = Book()
    with pytest.raises(DataError, match="only its author or"):
        log.append([by.add(BOB, Retract("e0"), "", id="r")])
    with pytest.raises(DataError, match="only its author can supersede"):
        log.append([by.thumb(BOB, "q0", "answer 0", True, supersedes="e0", id="r")], by.texts)
    log.append([by.add(CHIEF, Retract("e0"), "", id="r")])
    assert [e.id for e in log.current()] == ["e1"]


@pytest.mark.parametrize(
    ("statement", "values", "message"),
    [
        (
            "UPDATE events SET body = replace(body, 'true', 'false') WHERE seq = 2",
            (),
            "content was",
        ),
        ("DELETE FROM events WHERE seq = 3", (), "event before it is missing"),
        ("UPDATE events SET id = 'other' WHERE seq = 4", (), "filed under another id"),
        ("UPDATE texts SET text = 'forged' WHERE text = 'answer 1'", (), "which was changed"),
    ],
)
def test_tampering_is_found_at_the_first_broken_event(log, statement, values, message):
    filled(log)
    tamper(log.path, statement, *values)
    found = log.verify()
    assert message in found.broken
    assert found.events == {"content was": 1, "event before it is missing": 2}.get(
        message, 3 if "filed" in message else 1
    )


def test_a_recomputed_hash_still_breaks_the_chain_behind_it(log):
    filled(log)
    with sqlite3.connect(log.path) as db:
        [body] = db.execute("SELECT body FROM events WHERE seq = 2").fetchone()
    forged = body.replace('"up":true', '"up":false')
    assert forged != body
    sha = text_digest(forged)
    tamper(
        log.path,
        "UPDATE events SET body = ?, hash = ?, first_hash = ? WHERE seq = 2",
        forged,
        sha,
        sha,
    )
    found = log.verify()
    assert found.events == 2 and "'e2') does not follow" in found.broken


def test_a_cut_off_end_shows_against_a_head_noted_earlier(log):
    filled(log)
    head = log.verify().head
    tamper(log.path, "DELETE FROM events WHERE seq = 5")
    assert not log.verify().broken
    assert "the end was cut off" in log.verify(head).broken


def test_an_export_comes_back_whole_and_twice_changes_nothing(log, tmp_path):
    filled(log)
    assert export_log(log, tmp_path / "a.jsonl") == 5
    with EventLog(tmp_path / "copy.sqlite") as copy:
        assert import_log(copy, tmp_path / "a.jsonl") == (5, 0)
        assert import_log(copy, tmp_path / "a.jsonl") == (0, 5)
        assert not copy.verify().broken
        assert [e.origin_hash for e in copy.read()] == [e.hash for e in log.read()]
        # And back again: a log knows its own events behind another site's chain.
        export_log(copy, tmp_path / "b.jsonl")
        assert import_log(log, tmp_path / "b.jsonl") == (0, 5)


def test_logs_of_two_sites_merge_with_their_origins(log, tmp_path):
    filled(log, 3, "here-")
    with EventLog(tmp_path / "there.sqlite") as there:
        filled(there, 4, "there-")
        export_log(there, tmp_path / "there.jsonl")
        heads = [e.hash for e in there.read()]
    assert import_log(log, tmp_path / "there.jsonl") == (4, 0)
    merged = list(log.read())
    assert [e.origin_hash for e in merged] == [""] * 3 + heads
    assert log.verify().events == 7 and not log.verify().broken
    # The origin is checked, too: a forger who repairs the chain cannot repair what was signed.
    body = json.loads(json.dumps(dataclasses.asdict(merged[-1])))
    del body["hash"]
    body["payload"]["up"] = not body["payload"]["up"]
    forged = json.dumps(body, sort_keys=True, separators=(",", ":"))
    tamper(
        log.path,
        "UPDATE events SET body = ?, hash = ? WHERE seq = 7",
        forged,
        text_digest(forged),
    )
    assert "hash of its origin" in log.verify().broken


def test_an_event_changed_on_its_way_over_another_site_is_refused(log, tmp_path):
    filled(log, 1)
    path = tmp_path / "a.jsonl"
    export_log(log, path)
    with EventLog(tmp_path / "middle.sqlite") as middle:
        import_log(middle, path)
        export_log(middle, path)
    header, line = map(json.loads, path.read_text("utf-8").splitlines())
    event = line["event"]
    del event["hash"]
    event["payload"]["up"] = not event["payload"]["up"]
    sha = text_digest(json.dumps(event, sort_keys=True, separators=(",", ":")))
    event["hash"] = sha
    path.write_text(json.dumps(header | {"head": sha}) + "\n" + json.dumps(line), "utf-8")
    with (
        EventLog(tmp_path / "last.sqlite") as last,
        pytest.raises(DataError, match="hash of its origin"),
    ):
        import_log(last, path)


def test_a_clash_of_ids_refuses_the_whole_import(log, tmp_path):
    filled(log, 2)
    with EventLog(tmp_path / "there.sqlite") as there:
        book = Book()
        book.thumb(BOB, "q9", "x", True, id="fresh")
        book.thumb(BOB, "q9", "x", True, id="e1")
        there.append(book.events, book.texts)
        export_log(there, tmp_path / "there.jsonl")
    with pytest.raises(DataError, match="'e1' is already here"):
        import_log(log, tmp_path / "there.jsonl")
    assert len(log) == 2


def rewrite(path, change):
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n".join(change(lines)) + "\n", "utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: [], "line 1|is empty"),
        (lambda x: x[1:], "no header"),
        (lambda x: [x[0].replace('"schema_version":1', '"schema_version":2'), *x[1:]], "version 2"),
        (lambda x: x[:-1], "ends after 4 of 5 events"),
        (lambda x: [x[0], x[2], x[1], *x[3:]], "does not follow"),
        (lambda x: [*x[:2], x[2].replace('"up":true', '"up":false'), *x[3:]], "was changed"),
        (lambda x: [*x[:2], x[2].replace("answer 1", "answer 7"), *x[3:]], "text does not have"),
        (lambda x: [*x[:3], '{"event": 3}', *x[4:]], "line 4: no event"),
        (lambda x: [*x[:3], "{", *x[4:]], "line 4 is not valid JSON"),
        (lambda x: [*x[:3], "[" * 100_000, *x[4:]], "line 4 is not valid JSON"),
        (lambda x: [*x[:3], '{"event": {"id": NaN}}', *x[4:]], "NaN is no JSON number"),
        (lambda x: [*x[:2], x[2].replace('"event":{', '"event":{"extra":1,'), *x[3:]], "changed"),
    ],
)
def test_a_bad_import_writes_nothing(log, tmp_path, change, message):
    filled(log)
    path = tmp_path / "a.jsonl"
    export_log(log, path)
    rewrite(path, change)
    with EventLog(tmp_path / "copy.sqlite") as copy:
        with pytest.raises(DataError, match=message) as caught:
            import_log(copy, path)
        assert len(copy) == 0 and "\n" not in str(caught.value)


def test_unknown_fields_are_refused_even_with_a_right_hash(log, tmp_path):
    filled(log, 1)
    path = tmp_path / "a.jsonl"
    export_log(log, path)
    header, line = map(json.loads, path.read_text("utf-8").splitlines())
    event = line["event"] | {"smuggled": "x"}
    del event["hash"]
    sha = text_digest(json.dumps(event, sort_keys=True, separators=(",", ":")))
    line["event"] = event | {"hash": sha}
    path.write_text(json.dumps(header | {"head": sha}) + "\n" + json.dumps(line), "utf-8")
    with pytest.raises(DataError, match="fields that this domainlm does not know"):
        import_log(log, path)


def test_a_broken_chain_is_not_exported(log, tmp_path):
    filled(log)
    tamper(log.path, "DELETE FROM events WHERE seq = 3")
    with pytest.raises(DataError, match="broken chain is not exported"):
        export_log(log, tmp_path / "a.jsonl")
    assert not (tmp_path / "a.jsonl").exists()


def test_files_that_are_no_log_are_refused(tmp_path):
    (tmp_path / "text").write_text("hello, I am no database, not at all" * 50)
    with pytest.raises(DataError, match="damaged or no event log"):
        EventLog(tmp_path / "text")
    with sqlite3.connect(tmp_path / "other") as db:
        db.execute("CREATE TABLE things (a)")
    with pytest.raises(DataError, match="no event log"):
        EventLog(tmp_path / "other")
    with EventLog(tmp_path / "newer"):
        pass
    with sqlite3.connect(tmp_path / "newer") as db:
        db.execute("UPDATE meta SET value = '9'")
    with pytest.raises(DataError, match="schema version 9"):
        EventLog(tmp_path / "newer")
    with pytest.raises(DataError, match="there is no feedback yet"):
        EventLog(tmp_path / "absent", create=False)
    assert not (tmp_path / "absent").exists()


def write_forever(path, acknowledged, name):
    """Append events one by one and note each id only after its append returned."""
    with EventLog(path) as log, open(acknowledged, "ab", buffering=0) as notes:
        for i in range(10_000):
            book = Book()
            book.thumb(ANN, f"q{i}", f"answer {i}", True, id=f"{name}-{i}")
            log.append(book.events, book.texts)
            notes.write(f"{name}-{i}\n".encode())


def test_killed_writers_lose_nothing_that_was_acknowledged(tmp_path):
    path, notes = tmp_path / "log.sqlite", tmp_path / "acknowledged"
    EventLog(path).__exit__()
    spawn = multiprocessing.get_context("fork")
    rng = random.Random(5)
    started = 0
    running = []
    begun = time.monotonic()
    # As long as it takes, on a busy machine too, to write and to kill enough.
    while started < 8 or not notes.exists() or len(notes.read_text().split()) <= 20:
        assert time.monotonic() - begun < 60
        while len(running) < 3:
            started += 1
            worker = spawn.Process(target=write_forever, args=(path, notes, f"w{started}"))
            worker.start()
            running.append(worker)
        time.sleep(rng.uniform(0.02, 0.2))
        victim = running.pop(rng.randrange(len(running)))
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
    for worker in running:
        worker.kill()
        worker.join()
    acknowledged = notes.read_text().split()
    with EventLog(path) as log:
        kept = {e.id for e in log.read()}
        found = log.verify()
    assert not set(acknowledged) - kept
    # What was written and not acknowledged is at most one event for each killed writer.
    assert len(kept) <= len(acknowledged) + started
    assert not found.broken and found.events == len(kept)


def test_the_fold_is_the_same_for_any_tail(log):
    book = filled(log, 4)
    assert current_view(book.events[:2]) == book.events[:2] and current_view([]) == []
