"""`domainlm roi` and `domainlm plan`: a finished run under other assumptions, nothing run again."""

import datetime as dt
import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from domainlm import pricing
from domainlm.artifacts import dump_json, write_atomic
from domainlm.cli import app
from domainlm.config import Config, load_config
from domainlm.errors import ConfigError, DataError, DomainLMError
from domainlm.experiment import RESULT, load_result
from domainlm.report.html import to_html
from domainlm.report.markdown import to_markdown
from domainlm.schema import Document, RunResult
from domainlm.starter import write_starter
from tests.unit.report_sample import sample

VALUED = {"value_correct_usd": 0.5, "cost_wrong_usd": 0.2, "cost_abstained_usd": 0.1}


@pytest.fixture(scope="module")
def finished():
    return sample(cost=VALUED)


@pytest.fixture
def folder(tmp_path, finished):
    (tmp_path / "run.yaml").write_text("documents: d\nquestions: q.jsonl\nname: r\noutput: runs\n")
    write_atomic(tmp_path / "runs" / "r" / RESULT, dump_json(RunResult, finished))
    return tmp_path


def call(*arguments):
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(done.exception, DomainLMError):
        return 2, str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def config(**cost):
    raw = {"documents": "d", "questions": "q", "cost": VALUED | cost}
    return Config.model_validate(raw)


def test_money_survives_the_disk(folder, finished):
    loaded = load_result(folder / "runs" / "r")
    assert loaded.money == finished.money and loaded.setups == finished.setups


def test_repricing_under_the_same_assumptions_changes_nothing(finished):
    again = pricing.reprice(
        config(questions_per_month=(100, 1_000, 10_000, 100_000, 1_000_000)),
        finished,
        dt.date(2025, 6, 14),
    )
    assert again.money == finished.money
    assert again.roi == finished.roi and again.break_evens == finished.break_evens
    costs = [[s.cost_per_question_usd for s in r.summaries] for r in (again, finished)]
    assert costs[0] == pytest.approx(costs[1])
    assert again.summaries[0].latency_p95_s == finished.summaries[0].latency_p95_s


def test_the_shipped_arm_nets_the_most_and_the_sentence_says_so(finished):
    again = pricing.reprice(config(), finished, dt.date(2025, 6, 14))
    net = {a.arm: a.npv_usd for a in again.money.arms}
    assert again.verdict.ship == max(net, key=net.get) == "raft"
    assert "nets $" in again.verdict.sentence and "over 12 months" in again.verdict.sentence
    assert any(r.startswith("Chance of earning the most: raft") for r in again.verdict.reasons)


def test_an_arm_below_the_required_quality_is_not_bought(finished):
    raw = {"documents": "d", "questions": "q", "cost": VALUED}
    strict = Config.model_validate(raw | {"evaluation": {"minimum_quality": 0.5}})
    again = pricing.reprice(strict, finished, dt.date(2025, 6, 14))
    assert again.verdict.ship == "raft"
    assert any(
        r.startswith("raft meets the requirement: correct answers at least 50 % (chance")
        for r in again.verdict.reasons
    )
    assert any("not considered: base" in c for c in again.verdict.caveats)
    chances = {a.arm: a.p_best for a in again.money.arms}
    assert chances["base"] is None and chances["raft"] is not None
    assert sum(p for p in chances.values() if p is not None) == pytest.approx(1)
    never = Config.model_validate(raw | {"evaluation": {"minimum_quality": 0.99}})
    assert pricing.reprice(never, finished, dt.date(2025, 6, 14)).verdict.ship == "none"


def test_none_ships_where_all_lose_or_people_do_better(finished):
    loss = pricing.reprice(config(cost_wrong_usd=50), finished, dt.date(2025, 6, 14))
    assert loss.verdict.ship == "none" and "every arm loses money" in loss.verdict.sentence
    people = pricing.reprice(config(person_minutes=0.01), finished, dt.date(2025, 6, 14))
    assert people.verdict.ship == "none" and "people alone do better" in people.verdict.sentence
    assert {b.b for b in people.break_evens} >= {"people", "base"}
    slow = pricing.reprice(config(person_minutes=60), finished, dt.date(2025, 6, 14))
    assert slow.verdict.ship == "raft"


def test_without_a_worth_the_verdict_is_as_it_was(finished):
    bare = Config.model_validate({"documents": "d", "questions": "q"})
    again = pricing.reprice(bare, finished, dt.date(2025, 6, 14))
    assert again.verdict.ship == sample().verdict.ship
    assert again.money.best is None and again.break_evens[0].note == "per correct answer"
    assert any("cost.value_correct_usd" in c for c in again.verdict.caveats)


def test_only_prices_that_play_a_part_are_called_old(finished):
    late = dt.date(2030, 1, 1)
    few = pricing.reprice(config(), finished, late).verdict.caveats
    old = next(c for c in few if "out of date" in c)
    assert "cpu_core_hour" in old and "gpt" not in old and "human_hour" not in old
    more = pricing.reprice(config(person_minutes=60), finished, late).verdict.caveats
    assert "human_hour" in next(c for c in more if "out of date" in c)
    fresh = pricing.reprice(config(stale_days=100_000), finished, late).verdict.caveats
    assert not any("out of date" in c for c in fresh)


