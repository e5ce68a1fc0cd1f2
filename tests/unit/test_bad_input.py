"""Bad input of the commands about finished runs ends in one sentence that names the fix."""

import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from domainlm import history, power
from domainlm.artifacts import load_json, write_atomic
from domainlm.cli import app
from domainlm.config import load_config
from domainlm.corpus.external import load_answers
from domainlm.corpus.sets import read_documents
from domainlm.display.run import show_result
from domainlm.errors import ConfigError, DataError, DomainLMError
from domainlm.finished import regression
from domainlm.ground import read_questions
from domainlm.history import HISTORY, Snapshot
from domainlm.planning import plan
from domainlm.schema import Quarantined, RunResult
from domainlm.server.auth import users_of
from tests.unit.report_sample import sample


def test_a_foreign_file_is_told_without_type_names(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text("{}")
    with pytest.raises(DataError, match="name another file") as caught:
        load_json(RunResult, path)
    assert "<class" not in str(caught.value)
    assert "pydantic" not in str(caught.value)
    with pytest.raises(DataError, match="cannot be read"):
        load_json(RunResult, tmp_path)


def test_a_folder_is_no_place_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="choose another path"):
        write_atomic(tmp_path, "x")
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}*.tmp"))


def test_a_folder_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder; give the YAML file"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    "text,said",
    [
        ("name: a\ndocuments: x\nname: b\n", "'name' stands in lines 1 and 3"),
        ("training:\n  rank: 8\n  rank: 9\n", "'rank' stands in lines 2 and 3"),
        ("a: [1\n", "expected ',' or ']'"),
    ],
)
def test_yaml_that_loses_a_line_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "domainlm.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match="mend that place") as caught:
        load_config(file)
    assert said in str(caught.value)


def test_yaml_may_share_settings_by_anchors(tmp_path: Path) -> None:
    file = tmp_path / "domainlm.yaml"
    shared = "documents: d\nquestions: q\nchunking: &c {tokens: 90}\nevaluation: {}\n"
    file.write_text(shared + "rag: {post: [{<<: {use: lead}, use: sentences}]}\n")
    config = load_config(file)
    assert config.chunking.tokens == 90 and config.rag.post[0].use == "sentences"


def test_a_history_of_another_version_is_not_called_empty(tmp_path: Path) -> None:
    (tmp_path / HISTORY).write_text('{"id": "a"}\n')
    with pytest.raises(DataError, match="--add RUN"):
        history.read(tmp_path)


def test_the_limits_of_the_gate_are_in_the_units_of_its_options() -> None:
    run = Snapshot("a", "a", "", "run", "", 0.05, {}, 0, 0, {}, {}, ())
    for limits, said in (
        (regression.Limits(drop=-0.05), "-5 points; give more than 0 and at most 100"),
        (regression.Limits(drop=5.0), "500 points"),
        (regression.Limits(slower=-0.01), "-1 %; give more than 0 and at most 1000"),
    ):
        with pytest.raises(ConfigError, match=said):
            regression.gate(run, run, limits)


def test_a_plan_speaks_of_points() -> None:
    with pytest.raises(ConfigError, match="gap in points is 500; it must lie between 0 and 100"):
        power.assumed(5.0, discordance=0.3, icc=0.2, per_document=4)
    with pytest.raises(ConfigError, match="give 0 to 1"):
        power.assumed(0.05, discordance=0.3, icc=3, per_document=4)


def test_options_that_would_be_ignored_are_refused(tmp_path: Path) -> None:
    for arguments, said in (
        (["plan", "--arms", "rag,raft"], "needs a finished run"),
        (["score", str(tmp_path), "--name", "theirs"], "go with --answers"),
    ):
        found = CliRunner().invoke(app, arguments)
        assert isinstance(found.exception, DomainLMError)
        assert said in str(found.exception)


def test_a_misspelt_setting_of_cost_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "domainlm.yaml"
    path.write_text("documents: d\nquestions: q.jsonl\n")
    found = CliRunner().invoke(app, ["roi", str(path), "--set", "volum=1"])
    assert "did you mean 'volume'" in str(found.exception)


def test_a_port_out_of_range_is_a_usage_error() -> None:
    found = CliRunner().invoke(app, ["serve", "--port", "99999999"])
    assert found.exit_code == 2
    assert isinstance(found.exception, SystemExit)


def test_removing_nobody_says_that_there_are_none(tmp_path: Path) -> None:
    path = tmp_path / "domainlm.yaml"
    path.write_text("documents: d\nquestions: q.jsonl\n")
    with pytest.raises(DataError, match="it has none at all"):
        users_of(load_config(path)).remove("ann")


def test_an_answer_may_hold_any_line_separator(tmp_path: Path) -> None:
    path = tmp_path / "theirs.jsonl"
    record = {"question_id": "q1", "text": "one\u2028two"}
    path.write_text(json.dumps(record, ensure_ascii=False) + "\n", "utf-8")
    assert load_answers(path).answers[0].text == "one\u2028two"


