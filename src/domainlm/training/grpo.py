"""Group-relative policy optimisation (GRPO, 2402.03300) with verifiable rewards, through TRL.

Several answers are drawn per question, each is scored by `training/rewards.py`, and those above
their group's mean become likelier. Groups whose answers all earn the same teach nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from domainlm.config.training import TrainingConfig
from domainlm.errors import ConfigError, DataError
from domainlm.models.decoding import render_prompt
from domainlm.schema import Adapter, RewardRow
from domainlm.training import checks, loop, weights
from domainlm.training.loop import Job, Progress
from domainlm.training.rewards import Reward, weighted


def train_grpo(
    name: str,
    rows: Sequence[RewardRow],
    base: Path | str,
    folder: Path,
    config: TrainingConfig,
    *,
    rewards: Sequence[tuple[Reward, float]] = (),
    start: Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Adapter:
    """Train on questions whose answers can be verified and save under `folder`; resumes a killed
    run.

    Args:
        name: of the adapter.
        rows: prompts and what a right answer is.
        base: folder (or hub id) of the base checkpoint.
        folder: where checkpoints and the adapter go.
        config: method, limits and `reward`; `batch_size` counts questions.
        rewards: functions and weights; the default are those of `config.reward`.
        start: weights of the same method to go on from, usually the supervised ones: a model that
            never earns anything learns nothing.
        seed: order of questions, samples and initial weights.
        progress: called with (step, steps, last loss).

    Returns:
        The adapter; `rewards` holds the mean reward of every step.

    Raises:
        ConfigError: no reward counts, or the method is prefix tuning.
        DataError: there are no rows, or none fits.
        ModelError: the base cannot be loaded, or a check of `training/checks.py` failed.
    """
    scored = list(rewards) or weighted(config.reward)
    if not scored:
        raise ConfigError(
            "every weight in training.reward is 0; set answer, support or abstention above 0"
        )
    if config.method == "prefix":
        raise ConfigError(
            "training.method=prefix cannot draw answers while it trains; use lora for rewards"
        )
    checks.installed(trl, "GRPOTrainer", "GRPOConfig")
    loop.quiet()
    torch.manual_seed(seed)
    tokenizer, model = weights.load(base, config, start)
    asked = config.reward
    rendered = [(render_prompt(tokenizer, row.prompt), row) for row in rows]
    room = config.max_tokens - asked.max_tokens
    lengths = [len(tokenizer(t, add_special_tokens=False)["input_ids"]) for t, _ in rendered]
    # GRPO has no limit for prompts of its own.
    kept = [pair for pair, n in zip(rendered, lengths, strict=True) if n <= room]
    if not kept:
        raise DataError(
            f"no questions for {name!r} fit: {len(rows)} were given and training.max_tokens="
            f"{config.max_tokens} leaves {room} tokens for a prompt; add questions or raise it"
        )
    batch = min(config.batch_size, len(kept)) * asked.generations
    longest = max(n for n in lengths if n <= room) + asked.max_tokens
    micro = loop.micro_batch([longest], asked.generations, config.micro_batch_tokens)
    checks.generation_batch(batch, asked.generations)
    job = Job(name, base, folder, config, asked.learning_rate, seed, progress)
    steps = round(len(kept) * asked.generations * asked.epochs / batch)
    shared = loop.arguments(job, steps=steps, micro=micro, batch=batch)
    trainer = _Rewarded(
        model=model,
        reward_funcs=[_column(reward, [row for _, row in kept]) for reward, _ in scored],
        args=GRPOConfig(
            **shared | {"num_train_epochs": asked.epochs},
            num_generations=asked.generations,
            max_completion_length=asked.max_tokens,
            temperature=asked.temperature,
            beta=asked.beta,
            reward_weights=[weight for _, weight in scored],
        ),
        train_dataset=Dataset.from_list(
            [{"prompt": text, "row": n} for n, (text, _) in enumerate(kept)]
        ),
        processing_class=tokenizer,
    )
    probe = tokenizer(kept[0][0], add_special_tokens=False)["input_ids"]
    seconds, warnings = loop.fit(trainer, job, probe, len(kept))
    history = trainer.state.log_history
    earned = tuple(float(x["reward"]) for x in history if "reward" in x)
    if len(kept) < len(rows):
        warnings += (
            f"Adapter {name!r}: {len(rows) - len(kept)} of {len(rows)} questions have prompts "
            f"longer than {room} tokens and were left out.",
        )
    idle = [float(x["frac_reward_zero_std"]) for x in history if "frac_reward_zero_std" in x]
    if idle and sum(idle) / len(idle) > 0.5:
        warnings += (
            f"Adapter {name!r}: in {sum(idle) / len(idle):.0%} of the groups all answers earned "
            "the same and taught nothing; start from supervised weights or raise "
            "training.reward.temperature.",
        )
    made = loop.adapter_of(
        job,
        trainer,
        rows=len(kept),
        tokens=int(trainer.state.num_input_tokens_seen),
        seconds=seconds,
        warnings=warnings,
    )
    return replace(made, rewards=earned)


class _Rewarded(loop.Masters, GRPOTrainer):  # type: ignore[misc]
    """GRPOTrainer whose prompts are text that was rendered for the server already."""

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        ids = self.processing_class(text=prompts, add_special_tokens=False)["input_ids"]
        return ids, None, {}


def _column(reward: Reward, rows: Sequence[RewardRow]) -> Any:
    """A reward in TRL's form: completions and a column of row numbers in, floats out."""

    def scores(completions: list[str], row: list[int], **_: Any) -> list[float]:
        return [reward(text, rows[n]) for text, n in zip(completions, row, strict=True)]

    scores.__name__ = getattr(reward, "__name__", "reward")
    return scores
