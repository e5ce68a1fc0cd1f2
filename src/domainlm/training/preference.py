"""Learning from preferences through TRL: DPO from pairs, KTO from single thumbs.

DPO (2305.18290) in its noise-robust form (2403.00409) with a supervised term on the chosen answer
(RPO, 2404.19733): DPO alone raises the margin while the likelihood of both answers falls. KTO
(2402.01306) needs no pairs. Every row has a weight: a judge's rows count less than a person's.

The reference is the model as training began, read once per row before the first step: the frozen
base for a fresh adapter (with the adapter disabled), else the weights that training goes on from.
No second copy of the model is ever in memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from domainlm.config.training import TrainingConfig
from domainlm.errors import ConfigError, DataError
from domainlm.schema import Adapter, Likelihoods, PreferencePair, ThumbRow
from domainlm.training import checks, loop, weights
from domainlm.training.loop import Job, Progress, Row, encode, pad, schedule


def train_dpo(
    name: str,
    pairs: Sequence[PreferencePair],
    base: Path | str,
    folder: Path,
    config: TrainingConfig,
    *,
    start: Path | None = None,
    label_smoothing: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Adapter:
    """Train on pairs of answers and save under `folder`; resumes a killed run exactly.

    Args:
        name: of the adapter.
        pairs: chosen and rejected answers with their weights.
        base: folder (or hub id) of the base checkpoint.
        folder: where checkpoints and the adapter go.
        config: method, limits and `preference`.
        start: weights of the same method to go on from, usually the supervised ones.
        label_smoothing: share of pairs that are the wrong way round, e.g. the judge's measured
            error; the loss stays unbiased under it.
        seed: order of pairs and initial weights.
        progress: called with (step, steps, last loss).

    Returns:
        The adapter with `likelihoods`, and a warning where chosen answers became less likely.

    Raises:
        ConfigError: `label_smoothing` is not in [0, 0.5).
        DataError: there are no pairs, or none fits.
        ModelError: the base cannot be loaded, or a check of `training/checks.py` failed.
    """
    if not 0 <= label_smoothing < 0.5:
        raise ConfigError(
            f"label_smoothing is {label_smoothing}; it must be at least 0 and below 0.5, where "
            "pairs say nothing"
        )
    checks.installed(trl, "DPOTrainer", "DPOConfig")
    job, tokenizer, model = _open(name, base, folder, config, start, seed, progress)
    rows: list[Row] = []
    for pair in pairs:
        if pair.chosen.strip() == pair.rejected.strip():
            raise DataError(
                f"the pair for question {pair.question_id!r} has the same answer twice; leave it "
                "out, it prefers nothing"
            )
        prompt, chosen = encode(tokenizer, pair.prompt, pair.chosen, config.max_completion_tokens)
        _, rejected = encode(tokenizer, pair.prompt, pair.rejected, config.max_completion_tokens)
        row = {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
        rows.append({**row, "weight": pair.weight})
    rows = _fitting(rows, config, name, "pairs")
    for key in ("chosen_ids", "rejected_ids"):
        checks.ends_labelled(rows, tokenizer.eos_token_id, key)
    with _reference(model, start):
        chosen_before = _add_logps(model, rows, "chosen_ids", "ref_chosen_logps", config)
        rejected_before = _add_logps(model, rows, "rejected_ids", "ref_rejected_logps", config)
    order = schedule(rows, config.preference.epochs, config.batch_size, seed, _length)
    batch = min(config.batch_size, len(order))
    # A pair is two sequences.
    micro = loop.micro_batch([2 * _length(r) for r in order], batch, config.micro_batch_tokens)
    trainer = _Pairs(
        config.preference.sft_weight,
        model=model,
        args=DPOConfig(
            **loop.arguments(job, steps=len(order) // batch, micro=micro, batch=batch),
            beta=config.preference.beta,
            label_smoothing=label_smoothing,
            loss_type=["robust", "sft"],
            loss_weights=[1.0, config.preference.sft_weight],
            precompute_ref_log_probs=False,
            max_length=None,
        ),
        train_dataset=Dataset.from_list(order),
        processing_class=tokenizer,
        data_collator=lambda batch: _collate_pairs(batch, tokenizer.pad_token_id or 0),
    )
    return _finish(trainer, job, rows, order, (chosen_before, rejected_before), len(pairs))


def train_kto(
    name: str,
    thumbs: Sequence[ThumbRow],
    base: Path | str,
    folder: Path,
    config: TrainingConfig,
    *,
    start: Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Adapter:
    """Train on single answers that are wanted or not; otherwise as `train_dpo`.

    The rarer kind of thumb is weighted up until both kinds count the same.

    Raises:
        DataError: there are no thumbs, none fits, or all are of one kind.
        ModelError: the base cannot be loaded, or a check of `training/checks.py` failed.
    """
    checks.installed(trl, "KTOTrainer", "KTOConfig")
    job, tokenizer, model = _open(name, base, folder, config, start, seed, progress)
    rows: list[Row] = []
    for thumb in thumbs:
        limit = config.max_completion_tokens
        prompt, completion = encode(tokenizer, thumb.prompt, thumb.completion, limit)
        row = {"prompt_ids": prompt, "completion_ids": completion, "label": thumb.good}
        rows.append({**row, "weight": thumb.weight})
    rows = _fitting(rows, config, name, "thumbs")
    checks.kto_labels([bool(r["label"]) for r in rows])
    rows = _balanced(rows)
    checks.ends_labelled(rows, tokenizer.eos_token_id, "completion_ids")
    up, down = ([r for r in rows if r["label"] is wanted] for wanted in (True, False))
    # Even, so that two rows make a forward pass where more do not fit: KTO's KL estimate pairs each
    # prompt with its neighbour's completion.
    batch = config.batch_size + config.batch_size % 2
    order = schedule(rows, config.preference.epochs, batch, seed, _length)
    lengths = [_length(r) for r in order]
    micro = max(2, loop.micro_batch(lengths, batch, config.micro_batch_tokens))
    order = _with_neighbours(order, micro)
    with _reference(model, start):
        before = tuple(_add_logps(model, r, "completion_ids", "ref", config) for r in (up, down))
        _add_logps(model, order, "completion_ids", "ref_logps", config)
        _add_logps(model, order, "KL_completion_ids", "ref_KL_logps", config)
    checks.kto_batches(len(order), micro)
    trainer = _Thumbs(
        model=model,
        args=KTOConfig(
            **loop.arguments(job, steps=len(order) // batch, micro=micro, batch=batch),
            beta=config.preference.beta,
            precompute_ref_log_probs=False,
            max_length=None,
        ),
        train_dataset=Dataset.from_list(order),
        processing_class=tokenizer,
        data_collator=lambda batch: _collate_thumbs(batch, tokenizer.pad_token_id or 0),
    )
    return _finish(trainer, job, rows, order, before, len(thumbs))


def dpo_losses(
    chosen: torch.Tensor, rejected: torch.Tensor, beta: float, label_smoothing: float
) -> torch.Tensor:
    """Robust DPO loss of each pair `(b,)` from log-ratios to the reference (2403.00409)."""
    margin = beta * (chosen - rejected)
    log_sigmoid = torch.nn.functional.logsigmoid
    kept = (1 - label_smoothing) * log_sigmoid(margin) - label_smoothing * log_sigmoid(-margin)
    return -kept / (1 - 2 * label_smoothing)


def kto_losses(
    ratios: torch.Tensor, wanted: torch.Tensor, kl: torch.Tensor, beta: float
) -> torch.Tensor:
    """KTO loss of each answer `(b,)` from its log-ratio to the reference (2402.01306, eq. 7)."""
    sign = torch.where(wanted, 1.0, -1.0)
    return 1 - torch.sigmoid(beta * sign * (ratios - kl))


class _OwnReference(loop.Ordered):
    """TRL's trainers over rows that are tokenised and scored by the reference already."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        model = self.model  # type: ignore[attr-defined]
        # TRL copies an adapter as its reference; ours is in the rows.
        if "ref" in getattr(model, "peft_config", {}):
            model.delete_adapter("ref")

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset


