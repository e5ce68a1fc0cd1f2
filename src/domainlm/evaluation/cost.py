"""Prices and what answers, training and indexing cost; every price carries its date and source.

Quantities are measured: tokens of the call ledger for hosted models, seconds for own machines.
"""

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from domainlm.errors import ConfigError
from domainlm.schema import Answer

STALE_DAYS = 180
_ITEMS = ("cpu_core_hour", "storage_gb_month", "label", "engineering_hour")


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per unit that the entry's name tells, on a date, by a source named in words."""

    usd: float
    as_of: dt.date
    source: str


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """Dollars per million tokens of a hosted model."""

    input: float
    output: float
    as_of: dt.date
    source: str


@dataclass(frozen=True, slots=True)
class PriceBook:
    """`items` holds cpu_core_hour, storage_gb_month, label and engineering_hour; `gpu_hours` and
    `models` are open lists.
    """

    items: Mapping[str, Price]
    gpu_hours: Mapping[str, Price]
    models: Mapping[str, ModelPrice]

    def usd(self, item: str) -> float:
        """Price of one of the items."""
        return self.items[item].usd


@dataclass(frozen=True, slots=True)
class Machine:
    """What runs the models: CPU cores, or GPUs of a kind in the price book (then cores are free).

    `utilisation` is the busy share of the paid hours: at .1 the same answer costs ten times as
    much, which dominates every other setting of self-hosting.
    """

    cores: float = 1
    gpu: str = ""
    gpus: float = 1
    utilisation: float = 1.0


def load_prices(path: Path | None = None) -> PriceBook:
    """Read a price book; without a path, the example one that comes with the package.

    Raises:
        ConfigError: The file is missing, is no YAML, or an entry is missing, unknown or invalid.
    """
    name = str(path) if path else "the bundled price book"
    try:
        if path:
            text = path.read_text(encoding="utf-8")
        else:
            text = resources.files(__package__).joinpath("prices.yaml").read_text(encoding="utf-8")
        book = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{name} cannot be read as YAML ({error}); check the file") from error
    return parse_prices(book, name)


def parse_prices(book: Any, name: str = "price book") -> PriceBook:
    """Check the YAML value of a price book.

    Args:
        book: A mapping of `currency`, `items`, `gpu_hours` and `models`.
        name: How errors call it.

    Raises:
        ConfigError: As for `load_prices`.
    """
    sections = ("currency", "items", "gpu_hours", "models")
    top = _mapping(book, name)
    _keys(top, sections, name)
    if top.get("currency") != "USD":
        raise ConfigError(
            f"{name}: currency is {top.get('currency')!r}; only USD is known, so convert the prices"
        )
    items, gpus, models = (_mapping(top.get(s) or {}, f"{name}: {s}") for s in sections[1:])
    _keys(items, _ITEMS, f"{name}: items")
    missing = [i for i in _ITEMS if i not in items]
    if missing:
        raise ConfigError(f"{name}: items lack {', '.join(missing)}; give each a price (0 is fine)")
    prices = {k: _price(v, f"{name}: items.{k}") for k, v in items.items()}
    gpu_hours = {k: _price(v, f"{name}: gpu_hours.{k}") for k, v in gpus.items()}
    hosted = {k: _model_price(v, f"{name}: models.{k}") for k, v in models.items()}
    return PriceBook(prices, gpu_hours, hosted)


def stale_prices(
    prices: PriceBook,
    today: dt.date,
    *,
    used: Collection[str] | None = None,
    days: int = STALE_DAYS,
) -> tuple[str, ...]:
    """Names of the entries (of those `used`, or of all) more than `days` older than `today`."""
    entries: dict[str, Price | ModelPrice] = {**prices.items, **prices.gpu_hours, **prices.models}
    return tuple(
        sorted(
            name
            for name, price in entries.items()
            if (used is None or name in used) and (today - price.as_of).days > days
        )
    )


def machine_named(hardware: str, units: float = 1, utilisation: float = 1.0) -> Machine:
    """A machine from a price's name: `units` cores of "cpu_core_hour", else so many of that GPU."""
    if hardware == "cpu_core_hour":
        return Machine(cores=units, utilisation=utilisation)
    return Machine(gpu=hardware, gpus=units, utilisation=utilisation)


