"""One adapter as the settings ask: documents read, a rate chosen, rows, preferences and rewards
trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from domainlm.artifacts import digest, dump_json, load_json, write_atomic
from domainlm.config.training import TrainingConfig
from domainlm.schema import Adapter, Document, Lessons, RewardRow, TrainingRow
from domainlm.training import weights
from domainlm.training.grpo import train_grpo
from domainlm.training.preference import train_dpo, train_kto
from domainlm.training.race import race
from domainlm.training.sft import row_loss, train_documents, train_sft


class Report(Protocol):
    """What a training tells: steps done, of how many, in words, and the loss of a step."""

    def __call__(self, done: int, total: int, note: str = "", loss: float | None = None) -> None:
        """After each step."""


_RECORD = "adapter.json"


def train_adapter(
    name: str,
    lessons: Lessons,
    base: Path | str,
    folder: Path,
    config: TrainingConfig,
    *,
    epochs: float,
    dev: Sequence[TrainingRow] = (),
    documents: Sequence[Document] = (),
    rewarded: Sequence[RewardRow] = (),
    seed: int = 0,
    progress: Report,
) -> Adapter:
    """Continued pre-training where `cpt_tokens` asks for it, a race where there are several
    `learning_rates`, then supervised fine-tuning, then DPO where there are pairs, KTO where there
    are thumbs and GRPO where answers can be verified, each from the weights of the step before.
    Whatever was finished before is not repeated.

    Args:
        name: of the adapter.
        lessons: supervised examples, pairs and thumbs.
        base: folder (or hub id) of the base checkpoint.
        folder: where checkpoints and the adapter go; other runs' adapters are its siblings.
        config: all settings of training.
        epochs: passes over the rows.
        dev: held-out rows by which learning rates are compared.
        documents: text for continued pre-training.
        rewarded: questions whose answers can be verified.
        seed: order of rows and initial weights.
        progress: called with (steps done, steps in all, what was found, loss of the step if any).

    Returns:
        The adapter of the last step; its rows, seconds and tokens are those of all steps.

    Raises:
        DataError: rows, dev rows or documents are missing where they are needed, or none of the
            pairs or thumbs fits.
        ConfigError: the rates cannot race.
        ModelError: the base cannot be loaded, or a check of `training/checks.py` failed.
        MissingExtraError: the method needs a package that is not installed.
    """

    def step(done: int, steps: int, loss: float) -> None:
        progress(done, steps, f"loss {loss:.3f}", loss)

    rows = lessons.rows
    seconds, tokens, start = 0.0, 0, None
    if config.cpt_tokens:
        read = _read(documents, base, folder.parent, config, seed, step)
        seconds, tokens, start = read.seconds, read.tokens, Path(read.path)
    if config.learning_rates:
        raced = race(
            rows,
            dev,
            folder / "race",
            config,
            train=lambda slice_, place, settings: train_sft(
                name, slice_, base, place, settings, epochs=1, seed=seed, start=start
            ),
            loss=lambda adapter, held_out: row_loss(base, adapter, held_out),
            progress=progress,
        )
        config = raced.config
        seconds += raced.seconds
        tokens += sum(heat.tokens for heat in raced.heats)
    steps = [
        _once(
            folder,
            digest(rows, config, epochs, seed),
            lambda: train_sft(
                name, rows, base, folder, config,
                epochs=epochs, start=start, seed=seed, progress=step,
            ),
        )
    ]  # fmt: skip
    if lessons.pairs:
        supervised, smoothing = steps[-1], lessons.smoothing
        steps.append(
            _once(
                folder / "dpo",
                digest(supervised.digest, lessons.pairs, smoothing, config, seed),
                lambda: train_dpo(
                    name, lessons.pairs, base, folder / "dpo", config,
                    start=Path(supervised.path), label_smoothing=smoothing, seed=seed,
                    progress=step,
                ),
            )
        )  # fmt: skip
    if lessons.thumbs:
        before = steps[-1]
        steps.append(
            _once(
                folder / "kto",
                digest(before.digest, lessons.thumbs, config, seed),
                lambda: train_kto(
                    name, lessons.thumbs, base, folder / "kto", config,
                    start=Path(before.path), seed=seed, progress=step,
                ),
            )
        )  # fmt: skip
    if rewarded:
        last = steps[-1]
        steps.append(
            _once(
                folder / "grpo",
                digest(last.digest, tuple(rewarded), config, seed),
                lambda: train_grpo(
                    name, rewarded, base, folder / "grpo", config,
                    start=Path(last.path), seed=seed, progress=step,
                ),
            )
        )  # fmt: skip
    return replace(
        steps[-1],
        rows=sum(s.rows for s in steps),
        tokens=tokens + sum(s.tokens for s in steps),
        seconds=seconds + sum(s.seconds for s in steps),
        warnings=tuple(w for s in steps for w in s.warnings),
    )


def _once(folder: Path, key: str, train: Callable[[], Adapter]) -> Adapter:
    """The weights that `train` leaves in `folder`, unless they lie there for `key` already."""
    record = folder / f"{key}-{_RECORD}"
    if record.exists():
        # The run folder may have been moved since.
        stored: Adapter = replace(load_json(Adapter, record), path=str(folder / "adapter"))
        if Path(stored.path).is_dir() and weights.digest(Path(stored.path)) == stored.digest:
            return stored
    made = train()
    write_atomic(record, dump_json(Adapter, made))
    return made


def _read(
    documents: Sequence[Document],
    base: Path | str,
    parent: Path,
    config: TrainingConfig,
    seed: int,
    step: Callable[[int, int, float], None],
) -> Adapter:
    """Weights that have read the documents; `tuned` and `raft` share them."""
    trained = ("method", "rank", "alpha", "prefix_tokens", "learning_rate", "cpt_learning_rate")
    reading = ("cpt_tokens", "batch_size", "micro_batch_tokens", "max_tokens")
    settings = config.model_dump(include={*trained, *reading})
    key = digest([(d.id, d.sha256) for d in documents], settings, Path(base).name, seed)
    folder = parent / f"read-{key}"
    return _once(
        folder,
        key,
        lambda: train_documents("read", documents, base, folder, config, seed=seed, progress=step),
    )