class _Pairs(_OwnReference, DPOTrainer):  # type: ignore[misc]
    def __init__(self, sft_weight: float, **settings: Any) -> None:
        super().__init__(**settings)
        self._sft_weight = sft_weight

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        assert not return_outputs
        logps, tokens = loop.completion_logps(model, inputs["input_ids"], inputs["labels"])
        chosen, rejected = logps.chunk(2)
        losses = dpo_losses(
            chosen - inputs["ref_chosen_logps"],
            rejected - inputs["ref_rejected_logps"],
            self.beta,
            self.label_smoothing,
        )
        weight = inputs["weight"]
        supervised = -(weight * chosen).sum() / tokens.chunk(2)[0].sum()
        return (weight * losses).mean() + self._sft_weight * supervised


class _Thumbs(_OwnReference, KTOTrainer):  # type: ignore[misc]
    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        assert not return_outputs
        with torch.no_grad():
            neighbours, _ = loop.completion_logps(
                model, inputs["KL_input_ids"], inputs["KL_labels"]
            )
        kl = (neighbours - inputs["ref_KL_logps"]).mean().clamp(min=0)
        logps, _ = loop.completion_logps(model, inputs["input_ids"], inputs["labels"])
        losses = kto_losses(logps - inputs["ref_logps"], inputs["label"], kl, self.beta)
        return (inputs["weight"] * losses).mean()


