"""ROI: the measured answers under other prices and assumptions, and whether the verdict moves."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from domainlm import pricing
from domainlm.config import Config, CostConfig
from domainlm.errors import ConfigError, DomainLMError
from domainlm.report import charts
from domainlm.report import format as fmt
from domainlm.report.money import HEAD, net_value, rows
from domainlm.schema import RunResult
from domainlm.server.pages.desk import Desk
from domainlm.server.pages.doors import door


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
        given = {s.name: request.query_params.get(s.name, "").strip() for s in SLIDERS}
        asked = any(s.name in request.query_params for s in SLIDERS)
        result = desk.site.engine.result()
        part = "hx-request" in request.headers
        if result is None:
            return desk.renderer.page(request, "roi.html", "roi", sliders=(), trouble="")
        config = desk.site.config
        shown: dict[str, Any] = {"trouble": "", "part": part, "changed": False}
        try:
            settings = changed(config, given) if asked else config
            shown |= priced(settings, result)
            configured = pricing.reprice(config, result, _today()).verdict.sentence
            shown |= {
                "configured": configured,
                "changed": asked and configured != shown["r"].verdict.sentence,
            }
        except DomainLMError as error:
            settings, shown["trouble"] = config, str(error)
        if part:
            return desk.renderer.page(request, "priced.html", "roi", **shown)
        sliders = [_drawn(s, settings) for s in SLIDERS]
        return desk.renderer.page(request, "roi.html", "roi", sliders=sliders, **shown)

    return routes


def changed(config: Config, given: Mapping[str, str]) -> Config:
    """The configuration with other assumptions; what is empty is as if it were not set.

    Raises:
        ConfigError: a value is no number or out of range.
    """
    defaults = CostConfig.model_validate({})
    values = config.cost.model_dump()
    for name, text in given.items():
        try:
            values[name] = float(text) if text else getattr(defaults, name)
        except ValueError:
            raise ConfigError(f"{name} is {text[:40]!r}; give a number") from None
        if isinstance(values[name], float) and not math.isfinite(values[name]):
            raise ConfigError(f"{name} is {text[:40]!r}; give a finite number")
    values["months"] = max(1, round(values["months"]))
    try:
        made = CostConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(p) for p in first["loc"])
        raise ConfigError(f"{where}: {first['msg']} (got {first['input']!r:.40})") from None
    return config.model_copy(update={"cost": made})


def priced(config: Config, result: RunResult) -> dict[str, Any]:
    """What the page shows of a run under a configuration.

    Raises:
        DomainLMError: a price is wrong, or the run did not record what its arms took.
    """
    made = pricing.reprice(config, result, _today())
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


def _drawn(slider: Slider, config: Config) -> dict[str, Any]:
    value = getattr(config.cost, slider.name)
    if slider.name == "volume":
        value = config.cost.planned_volume
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


def _today() -> dt.date:
    return dt.datetime.now(dt.UTC).date()
