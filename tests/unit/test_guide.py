"""The decision guide: the page and the rules are one, and a run answers them."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from domainlm.artifacts import dump_json, write_atomic
from domainlm.cli import app
from domainlm.config import Config
from domainlm.experiment import RESULT
from domainlm.finished.guide import RULES, recommend
from domainlm.schema import RunResult, Setup
from tests.unit.report_sample import sample

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "decision-guide.md").read_text("utf-8")


@pytest.fixture(scope="module")
def result():
    return sample()


def config(**settings):
    return Config.model_validate({"documents": "d", "questions": "q"} | settings)


def states(result, settings=None):
    return {h.id: h.state for h in recommend(result, settings or config()).heard}


def swapped(result, one, other):
    """The same run with two arms' scores exchanged."""
    names = {one: other, other: one}
    return replace(
        result,
        scores=tuple(replace(s, arm=names.get(s.arm, s.arm)) for s in result.scores),
        contrasts=(),
    )


def test_the_page_is_written_from_the_rules():
    assert sorted(re.findall(r"^### `([\w-]+)`", PAGE, re.M)) == sorted(r.id for r in RULES)
    for rule in RULES:
        part = PAGE.split(f"### `{rule.id}`", 1)[1].split("\n##", 1)[0]
        assert f"**{rule.sentence}**" in part and f"When: {rule.when}." in part
        assert [line[2:] for line in part.splitlines() if line.startswith("- ")] == list(
            rule.evidence
        )


def test_every_rule_has_evidence_that_can_be_found():
    for rule in RULES:
        links = re.findall(r"\]\(([^)]+)\)", " ".join(rule.evidence))
        assert links, rule.id
        for link in links:
            assert link.startswith("https://arxiv.org/abs/") or (DOCS / link).exists(), link


def test_a_run_supports_what_it_measured(result):
    found = states(result)
    assert found["facts-from-documents"] == "supports"
    assert found["tune-the-reader"] in ("supports", "cannot tell")
    assert found["volume"] == "supports" and found["privacy"] == found["tune-the-reader"]
    assert found["latency"] == "supports"
    assert found["churn"] == "supports", "indexing took less than training"


def test_a_run_contradicts_what_came_out_otherwise(result):
    found = states(swapped(result, "rag", "base"))
    assert found["facts-from-documents"] == "contradicts"
    assert states(swapped(result, "raft", "base"))["tune-the-reader"] == "contradicts"
    slow = {a: replace(s, index_s=1e6) if s.index_s else s for a, s in result.setups.items()}
    assert states(replace(result, setups=slow))["churn"] == "contradicts"
    fast = replace(
        result,
        answers=tuple(replace(a, latency_s=0.01) if a.arm == "rag" else a for a in result.answers),
    )
    assert states(fast)["latency"] == "contradicts"


def test_too_little_data_cannot_tell(result):
    few = sample(questions=6)
    found = states(few)
    assert {found[i] for i in ("facts-from-documents", "tune-the-reader", "latency")} == {
        "cannot tell"
    }
    lone = sample(arms=("base",))
    assert states(lone)["facts-from-documents"] == "cannot tell"
    assert states(lone)["volume"] == "cannot tell"
    bare = replace(result, setups={"base": Setup()}, waterfalls=())
    assert states(bare)["churn"] == "cannot tell"
    assert states(bare)["lost-in-reading"] == "cannot tell"


def test_rules_that_do_not_apply_say_so(result):
    assert states(result, config(cost={"churn": 0}))["churn"] == "does not apply"
    hosted = config(model="openai:x", arms=["base", "rag"], api_base="https://example.org")
    assert states(result, hosted)["privacy"] == "does not apply"
    many = replace(result.data, questions={"train": {"extractive": 500}})
    assert states(replace(result, data=many))["few-labels"] == "does not apply"


def test_the_command(tmp_path, result):
    made = replace(result, config=config().model_dump(mode="json"))
    write_atomic(tmp_path / "r" / RESULT, dump_json(RunResult, made))
    done = CliRunner().invoke(app, ["recommend", str(tmp_path / "r")])
    assert done.exit_code == 0 and "The run supports" in done.output
    done = CliRunner().invoke(app, ["recommend", str(tmp_path / "r"), "--json"])
    assert {h["id"] for h in json.loads(done.output)["heard"]} == {r.id for r in RULES}
