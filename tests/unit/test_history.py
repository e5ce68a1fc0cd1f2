"""The history of runs, what drifted, and the gate for CI."""

import json
import multiprocessing
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from domainlm import history
from domainlm.artifacts import dump_json, write_atomic
from domainlm.cli import app
from domainlm.errors import ConfigError, DataError, DomainLMError
from domainlm.evaluation.gate import no_worse
from domainlm.experiment import RESULT
from domainlm.finished import regression
from domainlm.finished.regression import Limits, gate
from domainlm.report.checks import to_junit, to_summary
from domainlm.schema import Interval, Latency, Requirement, RunResult, Standing
from tests.unit.report_sample import sample


@pytest.fixture(scope="module")
def result():
    return replace(sample(), name="r")


def snap(result, usd=0.001):
    costs = {(a.arm, a.question_id): usd for a in result.answers}
    return history.snapshot(result, costs)


def worse(result, arm="raft", every=2):
    """The same run with one arm wrong on every other question."""
    hit = {q.id for q in result.questions[::every]}
    return replace(
        result,
        created_at="2025-07-01T00:00:00+00:00",
        scores=tuple(
            replace(s, outcome="wrong", metrics=s.metrics | {"primary": 0.0, "correct": 0.0})
            if s.arm == arm and s.question_id in hit
            else s
            for s in result.scores
        ),
    )


def call(*arguments):
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(done.exception, DomainLMError):
        return 2, str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


# --- the file ---


def test_a_snapshot_survives_the_disk_and_joins_once(tmp_path, result):
    made = snap(result)
    assert history.join(tmp_path, made) and not history.join(tmp_path, made)
    later = replace(result, created_at="2026-01-01T00:00:00+00:00")
    assert not history.join(tmp_path, snap(later)), "a repeated run is no new one"
    assert history.read(tmp_path) == [made]
    changed = snap(worse(result))
    assert history.join(tmp_path, changed) and history.join(tmp_path, made), "and back again"
    assert [s.id for s in history.read(tmp_path)].count(made.id) == 2


def test_cost_and_latency_have_intervals_where_they_were_measured_singly(result):
    p50 = Interval(1.05, 0.6, 1.5, 20, "order statistics")
    waits = tuple(
        Latency(
            "raft", rate, 20, {"p50": p50 if not rate else replace(p50, value=9.0)}, {}, None, 1, 1
        )
        for rate in (2.0, 0.0)
    )
    made = history.snapshot(replace(result, latency=waits)).arm("raft")
    assert made.cost_usd.low is None and made.cost_usd.value > 0
    assert made.latency_s == p50, "one at a time, not under load"
    costs = {(a.arm, a.question_id): a.latency_s for a in result.answers}
    priced = history.snapshot(replace(result, latency=()), costs).arm("raft")
    assert 0 < priced.cost_usd.low < priced.cost_usd.value < priced.cost_usd.high
    assert priced.latency_s.low is None


def test_a_torn_line_costs_that_line_only(tmp_path, result):
    history.join(tmp_path, snap(result))
    path = tmp_path / history.HISTORY
    path.write_bytes(path.read_bytes() + b'\n{"id": "torn')
    history.join(tmp_path, snap(worse(result)))
    assert len(history.read(tmp_path)) == 2


def _join(folder, names):
    from pathlib import Path

    base = history.snapshot(sample(arms=("base", "rag"), questions=20))
    for name in names:
        history.join(Path(folder), replace(base, name=name, id=name))


def test_writers_at_once_lose_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    names = [[f"w{w}-{n}" for n in range(5)] for w in range(3)]
    writers = [context.Process(target=_join, args=(str(tmp_path), part)) for part in names]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert {s.name for s in history.read(tmp_path)} == {n for part in names for n in part}
    lines = (tmp_path / history.HISTORY).read_text().split("\n")
    assert sum(bool(x.strip()) for x in lines) == 15


def test_no_history_is_a_sentence(tmp_path, result):
    with pytest.raises(DataError, match="has no history yet"):
        history.read(tmp_path)
    history.join(tmp_path, snap(result))
    with pytest.raises(DataError, match="has no run 'gone'; it has r"):
        history.read(tmp_path, "gone")


# --- drift ---


