"""Settings of the return on investment: prices, volumes, worth, change."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from domainlm.config.sections import Section

Usd = Annotated[float, Field(ge=0, lt=1e12)]
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, lt=1e9)]


class CostConfig(Section):
    """Prices, volumes, the worth of an answer and how the world changes.

    The defaults charge what was measured and assume nothing: an answer has no worth until one is
    declared, nobody's time is billed, and nothing grows old unless the documents' dates say so.
    """

    prices: Path | None = None
    hardware: str = "cpu_core_hour"
    units: float = Field(2.0, gt=0, lt=1e6)
    model_price: str = ""
    # A price list older than half a year has usually been overtaken by the next one.
    stale_days: int = Field(180, ge=1)
    questions_per_month: tuple[Annotated[float, Field(gt=0, lt=1e12)], ...] = Field(
        (100, 1_000, 10_000, 100_000, 1_000_000), min_length=1
    )
    # None: the middle of questions_per_month.
    volume: float | None = Field(None, gt=0, lt=1e12)
    months: int = Field(12, ge=1, le=120)
    value_correct_usd: Usd | None = None
    cost_wrong_usd: Usd | None = None
    cost_abstained_usd: Usd | None = None
    # The base-case real rate of OMB circular A-94 (1992); over a year it hardly matters.
    discount: float = Field(0.07, ge=0, lt=1)
    # use: busy seconds are billed. replicas: whole machines are rented by the month.
    hosting: Literal["use", "replicas"] = "use"
    # Office hours, 40 of a week's 168: what rented machines are busy when people ask at work.
    utilisation: float = Field(0.24, gt=0, le=1)
    # Share of documents that change in a month; None: from their dates, else 0.
    churn: Share | None = None
    # Share of answers that turn wrong in a month without retraining; None: closed-book arms lose
    # the share that churn makes stale, arms that read the refreshed documents nothing.
    decay: Share | None = None
    # None: the interval that costs least.
    retrain_months: float | None = Field(None, gt=0, le=1200)
    retrain_hours: Amount = 0.0
    retrieval_hours: Amount = 0.0
    tuning_hours: Amount = 0.0
    # Labels that tuning needed; those of the test are needed by every arm alike.
    labels: int = Field(0, ge=0)
    # Minutes that a person looks at each answer of an arm.
    review_minutes: Amount = 0.0
    # Minutes that a person takes to answer a question alone; None leaves people out.
    person_minutes: Amount | None = None
    person_correct: Share = 1.0
    # Undeclared prices are looked at from half to twice, the usual error of a first estimate.
    spread: float = Field(2.0, gt=1, le=100)
    ranges: dict[str, tuple[Usd, Usd]] = {}
    # Labelled questions that might be added, and whether they would pay.
    more_questions: int = Field(200, ge=1, le=1_000_000)

    @field_validator("ranges")
    @classmethod
    def _ordered(cls, value: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for name, (low, high) in value.items():
            if low > high:
                raise ValueError(f"{name} runs from {low} to {high}; give the lower end first")
        return value

    @property
    def planned_volume(self) -> float:
        """Questions a month that the verdict plans for."""
        return self.volume or self.questions_per_month[len(self.questions_per_month) // 2]


COST_KEYS = frozenset(CostConfig.model_fields)
