"""ROI: the measured answers under other prices and assumptions, and whether the verdict moves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from domainlm.config.cost import CostConfig
from domainlm.errors import ConfigError, DomainLMError
from domainlm.report import charts
from domainlm.report import format as fmt
from domainlm.report.money import HEAD, net_value, rows
from domainlm.schema import RunResult
from domainlm.server.pages.desk import Desk
from domainlm.server.pages.doors import door
from domainlm.server.pages.render import is_fragment


@dataclass(frozen=True, slots=True)
class Slider:
    """A setting of `cost` that the page moves; `high` ends the slider, `most` the number."""

    name: str
    label: str
    low: float
    high: float
    step: float
    most: float
    log: bool = False
    help: str = ""
    unset: str = ""


SLIDERS = (
    Slider("volume", "Questions a month", 1, 1e7, 1, 1e12, log=True),
    Slider("months", "Months that it must pay back in", 1, 60, 1, 120),
    Slider("value_correct_usd", "A right answer is worth ($)", 0, 20, 0.1, 1e6, unset="not set"),
    Slider("cost_wrong_usd", "A wrong answer costs ($)", 0, 50, 0.1, 1e6, unset="0"),
    Slider("cost_abstained_usd", "A question left open costs ($)", 0, 20, 0.1, 1e6, unset="0"),
    Slider("churn", "Share of documents that change in a month", 0, 1, 0.01, 1, unset="estimated"),
    Slider("review_minutes", "Minutes that a person checks each answer", 0, 10, 0.1, 1e4),
    Slider("person_minutes", "Minutes that a person takes alone", 0, 60, 0.5, 1e4,
           help="Empty leaves people out of the comparison.", unset="not set"),
)  # fmt: skip


def router(desk: Desk) -> APIRouter:
    """The routes of this page."""
    routes = APIRouter(include_in_schema=False, dependencies=door("viewer"))

    @routes.get("/roi")
    def roi(request: Request) -> Response:
        sent = request.query_params
        given = {s.name: sent[s.name].strip() for s in SLIDERS if s.name in sent}
        part = is_fragment(request)
        if desk.site.engine.result() is None:
            return desk.renderer.page(request, "roi.html", "roi", sliders=(), trouble="")
        shown: dict[str, Any] = {"trouble": "", "part": part, "changed": False}
        values: dict[str, float | None] = {}
        reprice = desk.site.runs.reprice
        try:
            values = changed(given)
            made = reprice("", values)
            shown |= priced(made)
            shown["configured"] = reprice("", {}).verdict.sentence if given else ""
            shown["changed"] = bool(given) and shown["configured"] != made.verdict.sentence
        except DomainLMError as error:
            shown["trouble"] = str(error)
        if part:
            return desk.renderer.page(request, "priced.html", "roi", **shown)
        cost = desk.site.config.cost
        sliders = [_drawn(s, values.get(s.name, _configured(s, cost))) for s in SLIDERS]
        return desk.renderer.page(request, "roi.html", "roi", sliders=sliders, **shown)

    return routes


def changed(given: Mapping[str, str]) -> dict[str, float | None]:
    """Settings of `cost` from a form; what is empty is as if it were not set.

    Raises:
        ConfigError: a value is no number.
    """
    defaults = CostConfig.model_validate({})
    values: dict[str, float | None] = {}
    for name, text in given.items():
        try:
            value = float(text) if text else getattr(defaults, name)
        except ValueError:
            raise ConfigError(f"{name} is {text[:40]!r}; give a number") from None
        values[name] = value if value is None or math.isfinite(value) else 0.0
    return values


def priced(made: RunResult) -> dict[str, Any]:
    """What the page shows of a priced run."""
    assert made.money is not None
    slots = fmt.arm_slots(fmt.arm_names(made))
    return {
        "r": made,
        "money": made.money,
        "net": net_value(made, slots),
        "monthly": charts.monthly(made.roi, slots),
        "break_evens": fmt.break_even_sentences(made.break_evens),
        "head": HEAD,
        "rows": rows(made.money),
        "slots": slots,
    }


def _configured(slider: Slider, cost: CostConfig) -> float | None:
    value: float | None = getattr(cost, slider.name)
    return cost.planned_volume if slider.name == "volume" else value


def _drawn(slider: Slider, value: float | None) -> dict[str, Any]:
    at = value if value is not None else slider.low
    return {
        "name": slider.name,
        "label": slider.label,
        "value": "" if value is None else f"{value:g}" if value < 1e6 else f"{value:.0f}",
        "low": f"{slider.low:g}",
        "high": f"{slider.high:g}",
        "most": f"{slider.most:.0f}",
        "step": f"{slider.step:g}",
        "log": slider.log,
        "log_low": f"{math.log10(slider.low):g}" if slider.log else "",
        "log_high": f"{math.log10(slider.high):g}" if slider.log else "",
        "position": f"{math.log10(max(at, 1)):g}" if slider.log else f"{at:g}",
        "help": slider.help,
        "unset": slider.unset,
    }
