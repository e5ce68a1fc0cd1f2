"""Money of a run: mistakes show before the first stage, and what prices leave out is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from domainlm import pricing
from domainlm.config import Config
from domainlm.errors import ConfigError
from domainlm.evaluation.cost import load_prices
from domainlm.memory import PeakMemory


def config(**cost: object) -> Config:
    return Config.model_validate(
        {
            "documents": Path("d"),
            "questions": Path("q"),
            "model": "openai:some",
            "arms": ["base"],
            "cost": cost,
        }
    )


def test_an_unknown_machine_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'gpu_of_dreams' has no price"):
        pricing.machine(config(hardware="gpu_of_dreams"), load_prices())


def test_a_hosted_model_without_token_prices_is_a_caveat() -> None:
    prices = load_prices()
    (caveat,) = pricing.caveats(config())
    assert "openai:some" in caveat
    assert "cost.model_price" in caveat
    assert not pricing.caveats(config(model_price=next(iter(prices.models))))


def test_peak_memory_sees_what_was_freed_again() -> None:
    watch = PeakMemory()
    before = watch._process.memory_info().rss
    block = bytearray(200_000_000)
    block[::4096] = b"x" * len(block[::4096])
    assert watch._stop.wait(0.5) is False
    del block
    assert watch.peak() - before > 150_000_000
