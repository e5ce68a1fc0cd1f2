"""Contrastive tuning of the embedder: a question near its passages, away from hard negatives.

InfoNCE over the other passages of the batch and over hard negatives that the index returned (DPR,
2004.04906); the joint idea of 2106.11517, where a retriever learns the domain with its reader. The
weights are bf16 with fp32 masters, dropout is off, and the result is a folder that loads like any
other embedder.
"""

from __future__ import annotations

import math
import random
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from domainlm.config.training import RetrieverConfig
from domainlm.errors import DataError, ModelError
from domainlm.models.embedding import MiniLMEmbedder
from domainlm.schema import TunedEmbedder
from domainlm.training import loop, weights
from domainlm.training.optimizer import MasterAdamW
from domainlm.training.pairs import RetrieverPair

_TEMPERATURE = 0.05
_KEPT = ("*.json", "*.txt", "*.model", "1_Pooling")
"""What belongs to an encoder beside its weights."""


def train_embedder(
    pairs: Sequence[RetrieverPair],
    base: Path,
    folder: Path,
    config: RetrieverConfig,
    *,
    seed: int = 0,
    progress: Callable[[int, int, float], None] | None = None,
) -> TunedEmbedder:
    """Tune the encoder in `base` on `pairs` and save it whole under `folder`.

    Args:
        pairs: questions with right passages and hard negatives.
        base: folder of a BERT-like encoder.
        folder: where the tuned one goes.
        config: epochs, batch, rate, length.
        seed: order of the pairs.
        progress: called with (step, steps, last loss).

    Raises:
        DataError: there are fewer than two pairs.
        ModelError: the encoder cannot be loaded, or training diverged.
    """
    if len(pairs) < 2:
        raise DataError(
            f"{len(pairs)} train questions have evidence in the index, and an embedder learns from "
            "at least two; label more or set training.retriever.epochs to 0"
        )
    loop.quiet()
    embedder = MiniLMEmbedder(base, max_length=config.max_tokens)
    trained = [p for p in embedder.model.parameters() if p.requires_grad]
    optimizer = MasterAdamW(trained, lr=config.learning_rate)
    rng = random.Random(seed)
    batch = min(config.batch_size, len(pairs))
    # A tail of one question would have no negatives but its own.
    steps = config.epochs * max(1, len(pairs) // batch)
    losses: list[float] = []
    started = time.perf_counter()
    for _ in range(config.epochs):
        order = rng.sample(list(pairs), len(pairs))
        for at in range(0, len(order) - batch + 1, batch):
            # Warm-up over a tenth, then linearly to nothing.
            done = len(losses)
            factor = min((done + 1) / max(1, steps // 10), (steps - done) / steps)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * factor
            losses.append(_step(embedder, order[at : at + batch], optimizer))
            if progress:
                progress(len(losses), steps, losses[-1])
    if not math.isfinite(sum(losses)):
        raise ModelError(
            f"tuning the embedder diverged at rate {config.learning_rate:g}; lower "
            "training.retriever.learning_rate"
        )
    target = folder / "embedder"
    _save(embedder.model, base, target)
    seconds = time.perf_counter() - started
    return TunedEmbedder(str(target), weights.digest(target), len(pairs), tuple(losses), seconds)


def info_nce(
    queries: torch.Tensor, passages: torch.Tensor, pairs: Sequence[RetrieverPair]
) -> torch.Tensor:
    """Mean cross-entropy of each question's own passage among all of the batch.

    Shapes: queries `(b, d)`, passages `(p, d)`, unit vectors; the first b passages are the pairs'
    own, the others their negatives in order. Another right passage of a question does not count
    against it.
    """
    scores = queries @ passages.T / _TEMPERATURE
    texts = [pair.positive for pair in pairs] + [n for pair in pairs for n in pair.negatives]
    for row, pair in enumerate(pairs):
        right = [n for n, text in enumerate(texts) if n != row and text in pair.right]
        scores[row, right] = -torch.inf
    own = torch.arange(len(pairs), device=scores.device)
    return torch.nn.functional.cross_entropy(scores, own)


def _step(embedder: MiniLMEmbedder, pairs: Sequence[RetrieverPair], optimizer: Any) -> float:
    optimizer.zero_grad()
    queries = embedder.encode([p.query for p in pairs], "query")
    texts = [p.positive for p in pairs] + [n for p in pairs for n in p.negatives]
    loss = info_nce(queries, embedder.encode(texts, "passage"), pairs)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(embedder.model.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


def _save(model: Any, base: Path, target: Path) -> None:
    """The weights, and the settings and tokenizer of the base beside them, moved there whole."""
    draft = target.with_name(target.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for pattern in _KEPT:
        for path in base.glob(pattern):
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, draft / path.name)
    model.save_pretrained(draft)
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)
