import datetime as dt

import numpy as np
import pytest
import yaml

from domainlm.errors import ConfigError
from domainlm.evaluation import cost, roi
from domainlm.evaluation.cost import Machine
from domainlm.schema import Answer, ArmSummary, Call, RoiCase


@pytest.fixture
def prices():
    day = dt.date(2025, 6, 1)
    item = {"usd": 1.0, "as_of": day, "source": "test"}
    return cost.parse_prices(
        {
            "currency": "USD",
            "items": {
                "cpu_core_hour": item | {"usd": 0.036},
                "storage_gb_month": item | {"usd": 0.1},
                "label": item | {"usd": 0.5},
                "engineering_hour": item | {"usd": 100},
            },
            "gpu_hours": {"l4": item | {"usd": 0.72}},
            "models": {"m": {"input": 1.0, "output": 4.0, "as_of": day, "source": "test"}},
        }
    )


def case(arm, setup=0.0, fixed=0.0, marginal=0.0, per_correct=None, months=1):
    return RoiCase(arm, setup, fixed, marginal, per_correct, (), months)


# --- prices and costs ---


def test_the_bundled_price_book_loads_with_dates_and_sources():
    book = cost.load_prices()
    assert {"cpu_core_hour", "label"} <= book.items.keys() and book.gpu_hours and book.models
    assert all(p.source and p.as_of.year >= 2024 for p in book.items.values())


def test_prices_go_stale_after_180_days(prices):
    assert cost.stale_prices(prices, dt.date(2025, 11, 28)) == ()
    assert "l4" in cost.stale_prices(prices, dt.date(2025, 11, 29))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.update(currency="EUR"), "'EUR'"),
        (lambda b: b.update(extra={}), "unknown extra"),
        (lambda b: b["items"].pop("label"), "lack label"),
        (lambda b: b["items"]["label"].update(usd=-1), "items.label.usd is -1"),
        (lambda b: b["items"]["label"].update(usd=True), "is True"),
        (lambda b: b["items"]["label"].update(as_of="soon"), "as_of is 'soon'"),
        (lambda b: b["items"]["label"].update(source=" "), "source"),
        (lambda b: b["models"]["gpt-4o"].pop("output"), "lacks output"),
        (lambda b: b.update(gpu_hours=[1]), "must be a mapping"),
    ],
)
def test_a_bad_price_book_is_refused_by_name(change, message, tmp_path):
    import importlib.resources

    text = importlib.resources.files("domainlm.evaluation").joinpath("prices.yaml").read_text()
    book = yaml.safe_load(text)
    change(book)
    path = tmp_path / "prices.yaml"
    path.write_text(yaml.safe_dump(book))
    with pytest.raises(ConfigError, match=message):
        cost.load_prices(path)


def test_a_missing_or_broken_price_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        cost.load_prices(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="cannot be read"):
        cost.load_prices(tmp_path / "bad.yaml")


def test_machine_cost(prices):
    assert cost.machine_cost(3600, prices, Machine(cores=2)) == pytest.approx(0.072)
    assert cost.training_cost(1800, prices, Machine(gpu="l4", gpus=2)) == pytest.approx(0.72)
    idle = cost.machine_cost(3600, prices, Machine(cores=2, utilisation=0.1))
    assert idle == pytest.approx(0.72)
    assert cost.machine_named("cpu_core_hour", 2) == Machine(cores=2)
    assert cost.machine_named("l4", 2) == Machine(gpu="l4", gpus=2)
    with pytest.raises(ConfigError, match="'tpu' has no price"):
        cost.machine_cost(1, prices, Machine(gpu="tpu"))
    with pytest.raises(ConfigError, match="utilisation is 0"):
        cost.machine_cost(1, prices, Machine(utilisation=0))


def test_answer_cost_bills_every_call(prices):
    calls = (
        Call("m", "generate", "rewrite", 1000, 100, 1.0),
        Call("e", "embed", "query", 50, 0, 10.0),
        Call("m", "generate", "answer", 3000, 200, 2.0),
    )
    a = Answer("q", "rag", "x", (), (), calls, 20.0, 3000, 200)
    machine = Machine(cores=2)
    assert cost.answer_cost(a, prices, machine) == pytest.approx(20 * 2 * 0.036 / 3600)
    tokens = (4000 * 1.0 + 300 * 4.0) / 1e6
    local = 10 * 2 * 0.036 / 3600
    hosted = cost.answer_cost(a, prices, machine, prices.models["m"])
    assert hosted == pytest.approx(tokens + local)


# --- cases ---


def test_roi_case(prices):
    summary = ArmSummary("raft", "all", "test", 10, {}, {}, 1, 1, 1, 1, 0.001, 0.002)
    setup = roi.Setup(
        index_s=3600, training_s=7200, labels=100, engineering_hours=1, storage_gb=10, monthly_usd=5
    )
    machine = Machine(cores=1, utilisation=0.5)
    found = roi.roi_case(summary, setup, prices, machine, volumes=[1000], months=10)
    assert found.setup_usd == pytest.approx(3 * 0.036 + 50 + 100)
    assert found.fixed_monthly_usd == pytest.approx(6)
    assert found.monthly_usd == ((1000.0, pytest.approx(found.setup_usd / 10 + 6 + 1)),)
    with pytest.raises(ConfigError, match="0 months"):
        roi.roi_case(summary, setup, prices, machine, months=0)


