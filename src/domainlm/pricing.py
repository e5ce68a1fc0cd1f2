"""Money and latency of a run, from its configuration and what its arms measured."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from domainlm.config import Config
from domainlm.errors import ConfigError, DataError
from domainlm.evaluation import acceptance, cost, roi, summary
from domainlm.evaluation.cost import (
    Machine,
    ModelPrice,
    Price,
    PriceBook,
    machine_cost,
    machine_named,
)
from domainlm.evaluation.roi import Arm, Place, Scenario
from domainlm.evaluation.verdict import decide
from domainlm.rag.reading import date_of
from domainlm.schema import (
    Answer,
    ArmSummary,
    BreakEven,
    Contrast,
    Control,
    Document,
    Latency,
    Money,
    RoiCase,
    RunResult,
    Score,
    Setup,
    Standing,
    UsedPrice,
    Verdict,
)

MIN_DATED = 8
"""Documents with a date from which a rate of change is estimated."""
_DAYS_PER_MONTH = 365.25 / 12


@dataclass(frozen=True, slots=True)
class Settled:
    """What the prices make of a run."""

    cases: tuple[RoiCase, ...]
    break_evens: tuple[BreakEven, ...]
    money: Money
    verdict: Verdict
    standings: tuple[Standing, ...] = ()


def machine(config: Config, prices: PriceBook) -> Machine:
    """The configured machine.

    Raises:
        ConfigError: it has no price.
    """
    found = machine_named(config.cost.hardware, config.cost.units)
    # Asked now, or a mistyped name would end a run after its last answer.
    machine_cost(0.0, prices, found)
    return found


def model_price(config: Config, prices: PriceBook) -> ModelPrice | None:
    """Token prices of a hosted model, if the configuration names one.

    Raises:
        ConfigError: the price book has no such model.
    """
    name = config.cost.model_price
    if name and name not in prices.models:
        raise ConfigError(
            f"cost.model_price {name!r} is not in the price book; it has "
            f"{', '.join(sorted(prices.models))}"
        )
    return prices.models[name] if name else None


def check(config: Config) -> PriceBook:
    """The price book, after everything in `cost` that names an entry of it was looked up.

    Raises:
        ConfigError: the price book or a name is wrong.
    """
    prices = cost.load_prices(config.cost.prices)
    machine(config, prices)
    model_price(config, prices)
    unknown = sorted(set(config.cost.ranges) - set(map(_inside, roi.INPUTS)))
    if unknown:
        raise ConfigError(
            f"cost.ranges names {', '.join(unknown)}; it takes "
            f"{', '.join(map(_inside, roi.INPUTS))}"
        )
    return prices


def fallbacks(answers: Sequence[Answer]) -> tuple[str, ...]:
    """How often a stage of an arm's pipeline failed and was done without, with the first reason."""
    seen: dict[tuple[str, str], list[str]] = {}
    for answer in answers:
        for step in answer.trace:
            if step.fallback:
                seen.setdefault((answer.arm, step.stage), []).append(step.fallback)
    return tuple(
        f"{arm} went without {stage} {len(reasons)} times: {reasons[0]:.120}"
        for (arm, stage), reasons in sorted(seen.items())
    )


def caveats(config: Config) -> tuple[str, ...]:
    """What the prices leave out."""
    if not config.model.startswith("openai:") or config.cost.model_price:
        return ()
    return (
        f"Costs are seconds of {config.cost.hardware}; if {config.model} is billed by the token, "
        "set cost.model_price.",
    )


def answer_costs(config: Config, prices: PriceBook, answers: Sequence[Answer]) -> list[float]:
    """Marginal dollars of each answer."""
    own, hosted = machine(config, prices), model_price(config, prices)
    return [cost.answer_cost(a, prices, own, hosted) for a in answers]


def arms(
    config: Config,
    prices: PriceBook,
    summaries: Sequence[ArmSummary],
    answers: Sequence[Answer],
    setups: Mapping[str, Setup],
) -> list[Arm]:
    """The measured arms as the model of money takes them, and people if their time is declared.

    Raises:
        DataError: the run did not record what building an arm took.
    """
    c, hosted = config.cost, model_price(config, prices) is not None
    missing = [s.arm for s in summaries if s.arm not in setups]
    if missing:
        raise DataError(
            f"this run did not record what building {', '.join(missing)} took; run `domainlm run` "
            "again, finished work is kept"
        )
    made = []
    for s in summaries:
        used = [cost.usage(a, hosted) for a in answers if a.arm == s.arm]
        busy_s, tokens_in, tokens_out = (sum(u) / len(used) for u in zip(*used, strict=True))
        took, outcomes = setups[s.arm], s.outcomes
        reads, trained = s.arm not in ("base", "tuned"), s.arm not in ("base", "rag")
        declared_h = c.retrieval_hours * reads + c.tuning_hours * trained
        made.append(
            Arm(
                name=s.arm,
                correct=outcomes["correct"] / s.n,
                wrong=outcomes["wrong"] / s.n,
                abstained=(outcomes["abstained"] + outcomes["failed"]) / s.n,
                busy_s=busy_s,
                tokens_in=tokens_in,
                tokens_out=tokens_out,
                human_minutes=c.review_minutes,
                index_s=took.index_s,
                training_s=took.training_s + took.synthesis_s,
                labels=took.labels + c.labels * trained,
                engineering_hours=took.engineering_hours + declared_h,
                storage_gb=took.storage_gb,
                setup_usd=took.setup_usd,
                monthly_usd=took.monthly_usd,
                reads=reads,
                trained=trained,
            )
        )
    if c.person_minutes is not None:
        right = c.person_correct
        made.append(Arm(roi.PEOPLE, right, 1 - right, 0.0, human_minutes=c.person_minutes))
    return made