def machine_cost(seconds: float, prices: PriceBook, machine: Machine) -> float:
    """Dollars for that many busy seconds of a machine.

    Raises:
        ConfigError: The GPU has no price, or the utilisation is outside (0, 1].
    """
    if not 0 < machine.utilisation <= 1:
        raise ConfigError(
            f"utilisation is {machine.utilisation}; it is the busy share of paid time, 0 < u <= 1"
        )
    if machine.gpu:
        if machine.gpu not in prices.gpu_hours:
            raise ConfigError(
                f"GPU {machine.gpu!r} has no price; add it under gpu_hours or use one of "
                f"{', '.join(sorted(prices.gpu_hours)) or 'none yet'}"
            )
        hourly = machine.gpus * prices.gpu_hours[machine.gpu].usd
    else:
        hourly = machine.cores * prices.usd("cpu_core_hour")
    return seconds / 3600 * hourly / machine.utilisation


training_cost = machine_cost
"""Training, indexing and synthesis are all billed as busy seconds of a machine."""


def token_cost(tokens_in: int, tokens_out: int, price: ModelPrice) -> float:
    """Dollars for the tokens of a hosted model."""
    return (tokens_in * price.input + tokens_out * price.output) / 1e6


def answer_cost(
    answer: Answer, prices: PriceBook, machine: Machine, model_price: ModelPrice | None = None
) -> float:
    """Marginal dollars of one answer.

    Self-hosted (no `model_price`): its wall seconds on the machine. Hosted: the tokens of every
    generation it caused, rewriting and compression included, plus the local seconds of embedding
    and reranking.
    """
    if model_price is None:
        return machine_cost(answer.latency_s, prices, machine)
    generated = [c for c in answer.calls if c.kind == "generate"]
    local_s = sum(c.latency_s for c in answer.calls if c.kind != "generate")
    tokens_in = sum(c.tokens_in for c in generated) if generated else answer.tokens_in
    tokens_out = sum(c.tokens_out for c in generated) if generated else answer.tokens_out
    hosted = token_cost(tokens_in, tokens_out, model_price)
    return hosted + machine_cost(local_s, prices, machine)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is {value!r}; it must be a mapping of names to entries")
    return value


def _keys(value: Mapping[str, Any], allowed: tuple[str, ...], where: str) -> None:
    unknown = sorted(str(k) for k in value if k not in allowed)
    if unknown:
        raise ConfigError(f"{where}: unknown {', '.join(unknown)}; known are {', '.join(allowed)}")


def _dated(value: Any, amounts: tuple[str, ...], where: str) -> dict[str, Any]:
    entry = _mapping(value, where)
    wanted = (*amounts, "as_of", "source")
    _keys(entry, wanted, where)
    missing = [k for k in wanted if k not in entry]
    if missing:
        raise ConfigError(f"{where} lacks {', '.join(missing)}; a price needs {', '.join(wanted)}")
    for key in amounts:
        amount = entry[key]
        number = isinstance(amount, int | float) and not isinstance(amount, bool)
        if not number or not 0 <= amount < float("inf"):
            raise ConfigError(f"{where}.{key} is {amount!r}; it must be a number of dollars >= 0")
    if not isinstance(entry["as_of"], dt.date):
        raise ConfigError(
            f"{where}.as_of is {entry['as_of']!r}; write a date such as 2025-06-01, unquoted"
        )
    if not isinstance(entry["source"], str) or not entry["source"].strip():
        raise ConfigError(f"{where}.source is {entry['source']!r}; name the source in words")
    return entry


def _price(value: Any, where: str) -> Price:
    entry = _dated(value, ("usd",), where)
    return Price(float(entry["usd"]), entry["as_of"], entry["source"])


def _model_price(value: Any, where: str) -> ModelPrice:
    entry = _dated(value, ("input", "output"), where)
    return ModelPrice(
        float(entry["input"]), float(entry["output"]), entry["as_of"], entry["source"]
    )
