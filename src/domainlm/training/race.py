"""Learning rates raced on dev: successive halving (Jamieson & Talwalkar, 1502.07943).

Every rate trains on a short slice of the rows; the better half by dev loss trains on twice as
many, until one is left. Each entry starts afresh, so that its schedule ends with its slice, and is
kept in a log: a killed race goes on, and its cost is on record.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from domainlm.artifacts import Log, digest
from domainlm.config.training import TrainingConfig
from domainlm.errors import ConfigError, DataError, ModelError
from domainlm.schema import Adapter, TrainingRow


@dataclass(frozen=True, slots=True)
class Heat:
    """One rate on one slice: dev loss in nats a token (None if it diverged) and what it took."""

    key: str
    rate: float
    rows: int
    dev_loss: float | None
    seconds: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Race:
    """The winning rate, the settings with it, and every heat."""

    rate: float
    config: TrainingConfig
    heats: tuple[Heat, ...]

    @property
    def seconds(self) -> float:
        """What the race took in all."""
        return sum(heat.seconds for heat in self.heats)


Train = Callable[[Sequence[TrainingRow], Path, TrainingConfig], Adapter]
Loss = Callable[[Path, Sequence[TrainingRow]], float]


def race(
    rows: Sequence[TrainingRow],
    dev: Sequence[TrainingRow],
    folder: Path,
    config: TrainingConfig,
    *,
    train: Train,
    loss: Loss,
    progress: Callable[[int, int, str], None] | None = None,
) -> Race:
    """Race `config.learning_rates` and return the winner's settings.

    Args:
        rows: training rows; a slice is their beginning.
        dev: held-out rows that decide.
        folder: the log of heats and, for a while, their weights.
        config: rates, `race_rows` of the first slice, and all else.
        train: one training, e.g. `train_sft` with its base.
        loss: loss of trained weights on rows, e.g. `row_loss` with its base.
        progress: called with (heats done, heats in all, what was found).

    Raises:
        ConfigError: fewer than two different rates.
        DataError: there are no rows to train on or to decide by.
    """
    field = sorted(set(config.learning_rates))
    if len(field) < 2:
        raise ConfigError(
            f"learning_rates has {len(field)} rate(s); a race needs two or more, e.g. "
            "[0.0002, 0.0005, 0.001]"
        )
    if not rows or not dev:
        raise DataError(
            f"a race of learning rates needs rows to train on and dev rows to decide by, and has "
            f"{len(rows)} and {len(dev)}; give one learning_rate instead"
        )
    log = Log(folder / "heats.jsonl", Heat)
    known = {heat.key: heat for heat in log.read()}
    heats: list[Heat] = []
    plan = rounds(len(field), config.race_rows)
    planned = sum(rates for rates, _ in plan)
    for _, size in plan:
        slice_ = rows[:size]
        for rate in field:
            settings = config.model_copy(update={"learning_rate": rate, "learning_rates": ()})
            key = digest(slice_, dev, settings)
            heat = known.get(key)
            if heat is None:
                heat = _heat(key, rate, slice_, dev, folder / "heat", settings, train, loss)
                log.append([heat])
            heats.append(heat)
            if progress:
                found = "diverged" if heat.dev_loss is None else f"dev loss {heat.dev_loss:.3f}"
                progress(len(heats), planned, f"rate {rate:g} on {len(slice_)} rows: {found}")
        latest = {
            heat.rate: math.inf if heat.dev_loss is None else heat.dev_loss
            for heat in heats[-len(field) :]
        }
        # Of equal rates the smaller one stays.
        field = sorted(field, key=lambda rate: (latest[rate], rate))[: math.ceil(len(field) / 2)]
    winner = config.model_copy(update={"learning_rate": field[0], "learning_rates": ()})
    return Race(field[0], winner, tuple(heats))


def rounds(rates: int, rows: int) -> list[tuple[int, int]]:
    """Rates and rows of every round: half as many on twice as many, until one rate is left."""
    made = []
    while rates > 1:
        made.append((rates, rows))
        rates, rows = math.ceil(rates / 2), 2 * rows
    return made


def _heat(
    key: str,
    rate: float,
    rows: Sequence[TrainingRow],
    dev: Sequence[TrainingRow],
    folder: Path,
    config: TrainingConfig,
    train: Train,
    loss: Loss,
) -> Heat:
    place = folder / key
    try:
        made = train(rows, place, config)
    except ModelError as error:
        # A rate at which training diverges has lost; anything else is no matter of the rate.
        if "diverged" not in str(error):
            raise
        return Heat(key, rate, len(rows), None, 0.0, 0)
    found = loss(Path(made.path), dev)
    shutil.rmtree(place, ignore_errors=True)
    value = found if math.isfinite(found) else None
    return Heat(key, rate, len(rows), value, made.seconds, made.tokens)
