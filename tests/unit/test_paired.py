"""Two sets of answers on their common questions; another system's answers; scoring again."""

import datetime as dt
import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from domainlm import history, paired
from domainlm.artifacts import dump_json, write_atomic
from domainlm.cli import app
from domainlm.config import Config
from domainlm.corpus.external import load_answers
from domainlm.errors import ConfigError, DataError, DomainLMError
from domainlm.experiment import RESULT, load_result
from domainlm.finished.rescore import against, rescore, score_external
from domainlm.schema import RunResult
from tests.unit.report_sample import sample

NOW = dt.datetime(2025, 7, 1, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def first():
    return replace(sample(), name="first")


@pytest.fixture(scope="module")
def second():
    return replace(sample(seed=5), name="second")


def call(*arguments):
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(done.exception, DomainLMError):
        return 2, str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def kept(folder, result):
    """A finished run on disk, with its questions file."""
    path = folder / "runs" / result.name
    questions = folder / f"{result.name}.jsonl"
    lines = [
        {
            "id": q.id,
            "text": q.text,
            "references": list(q.references),
            "task": q.task,
            "doc_ids": list(q.doc_ids),
            "evidence": list(q.evidence),
        }
        for q in result.questions
    ]
    questions.write_text("\n".join(json.dumps(x) for x in lines))
    config = Config.model_validate(
        {
            "name": result.name,
            "documents": str(folder),
            "questions": str(questions),
            "output": str(folder / "runs"),
        }
    )
    made = replace(result, config=config.model_dump(mode="json"))
    write_atomic(path / RESULT, dump_json(RunResult, made))
    return path


def answers_file(path, result, arm, ids=None, **fields):
    rows = [
        {"question_id": a.question_id, "text": a.text, **fields}
        for a in result.answers
        if a.arm == arm and (ids is None or a.question_id in ids) and not a.failed
    ]
    path.write_text("\n".join(json.dumps(r) for r in rows))
    return path


def test_a_run_against_itself_is_equivalent_and_the_sign_turns(first, second):
    own = paired.compare(paired.side_of(first, "A"), paired.side_of(first, "B"), margin=0.05)
    assert [p.whole.difference.value for p in own.pairs] == [0.0] * 5
    assert {p.whole.verdict for p in own.pairs} == {"equivalent"}
    a, b = paired.side_of(first), paired.side_of(second)
    forth = paired.compare(a, b, margin=0.05, arms=[("raft", "base")])
    back = paired.compare(b, a, margin=0.05, arms=[("base", "raft")])
    one, other = forth.pairs[0].whole, back.pairs[0].whole
    assert (one.verdict, other.verdict) == ("better", "worse")
    assert one.difference.value == pytest.approx(-other.difference.value)
    assert forth.pairs[0].only_a == back.pairs[0].only_b
    assert "first raft is better than second base by" in paired.sentence(forth.pairs[0], 0.05)


def test_documents_and_not_questions_are_resampled(first, second):
    found = paired.compare(paired.side_of(first), paired.side_of(second), margin=0.05)
    whole = found.pairs[0].whole
    assert whole.n_questions == 60 and whole.n_documents == found.n_documents < 60
    raw = [p.whole.p_value for p in found.pairs]
    adjusted = [p.whole.p_adjusted for p in found.pairs]
    assert min(adjusted) == pytest.approx(min(1, 5 * min(raw)))


def test_only_questions_with_the_same_text_and_gold_count(first):
    qs = list(first.questions)
    qs[0] = replace(qs[0], text="Another question?")
    qs[1] = replace(qs[1], references=("another answer",))
    changed = replace(first, questions=tuple(qs[:-1]))
    changed = replace(
        changed, scores=tuple(s for s in changed.scores if s.question_id != qs[-1].id)
    )
    found = paired.compare(paired.side_of(first), paired.side_of(changed, "new"), margin=0.05)
    assert found.n_questions == len(qs) - 3
    text = " ".join(found.notes)
    assert "another text" in text and "domainlm score" in text and "only in first" in text


def test_an_older_run_is_compared_by_the_metric_that_both_have(first):
    older = replace(first, scores=tuple(replace(s, classified=None) for s in first.scores))
    assert any(s.classified for s in first.scores)
    found = paired.compare(paired.side_of(first), paired.side_of(older, "old"), margin=0.05)
    assert {p.whole.difference.value for p in found.pairs} == {0.0}
    assert any("compared by accuracy" in n for n in found.notes)
    same = paired.compare(paired.side_of(first), paired.side_of(first, "same"), margin=0.05)
    assert not same.notes


def test_dev_questions_do_not_count(first):
    dev = tuple(replace(q, split="dev") for q in first.questions[:20])
    ids = {q.id for q in dev}
    other = replace(
        first,
        questions=(*dev, *first.questions[20:]),
        scores=tuple(replace(s, split="dev") if s.question_id in ids else s for s in first.scores),
    )
    found = paired.compare(paired.side_of(first), paired.side_of(other), margin=0.05)
    assert found.n_questions == 40


def test_nothing_in_common_and_unknown_arms_are_sentences(first):
    alone = replace(
        first,
        questions=tuple(replace(q, id=f"x{q.id}") for q in first.questions),
        scores=tuple(replace(s, question_id=f"x{s.question_id}") for s in first.scores),
    )
    with pytest.raises(DataError, match="none is common to both"):
        paired.compare(paired.side_of(first), paired.side_of(alone), margin=0.05)
    with pytest.raises(ConfigError, match="has no arm gone; it has base"):
        paired.compare(
            paired.side_of(first), paired.side_of(first), margin=0.05, arms=[("gone", "rag")]
        )
    with pytest.raises(DataError, match="metric 'wit'"):
        paired.compare(paired.side_of(first), paired.side_of(first), margin=0.05, metric="wit")


def test_few_documents_decide_nothing(first):
    some = {q.id for q in first.questions if q.doc_ids[0] in {"contracts/garth-2018.md"}}
    few = replace(
        first,
        questions=tuple(q for q in first.questions if q.id in some),
        scores=tuple(s for s in first.scores if s.question_id in some),
    )
    found = paired.compare(paired.side_of(few), paired.side_of(first), margin=0.05)
    assert {p.whole.verdict for p in found.pairs} == {"undecided"}
    assert "below 8 nothing is decided" in found.notes[0]


def test_an_external_copy_of_an_arm_scores_as_the_arm(tmp_path, first):
    path = answers_file(tmp_path / "theirs.jsonl", first, "raft", cost_usd=0.01, latency_s=1.5)
    found = against(load_answers(path), first.questions)
    own = {s.question_id: s for s in first.scores if s.arm == "raft"}
    assert all(s.metrics["primary"] == own[s.question_id].metrics["primary"] for s in found.scores)
    whole = next(s for s in found.summaries if (s.task, s.split) == ("all", "test"))
    assert whole.cost_per_question_usd == pytest.approx(0.01)
    versus = paired.compare(found.side(), paired.side_of(first), margin=0.05)
    words = {p.b.split()[-1]: p.whole.verdict for p in versus.pairs}
    assert words["raft"] == "equivalent" and words["base"] == "better"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "holds 0 answers"),
        ("{", "line 1 is not JSON"),
        ("[1]", "must be a record"),
        ('{"text": "x"}', "has no question_id"),
        ('{"question_id": "q1"}', "has no text"),
        ('{"question_id": "q1", "text": 5}', "must be a string"),
        ('{"id": "q1", "answer": "x"}\n{"id": "q1", "answer": "y"}', "a second time"),
        ('{"id": "q1", "answer": "x", "cost_usd": NaN}', "cost_usd is nan"),
        ('{"id": "q1", "answer": "x", "latency_s": -1}', "latency_s is -1"),
        ('{"id": "q1", "answer": "x", "passages": "p"}', "passages must be a list"),
    ],
)
def test_broken_answers_are_one_sentence(tmp_path, text, match):
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=match):
        load_answers(path)


