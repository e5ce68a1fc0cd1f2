"""Bad input of the commands about finished runs ends in one sentence that names the fix."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from domainlm import history, power
from domainlm.artifacts import load_json, write_atomic
from domainlm.cli import app
from domainlm.config import load_config
from domainlm.corpus.external import load_answers
from domainlm.errors import ConfigError, DataError, DomainLMError
from domainlm.finished import regression
from domainlm.history import HISTORY, Snapshot
from domainlm.schema import RunResult
from domainlm.server.auth import users_of


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