def _open(
    name: str,
    base: Path | str,
    folder: Path,
    config: TrainingConfig,
    start: Path | None,
    seed: int,
    progress: Progress | None,
) -> tuple[Job, Any, Any]:
    loop.quiet()
    torch.manual_seed(seed)
    tokenizer, model = weights.load(base, config, start)
    job = Job(name, base, folder, config, config.preference.learning_rate, seed, progress)
    return job, tokenizer, model


def _length(row: Row) -> int:
    longest = max(len(v) for k, v in row.items() if k.endswith("_ids") and k != "prompt_ids")
    return len(row["prompt_ids"]) + longest


def _fitting(rows: list[Row], config: TrainingConfig, name: str, what: str) -> list[Row]:
    """Rows within `max_tokens`; longer ones are left out whole.

    Raises:
        DataError: none is left, or a weight is not positive.
    """
    for row in rows:
        if not row["weight"] > 0:
            raise DataError(
                f"a row of {name!r} has the weight {row['weight']}; weights must be above 0, so "
                "leave such rows out"
            )
    kept = [r for r in rows if _length(r) <= config.max_tokens]
    if not kept:
        raise DataError(
            f"no {what} for {name!r} fit: {len(rows)} were given and training.max_tokens is "
            f"{config.max_tokens}; collect more or raise it"
        )
    return kept


def _balanced(rows: list[Row]) -> list[Row]:
    """Weights scaled so that wanted and unwanted answers count the same in sum."""
    totals = {kind: sum(r["weight"] for r in rows if r["label"] is kind) for kind in (True, False)}
    most = max(totals.values())
    return [{**r, "weight": r["weight"] * most / totals[r["label"]]} for r in rows]


def _with_neighbours(order: list[Row], micro: int) -> list[Row]:
    """Each row with the completion of its left neighbour in the micro-batch.

    A last batch of one is filled with the first row at no weight.
    """
    rows = [*order, {**order[0], "weight": 0.0}] if len(order) % micro == 1 else list(order)
    made = []
    for start in range(0, len(rows), micro):
        group = rows[start : start + micro]
        made += [
            {**row, "KL_completion_ids": group[n - 1]["completion_ids"]}
            for n, row in enumerate(group)
        ]
    return made