def test_a_failed_or_missing_external_answer_is_not_hidden(tmp_path, first):
    ids = {q.id for q in first.questions[:30]}
    path = answers_file(tmp_path / "t.jsonl", first, "raft", ids)
    path.write_text(path.read_text() + '\n{"question_id": "q040", "failed": true}')
    found = against(load_answers(path, "Theirs"), first.questions)
    assert found.name == "Theirs" and found.scores[-1].outcome == "failed"
    assert any("29 of 60 test questions have no answer" in n for n in found.notes)


def test_answers_to_unknown_questions_are_refused(tmp_path, first):
    folder = kept(tmp_path, first)
    config = Config.model_validate(load_result(folder).config)
    path = tmp_path / "t.jsonl"
    path.write_text('{"question_id": "q999", "text": "x"}')
    with pytest.raises(DataError, match="the first is 'q999'"):
        score_external(config, load_answers(path), first)


def test_scoring_again_without_a_change_changes_nothing(tmp_path, first):
    result = load_result(kept(tmp_path, no_similarity(first)))
    config = Config.model_validate(result.config)
    found = rescore(config, result, NOW)
    assert found.gold == 0 and all(c.before == c.after for c in found.changes)
    assert found.result.scores == result.scores
    assert found.result.test_touches == result.test_touches
    assert [c.difference for c in found.result.contrasts] != []


