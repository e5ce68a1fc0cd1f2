"""The sliders of the report: the page's own arithmetic against Python's, in a real browser."""

import datetime as dt
import json
import math
from dataclasses import replace

import pytest

from domainlm import pricing
from domainlm.config import Config
from domainlm.evaluation import roi
from domainlm.evaluation.roi import crossing, model, uncertainty
from domainlm.report import format as fmt
from domainlm.report import to_html, write_report
from domainlm.report.html import SCRIPTS
from domainlm.report.whatif import DRAWS, embedded
from tests.unit.report_sample import sample

TODAY = dt.date(2025, 6, 14)
VALUED = {
    "value_correct_usd": 0.5,
    "cost_wrong_usd": 0.2,
    "cost_abstained_usd": 0.1,
    "churn": 0.04,
    "person_minutes": 0.6,
    "person_correct": 0.97,
    "retrain_hours": 0.5,
}
SLIDERS = {
    "volume": "volume",
    "churn": "churn",
    "value_correct": "value_correct_usd",
    "cost_wrong": "cost_wrong_usd",
}


def config(**cost) -> Config:
    return Config.model_validate({"documents": "d", "questions": "q", "cost": cost})


@pytest.fixture(scope="module")
def finished():
    return sample()


def set_sliders(browser, **values) -> None:
    for key, value in values.items():
        shown = 100 * value if key == "churn" else value
        browser.execute_script(
            f"const f = document.getElementById('w-{key}-n'); f.value = {shown!r};"
            "f.dispatchEvent(new Event('input', {bubbles: true}))"
        )
    # What the sliders change is drawn in the next frame.
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


def rows(browser) -> dict[str, dict[str, str]]:
    code = (
        "return [...document.querySelectorAll('#w-rows tr')].map(r => "
        "[r.querySelector('th').textContent, {...r.dataset}])"
    )
    return dict(browser.execute_script(code))


def number(text: str) -> float:
    return {"Infinity": math.inf, "null": None, "undefined": None}.get(text, text) and float(text)


def near(found: float | None, expected: float | None) -> bool:
    if expected is None or found is None:
        return found is expected
    return found == pytest.approx(expected, rel=5e-3, abs=1e-9)


CASES = [
    ({}, {"volume": 300, "churn": 0.3, "value_correct": 2.0, "cost_wrong": 1.0}),
    ({}, {"churn": 0.0, "value_correct": 0.05, "cost_wrong": 0.5}),
    ({"hosting": "replicas", "utilisation": 0.3}, {"volume": 700_000, "churn": 0.1}),
    ({"retrain_months": 1.5, "decay": 0.05, "months": 18}, {"volume": 4_000}),
]


@pytest.mark.parametrize(("more", "moves"), CASES)
def test_the_page_computes_what_python_computes(browser, finished, tmp_path, more, moves) -> None:
    base = VALUED | more
    shown = pricing.reprice(config(**base), finished, TODAY)
    expected = pricing.reprice(
        config(**base | {SLIDERS[k]: v for k, v in moves.items()}), finished, TODAY
    )
    browser.get(write_report(shown, tmp_path).as_uri())
    static = browser.execute_script("return document.getElementById('w-rows').textContent")
    set_sliders(browser, **moves)
    found = rows(browser)
    money = expected.money
    assert set(found) == {a.arm for a in money.arms}
    arms, scenario = roi.priced(money)
    for entry in money.arms:
        row = {key: number(text) for key, text in found[entry.arm].items()}
        assert near(row["npv"], entry.npv_usd), entry.arm
        assert near(row["setup"], entry.setup_usd) and near(row["running"], entry.running_usd)
        assert near(row["back"], entry.payback_months), (entry.arm, row["back"])
        assert row["machines"] == entry.machines
        every = None if row["every"] == math.inf else row["every"]
        assert near(every, entry.retrain_months)
        each = None if row["each"] == math.inf else row["each"]
        correct = entry.cost_per_correct
        assert near(each, correct.value if correct else None)
    verdict = browser.execute_script("return document.getElementById('w-verdict').textContent")
    assert verdict == expected.verdict.sentence
    check_break_evens(browser, arms, scenario)
    check_chances(found, arms, scenario, expected)
    browser.execute_script("document.getElementById('w-cost').click()")
    spent = browser.execute_script("return document.querySelector('#w-curves title').textContent")
    (raft,) = [a for a in arms if a.name == "raft"]
    total = float(model.cumulative_cost(raft, scenario, float(scenario.months)))
    assert spent.startswith("Cost over") and f"raft {fmt.usd(total)}" in spent
    browser.execute_script("document.getElementById('w-cost').click()")
    # The way back restores the run's own figures.
    browser.execute_script("document.getElementById('w-reset').click()")
    again = browser.execute_script("return document.getElementById('w-rows').textContent")
    assert again == static
    assert browser.get_log("browser") == []