def test_drift_names_what_changed_and_tests_what_is_shared(result):
    questions = list(result.questions)
    questions[0] = replace(questions[0], text="Reworded?")
    questions[1] = replace(questions[1], references=("other",))
    told = result.provenance | {
        "model": "local:other",
        "documents_digest": "new",
        "adapter_raft": "x",
    }
    new = replace(
        worse(result),
        questions=tuple(questions[:-2]),
        provenance=result.provenance | told,
        scores=tuple(s for s in worse(result).scores if s.question_id not in ("q058", "q059")),
    )
    found = history.drift(snap(result), snap(new))
    text = "; ".join(found.changes)
    assert "documents changed" in text and "model: - -> local:other" in text
    assert "2 gone, 1 reworded, 1 with other gold" in text and "trained anew: raft" in text
    assert found.quality.n_questions == 56
    assert [m.split()[-1] for m in found.moved] == ["raft"]
    raft = next(p for p in found.quality.pairs if p.a.endswith("raft"))
    assert raft.whole.verdict == "worse"


def test_the_same_run_does_not_drift(result):
    found = history.drift(snap(result), snap(result))
    assert found.changes == () and found.moved == ()


def test_other_questions_cannot_be_compared(result):
    other = replace(
        result,
        questions=tuple(replace(q, id=f"n{q.id}") for q in result.questions),
        scores=tuple(replace(s, question_id=f"n{s.question_id}") for s in result.scores),
    )
    found = history.drift(snap(result), snap(other))
    assert found.quality is None and "none is common" in found.note


def test_a_new_version_alone_does_not_flag_the_documents(result):
    told = result.provenance | {"domainlm": "9.9", "documents_digest": "digest with the version"}
    found = history.drift(snap(result), snap(replace(result, provenance=told)))
    assert not any("documents" in c for c in found.changes)
    assert any("domainlm: 0.1.0 -> 9.9" in c for c in found.changes)


# --- the gate ---


def test_a_run_passes_against_itself(result):
    report = gate(snap(result), snap(result))
    assert report.passed and {c.state for c in report.conditions} == {"passed"}
    assert {c.arm for c in report.conditions} == {"raft"}, "the pinned run's shipped arm"


def test_a_worse_arm_fails_and_only_if_it_is_checked(result):
    pinned, bad = snap(result), snap(worse(result))
    report = gate(bad, pinned)
    assert (
        not report.passed
        and "fails against the pinned run r: raft, quality went from" in report.sentence
    )
    assert gate(bad, pinned, arms=["rag"]).passed
    assert gate(pinned, bad).passed, "better is no regression"


def test_a_loss_below_the_limit_passes(result):
    slightly = snap(worse(result, every=30))
    assert not gate(slightly, snap(result), Limits(0.01, strict=True)).passed
    assert gate(slightly, snap(result), Limits(0.2, strict=True)).passed


def test_what_is_open_passes_unless_strict(result):
    some = worse(result, every=30)
    loose = gate(snap(some), snap(result), Limits(0.02))
    assert loose.passed and any(c.state == "open" for c in loose.conditions)
    assert "open" in loose.sentence
    strict = gate(snap(some), snap(result), Limits(0.02, strict=True))
    assert not strict.passed and "is not shown to keep up with" in strict.sentence


def test_equal_runs_rarely_fail_and_worse_ones_often_do():
    """Two runs of one quality with noise of their own, and a run 10 points lower, by simulation."""
    rng = np.random.default_rng(0)
    documents, each = 30, 4
    names = [str(d) for d in np.repeat(np.arange(documents), each)]

    def failed(loss):
        shared = rng.normal(size=(documents, 1)) * 0.45 + rng.normal(size=(documents, each)) * 0.7
        old, new = (
            (shared + rng.normal(size=shared.shape) * 0.56 > limit).astype(float).ravel().tolist()
            for limit in (0.0, loss)
        )
        return no_worse("quality", old, new, names, 0.05).state == "failed"

    assert 0.01 < np.mean([failed(0.0) for _ in range(300)]) < 0.1
    assert np.mean([failed(0.2533) for _ in range(100)]) > 0.5


def test_cost_and_time_only_where_asked(result):
    dear = snap(result, usd=0.0015)
    assert gate(dear, snap(result)).passed
    report = gate(dear, snap(result), Limits(dearer=0.2))
    assert not report.passed and "cost is 150.0 % of the pinned run's" in report.sentence
    assert gate(dear, snap(result), Limits(dearer=0.6)).passed
    unpriced = history.snapshot(result)
    open_ = gate(unpriced, snap(result), Limits(dearer=0.2)).conditions[-1]
    assert open_.state == "open" and "not measured in both" in open_.found
    slow = replace(
        result, answers=tuple(replace(a, latency_s=2 * a.latency_s) for a in result.answers)
    )
    assert not gate(snap(slow), snap(result), Limits(slower=0.2)).passed


