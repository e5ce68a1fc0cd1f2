"""Money and latency of a run, from its configuration and what its arms measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from domainlm.bench import Bench
from domainlm.config import Config
from domainlm.errors import ConfigError
from domainlm.evaluation import roi, summary
from domainlm.evaluation.cost import Machine, ModelPrice, PriceBook, machine_cost, machine_named
from domainlm.evaluation.latency import percentile
from domainlm.schema import Adapter, Answer, ArmSummary, RoiCase


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


def price_arms(
    config: Config,
    summaries: Sequence[ArmSummary],
    adapters: Sequence[Adapter],
    bench: Bench,
    prices: PriceBook,
    machine: Machine,
) -> list[RoiCase]:
    """Money of every arm, from its summary over all test questions."""
    return [
        roi.roi_case(
            s,
            bench.setup(s.arm, adapters),
            prices,
            machine,
            volumes=config.cost.questions_per_month,
            months=config.cost.months,
        )
        for s in summaries
        if s.task == summary.ALL and s.split == summary.TEST
    ]


def with_latency(
    summaries: Sequence[ArmSummary], probes: Mapping[str, Sequence[float]]
) -> list[ArmSummary]:
    """Replace the batch shares by the latencies of single questions, where they were probed."""
    return [
        dataclasses.replace(
            s,
            latency_p50_s=percentile(probes[s.arm], 0.5).value,
            latency_p95_s=percentile(probes[s.arm], 0.95).value,
        )
        if probes.get(s.arm)
        else s
        for s in summaries
    ]


def worth(config: Config, summaries: Sequence[ArmSummary]) -> dict[str, float] | None:
    """Dollars of value per question by arm, if the configuration prices outcomes."""
    c = config.cost
    if c.value_correct_usd is None:
        return None
    value = roi.Value(c.value_correct_usd, c.cost_wrong_usd or 0.0, c.cost_abstained_usd or 0.0)
    return {
        s.arm: roi.value_per_question(s.outcomes, value)
        for s in summaries
        if s.task == summary.ALL and s.split == summary.TEST
    }
