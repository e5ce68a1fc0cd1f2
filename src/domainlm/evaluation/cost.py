"""Prices and what answers, training and indexing cost; every price carries its date and source.

Amounts are dollars; a price in another currency is converted once, at the dated rate of the book.
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
_ITEMS = ("cpu_core_hour", "storage_gb_month", "label", "engineering_hour", "human_hour")
_SECTIONS = ("currencies", "items", "gpu_hours", "models")


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
    """`items` holds cpu_core_hour, storage_gb_month, label, engineering_hour and human_hour (who
    answers or reviews by hand); `gpu_hours` and `models` are open lists, `currencies` are dollars
    for one unit.
    """

    items: Mapping[str, Price]
    gpu_hours: Mapping[str, Price]
    models: Mapping[str, ModelPrice]
    currencies: Mapping[str, Price]

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
    """The price book that comes with the package, with the entries of a file laid over it.

    Raises:
        ConfigError: The file is missing, is no YAML, or an entry is unknown or invalid.
    """
    bundled = resources.files(__package__).joinpath("prices.yaml").read_text(encoding="utf-8")
    book = parse_prices(yaml.safe_load(bundled), "the bundled price book")
    if path is None:
        return book
    try:
        own = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} cannot be read as YAML ({reason}); check the file") from error
    return parse_prices(own, str(path), book)


def parse_prices(book: Any, name: str = "price book", base: PriceBook | None = None) -> PriceBook:
    """Check the YAML value of a price book.

    Args:
        book: A mapping of `currency`, `currencies`, `items`, `gpu_hours` and `models`.
        name: How errors call it.
        base: Prices of what the book does not list; without it every item must be listed.

    Raises:
        ConfigError: As for `load_prices`.
    """
    top = _mapping(book, name)
    _keys(top, ("currency", *_SECTIONS), name)
    sections = {s: _mapping(top.get(s) or {}, f"{name}: {s}") for s in _SECTIONS}
    base = base or PriceBook({}, {}, {}, {})
    rates = {k: _rate(v, f"{name}: currencies.{k}") for k, v in sections["currencies"].items()}
    rates = {**base.currencies, **rates}
    default = _currency(top.get("currency", "USD"), rates, name)
    _keys(sections["items"], _ITEMS, f"{name}: items")
    items, gpu_hours = (
        {k: _price(v, f"{name}: {s}.{k}", default, rates) for k, v in sections[s].items()}
        for s in ("items", "gpu_hours")
    )
    items = {**base.items, **items}
    missing = [i for i in _ITEMS if i not in items]
    if missing:
        raise ConfigError(f"{name}: items lack {', '.join(missing)}; give each a price (0 is fine)")
    models = {
        k: _model_price(v, f"{name}: models.{k}", default, rates)
        for k, v in sections["models"].items()
    }
    return PriceBook(items, {**base.gpu_hours, **gpu_hours}, {**base.models, **models}, rates)


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
                f"hardware {machine.gpu!r} has no price; add it under gpu_hours or use one of "
                f"{', '.join(['cpu_core_hour', *sorted(prices.gpu_hours)])}"
            )
        hourly = machine.gpus * prices.gpu_hours[machine.gpu].usd
    else:
        hourly = machine.cores * prices.usd("cpu_core_hour")
    return seconds / 3600 * hourly / machine.utilisation


def token_cost(tokens_in: int, tokens_out: int, price: ModelPrice) -> float:
    """Dollars for the tokens of a hosted model."""
    return (tokens_in * price.input + tokens_out * price.output) / 1e6


def usage(answer: Answer, hosted: bool) -> tuple[float, int, int]:
    """Own machine seconds, and tokens read and written by a hosted model, of one answer.

    Self-hosted: its wall seconds. Hosted: the tokens of every generation it caused, rewriting and
    compression included, beside the local seconds of embedding and reranking.
    """
    if not hosted:
        return answer.latency_s, 0, 0
    generated = [c for c in answer.calls if c.kind == "generate"]
    local_s = sum(c.latency_s for c in answer.calls if c.kind != "generate")
    tokens_in = sum(c.tokens_in for c in generated) if generated else answer.tokens_in
    tokens_out = sum(c.tokens_out for c in generated) if generated else answer.tokens_out
    return local_s, tokens_in, tokens_out


def answer_cost(
    answer: Answer, prices: PriceBook, machine: Machine, model_price: ModelPrice | None = None
) -> float:
    """Marginal dollars of one answer: its machine seconds, and its tokens if those are billed."""
    seconds, tokens_in, tokens_out = usage(answer, model_price is not None)
    spent = machine_cost(seconds, prices, machine)
    return spent + token_cost(tokens_in, tokens_out, model_price) if model_price else spent


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} is {value!r}; it must be a mapping of names to entries")
    return value


def _keys(value: Mapping[str, Any], allowed: tuple[str, ...], where: str) -> None:
    unknown = sorted(str(k) for k in value if k not in allowed)
    if unknown:
        raise ConfigError(f"{where}: unknown {', '.join(unknown)}; known are {', '.join(allowed)}")


def _currency(value: Any, rates: Mapping[str, Price], where: str) -> str:
    if not isinstance(value, str) or (value != "USD" and value not in rates):
        raise ConfigError(
            f"{where}: currency is {value!r}; known are {', '.join(['USD', *sorted(rates)])}, and "
            "others are added under currencies as dollars for one unit, with date and source"
        )
    return value


def _dated(
    value: Any, amounts: tuple[str, ...], where: str, optional: tuple[str, ...] = ()
) -> dict[str, Any]:
    entry = _mapping(value, where)
    wanted = (*amounts, "as_of", "source")
    _keys(entry, (*wanted, *optional), where)
    missing = [k for k in wanted if k not in entry]
    if missing:
        raise ConfigError(f"{where} lacks {', '.join(missing)}; a price needs {', '.join(wanted)}")
    for key in amounts:
        amount = entry[key]
        number = isinstance(amount, int | float) and not isinstance(amount, bool)
        if not number or not 0 <= amount < float("inf"):
            raise ConfigError(f"{where}.{key} is {amount!r}; it must be a number >= 0")
    if not isinstance(entry["as_of"], dt.date) or isinstance(entry["as_of"], dt.datetime):
        raise ConfigError(
            f"{where}.as_of is {entry['as_of']!r}; write a date such as 2025-06-01, unquoted"
        )
    if not isinstance(entry["source"], str) or not entry["source"].strip():
        raise ConfigError(f"{where}.source is {entry['source']!r}; name the source in words")
    return entry


def _rate(value: Any, where: str) -> Price:
    entry = _dated(value, ("usd",), where)
    if not entry["usd"]:
        raise ConfigError(f"{where}.usd is 0; give the dollars that one unit is worth")
    return Price(float(entry["usd"]), entry["as_of"], entry["source"])


def _in_dollars(
    entry: dict[str, Any], currency: str, rates: Mapping[str, Price], where: str
) -> tuple[float, dt.date, str]:
    """Dollars for one unit of the entry's currency, the older of both dates, and both sources."""
    currency = _currency(entry.get("currency", currency), rates, where)
    as_of, source = entry["as_of"], entry["source"]
    if currency == "USD":
        return 1.0, as_of, source
    rate = rates[currency]
    return rate.usd, min(as_of, rate.as_of), f"{source}; {currency}: {rate.source}"


def _price(value: Any, where: str, currency: str, rates: Mapping[str, Price]) -> Price:
    entry = _mapping(value, where)
    if "usd" in entry or (currency == "USD" and not {"amount", "currency"} & entry.keys()):
        entry = _dated(entry, ("usd",), where)
        return Price(float(entry["usd"]), entry["as_of"], entry["source"])
    entry = _dated(entry, ("amount",), where, ("currency",))
    factor, as_of, source = _in_dollars(entry, currency, rates, where)
    return Price(float(entry["amount"]) * factor, as_of, source)


def _model_price(value: Any, where: str, currency: str, rates: Mapping[str, Price]) -> ModelPrice:
    entry = _dated(value, ("input", "output"), where, ("currency",))
    factor, as_of, source = _in_dollars(entry, currency, rates, where)
    return ModelPrice(entry["input"] * factor, entry["output"] * factor, as_of, source)