@pytest.fixture
def domain(tmp_path: Path) -> Path:
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "a.txt").write_text("The mill is green and was built in 1901. " * 9)
    (tmp_path / "documents" / "void.txt").write_text("")
    rows = [
        {"id": f"q{n}", "text": f"Which colour has mill {n}?", "references": ["green"]}
        for n in range(12)
    ]
    rows.append({"text": "Who?", "references": ["x"], "doc_ids": ["b.txt"]})
    lines = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "questions.jsonl").write_text(lines)
    path = tmp_path / "domainlm.yaml"
    path.write_text("documents: documents\nquestions: questions.jsonl\nembedder: fake\n")
    return path


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model=embeded", "did you mean embedded"),
        ("model=local:/no/such/model", "/no/such/model does not exist"),
        ("embedder=foo", "embedder is 'foo'"),
        ("rag.retrieve=[{use: hybird}]", "did you mean 'hybrid'"),
        ("rag.retrieve=[{use: route, strategies: [bm52]}]", "bm52"),
        ("rag.rerank=[{use: mmr, lamda: 1}]", "lamda"),
        ("rag.pre=[{use: hide}]", "hyde"),
        ("chunking.overlap=160", "make overlap smaller"),
        ("chunking={use: parent_child, tokens: 600}", "make parent_tokens larger"),
        ("split.dev=0.8", "dev + test_new is 1;"),
    ],
)
def test_a_wrong_name_is_told_before_any_work(domain: Path, override: str, said: str) -> None:
    for dry in ([], ["--dry-run"]):
        found = CliRunner().invoke(app, ["run", str(domain), override, *dry])
        assert isinstance(found.exception, DomainLMError)
        assert said in str(found.exception)
        left = sorted(p.name for p in (domain.parent / "runs").rglob("*.json"))
        assert not [name for name in left if "index" in name or "documents" in name]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("arms=rag", "setting 'arms': give a list, such as [a, b] (got 'rag')"),
        ("training.learning_rates=3", "give a list"),
        ("training=5", "give settings of its own"),
        ("training=[]", "give settings of its own"),
        ("chunking=null", "give settings of its own"),
        ("documents=5", "setting 'documents': give a path (got 5)"),
        ("training.rank=abc", "give a whole number"),
        ("model=5", "give text"),
    ],
)
def test_a_value_of_the_wrong_kind_is_told_without_python(
    domain: Path, override: str, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(domain, [override])
    assert said in str(caught.value)
    for word in ("tuple", "class", "instance", "dictionary", "parse"):
        assert word not in str(caught.value)


def test_a_section_that_is_all_comments_is_empty(domain: Path) -> None:
    domain.write_text(domain.read_text() + "training:\n#  rank: 8\n")
    assert load_config(domain).training.rank == 16


def test_a_plan_counts_what_is_left_out_and_never_below_nothing(domain: Path) -> None:
    steps = plan(load_config(domain, ["split.dev=0.5", "split.test_known=0.9"]))
    assert "1 documents, 1 files left out, 1 questions left out" in steps[0].what
    assert "'b.txt' is not in the corpus" in steps[0].what
    assert min(s.tokens for s in steps) >= 0 and min(s.seconds for s in steps) >= 0


def test_a_result_names_what_was_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    result = sample(questions=12)
    void = Quarantined("void.txt", "empty", "zero bytes")
    some = tuple((f"q{n}", "no reference answer") for n in range(5))
    data = dataclasses.replace(result.data, quarantined=(void,), dropped=some)
    show_result(dataclasses.replace(result, data=data), None)
    shown = " ".join(capsys.readouterr().out.split())
    assert "files left out (1): void.txt (empty: zero bytes)" in shown
    assert "questions left out (5): q0 (no reference answer)" in shown and "q3" not in shown
    bare = dataclasses.replace(result.data, quarantined=(), dropped=())
    show_result(dataclasses.replace(result, data=bare), None)
    assert "left out" not in capsys.readouterr().out


def test_a_question_whose_answer_is_no_choice_is_left_out_and_named(domain: Path) -> None:
    rows = [
        {"id": "right", "text": "Is it green?", "references": ["YES."], "choices": ["yes", "no"]},
        {"id": "letter", "text": "Which?", "references": ["b"], "choices": ["a", "b"]},
        {"id": "never", "text": "Is it red?", "references": ["nein"], "choices": ["yes", "no"]},
    ]
    path = domain.with_name("questions.jsonl")
    path.write_text(path.read_text() + "\n" + "\n".join(map(json.dumps, rows)))
    config = load_config(domain)
    documents, _ = read_documents(config.documents, config.questions, config.format)
    found = read_questions(config, tuple(documents))
    assert ("never", "the answer nein is none of its choices") in found.dropped
    kept = {q.id for q in (*found.train, *found.dev, *found.test)}
    assert {"right", "letter"} <= kept and "never" not in kept