def test_a_missed_requirement_fails(result):
    limit = Requirement("wrong answers", "at most", 0.1, "share", None, 0.01, "misses")
    bad = replace(result, standings=(Standing("raft", "misses", (limit,)),))
    report = gate(snap(bad), snap(result))
    assert not report.passed and "wrong answers at most 0.1" in report.sentence
    open_ = replace(limit, state="undecided")
    fine = replace(result, standings=(Standing("raft", "undecided", (open_,)),))
    assert gate(snap(fine), snap(result)).passed


def test_bad_gates_are_sentences(result):
    made = snap(result)
    with pytest.raises(ConfigError, match="has no arm gone"):
        gate(made, made, arms=["gone"])
    with pytest.raises(ConfigError, match="largest drop of quality is 0 points"):
        gate(made, made, Limits(0.0))
    lone = snap(sample(arms=("base",)))
    with pytest.raises(DataError, match="ships raft"):
        gate(lone, made)


def test_junit_and_markdown(result):
    bad = replace(worse(result), name="</testcase>\x07|x")
    report = gate(snap(bad), snap(result), Limits(dearer=0.2))
    root = ET.fromstring(to_junit(report))
    suite = root.find("testsuite")
    assert suite.get("tests") == "3" and int(suite.get("failures")) >= 1
    assert len(suite.findall("testcase")) == 3
    failed = [c for c in suite.findall("testcase") if c.find("failure") is not None]
    assert failed[0].get("name") == "quality: the score falls by less than 5 points"
    text = to_summary(report)
    assert "❌ failed" in text and "&lt;/testcase>" in text and "\x07" not in text
    some = gate(snap(worse(result, every=30)), snap(result), Limits(0.02))
    assert int(ET.fromstring(to_junit(some)).find("testsuite").get("skipped")) >= 1
    strict = regression.gate(snap(worse(result, every=30)), snap(result), Limits(0.02, strict=True))
    assert int(ET.fromstring(to_junit(strict)).find("testsuite").get("failures")) >= 1


# --- commands ---


def kept(folder, result, name):
    path = folder / "runs" / name
    config = {"name": name, "documents": "d", "questions": "q", "output": str(folder / "runs")}
    write_atomic(path / RESULT, dump_json(RunResult, replace(result, name=name, config=config)))
    return path


def test_exit_codes(tmp_path, result):
    good, bad = kept(tmp_path, result, "good"), kept(tmp_path, worse(result), "bad")
    pin = tmp_path / "pinned.json"
    code, text = call("gate", good, "--pin", pin)
    assert code == 0 and "Pinned" in text and pin.exists()
    files = ("--junit", tmp_path / "g.xml", "--markdown", tmp_path / "g.md")
    assert call("gate", good, "--against", pin, *files)[0] == 0
    assert (tmp_path / "g.xml").exists() and (tmp_path / "g.md").exists()
    before = pin.read_bytes()
    code, text = call("gate", bad, "--against", pin, "--pin", pin, "--json")
    assert code == 1 and json.loads(text)["passed"] is False
    assert pin.read_bytes() == before, "a failed run is not pinned"
    assert call("gate", bad, "--against", good)[0] == 1, "a run may be the measure, too"
    assert call("gate", good, "--against", tmp_path / "no.json")[0] == 2
    assert call("gate", good)[0] == 2
    assert call("compare", bad, pin)[0] == 0


def test_history_command(tmp_path, result):
    for name, made in (("r", result), ("r2", worse(result))):
        kept(tmp_path, made, name)
    runs = tmp_path / "runs"
    assert call("history", runs)[0] == 2
    code, text = call("history", runs, "--add", runs / "r")
    assert code == 0 and "raft" in text
    history.join(runs, replace(snap(worse(result)), name="r"))
    code, text = call("history", runs, "--json")
    told = json.loads(text)
    assert code == 0 and len(told["runs"]) == 2 and len(told["drift"]) == 1
    assert "marks" not in told["runs"][0]["arms"][0]
    code, text = call("history", runs, "--arm", "raft", "--last", "2")
    assert code == 0 and "is worse than" in " ".join(text.split())
    assert call("history", runs / "r")[0] == 0
