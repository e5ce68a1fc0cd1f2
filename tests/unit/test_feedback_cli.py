import contextlib
import io
import json
import os
import sys
from unittest import mock

import pytest

from domainlm.artifacts import dump_json
from domainlm.cli import main
from domainlm.feedback import asked
from domainlm.feedback.log import EventLog
from domainlm.models.fake import FakeModel
from domainlm.schema import Question, RunResult
from tests.unit.report_sample import sample

TRAIN = [
    ("t1", "Who inspects the kettle at Norbrook?", "the keeper"),
    ("t2", "When is the fence of Alder Yard painted?", "every spring"),
    ("t3", "What does the ferry to Sand Island charge?", "four crowns"),
]


@pytest.fixture(scope="module")
def result():
    return sample(questions=24)


@pytest.fixture
def home(tmp_path, result):
    """A domain with a finished run: a configuration, two documents, five questions, a result."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("The keeper inspects the kettle at Norbrook daily.")
    (tmp_path / "docs" / "b.md").write_text("The fence is painted every spring. Four crowns.")
    rows = [{"id": i, "text": t, "answer": a, "split": "train"} for i, t, a in TRAIN]
    held: list[Question] = list(result.questions[:2])
    rows += [{"id": "dev1", "text": "Where do the barges moor?", "answer": "here", "split": "dev"}]
    rows += [{"id": q.id, "text": q.text, "answer": "x", "split": "test_known"} for q in held]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "domainlm.yaml").write_text("documents: docs\nquestions: questions.jsonl\n")
    folder = tmp_path / "runs" / "run"
    folder.mkdir(parents=True)
    (folder / "result.json").write_bytes(dump_json(RunResult, result))
    return tmp_path


def cli(home, command, *words, stdin=""):
    """(exit code, output, errors) of `domainlm feedback COMMAND FILE …` in this process."""
    argv = ["domainlm", "feedback", command, str(home / "domainlm.yaml"), *map(str, words)]
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", argv),
        mock.patch.object(sys, "stdin", io.StringIO(stdin)),
        mock.patch.dict(os.environ),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    return int(ended.value.code or 0), out.getvalue(), err.getvalue()


def plain(home, *records):
    path = home / "plain.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records))
    return path


def answer(text, prompt="Passages … question?", **rest):
    return {"text": text, "prompt": [{"role": "user", "content": prompt}], **rest}


def test_every_kind_can_be_added_superseded_and_retracted(home, result):
    q = result.questions[0].id
    for words in (
        ("--thumb", "up"),
        ("--rating", 4, "--arm", "rag"),
        ("--edit", "-", "--arm", "rag"),
        ("--prefer", "raft", "--arm", "rag", "--arm", "raft"),
        ("--rank", "raft, rag,base"),
        ("--flag", "names a person"),
    ):
        code, out, err = cli(home, "add", q, *words, "--by", "ann", stdin="better\n")
        assert (code, err) == (0, "") and "never trains" in out, words
    code, out, _ = cli(home, "add", q, "--thumb", "down", "--by", "ann", "--json")
    kept = json.loads(out)
    assert code == 0 and kept["split"] == result.questions[0].split
    words = ("--thumb", "up", "--supersedes", kept["id"], "--by", "ann")
    assert cli(home, "add", q, *words)[0] == 0
    assert cli(home, "add", "--retract", kept["id"], "--reason", "slip", "--by", "ann")[0] == 0
    code, out, _ = cli(home, "stats", "--json")
    found = json.loads(out)
    assert (found["events"], found["current"], found["persons"]) == (9, 7, 1)
    code, out, _ = cli(home, "verify", "--json")
    assert code == 0 and json.loads(out)["events"] == 9
    head = json.loads(out)["head"]
    assert cli(home, "verify", "--head", head)[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("q000", "--thumb", "up"), "pseudonym is empty"),
        (("nowhere", "--thumb", "up", "--by", "ann"), "no question 'nowhere'"),
        (("q000", "--rating", 9, "--by", "ann"), "rating 9 is out of range"),
        (("q000", "--by", "ann"), "0 kinds of feedback"),
        (("q000", "--thumb", "up", "--arm", "best", "--by", "ann"), "no answer of 'best'"),
        (("--retract", "e1", "--by", "ann"), "no event 'e1' to retract"),
        (("q000", "--edit", "x\0y", "--by", "ann"), "NUL"),
        (("q000", "--thumb", "up", "--by", "a\x1b[2Jn"), "control characters"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_nothing_is_kept(home, words, message):
    code, out, err = cli(home, "add", *words)
    assert code == 2 and message in err and err.count("\n") == 1 and out == ""
    assert "\x1b" not in err
    path = home / "runs" / "run.feedback.sqlite"
    if path.exists():
        with EventLog(path) as log:
            assert len(log) == 0


def test_a_tampered_log_fails_verification_with_the_event(home):
    assert cli(home, "add", "q000", "--thumb", "up", "--by", "ann")[0] == 0
    with EventLog(home / "runs" / "run.feedback.sqlite") as log:
        log._db.execute("DROP TRIGGER no_change")
        log._db.execute("UPDATE events SET body = replace(body, 'true', 'false')")
    code, _, err = cli(home, "verify")
    assert code == 2 and "event 1" in err and "content was changed" in err
    assert cli(home, "export", home / "out.jsonl")[0] == 2 and not (home / "out.jsonl").exists()


def test_commands_without_a_log_or_a_run_say_so(home, tmp_path_factory):
    for command in ("stats", "verify"):
        code, _, err = cli(home, command)
        assert code == 2 and "there is no feedback yet" in err
    assert not (home / "runs" / "run.feedback.sqlite").exists()
    (home / "runs" / "run" / "result.json").unlink()
    assert "run the command that writes it" in cli(home, "add", "q000", "--thumb", "up")[2]


def test_plain_records_become_events_and_training_rows(home):
    path = plain(
        home,
        {"kind": "thumb", "up": True, "question_id": "t1", "by": "ann", "answers": [answer("ok")]},
        {
            "kind": "edit",
            "text": "every spring",
            "question": "when is the fence of alder yard painted",
            "by": "bob",
            "answers": [answer("in autumn", chunks=["b.md:0"], arm="rag", model="m")],
        },
        {
            "kind": "pairwise",
            "preferred": "b",
            "question_id": "t3",
            "by": "ann",
            "answers": [answer("five crowns"), answer("four crowns")],
        },
        {
            "kind": "rank",
            "order": [2, 1],
            "question_id": "t1",
            "by": "bob",
            "answers": [answer("no"), answer("the keeper")],
        },
        {"kind": "thumb", "up": True, "question_id": "dev1", "by": "ann", "answers": [answer("y")]},
        {
            "kind": "thumb",
            "up": True,
            "question": "Something new?",
            "by": "ann",
            "answers": [answer("z")],
        },
        {
            "kind": "judge",
            "score": 0.9,
            "judge": "m",
            "prompt_digest": "p",
            "seed": 3,
            "question_id": "t2",
            "answers": [answer("w")],
        },
    )
    code, out, err = cli(home, "import", path)
    assert code == 0 and "7 events added, 0 were already there" in out, err
    assert "0 events added, 7 were" in cli(home, "import", path)[1]
    target = home / "rows.jsonl"

    def rows(form):
        code, out, err = cli(home, "export", target, "--as", form)
        assert code == 0, err
        return [json.loads(line) for line in target.read_text().splitlines()], out

    pairs, out = rows("pairs")
    assert {(p["chosen"][0]["content"], p["rejected"][0]["content"]) for p in pairs} == {
        ("four crowns", "five crowns"),
        ("every spring", "in autumn"),
        ("the keeper", "no"),
    }
    assert pairs[0]["prompt"] == [{"role": "user", "content": "Passages … question?"}]
    assert all(p["chosen"][0]["role"] == "assistant" and p["events"] for p in pairs)
    for words in ("held out (dev)", "not in the question set", "judge is not trusted"):
        assert words in out
    [sft], _ = rows("sft")
    assert sft["completion"] == [{"role": "assistant", "content": "every spring"}]
    [thumb], _ = rows("thumbs")
    assert thumb["label"] is True and thumb["completion"][0]["content"] == "ok"
    assert rows("adjudication")[0] == []
    code, out, _ = cli(home, "stats")
    assert "may not train: met people on 0 items" in out and "(measures, never trains)" in out


def test_a_text_asked_of_several_documents_is_known_by_its_id_only(home):
    rows = [json.loads(line) for line in (home / "questions.jsonl").read_text().splitlines()]
    rows += [
        {"id": f"law-{i}", "text": "Which law governs it?", "answer": i, "split": s, "doc_ids": [i]}
        for i, s in (("a.md", "train"), ("b.md", "test_known"))
    ]
    (home / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    record = {"kind": "thumb", "up": True, "by": "ann", "answers": [answer("x")]}
    path = plain(
        home,
        record | {"question": "Which law governs it?"},
        record | {"question_id": "law-a.md"},
        record | {"question_id": "law-b.md"},
    )
    assert cli(home, "import", path)[0] == 0
    code, out, err = cli(home, "export", home / "t.jsonl", "--as", "thumbs")
    assert code == 0, err
    [row] = map(json.loads, (home / "t.jsonl").read_text().splitlines())
    assert row["question_id"] == "law-a.md" and "not in the question set" in out


def test_what_users_asked_trains_if_it_touches_nothing_held_out(home):
    shown = answer("Bob.", chunks=["a.md@0-48-0a1b2c3d"])
    record = {"kind": "thumb", "up": True, "by": "ann", "answers": [shown]}
    path = plain(
        home,
        record | {"question": "Who feeds the cat of the harbour?"},
        record | {"question": "How old is the oak?", "answers": [answer("90")]},
        record | {"question": "How tall is it?", "answers": [answer("9")], "doc_ids": ["b.md"]},
        record | {"question": "where do THE barges moor"},
        record | {"question": "How wide is it?", "doc_ids": ["zz.md"]},
    )
    assert cli(home, "import", path)[0] == 0
    code, out, err = cli(home, "export", home / "t.jsonl", "--as", "thumbs")
    assert code == 0, err
    found = [json.loads(line) for line in (home / "t.jsonl").read_text().splitlines()]
    assert sorted(f["doc_ids"] for f in found) == [["a.md"], ["b.md"]]
    for why in ("no passage or document tells", "held out (dev)", "'zz.md' is no train document"):
        assert why in out


def test_questions_that_a_run_wrote_are_train_questions(home):
    from domainlm.artifacts import RunDir
    from domainlm.training.data import Synthesis

    written = tuple(
        Question(f"synthetic-{n}", f"What is written in {d}?", ("x",), doc_ids=(d,), split="train")
        for n, d in enumerate(("a.md", "zz.md"))
    )
    with RunDir(home / "runs" / "run") as folder:
        folder.stage("synthesis", "old", Synthesis, lambda: Synthesis((), {}))
        folder.stage("synthesis", "new", Synthesis, lambda: Synthesis(written, {}))
        os.utime(folder.path / "stages" / "synthesis-old.json", (1, 1))
    record = {"kind": "thumb", "up": True, "by": "ann", "answers": [answer("x")]}
    path = plain(home, *({**record, "question_id": q.id, "question": q.text} for q in written))
    assert cli(home, "import", path)[0] == 0
    code, out, err = cli(home, "export", home / "t.jsonl", "--as", "thumbs")
    assert code == 0, err
    [row] = map(json.loads, (home / "t.jsonl").read_text().splitlines())
    # The other one is about a document that is not there any more.
    assert row["question_id"] == "synthetic-0" and "no passage or document tells" in out


def test_the_last_answer_of_ask_can_be_rated(home, result):
    code, _, err = cli(home, "add", "--last", "--thumb", "up", "--by", "ann")
    assert code == 2 and "ask first" in err
    given = result.answers[0]
    asked.keep(home / "runs" / "run.asked.jsonl", Question("asked-1", "Why?"), given)
    assert cli(home, "add", "--last", "--thumb", "up", "--by", "ann")[0] == 0
    with EventLog(home / "runs" / "run.feedback.sqlite") as log:
        [event] = log.current()
    assert (event.question_id, event.shown[0].arm, event.split) == ("asked-1", given.arm, "")
    code, _, err = cli(home, "add", "q000", "--last", "--thumb", "up", "--by", "ann")
    assert code == 2 and "leave one out" in err


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("[1]", "line 1: '[1]' is no record"),
        ({"kind": "thumb"}, "is not in the question set; give its text"),
        ({"kind": "thumb", "question_id": "t1"}, "`answers` is missing"),
        ({"kind": "thumb", "question_id": "t1", "answers": [{}], "by": "a"}, "`text` is"),
        ({"kind": "thumb", "question_id": "t1", "answers": [answer("x")], "by": "a"}, "no `up`"),
        ({"kind": "like", "question_id": "t1", "answers": [answer("x")], "by": "a"}, "use one of"),
        (
            {"kind": "rating", "score": "4", "question_id": "t1", "answers": [answer("x")]},
            "`score` is '4'",
        ),
        (
            {"kind": "judge", "score": 10**40, "question_id": "t1", "answers": [answer("x")]},
            "above 1000",
        ),
        (
            {"kind": "rank", "order": [1, 3], "question_id": "t1", "answers": [answer("x")] * 2},
            "give the numbers 1 to 2",
        ),
        (
            {"kind": "thumb", "up": True, "question_id": "t1", "answers": [answer("x\0")]},
            "NUL character at 1",
        ),
        (
            {"kind": "thumb", "up": True, "question_id": "t1", "answers": [answer("\ud800")]},
            "lone surrogate",
        ),
        (
            {"kind": "thumb", "up": True, "question_id": "t1", "answers": [answer("x", "\ud800")]},
            "lone surrogate",
        ),
        (
            {
                "kind": "thumb",
                "up": True,
                "question_id": "t1",
                "by": "a",
                "answers": [{"text": "x", "prompt": "hi"}],
            },
            "no list of messages",
        ),
        ('{"kind": "judge", "score": NaN}', "not valid JSON"),
        ({"kind": "thumb", "up": True, "question_id": "t1", "answers": [answer("x")]}, "pseudonym"),
    ],
)
def test_bad_plain_records_are_refused_whole(home, record, message):
    good = {"kind": "thumb", "up": True, "question_id": "t1", "by": "a", "answers": [answer("x")]}
    path = plain(home, record, good)
    code, _, err = cli(home, "import", path)
    assert code == 2 and message in err.replace("\n", " "), err
    with contextlib.suppress(Exception), EventLog(home / "runs" / "run.feedback.sqlite") as log:
        assert len(log) == 0


def test_an_export_of_another_site_is_imported_once(home, tmp_path):
    for n in range(3):
        assert cli(home, "add", f"q{n:03d}", "--thumb", "up", "--by", "ann")[0] == 0
    code, out, _ = cli(home, "export", home / "log.jsonl")
    assert code == 0 and out.startswith("3 events")
    elsewhere = ("--set", f"output={tmp_path / 'elsewhere'}")
    assert "3 events added" in cli(home, "import", home / "log.jsonl", *elsewhere)[1]
    assert "0 events added, 3" in cli(home, "import", home / "log.jsonl", *elsewhere)[1]


def test_the_queue_prints_what_to_ask_and_what_it_buys(home):
    code, out, err = cli(home, "queue", "--a", "raft", "--b", "rag", "--limit", 5)
    assert code == 0, err
    assert "Expected half-width" in out and "after these 5" in out and "--prefer ARM" in out
    assert out.count(" points, ") == 5
    code, out, _ = cli(home, "queue", "--limit", 3, "--json")
    assert len(json.loads(out)["items"]) == 3
    assert cli(home, "queue", "--a", "nothing")[0] == 2


def test_a_model_judges_claims_once_and_is_measured_by_people(home, result, monkeypatch):
    def yes(chat):
        listed = chat[-1].content.rsplit("Claims:\n", 1)[1].splitlines()
        return "\n".join(f"{n}: yes" for n in range(1, len(listed) + 1))

    judge = FakeModel(yes, name="checker")
    monkeypatch.setattr("domainlm.contenders.load_model", lambda config: judge)
    code, out, err = cli(home, "judge", "--arm", "rag", "--limit", 4, "--json")
    first = json.loads(out)
    assert (code, err, first["unread"]) == (0, "", 0) and first["kept"] == len(judge.chats) == 8
    # What was judged is judged no second time; the next two are.
    again = json.loads(cli(home, "judge", "--arm", "rag", "--limit", 2, "--json")[1])
    assert again["kept"] == 4
    with EventLog(home / "runs" / "run.feedback.sqlite", create=False) as log:
        judged = log.current()
    seen = [(e.shown[0].answer_id, e.actor.seed) for e in judged]
    assert len(seen) == len(set(seen)) and {e.rubric for e in judged} == {"groundedness"}
    for n, event in enumerate(e for e in judged if e.actor.seed == 0):
        words = ("--thumb", "up" if n % 2 else "down", "--by", "ann", "--rubric", "groundedness")
        assert cli(home, "add", event.question_id, "--arm", "rag", *words)[0] == 0
    stats = json.loads(cli(home, "stats", "--json")[1])
    assert stats["judges"][0]["sensitivity"]["value"] == 1.0
    assert stats["judges"][0]["specificity"]["value"] == 0.0
    # One that calls everything supported corrects nothing, and is said to.
    assert stats["shares"][0]["arm"] == "rag" and stats["shares"][0]["corrected"] is None
    assert "it errs too often" in cli(home, "stats")[1]


def test_judging_an_arm_that_was_not_run_is_refused(home):
    code, _, err = cli(home, "judge", "--arm", "nobody")
    assert code == 2 and "'nobody' was not run" in err