def test_crossing_agrees_with_a_fine_grid():
    rng = np.random.default_rng(0)
    x = np.linspace(0, 100, 100_001)
    outcomes = set()
    for _ in range(200):
        sa, ma, sb, mb = rng.integers(-5, 6, size=4).astype(float) * [10, 1, 10, 1]
        below = sa + ma * x < sb + mb * x
        exact = roi.crossing(sa, ma, sb, mb, 100)
        if not below[-1]:
            assert exact is None
        else:
            last_above = np.flatnonzero(~below)[-1] if not below.all() else 0
            assert exact == pytest.approx(x[last_above], abs=0.01)
        outcomes.add(exact if not exact else "crosses")
    assert outcomes == {None, 0.0, "crosses"}


def test_break_even_is_exact_persistent_and_one_sided():
    tuned = case("tuned", setup=1000, marginal=0.01, per_correct=0.01, months=10)
    rag = case("rag", marginal=0.03, per_correct=0.03)
    assert roi.break_even(tuned, rag).questions_per_month == pytest.approx(5000)
    # rag is cheaper only below that volume, which is not for good.
    assert roi.break_even(rag, tuned).questions_per_month is None
    assert roi.break_even(tuned, rag, horizon_questions=4000).questions_per_month is None
    assert roi.break_even(rag, tuned, horizon_questions=4000).questions_per_month == 0


def test_break_even_counts_only_correct_answers():
    cheap = case("base", marginal=0.01, per_correct=0.10)  # 10 % correct
    good = case("raft", setup=100, marginal=0.02, per_correct=0.025)  # 80 % correct
    # 100 / .8 + .025 q = .10 q
    assert roi.break_even(good, cheap).questions_per_month == pytest.approx(125 / 0.075)
    hopeless = case("tuned", marginal=0.0001)
    assert roi.break_even(hopeless, good).questions_per_month is None
    assert roi.break_even(good, hopeless).questions_per_month == 0


def test_the_tutorials_crossing_is_7_71_months_and_0_03_at_the_price_per_thousand_tokens():
    """Lab 3 prices training at $0.00799 per token, which reads like a price per 1,000 tokens."""
    unit, hours, storage, tokens = 21.18, 744, 1.95, 1_000_000
    throughput = unit * hours + storage
    rag = case("rag", fixed=1.4 * hours + throughput)

    def tuned(per_token):
        return case("tuned", setup=per_token * tokens + storage + unit, fixed=throughput + storage)

    assert round(roi.payback_months(tuned(0.00799), rag, 0), 2) == 7.71
    assert round(roi.payback_months(tuned(0.00799 / 1000), rag, 0), 2) == 0.03
    year = [c.setup_usd + 12 * c.fixed_monthly_usd for c in (tuned(0.00799), rag)]
    assert round(year[0]) == 197_155 and round(year[1]) == 201_618
    assert roi.payback_months(rag, tuned(0.00799), 0) is None


def test_value_turns_the_decision():
    value = roi.Value(correct=1.0, wrong=2.0, escalated=0.5)
    poor = {"correct": 50, "wrong": 50}
    careful = {"correct": 50, "wrong": 10, "abstained": 30, "failed": 10}
    assert roi.value_per_question(poor, value) == pytest.approx(-0.5)
    assert roi.value_per_question(careful, value) == pytest.approx(0.5 - 0.2 - 0.2)
    assert roi.value_per_question({}, value) == 0
    a, b = case("raft", setup=120, marginal=0.05, per_correct=0.1), case("base", marginal=0.01)
    # 120 + .05 q - .1 q = .01 q + .5 q
    found = roi.net_break_even(a, b, 0.1, -0.5)
    assert found.questions_per_month == pytest.approx(120 / 0.56)
    q = found.questions_per_month
    assert roi.net_monthly_usd(a, 0.1, q) == pytest.approx(roi.net_monthly_usd(b, -0.5, q))


def test_break_evens_cover_all_ordered_pairs():
    cases = [case("base", marginal=1, per_correct=2), case("rag", 5, 0, 1, 1), case("raft")]
    assert len(roi.break_evens(cases)) == 6
    worth = {"base": 0.0, "rag": 2.0, "raft": 0.0}
    by_value = {(b.a, b.b): b for b in roi.break_evens(cases, value_per_question=worth)}
    assert by_value["rag", "base"].questions_per_month == pytest.approx(2.5)
    assert by_value["rag", "base"].note == "net value"


def test_retraining_interval_minimises_its_cost():
    value = roi.Value(correct=1.0, wrong=0.5)
    best = roi.retrain_months(100, 0.02, 1000, value)

    def monthly(t):
        return 100 / t + 0.02 * 1000 * 1.5 * t / 2

    assert monthly(best) < min(monthly(best * 0.99), monthly(best * 1.01))
    assert roi.retrain_months(100, 0, 1000, value) is None