def _reference(model: Any, start: Path | None) -> Any:
    """The model as training begins."""
    return contextlib.nullcontext() if start is not None else loop.without_adapter(model)


def _add_logps(
    model: Any, rows: Sequence[Row], completion: str, key: str, config: TrainingConfig
) -> float:
    """Put each row's log-probability under `key`; returns the mean per token, each row the same."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    lengths = [_length(r) for r in rows]
    size = loop.micro_batch(lengths, 16, config.micro_batch_tokens)
    mean = 0.0
    ordered = sorted(range(len(rows)), key=lambda n: lengths[n])
    for at in range(0, len(ordered), size):
        group = [rows[n] for n in ordered[at : at + size]]
        both = _sequences([(r["prompt_ids"], r[completion]) for r in group], 0)
        with torch.no_grad():
            logps, tokens = loop.completion_logps(
                model, both["input_ids"].to(device), both["labels"].to(device)
            )
        for row, logp, count in zip(group, logps.tolist(), tokens.tolist(), strict=True):
            row[key] = logp
            mean += logp / count / len(rows)
    model.train(was_training)
    return mean


def _labels(prompt: Sequence[int], completion: Sequence[int]) -> list[int]:
    return [-100] * len(prompt) + list(completion)


def _collate_pairs(rows: Sequence[Row], padding: int) -> dict[str, torch.Tensor]:
    """Chosen sequences in the first half, rejected ones in the second."""
    both = [(r["prompt_ids"], r[key]) for key in ("chosen_ids", "rejected_ids") for r in rows]
    return _sequences(both, padding) | {
        key: torch.tensor([r[key] for r in rows])
        for key in ("weight", "ref_chosen_logps", "ref_rejected_logps")
    }


def _collate_thumbs(rows: Sequence[Row], padding: int) -> dict[str, torch.Tensor]:
    own = _sequences([(r["prompt_ids"], r["completion_ids"]) for r in rows], padding)
    others = _sequences([(r["prompt_ids"], r["KL_completion_ids"]) for r in rows], padding)
    scalars = ("weight", "label", "ref_logps", "ref_KL_logps")
    return (
        own
        | {f"KL_{key}": value for key, value in others.items()}
        | {key: torch.tensor([r[key] for r in rows]) for key in scalars}
    )


def _sequences(
    rows: Sequence[tuple[list[int], list[int]]], padding: int
) -> dict[str, torch.Tensor]:
    return {
        "input_ids": pad([p + c for p, c in rows], padding),
        "labels": pad([_labels(p, c) for p, c in rows], -100),
    }


def _finish(
    trainer: Any,
    job: Job,
    rows: list[Row],
    order: list[Row],
    before: tuple[float, ...],
    given: int,
) -> Adapter:
    if "chosen_ids" in rows[0]:
        groups = [(rows, "chosen_ids"), (rows, "rejected_ids")]
    else:
        groups = [
            ([r for r in rows if r["label"] is wanted], "completion_ids")
            for wanted in (True, False)
        ]
    after: list[float] = []

    def measure(model: Any) -> None:
        after.extend(_add_logps(model, group, key, "after", job.config) for group, key in groups)

    seconds, warnings = loop.fit(trainer, job, order[0]["prompt_ids"], len(order), measure)
    if after[0] < before[0]:
        warnings += (
            f"Adapter {job.name!r}: chosen answers became less likely ({before[0]:.3f} to "
            f"{after[0]:.3f} nats a token); raise training.preference.sft_weight or beta, or lower "
            "its learning_rate.",
        )
    if given > len(rows):
        warnings += (
            f"Adapter {job.name!r}: {given - len(rows)} of {given} rows are longer than "
            f"training.max_tokens={job.config.max_tokens} and were left out.",
        )
    made = loop.adapter_of(
        job,
        trainer,
        rows=len(rows),
        tokens=sum(_length(r) for r in order),
        seconds=seconds,
        warnings=warnings,
    )
    return replace(made, likelihoods=Likelihoods(before[0], after[0], before[1], after[1]))
