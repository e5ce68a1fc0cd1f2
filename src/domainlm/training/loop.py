"""What every trainer here shares: arguments, row order, optimiser, checkpoints, checks, saving.

A run saves by the clock, goes on from its newest complete checkpoint bit for bit, and ends with the
checks of `training/checks.py`. Logits are computed only where there is a label: a 49k-word
vocabulary over a 600-token prompt costs more than the model itself.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import PeftModel
from torch.utils.data import Sampler, SequentialSampler
from transformers import (
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from domainlm.artifacts import write_atomic
from domainlm.config.training import TrainingConfig
from domainlm.models.decoding import render_prompt
from domainlm.schema import Adapter, Chat, TrainingPoint
from domainlm.training import checks, weights
from domainlm.training.optimizer import MasterAdamW

Progress = Callable[[int, int, float], None]
"""Called with (step, steps, last loss)."""
Row = dict[str, Any]
R = TypeVar("R", bound=Row)
_ADAPTER = "adapter"


@dataclass(frozen=True, slots=True)
class Job:
    """One training run: its name, place, settings, and what it starts from."""

    name: str
    base: Path | str
    folder: Path
    config: TrainingConfig
    rate: float
    seed: int = 0
    progress: Progress | None = None


def encode(
    tokenizer: Any, prompt: Chat, completion: str, max_completion: int
) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and of its completion, exactly as `LocalModel` prompts.

    A completion longer than `max_completion` is cut *before* its end token is added.
    """
    text = render_prompt(tokenizer, prompt)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    # Answers quote documents: a control token spelled out there is plain text.
    target = tokenizer(completion.strip(), add_special_tokens=False, split_special_tokens=True)[
        "input_ids"
    ]
    return ids, [*target[:max_completion], tokenizer.eos_token_id]


def schedule(
    rows: Sequence[R],
    epochs: float,
    batch: int,
    seed: int,
    length: Callable[[R], int] = lambda r: len(r["input_ids"]),
) -> list[R]:
    """The order of training: shuffled per epoch, neighbours alike in length, so padding is small.

    Batches are formed within blocks of eight batches and then shuffled, so that length does not
    follow time. A fractional epoch takes the first part of a shuffled pass.
    """
    rng = random.Random(seed)
    ordered: list[R] = []
    remaining = epochs
    while remaining > 1e-9:
        pass_rows = list(rows)
        rng.shuffle(pass_rows)
        if remaining < 1:
            pass_rows = pass_rows[: max(1, round(remaining * len(rows)))]
        for start in range(0, len(pass_rows), 8 * batch):
            block = sorted(pass_rows[start : start + 8 * batch], key=length)
            batches = [block[i : i + batch] for i in range(0, len(block), batch)]
            # A short batch stays last, or it would shift every later one.
            tail = [batches.pop()] if len(batches[-1]) < batch else []
            rng.shuffle(batches)
            ordered += [row for b in [*batches, *tail] for row in b]
        remaining -= 1
    return ordered


def micro_batch(lengths: Sequence[int], batch: int, tokens: int) -> int:
    """Rows per forward pass: the largest divisor of `batch` whose long rows stay near `tokens`.

    Activations take about 4 MB a token for a 135M model, so this bounds memory; on two CPU cores
    more than a thousand tokens at once are no faster.
    """
    ordered = sorted(lengths)
    long = ordered[int(0.9 * (len(ordered) - 1))]
    fitting = [m for m in range(1, batch + 1) if batch % m == 0 and m * long <= tokens]
    return max(fitting, default=1)