def scenario(config: Config, prices: PriceBook, churn: float | None) -> Scenario:
    """What the configuration and the price book say about the world.

    Args:
        config: The run's settings; a `churn` there goes before the estimated one.
        prices: The price book.
        churn: As estimated from the documents' dates.
    """
    c, hosted = config.cost, model_price(config, prices)
    declared = c.churn if c.churn is not None else churn
    return Scenario(
        volume=c.planned_volume,
        months=c.months,
        value_correct=c.value_correct_usd,
        cost_wrong=c.cost_wrong_usd or 0.0,
        cost_abstained=c.cost_abstained_usd or 0.0,
        churn=declared or 0.0,
        decay=c.decay,
        retrain_months=c.retrain_months,
        retrain_hours=c.retrain_hours,
        discount=c.discount,
        replicas=c.hosting == "replicas",
        utilisation=c.utilisation,
        machine_hour=machine_cost(3600.0, prices, machine(config, prices)),
        input_million=hosted.input if hosted else 0.0,
        output_million=hosted.output if hosted else 0.0,
        storage_gb_month=prices.usd("storage_gb_month"),
        label=prices.usd("label"),
        engineering_hour=prices.usd("engineering_hour"),
        human_hour=prices.usd("human_hour"),
    )


def settle(
    config: Config,
    prices: PriceBook,
    summaries: Sequence[ArmSummary],
    contrasts: Sequence[Contrast],
    answers: Sequence[Answer],
    scores: Sequence[Score],
    setups: Mapping[str, Setup],
    churn: float | None,
    today: dt.date,
    warnings: Sequence[str] = (),
    waits: Sequence[Latency] = (),
    checks: Sequence[Control] = (),
) -> Settled:
    """Requirements, bills, break-evens, money and verdict of answered and scored arms.

    Args:
        config: The run's settings.
        prices: The price book.
        summaries: Arms by slice.
        contrasts: Their comparisons.
        answers: Of dev and test questions; only the latter are priced.
        scores: Of the same answers; the dev ones choose the reference of the verdict.
        setups: arm -> what building it took.
        churn: As estimated from the documents' dates.
        today: Prices are old or not on this day.
        warnings: What training had to say.
        waits: How long single questions took.
        checks: Diagnostic arms, whose placebo may speak against the arm that ships.

    Raises:
        DataError: a measured number is unusable.
    """
    c = config.cost
    whole = [s for s in summaries if s.task == summary.ALL and s.split == summary.TEST]
    dev = [s for s in scores if s.split == "dev"]
    tested = {(s.arm, s.question_id) for s in scores if s.split != "dev"}
    asked = [a for a in answers if (a.arm, a.question_id) in tested]
    priced = arms(config, prices, whole, asked, setups)
    world = scenario(config, prices, churn)
    measured = {s.arm: s for s in whole}
    standings = acceptance.judge(
        config.acceptance,
        [s for s in scores if s.split != "dev"],
        asked,
        answer_costs(config, prices, asked),
        {w.arm: w.end_to_end["p95"] for w in waits if not w.rate},
        minimum_correct=config.evaluation.minimum_quality,
    )
    admitted = acceptance.admitted(standings) if standings else tuple(measured)
    money = roi.assess(
        priced,
        world,
        roi.sample_of(scores, list(measured)),
        [
            Place(s.arm, s.metrics["primary"].value, s.cost_per_question_usd, s.latency_p50_s)
            for s in whole
        ],
        roi.Settings(
            ranges={_outside(name): ends for name, ends in c.ranges.items()},
            spread=c.spread,
            minimum=config.evaluation.minimum_quality,
            more_questions=c.more_questions,
            seed=config.seed,
            excluded=frozenset(set(measured) - set(admitted)),
        ),
        _assumed(config, churn),
    )
    money = dataclasses.replace(money, prices=_book(config, prices, priced, today))
    cases = tuple(
        roi.bill(a, world, measured[a.name].cost_per_correct_usd, c.questions_per_month)
        for a in priced
        if a.name in measured
    )
    verdict = decide(
        summaries,
        contrasts,
        cases,
        dev_best=summary.best_arm(dev),
        margin=config.evaluation.margin,
        min_correct=config.evaluation.minimum_quality,
        questions_per_month=c.planned_volume,
        stale=cost.stale_prices(prices, today, used=_used(config, priced), days=c.stale_days),
        money=money,
        standings=standings,
    )
    placebo = [c.sentence for c in checks if c.unread and c.reference == verdict.ship]
    said = (*verdict.caveats, *placebo, *caveats(config), *fallbacks(answers), *warnings)
    return Settled(
        cases,
        tuple(roi.break_evens(priced, world)),
        money,
        dataclasses.replace(verdict, caveats=said),
        standings,
    )


