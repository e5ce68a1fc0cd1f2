"""The report's first screen, its trust ledger and its waiting times say what the run found."""

import datetime as dt
import re
from dataclasses import replace

import pytest

from domainlm import pricing
from domainlm.config import Config
from domainlm.evaluation.latency import Timing, profile
from domainlm.report import to_html, to_markdown
from domainlm.report.charts import end_labels
from domainlm.report.facts import facts, turns, waits
from domainlm.report.trust import ledger
from domainlm.schema import Verdict
from tests.unit.report_sample import sample

VALUED = {"value_correct_usd": 0.5, "cost_wrong_usd": 0.2, "cost_abstained_usd": 0.1}


def priced(run, when=dt.date(2025, 6, 14), **cost):
    raw = {"documents": "d", "questions": "q", "cost": VALUED | cost}
    return pricing.reprice(Config.model_validate(raw), run, when)


@pytest.fixture(scope="module")
def run():
    return priced(sample())


@pytest.fixture(scope="module")
def timed(run):
    alone = profile("raft", [Timing(1.0 + i / 100, 0.25, 11, 0) for i in range(80)])
    busy = profile(
        "raft",
        [Timing(2.0 + i % 7, 1.0, 11, i // 4) for i in range(80)],
        rate=0.5,
        busy_s=90.0,
        elapsed_s=150.0,
    )
    return replace(run, latency=(alone, busy))


def by_label(run):
    return {f.label: f for f in facts(run)}


def state(run, asked):
    (found,) = [c for c in ledger(run) if c.asked == asked]
    return found.state, found.found


# --- the first screen ---


def test_the_facts_are_those_of_the_shipped_arm(run) -> None:
    said = by_label(run)
    entry = run.money.arm("raft")
    right = next(s for s in run.summaries if (s.arm, s.task, s.split) == ("raft", "all", "test"))
    assert said["Answers right"].value == f"{right.outcomes['correct'] / right.n:.0%}"
    assert said["Nets"].value == f"${entry.npv_usd:,.0f}"
    wrong = right.outcomes["wrong"] / right.n
    assert f"{wrong:.0%} wrong" in said["Answers right"].note
    worth = run.money.inputs["value_correct"]
    assert f"an answer is worth ${worth:.2f} right" in said["Nets"].note
    lead = said["Lead over rag, the next best"]
    assert lead.value.endswith(" points") and lead.tone == "good" and "better" in lead.note
    sure = said["Chance it earns the most"]
    assert (sure.value, sure.tone) == (">99%", "good") and "Ship" not in said
    assert turns(run) == run.money.flips[0].sentence
    assert "given data and prices" in to_html(run)


def test_where_nothing_ships_the_numbers_name_their_arm(run) -> None:
    none = replace(run, verdict=Verdict("none", "Ship none yet.", (), ()))
    said = facts(none)
    assert (said[0].value, said[0].tone) == ("none yet", "doubt") and "raft" in said[0].note


def test_doubt_is_said_without_worth_and_with_ties(run) -> None:
    tied = tuple(
        replace(c, verdict="undecided", detectable=0.12) if {c.a, c.b} == {"raft", "rag"} else c
        for c in run.contrasts
    )
    bare = replace(run, contrasts=tied, money=None)
    said = by_label(bare)
    assert said["Lead over rag, the next best"].tone == "doubt" and "Nets" not in said
    assert said["Smallest gap to be seen"].value == "12.0" and turns(bare) == ""


def test_nothing_measured_has_no_facts(run) -> None:
    assert facts(replace(run, summaries=(), verdict=Verdict("none", "None.", (), ()))) == []


# --- waiting times ---


def test_waiting_times_alone_and_at_a_load(timed) -> None:
    alone, busy = waits(timed)
    assert alone.title == "One at a time" and "random turns" in alone.note
    ((arm, cells),) = alone.rows
    assert arm == "raft" and cells[0][0] == "1.40 s" and cells[3] == ("0.25 s", "0.25 s to 0.25 s")
    assert cells[2][1].startswith("at least"), "80 values bound no 99th percentile from above"
    assert cells[5][0].endswith(" ms")
    ((_, loaded),) = busy.rows
    assert busy.title == "At 0.5 questions a second" and loaded[6] == ("60%", "0.53 a second")
    html, text = to_html(timed), to_markdown(timed)
    for found in (html, text):
        assert "aiting times: at 0.5 questions a second" in found and "1.40 s" in found
    assert "first token after 0.25 s" in html


def test_the_summary_shows_the_waits_of_single_questions(run, timed) -> None:
    made = pricing.with_latency(run.summaries, timed.latency)
    raft = [s for s in made if s.arm == "raft"]
    assert raft and {s.latency_p50_s for s in raft} == {timed.latency[0].end_to_end["p50"].value}, (
        "the load must not stand in for a single question"
    )
    others = [s for s in made if s.arm != "raft"]
    assert others == [s for s in run.summaries if s.arm != "raft"]


# --- the trust ledger ---


def test_a_clean_run_is_in_order(run) -> None:
    assert state(run, "How often was the test looked at?") == ("ok", "Once.")
    kept = state(run, "Was the test kept apart from training?")
    assert kept[0] == "ok" and "2 near-duplicate questions dropped" in kept[1]
    assert state(run, "Did a model judge answers?")[0] == "ok"
    assert "adapter raft 11bb0c9ed2f7" in state(run, "Which inputs exactly?")[1]
    documents = state(run, "Do differences hold beyond these documents?")
    assert documents == (
        "ok",
        "Test questions come from 14 documents; differences are tested by document.",
    )


def test_what_deserves_a_look_says_so(run, timed) -> None:
    again = replace(run, test_touches=3)
    assert state(again, "How often was the test looked at?")[0] == "look"
    few = replace(run, contrasts=tuple(replace(c, n_documents=5) for c in run.contrasts))
    assert state(few, "Do differences hold beyond these documents?")[0] == "look"
    assert state(run, "Did every arm answer everything?") == (
        "look",
        "Base failed once; 180 answers went without a stage that failed.",
    )
    assert state(run, "Would another seed say the same?")[0] == "look"
    assert state(run, "Were arms timed alike?")[0] == "look"
    assert state(timed, "Were arms timed alike?")[0] == "ok"
    judged = replace(run, provenance=run.provenance | {"judge": "some-model"})
    assert state(judged, "Did a model judge answers?") == ("look", "Yes: judge some-model.")
    calibrated = {"judge": "m", "judge_calibration": "sensitivity .9"}
    known = replace(run, provenance=run.provenance | calibrated)
    assert state(known, "Did a model judge answers?")[0] == "ok"


def test_prices_carry_their_date_and_source(run) -> None:
    names = {p.name for p in run.money.prices}
    assert {"cpu_core_hour", "storage_gb_month", "engineering_hour"} <= names
    assert "human_hour" not in names and not any(p.stale for p in run.money.prices)
    late = priced(run, dt.date(2030, 1, 1), person_minutes=1.0)
    assert all(p.stale for p in late.money.prices) and {p.name for p in late.money.prices} > names
    asked = "Are the prices of today?"
    assert state(run, asked)[0] == "ok" and state(late, asked)[0] == "look"
    html = to_html(late)
    assert html.count("! out of date") == len(late.money.prices)
    assert all(p.as_of in html and p.source in html for p in run.money.prices)


def test_a_hosted_models_prices_are_two(run) -> None:
    raw = {"documents": "d", "questions": "q", "model": "openai:m", "arms": ["base", "rag"]}
    cost = VALUED | {"model_price": "gpt-4o-mini"}
    config = Config.model_validate(raw | {"cost": cost})
    found = pricing.reprice(config, run, dt.date(2025, 6, 14)).money.prices
    both = {p.name: p.usd for p in found if p.name.startswith("gpt-4o-mini")}
    assert set(both) == {"gpt-4o-mini input", "gpt-4o-mini output"}
    assert both["gpt-4o-mini output"] > both["gpt-4o-mini input"] > 0


def test_names_at_the_ends_of_lines_stay_apart_and_above_the_axis() -> None:
    ends = [(280.0 + n, f"arm {n}", n) for n in range(5)] + [(40.0, "top", 5)]
    parts = end_labels(ends, 300.0, 288.0)
    heights = [float(re.search(r' y="([\d.]+)"', p).group(1)) for p in parts[1::2]]
    assert heights == sorted(heights) and heights[0] == 44.0 and heights[-1] <= 292.0
    assert min(b - a for a, b in zip(heights, heights[1:], strict=False)) >= 16