def test_a_run_without_measured_setup_asks_for_another(finished):
    with pytest.raises(DataError, match="did not record what building base"):
        pricing.reprice(config(), replace(finished, setups={}), dt.date(2025, 6, 14))


def test_ranges_must_name_inputs_in_order():
    with pytest.raises(ConfigError, match="cost.ranges names coffee; it takes volume, value_corr"):
        pricing.check(config(ranges={"coffee": (1, 2)}))
    assert pricing.check(config(ranges={"value_correct_usd": (1, 2)}))
    with pytest.raises(ValueError, match="volume runs from 2.0 to 1.0"):
        config(ranges={"volume": (2, 1)})


def test_the_command_prints_all_of_it_and_takes_settings(folder):
    settings = [f"--set={k}={v}" for k, v in VALUED.items()]
    code, text = call("roi", folder / "run.yaml", *settings, "--set", "volume=50000")
    assert code == 0
    for part in ("50,000 questions a month", "What moves the net value", "Break-evens", "NPV"):
        assert part in text
    code, text = call("roi", folder / "run.yaml", *settings, "--set", "churn=0.05", "--json")
    said = json.loads(text)
    assert code == 0 and said["money"]["inputs"]["churn"] == 0.05
    assert {"verdict", "standings", "money", "break_evens", "roi"} == said.keys()
    assert said["money"]["arms"][2]["retrain_months"] is not None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("volume=0", "'cost.volume'"),
        ("volume=nan", "'cost.volume'"),
        ("value_correct_usd=-1", "'cost.value_correct_usd'"),
        ("value_corect=1", "unknown setting 'cost.value_corect'; did you mean 'value_correct_usd'"),
        ("churn", "is not key=value"),
        ("model_price=gpt-9", "'gpt-9' is not in the price book"),
        ("hardware=abacus", "'abacus' has no price"),
        ("prices=none.yaml", "cannot be read"),
    ],
)
def test_bad_settings_are_one_sentence_and_exit_2(folder, setting, message):
    code, said = call("roi", folder / "run.yaml", "--set", setting)
    assert code == 2 and message in said and "\n" not in said.strip()


def test_plan_from_a_run_and_from_assumptions(folder):
    code, text = call("plan", "--gap", "5", "--icc", "0", "--per-document", "1")
    assert code == 0 and "936 questions" in text
    code, text = call("plan", folder / "run.yaml", "--gap", "5", "--json")
    said = json.loads(text)
    assert code == 0 and said["spread"]["n_questions"] == 60 and said["needs"]
    assert call("plan", "--gap", "0")[0] == 2
    assert call("plan", folder / "run.yaml", "--arms", "raft,gpt")[0] == 2


# --- churn ---


def dated(*days):
    return [
        Document(f"d{i}", "", "", "", "text/plain", "", metadata={"date": day})
        for i, day in enumerate(days)
    ]


def test_churn_is_read_off_the_documents_dates():
    rng = __import__("numpy").random.default_rng(0)
    today = dt.date(2025, 1, 1)
    ages = rng.exponential(20.0, 4000) * 365.25 / 12
    documents = dated(*(str(today - dt.timedelta(days=float(a))) for a in ages))
    assert pricing.churn_of(documents, today) == pytest.approx(
        1 - 2.718281828 ** (-1 / 20), rel=0.05
    )


def test_churn_is_withheld_without_enough_dates():
    today = dt.date(2025, 1, 1)
    assert pricing.churn_of(dated(*["2024-01-01"] * 7), today) is None
    assert pricing.churn_of(dated(*["soon"] * 20), today) is None
    assert pricing.churn_of(dated(*["2026-01-01"] * 20), today) is None
    assert pricing.churn_of(dated(*["2025-01-01"] * 20), today) is None
    assert pricing.churn_of(dated(*["2024-01-01"] * 8), today) == pytest.approx(0.08, abs=0.005)


# --- the report ---


def test_the_report_shows_the_net_value_and_says_nothing_without_a_worth(finished):
    page, text = to_html(finished), to_markdown(finished)
    for part in ("Net value", "Value minus cost over 12 months", "What moves the net value"):
        assert part in page
    assert "Chance of earning the most" in page and "## Net value" in text
    bare = sample()
    assert "Value minus cost over" not in to_html(bare) and "## Net value" not in to_markdown(bare)


def test_every_cost_setting_of_the_starter_is_valid(tmp_path):
    path = write_starter(tmp_path, "documents", "questions.jsonl")
    head, _, cost = path.read_text("utf-8").partition("# cost:")
    plain = "\n".join(line.removeprefix("# ") for line in ("# cost:" + cost).splitlines())
    path.write_text(f"{head}{plain}\n", "utf-8")
    loaded = load_config(path).cost
    assert (loaded.volume, loaded.person_minutes, loaded.churn) == (10_000, 4, 0.02)
    assert loaded.ranges == {"volume": (5_000, 20_000)}