def reprice(config: Config, result: RunResult, today: dt.date) -> RunResult:
    """A finished run under other prices and assumptions; nothing is answered again.

    Raises:
        ConfigError: a price or its name is wrong.
        DataError: the run did not record what building its arms took.
    """
    prices = check(config)
    costs = answer_costs(config, prices, result.answers)
    summaries = summary.with_costs(result.summaries, result.scores, result.answers, costs)
    settled = settle(
        config,
        prices,
        summaries,
        result.contrasts,
        result.answers,
        result.scores,
        result.setups,
        result.churn,
        today,
        [warning for adapter in result.adapters for warning in adapter.warnings],
        result.latency,
        result.controls,
    )
    return dataclasses.replace(
        result,
        summaries=tuple(summaries),
        roi=settled.cases,
        break_evens=settled.break_evens,
        money=settled.money,
        verdict=settled.verdict,
        standings=settled.standings,
    )


def churn_of(documents: Iterable[Document], today: dt.date) -> float | None:
    """Share of documents that change in a month, from when each last did; None below `MIN_DATED`.

    If documents change at random at a rate r, the time since the last change is exponential and
    r = n / sum(ages) is its maximum likelihood estimate (Cho and Garcia-Molina, 2003); within a
    month a share 1 - exp(-r) changes.
    """
    ages = []
    for document in documents:
        try:
            day = dt.date.fromisoformat(date_of(document))
        except ValueError:
            continue
        if day <= today:
            ages.append((today - day).days / _DAYS_PER_MONTH)
    if len(ages) < MIN_DATED or not sum(ages):
        return None
    return 1 - math.exp(-len(ages) / sum(ages))


def with_latency(summaries: Sequence[ArmSummary], waits: Sequence[Latency]) -> list[ArmSummary]:
    """Replace the batch shares by the waits of single questions, where they were timed."""
    alone = {w.arm: w.end_to_end for w in waits if not w.rate}
    return [
        dataclasses.replace(
            s,
            latency_p50_s=alone[s.arm]["p50"].value,
            latency_p95_s=alone[s.arm]["p95"].value,
        )
        if s.arm in alone
        else s
        for s in summaries
    ]


_USD_NAMES = ("value_correct", "cost_wrong", "cost_abstained")


def _inside(name: str) -> str:
    """A field of the scenario as the configuration calls it."""
    return f"{name}_usd" if name in _USD_NAMES else name


def _outside(name: str) -> str:
    """A setting as the scenario calls it."""
    return name.removesuffix("_usd")


def _assumed(config: Config, churn: float | None) -> list[str]:
    if config.cost.churn is not None:
        return []
    if churn is None:
        return [
            "No churn is set and too few documents carry a date, so nothing grows old here: set "
            "cost.churn to the share of documents that change in a month."
        ]
    return [f"Churn of {100 * churn:.2g} % a month is estimated from the documents' dates."]


def _book(
    config: Config, prices: PriceBook, priced: Sequence[Arm], today: dt.date
) -> tuple[UsedPrice, ...]:
    """The prices that play a part, with date and source."""
    used = _used(config, priced)
    old = cost.stale_prices(prices, today, used=used, days=config.cost.stale_days)
    dated: list[tuple[str, str, float, Price | ModelPrice]] = []
    for name, price in {**prices.items, **prices.gpu_hours}.items():
        dated.append((name, name, price.usd, price))
    for name, model in prices.models.items():
        dated.append((name, f"{name} input", model.input, model))
        dated.append((name, f"{name} output", model.output, model))
    return tuple(
        UsedPrice(shown, usd, p.as_of.isoformat(), p.source, name in old)
        for name, shown, usd, p in dated
        if name in used
    )


def _used(config: Config, priced: Sequence[Arm]) -> set[str]:
    """Prices that play a part."""
    c = config.cost
    hours = c.retrain_hours + sum(float(a.engineering_hours) for a in priced)
    used = {c.hardware, c.model_price}
    used |= {"storage_gb_month"} if any(a.storage_gb for a in priced) else set()
    used |= {"label"} if any(a.labels for a in priced) else set()
    used |= {"engineering_hour"} if hours else set()
    used |= {"human_hour"} if any(a.human_minutes for a in priced) else set()
    return used
