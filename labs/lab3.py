"""The assumptions of the tutorial's lab 3, and what follows from them on the ROI engine.

Numbers are the lab's own (its prices are simulated, as it says itself); nothing of its code is
here. Each repair is a field of `Assumptions`, so that they can be made one at a time.
"""

from __future__ import annotations

import calendar
import csv
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from domainlm.evaluation.cost import ModelPrice, token_cost
from domainlm.evaluation.roi import Arm, Scenario
from domainlm.evaluation.roi.crossing import break_even_months, break_even_volume
from domainlm.evaluation.roi.model import cumulative_cost, npv

SCORES = Path(__file__).with_name("03_scores.csv")
"""The tutorial's stored answers as numbers: its metrics, token F1 and outcome by `domainlm`."""
SHARES = Path(__file__).with_name("03_arms.csv")
"""Outcomes of the shipped example's test questions (`make demo`)."""
YEAR = 2023
METRICS = ("semantic_similarity", "token_overlap_recall", "rouge_l_recall")


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What lab 3 charges, in dollars; the defaults are as it has them."""

    training_tokens: int = 1_000_000
    price: float = 0.00799
    price_is_per: int = 1
    """Tokens that `price` buys: the lab multiplies by tokens; such figures are per 1,000."""
    unit_hour: float = 21.18
    hours: int = 744
    storage: float = 1.95
    search_hour: float = 1.40
    every_months: int = 12
    searches_a_day: int = 7_000
    on_demand: bool = False
    """Charge an untuned model by the token; the lab rents a whole unit for it too."""
    tokens_in: int = 1_500
    tokens_out: int = 150
    input_million: float = 0.30
    output_million: float = 0.60

    @property
    def volume(self) -> float:
        """Questions a month."""
        return self.searches_a_day * 365.25 / 12

    @property
    def training(self) -> float:
        """Dollars of one training: tokens, a month of storage, an hour of evaluation."""
        per_million = self.price / self.price_is_per * 1e6
        price = ModelPrice(per_million, 0.0, dt.date(2024, 8, 1), "lab 3")
        tokens = token_cost(self.training_tokens, 0, price)
        return tokens + self.storage + self.unit_hour

    @property
    def unit(self) -> float:
        """Dollars a month of one rented model unit, storage included as in the lab."""
        return self.unit_hour * self.hours + self.storage


Quality = Mapping[str, tuple[float, float]]
"""arm -> shares of right and of wrong answers; the rest abstains."""
EQUAL: Quality = {}
"""As in the lab's money: quality plays no part."""


BOTH = ("tuned", "rag")
"""The arms that the lab has."""
ALL = ("base", "rag", "tuned", "tuned+rag", "raft")


def arms(a: Assumptions, quality: Quality = EQUAL) -> dict[str, Arm]:
    """Every arm under the lab's prices; the lab has `rag` and `tuned` alone."""

    def priced(name: str) -> Arm:
        reads, trained = name not in ("base", "tuned"), name not in ("base", "rag")
        rented = trained or not a.on_demand
        right, wrong = quality.get(name, (1.0, 0.0))
        return Arm(
            name,
            right,
            wrong,
            1 - right - wrong,
            # A question alone is short; what is retrieved makes it long.
            tokens_in=0 if rented else a.tokens_in if reads else a.tokens_in / 15,
            tokens_out=0 if rented else a.tokens_out,
            training_s=3600 * a.training * trained,
            monthly_usd=a.unit * rented + a.storage * trained + a.search_hour * a.hours * reads,
            reads=reads,
            trained=trained,
        )

    return {name: priced(name) for name in ALL}


def scenario(a: Assumptions, **worth: float) -> Scenario:
    """A year under the lab's prices; a machine hour is one dollar, so that `training_s` is paid in
    dollars.
    """
    return Scenario(
        a.volume,
        12,
        retrain_months=float(a.every_months),
        machine_hour=1.0,
        input_million=a.input_million,
        output_million=a.output_million,
        **worth,
    )


def year(a: Assumptions, name: str) -> float:
    """Dollars that an arm has cost after twelve months."""
    return float(cumulative_cost(arms(a)[name], scenario(a), 12.0))


def crossing(a: Assumptions, first: str = "tuned", second: str = "rag") -> float | None:
    """Month from which `first` stays cheaper than `second`; None for never within the year."""
    made = arms(a)
    return break_even_months(made[first], made[second], scenario(a))


def volume(a: Assumptions, first: str = "tuned", second: str = "rag") -> float | None:
    """Questions a month from which `first` stays cheaper over the year; None for never."""
    made = arms(a)
    return break_even_volume(made[first], made[second], scenario(a))


def row_nearest_to(a: Assumptions, target: float) -> int:
    """The lab's way: the month whose end has a difference of costs nearest to `target` dollars."""
    made, s = arms(a), scenario(a)

    def lead(month: int) -> float:
        costs = [float(cumulative_cost(made[n], s, float(month))) for n in ("rag", "tuned")]
        return costs[0] - costs[1]

    return min(range(1, 13), key=lambda m: abs(lead(m) - target))


def day(months: float) -> str:
    """A moment of the lab's year, e.g. "22 August"."""
    whole = int(months)
    first = dt.date(YEAR, whole + 1, 1)
    length = calendar.monthrange(YEAR, whole + 1)[1]
    when = first + dt.timedelta(days=(months - whole) * length)
    return f"{when.day} {when:%B}"


def scores(arm: str, questions: str, metric: str) -> list[float]:
    """One metric of the tutorial's stored answers, in the order of the facts asked for; shorter
    where the tutorial left the metric out.
    """
    return [float(r[metric]) for r in rows(arm, questions) if r[metric]]


def measured() -> dict[str, tuple[float, float]]:
    """Shares of right and wrong answers of five arms on the shipped example's test questions."""
    with SHARES.open(encoding="utf-8", newline="") as stream:
        found = list(csv.DictReader(stream))
    return {
        r["arm"]: (int(r["correct"]) / int(r["n"]), int(r["wrong"]) / int(r["n"])) for r in found
    }


def best(a: Assumptions, names: Sequence[str], quality: Quality = EQUAL, **worth: float) -> str:
    """The arm that nets the most over the year, or costs the least where answers have no worth;
    "none" if all of them lose by what they are worth.
    """
    made, s = arms(a, quality), scenario(a, **worth)
    net = {name: float(npv(made[name], s)) for name in names}
    top = max(net, key=lambda name: net[name])
    return top if net[top] > 0 or not worth else "none"


def rows(arm: str, questions: str) -> list[dict[str, str]]:
    """The tutorial's stored answers of an arm, as numbers."""
    with SCORES.open(encoding="utf-8", newline="") as stream:
        return [r for r in csv.DictReader(stream) if (r["arm"], r["questions"]) == (arm, questions)]


def mean(values: Sequence[float]) -> float:
    """Mean, or NaN of nothing."""
    return fmean(values) if values else float("nan")
