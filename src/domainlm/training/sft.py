"""Supervised fine-tuning through TRL and PEFT, completion-only and resumable.

Rows are tokenised exactly as `LocalModel` prompts at answer time; what the trainers share is in
`training/loop.py`, the methods in `training/weights.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from domainlm.config.training import TrainingConfig
from domainlm.errors import DataError
from domainlm.models.decoding import render_prompt
from domainlm.models.local import LocalModel
from domainlm.schema import Adapter, Document, TrainingRow
from domainlm.training import checks, loop, weights
from domainlm.training.loop import Job, Progress, Row, encode, micro_batch, schedule


@dataclass(frozen=True)
class Tokenised:
    """Rows as token ids, and how many did not fit."""

    rows: list[Row]
    too_long: int
    tokens: int


def tokenise(
    rows: Sequence[TrainingRow], tokenizer: Any, max_tokens: int, max_completion: int
) -> Tokenised:
    """Token ids and labels of each row: -100 on the prompt, the completion and EOS labelled.

    A row whose prompt leaves no room is refused and counted, never silently truncated.

    Raises:
        DataError: no row fits.
    """
    made: list[Row] = []
    too_long = 0
    for row in rows:
        prompt, target = encode(tokenizer, row.prompt, row.completion, max_completion)
        if len(prompt) + len(target) > max_tokens:
            too_long += 1
            continue
        made.append({"input_ids": prompt + target, "labels": [-100] * len(prompt) + target})
    if not made:
        raise DataError(
            f"all {len(rows)} training rows are longer than training.max_tokens={max_tokens}; "
            "raise it or use smaller or fewer passages"
        )
    checks.counted(len(rows), len(made), too_long)
    checks.ends_labelled(made, tokenizer.eos_token_id)
    return Tokenised(made, too_long, sum(len(r["input_ids"]) for r in made))


def document_blocks(
    documents: Iterable[Document], tokenizer: Any, block: int, most: int
) -> list[Row]:
    """Documents as packed blocks of `block` tokens, an end token after each document; every token
    but a block's first is predicted. The last block may be shorter.

    Args:
        documents: in the order in which they are read. Those of dev and test may be among them:
            every arm may read all documents, since questions and answers, not texts, are held out.
        tokenizer: of the base.
        block: tokens of a block.
        most: tokens in all.
    """
    stream: list[int] = []
    for document in documents:
        text = document.text.strip()
        if text and len(stream) < most:
            stream += tokenizer(text, add_special_tokens=False)["input_ids"]
            stream.append(tokenizer.eos_token_id)
    stream = stream[:most]
    return [
        {"input_ids": ids, "labels": [-100, *ids[1:]]}
        for start in range(0, len(stream), block)
        if len(ids := stream[start : start + block]) > 1
    ]


def train_sft(
    name: str,
    rows: Sequence[TrainingRow],
    base: Path | str,
    folder: Path,
    config: TrainingConfig,
    *,
    epochs: float,
    seed: int = 0,
    start: Path | None = None,
    progress: Progress | None = None,
) -> Adapter:
    """Train on `rows` by the configured method and save under `folder`; resumes a killed run
    exactly.

    Args:
        name: of the adapter, e.g. "raft".
        rows: supervised examples; loss on their completions alone.
        base: folder (or hub id) of the base checkpoint.
        folder: where checkpoints and the adapter go.
        config: method, rank, rates, batch sizes, limits.
        epochs: passes over the rows; may be fractional.
        seed: order of rows and initial weights.
        start: weights of the same method to go on from.
        progress: called with (step, steps, last loss).

    Raises:
        DataError: there are no rows, or none fits.
        ModelError: the base cannot be loaded, or a check of `training/checks.py` failed.
        MissingExtraError: the method needs a package that is not installed.
    """
    if not rows:
        raise DataError(
            f"no training rows for {name!r}; add train questions or raise "
            "training.synthesis.passages"
        )
    job = Job(name, base, folder, config, config.rate, seed, progress)
    tokenizer, model = _load(job, start)
    data = tokenise(rows, tokenizer, config.max_tokens, config.max_completion_tokens)
    order = schedule(data.rows, epochs, config.batch_size, seed)
    return _train(job, tokenizer, model, order, rows=len(data.rows))


def train_documents(
    name: str,
    documents: Sequence[Document],
    base: Path | str,
    folder: Path,
    config: TrainingConfig,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Adapter:
    """Continued pre-training on `config.cpt_tokens` of the documents' text; SFT then starts there.

    Documents of dev and test questions may be read: their questions and answers are not.

    Raises:
        DataError: the documents hold no text.
        ModelError: the base cannot be loaded, or a check failed.
        MissingExtraError: the method needs a package that is not installed.
    """
    rate = config.cpt_learning_rate or config.rate
    job = Job(name, base, folder, config, rate, seed, progress)
    tokenizer, model = _load(job, None)
    block = min(config.micro_batch_tokens, config.max_tokens)
    blocks = document_blocks(documents, tokenizer, block, config.cpt_tokens)
    if not blocks:
        raise DataError(
            f"{len(documents)} documents hold no text to read within training.cpt_tokens="
            f"{config.cpt_tokens}; check the documents or set it to 0"
        )
    order = schedule(blocks, 1, config.batch_size, seed)
    return _train(job, tokenizer, model, order, rows=len(blocks))


def row_loss(base: Path | str, adapter: Path | None, rows: Sequence[TrainingRow]) -> float:
    """Mean over rows of the served model's negative log-likelihood per completion token (nats).

    Raises:
        ModelError: the model cannot be loaded.
    """
    loop.quiet()
    served = LocalModel(base, adapter)
    pairs = [(render_prompt(served.tokenizer, r.prompt), r.completion.strip()) for r in rows]
    losses = served.surprise(pairs)
    return sum(losses) / len(losses)


class CompletionTrainer(loop.Ordered, SFTTrainer):  # type: ignore[misc]
    """SFTTrainer that keeps our row order and computes logits only at labelled positions."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Cross-entropy over the labels of all micro-batches of a step."""
        logits, target, outputs = loop.labelled_logits(model, inputs["input_ids"], inputs["labels"])
        known = target != -100
        loss = torch.nn.functional.cross_entropy(
            logits[known].float(), target[known], reduction="sum"
        )
        count = num_items_in_batch if num_items_in_batch is not None else known.sum()
        loss = loss / torch.as_tensor(count, device=loss.device).clamp(min=1)
        return (loss, outputs) if return_outputs else loss


def _load(job: Job, start: Path | None) -> tuple[Any, Any]:
    loop.quiet()
    torch.manual_seed(job.seed)
    return weights.load(job.base, job.config, start)


def _train(job: Job, tokenizer: Any, model: Any, order: list[Row], *, rows: int) -> Adapter:
    config = job.config
    lengths = [len(r["input_ids"]) for r in order]
    micro = micro_batch(lengths, config.batch_size, config.micro_batch_tokens)
    steps = len(order) // config.batch_size
    padding = tokenizer.pad_token_id or 0
    trainer = CompletionTrainer(
        model=model,
        args=SFTConfig(
            **loop.arguments(job, steps=steps, micro=micro, batch=config.batch_size),
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=Dataset.from_list(order),
        processing_class=tokenizer,
        data_collator=lambda batch: {
            "input_ids": loop.pad([r["input_ids"] for r in batch], padding),
            "labels": loop.pad([r["labels"] for r in batch], -100),
        },
    )
    first = order[0]
    probe = first["input_ids"][: max(1, first["labels"].count(-100))]
    seconds, warnings = loop.fit(trainer, job, probe, len(order))
    return loop.adapter_of(
        job, trainer, rows=rows, tokens=sum(lengths), seconds=seconds, warnings=warnings
    )