def arguments(job: Job, *, steps: int, micro: int, batch: int) -> dict[str, Any]:
    """Training arguments that all trainers share; nothing is left to a default that varies."""
    return {
        "output_dir": str(job.folder),
        "num_train_epochs": 1,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": max(1, batch // micro),
        "learning_rate": job.rate,
        "lr_scheduler_type": "linear",
        # No warm-up below ten steps: its first step would have a rate of zero.
        "warmup_steps": min(10, steps // 10),
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        # The model is bf16 already; autocast on top would only add casts.
        "bf16": False,
        "use_cpu": not torch.cuda.is_available(),
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "disable_tqdm": True,
        "save_strategy": "no",
        "save_total_limit": 2,
        "report_to": "none",
        "seed": job.seed,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "remove_unused_columns": False,
        "average_tokens_across_devices": False,
    }


class Masters:
    """Trainers with fp32 master weights, and without a word to anyone outside."""

    optimizer: Any

    def create_optimizer(self, model: Any = None) -> Any:
        """AdamW over what is trained."""
        # Made here and not before: the trainer has moved the weights to their device by now.
        if self.optimizer is None:
            trained = [p for p in self.model.parameters() if p.requires_grad]  # type: ignore[attr-defined]
            self.optimizer = MasterAdamW(trained, lr=self.args.learning_rate)  # type: ignore[attr-defined]
        return self.optimizer

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # PEFT loads adapters as fp32, and a resumed run would no longer be the same run.
        types = {n: p.dtype for n, p in self.model.named_parameters()}  # type: ignore[attr-defined]
        super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
        for name, parameter in self.model.named_parameters():  # type: ignore[attr-defined]
            parameter.data = parameter.data.to(types[name])

    def _send_telemetry(self) -> None:
        """TRL reports every trainer that is made; this project reports nothing."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: a checkpoint lives for minutes."""


class Ordered(Masters):
    """Trainers that also keep our row order."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return SequentialSampler(train_dataset or self.train_dataset)  # type: ignore[attr-defined]


def pad(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Right-padded, `(rows, longest)`."""
    width = max(map(len, rows))
    made = torch.full((len(rows), width), value, dtype=torch.long)
    for i, row in enumerate(rows):
        made[i, : len(row)] = torch.tensor(list(row), dtype=torch.long)
    return made


def labelled_logits(
    model: Any, ids: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Logits where any row has a label `(b, p, v)`, the labels there `(b, p)`, and the outputs.

    There is no attention mask: padding stands to the right, where a causal model never looks, and
    without a mask attention skips the upper triangle.
    """
    shifted = labels[:, 1:]
    keep = (shifted != -100).any(0).nonzero().squeeze(1)
    outputs = model(input_ids=ids, logits_to_keep=keep, use_cache=False)
    return outputs.logits, shifted[:, keep], outputs


def completion_logps(
    model: Any, ids: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed log-probability of each row's completion `(b,)`, and its tokens `(b,)`."""
    logits, target, _ = labelled_logits(model, ids, labels)
    known = target != -100
    # Cross-entropy never holds the log-probabilities of the whole vocabulary twice.
    nll = torch.nn.functional.cross_entropy(logits[known].float(), target[known], reduction="none")
    per_token = torch.zeros(target.shape, dtype=torch.float32, device=nll.device)
    per_token = per_token.masked_scatter(known, -nll)
    return per_token.sum(1), known.sum(1)


def fit(
    trainer: Any,
    job: Job,
    probe: Sequence[int],
    rows: int,
    measure: Callable[[Any], None] = lambda model: None,
) -> tuple[float, tuple[str, ...]]:
    """Train to the end from where a killed run stopped, check, and save under `job.folder`.

    Args:
        trainer: a Hugging Face trainer, not yet started.
        job: what is trained.
        probe: token ids of a prompt, to see whether the trained weights are active.
        rows: number of rows, for messages.
        measure: looks at the trained model, before the adapter is merged into it.

    Returns:
        Seconds of training, those of killed runs included, and warnings.

    Raises:
        ModelError: a check failed.
    """
    name, model = job.name, trainer.model
    checks.arguments(trainer.args, on_cpu=not torch.cuda.is_available())
    checks.trainable(model, name)
    before = checks.fingerprint(model)
    with without_adapter(model):
        plain = checks.last_logits(model, probe)
    checkpoint = checks.last_complete(job.folder)
    # What a killed run had trained already counts as training time.
    earlier = float((checkpoint / checks.DONE).read_text("utf-8")) if checkpoint else 0.0
    trainer.remove_callback(PrinterCallback)
    heartbeat = _Heartbeat(job.config.checkpoint_every_s, earlier, job.progress)
    trainer.add_callback(heartbeat)
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = earlier + time.perf_counter() - started
    checks.changed(model, before, name, job.rate, rows)
    trained = checks.last_logits(model, probe)
    checks.active(plain, trained, name)
    weights.save(model, job.folder / _ADAPTER)
    measure(model)
    warning = ""
    if mergeable(model):
        # In place: the weights are saved, and a second model might not fit beside this one.
        merged = model.merge_and_unload()
        warning = checks.served(plain, trained, checks.last_logits(merged, probe))
    for path in job.folder.glob("checkpoint-*"):
        shutil.rmtree(path, ignore_errors=True)
    return seconds, (f"Adapter {name!r}: {warning}.",) if warning else ()


def mergeable(model: Any) -> bool:
    """Whether serving merges the adapter into a base that training held unquantised."""
    return (
        isinstance(model, PeftModel)
        and not model.active_peft_config.is_prompt_learning
        and not getattr(model, "is_quantized", False)
    )


def without_adapter(model: Any) -> contextlib.AbstractContextManager[Any]:
    """The base alone for a while; a fully trained model has no base beside it."""
    return model.disable_adapter() if isinstance(model, PeftModel) else contextlib.nullcontext()


def adapter_of(
    job: Job,
    trainer: Any,
    *,
    rows: int,
    tokens: int,
    seconds: float,
    warnings: tuple[str, ...] = (),
) -> Adapter:
    """The record of a finished run."""
    target = job.folder / _ADAPTER
    return Adapter(
        name=job.name,
        path=str(target),
        digest=weights.digest(target),
        base_model=str(job.base) if not Path(job.base).exists() else Path(job.base).name,
        rows=rows,
        tokens=tokens,
        seconds=seconds,
        curve=_curve(trainer.state.log_history),
        method=job.config.method,
        warnings=warnings,
    )


def quiet() -> None:
    """No progress bars or advice from the libraries; the command line draws its own."""
    import datasets
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()


class _Heartbeat(TrainerCallback):  # type: ignore[misc]
    """Saves by the clock, marks complete checkpoints, and reports progress."""

    def __init__(self, every_s: float, earlier_s: float, progress: Progress | None) -> None:
        self._every, self._earlier, self._progress = every_s, earlier_s, progress
        self._started = self._last = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if time.monotonic() - self._last >= self._every and state.global_step < state.max_steps:
            control.should_save = True
        if self._progress:
            loss = next((x["loss"] for x in reversed(state.log_history) if "loss" in x), 0.0)
            self._progress(state.global_step, state.max_steps, float(loss))

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._last = time.monotonic()
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        write_atomic(folder / checks.DONE, str(self._earlier + self._last - self._started))


def _curve(history: Sequence[dict[str, Any]]) -> tuple[TrainingPoint, ...]:
    return tuple(
        TrainingPoint(
            int(x["step"]), float(x["epoch"]), float(x["loss"]), float(x["learning_rate"])
        )
        for x in history
        if "loss" in x
    )