def check_break_evens(browser, arms, scenario) -> None:
    code = "return [...document.querySelectorAll('#w-said li[data-a]')].map(i => ({...i.dataset}))"
    by_name = {a.name: a for a in arms}
    items = browser.execute_script(code)
    assert len(items) >= 4
    for item in items:
        a, b = by_name[item["a"]], by_name[item["b"]]
        months = crossing.break_even_months(a, b, scenario)
        assert near(number(item["months"]), months), item
        volume = crossing.break_even_volume(a, b, scenario)
        assert near(number(item["volume"]), volume), item


def check_chances(found, arms, scenario, expected) -> None:
    """The page's chances are those of the same draws; the run's have four times as many."""
    drawn = roi.sample_of(expected.scores, [a.name for a in arms if a.name != roi.PEOPLE])
    choices = [*arms, roi.Arm(roi.NONE, 0.0, 0.0, 0.0)]
    npv = uncertainty.simulate(choices, scenario, drawn, expected.money.ranges).npv[:DRAWS]
    for arm, p in zip(choices, uncertainty.p_best(npv), strict=True):
        assert float(found[arm.name]["sure"]) == pytest.approx(p, abs=0.006), arm.name


def test_a_worth_can_be_set_where_the_run_had_none(browser, finished, tmp_path) -> None:
    bare = pricing.reprice(config(), finished, TODAY)
    assert bare.money.best is None
    browser.get(write_report(bare, tmp_path).as_uri())
    text = "return document.getElementById('w-verdict').textContent"
    assert browser.execute_script(text) == bare.verdict.sentence
    set_sliders(browser, volume=20_000)
    assert "Say what one is worth" in browser.execute_script(text)
    assert set(rows(browser)) == {a.arm for a in bare.money.arms}
    set_sliders(browser, value_correct=0.4, cost_wrong=0.1)
    expected = pricing.reprice(
        config(volume=20_000, value_correct_usd=0.4, cost_wrong_usd=0.1), finished, TODAY
    )
    assert browser.execute_script(text) == expected.verdict.sentence
    for entry in expected.money.arms:
        assert near(number(rows(browser)[entry.arm]["npv"]), entry.npv_usd)


def test_the_page_gives_no_verdict_where_the_run_gave_none(browser, finished, tmp_path) -> None:
    one = tuple(replace(s, cluster="one document") for s in finished.scores)
    summaries = tuple(
        replace(s, metrics={k: replace(i, low=None, high=None) for k, i in s.metrics.items()})
        for s in finished.summaries
    )
    unsure = replace(finished, scores=one, summaries=summaries)
    shown = pricing.reprice(config(**VALUED), unsure, TODAY)
    assert shown.verdict.sentence.startswith("No verdict: all test questions are about one")
    browser.get(write_report(shown, tmp_path).as_uri())
    set_sliders(browser, volume=123)
    text = "return document.getElementById('w-verdict').textContent"
    assert browser.execute_script(text) == shown.verdict.sentence
    assert float(rows(browser)["rag"]["running"]) != shown.money.arm("rag").running_usd


def test_sliders_work_by_keyboard_and_refuse_nonsense(browser, finished, tmp_path) -> None:
    from selenium.webdriver.common.keys import Keys

    shown = pricing.reprice(config(**VALUED), finished, TODAY)
    browser.get(write_report(shown, tmp_path).as_uri())
    slider = browser.find_element("id", "w-volume")
    before = float(browser.find_element("id", "w-volume-n").get_property("value"))
    slider.send_keys(Keys.ARROW_RIGHT * 10)
    after = float(browser.find_element("id", "w-volume-n").get_property("value"))
    assert after > before
    assert slider.get_attribute("aria-valuetext").endswith(" a month")
    set_sliders(browser)
    kept = rows(browser)
    for wrong in (-5, 0):
        set_sliders(browser, volume=wrong)
        box = browser.find_element("id", "w-volume-n")
        assert box.get_attribute("aria-invalid") == "true" and rows(browser) == kept


def test_old_results_have_no_sliders(finished) -> None:
    money = finished.money
    old = replace(money, arms=tuple(replace(a, basis={}) for a in money.arms))
    html = to_html(replace(finished, money=old))
    assert embedded(replace(finished, money=old), {}) == {} and 'id="what-if"' not in html
    assert 'id="what-if"' in to_html(finished)


def test_the_data_is_what_the_model_is_made_of(finished) -> None:
    shown = pricing.reprice(config(**VALUED), finished, TODAY)
    data = json.loads(json.dumps(embedded(shown, {})))
    arms, scenario = roi.priced(shown.money)
    for row in data["arms"]:
        (arm,) = [a for a in arms if a.name == row["name"]]
        assert row["correct"] == arm.correct and row["trained"] is arm.trained
        assert float(model.npv(arm, scenario)) == shown.money.arm(arm.name).npv_usd
    assert data["draws"]["n"] == DRAWS and set(data["draws"]["inputs"]) == set(shown.money.ranges)
    assert len(json.dumps(data)) < 250_000 and SCRIPTS[0] == "roi.js"