def test_what_does_not_depend_on_gold_stays(tmp_path, first):
    grounded = no_similarity(first)
    grounded = replace(
        grounded,
        scores=tuple(
            replace(s, metrics=s.metrics | {"groundedness": 0.7}) if s.arm == "rag" else s
            for s in grounded.scores
        ),
    )
    result = load_result(kept(tmp_path, grounded))
    found = rescore(Config.model_validate(result.config), result, NOW)
    kept_in = {s.arm for s in found.result.scores if s.metrics.get("groundedness") == 0.7}
    assert kept_in == {"rag"}


def test_new_gold_moves_the_score_and_counts_as_a_look(tmp_path, first):
    folder = kept(tmp_path, no_similarity(first))
    result = load_result(folder)
    config = Config.model_validate(result.config)
    lines = [json.loads(x) for x in config.questions.read_text().splitlines()]
    wrong = next(s for s in result.scores if s.arm == "rag" and s.outcome == "wrong")
    said = next(
        a.text for a in result.answers if (a.arm, a.question_id) == ("rag", wrong.question_id)
    )
    for line in lines:
        if line["id"] == wrong.question_id:
            line["references"] = [said]
            line["task"] = "extractive"
    config.questions.write_text("\n".join(json.dumps(x) for x in lines))
    found = rescore(config, result, NOW)
    rag = next(c for c in found.changes if c.arm == "rag")
    assert found.gold == 1 and rag.after > rag.before and rag.outcomes == 1
    assert found.result.waterfalls == () and result.waterfalls
    assert (tmp_path / "runs" / "test_touches.jsonl").exists()
    again = rescore(config, found.result, NOW)
    assert all(c.before == c.after for c in again.changes)


def test_a_reworded_question_is_left_out(tmp_path, first):
    result = load_result(kept(tmp_path, no_similarity(first)))
    config = Config.model_validate(result.config)
    lines = [json.loads(x) for x in config.questions.read_text().splitlines()]
    lines[0]["text"] = "What else?"
    config.questions.write_text("\n".join(json.dumps(x) for x in lines[:-1]))
    found = rescore(config, result, NOW)
    assert len(found.result.questions) == 58 and len(found.notes) == 2
    config.questions.write_text(json.dumps({"question": "Other?", "answer": "x", "id": "z"}))
    with pytest.raises(DataError, match="holds none of the 60"):
        rescore(config, result, NOW)


def test_the_commands(tmp_path, first, second):
    a, b = kept(tmp_path, no_similarity(first)), kept(tmp_path, no_similarity(second))
    code, text = call("compare", a, b, "--json")
    told = json.loads(text)
    assert code == 0 and told["n_questions"] == 60 and len(told["pairs"]) == 5
    code, text = call("compare", a, b / RESULT, "--arms", "raft,base", "--metric", "correct")
    assert code == 0 and "is better than" in text
    theirs = answers_file(tmp_path / "theirs.jsonl", first, "raft")
    code, text = call("compare", theirs, a)
    assert code == 0 and "theirs" in text
    assert call("compare", theirs, theirs)[0] == 2
    assert call("compare", a, tmp_path / "nowhere")[0] == 2
    code, text = call("score", a, "--dry-run")
    assert code == 0 and "Nothing was written" in text and not list(a.glob("result.*.json"))
    code, text = call("score", a, "--json")
    assert code == 0 and json.loads(text)["questions_with_other_gold"] == 0
    assert len(list(a.glob("result.*.json"))) == 1 and (a / "report.html").exists()
    assert [s.how for s in history.read(tmp_path / "runs")] == ["score"]
    config = tmp_path / "c.yaml"
    config.write_text("documents: .\nquestions: first.jsonl\nname: first\noutput: runs\n")
    code, text = call("score", "--answers", theirs, "--config", config, "--json")
    assert code == 0 and json.loads(text)["name"] == "theirs"
    assert call("score")[0] == 2 and call("score", "--answers", theirs)[0] == 2


def no_similarity(result):
    """Scores without the metric that needs an embedder."""
    return replace(
        result,
        scores=tuple(
            replace(s, metrics={k: v for k, v in s.metrics.items() if k != "semantic_similarity"})
            for s in result.scores
        ),
    )
