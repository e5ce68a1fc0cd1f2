"""One answer from several prompts: their next-token probabilities are averaged at every step.

REPLUG (Shi et al., 2301.12652) puts every passage into a prompt of its own, so that the passages
need not fit one context and a poor one costs its weight and no more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from domainlm.errors import ConfigError
from domainlm.models.base import report_call
from domainlm.models.cache import fresh_cache
from domainlm.models.decoding import choose, next_logits, render_prompt, stream_seed
from domainlm.models.pieces import stop_at
from domainlm.schema import Chat, Generation, Sampling, Usage


@dataclass(frozen=True)
class Ensemble:
    """The prompts of one answer, as tokens, and the weight of each; weights add up to 1."""

    prompts: Sequence[Sequence[int]]
    weights: Sequence[float]
    left_out: int = 0

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(map(len, self.prompts))


def generate_ensemble(
    local: Any,
    groups: Sequence[Sequence[Chat]],
    weights: Sequence[Sequence[float]],
    params: Sampling,
) -> list[Generation]:
    """See `EnsembleModel.generate_ensemble`.

    Raises:
        ConfigError: `max_tokens` is below 1, or the weights do not match the chats.
    """
    if params.max_tokens < 1:
        raise ConfigError(f"max_tokens is {params.max_tokens}; it must be at least 1")
    if [len(g) for g in groups] != [len(w) for w in weights]:
        raise ConfigError("an ensemble has other than one weight per chat; give each chat a weight")
    room = local.context - params.max_tokens
    done: dict[int, Generation] = {}
    asked: dict[int, Ensemble] = {}
    for n, (chats, shares) in enumerate(zip(groups, weights, strict=True)):
        texts = [render_prompt(local.tokenizer, chat) for chat in chats]
        ids = local.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        fits = [(p, w) for p, w in zip(ids, shares, strict=True) if len(p) <= room]
        total = sum(w for _, w in fits)
        if total > 0:
            kept = [w / total for _, w in fits]
            asked[n] = Ensemble([p for p, _ in fits], kept, len(ids) - len(fits))
        else:
            reason = (
                f"none of {len(ids)} prompts fits: {local.name} reads at most {room} tokens beside "
                f"{params.max_tokens} new ones; retrieve shorter passages"
            )
            done[n] = Generation("", Usage(), 0.0, local.name, "error", reason)
    with local.lock:
        for batch in _batches(asked, local.batch_size, local.batch_tokens // 2):
            done.update(_run(local, batch, asked, params))
    ordered = [done[n] for n in range(len(groups))]
    for g in ordered:
        report_call(local.name, "generate", g.usage.tokens_in, g.usage.tokens_out, g.latency_s)
    return ordered


def _batches(asked: dict[int, Ensemble], size: int, tokens: int) -> Iterator[list[int]]:
    """Whole ensembles, longest first, within both limits of rows; one always fits."""
    batch: list[int] = []
    rows = 0
    for n in sorted(asked, key=lambda n: (-asked[n].longest, n)):
        more = rows + len(asked[n].prompts)
        if batch and (more > size or asked[batch[0]].longest * more > tokens):
            yield batch
            batch, more = [], len(asked[n].prompts)
        batch.append(n)
        rows = more
    if batch:
        yield batch


def _run(
    local: Any, batch: list[int], asked: dict[int, Ensemble], params: Sampling
) -> dict[int, Generation]:
    """Decode one batch; when memory runs out, halve it."""
    started = time.perf_counter()
    seeds = [stream_seed(params.seed, repr(asked[n].prompts), 0) for n in batch]
    streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    def stopped(tokens: list[int]) -> bool:
        text = local.tokenizer.decode(tokens) if params.stop else ""
        return stop_at(text, params.stop) is not None

    try:
        with torch.inference_mode():
            outputs = decode(
                local.model,
                [asked[n] for n in batch],
                lambda mixed: choose(mixed, streams, [params.temperature] * len(streams)),
                max_tokens=params.max_tokens,
                pad=local.tokenizer.pad_token_id or 0,
                end=local.end,
                stopped=stopped,
            )
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        if len(batch) == 1:
            reason = f"{local.device} has too little memory for the prompts of one answer"
            return {batch[0]: Generation("", Usage(), 0.0, local.name, "error", reason)}
        half = len(batch) // 2
        first = _run(local, batch[:half], asked, params)
        return first | _run(local, batch[half:], asked, params)
    share = (time.perf_counter() - started) / len(batch)
    made = {}
    for n, tokens in zip(batch, outputs, strict=True):
        ensemble = asked[n]
        text = local.tokenizer.decode(tokens, skip_special_tokens=True)
        cut = stop_at(text, params.stop)
        read = sum(map(len, ensemble.prompts))
        made[n] = Generation(
            text=text[:cut].strip(),
            usage=Usage(read, len(tokens)),
            latency_s=share,
            model=local.name,
            finish="stop" if cut is not None or tokens[-1] in local.end else "length",
            error=f"{ensemble.left_out} prompts too long" if ensemble.left_out else "",
        )
    return made


def decode(
    model: Any,
    ensembles: Sequence[Ensemble],
    choose: Callable[[torch.Tensor], torch.Tensor],
    *,
    max_tokens: int,
    pad: int,
    end: Collection[int],
    stopped: Callable[[list[int]], bool],
) -> list[list[int]]:
    """New tokens of each ensemble, the end token included.

    All prompts of all ensembles run as one left-padded batch; the token that an ensemble chooses
    goes into the keys and values of every one of its rows.

    Shapes: g ensembles, b prompts of all of them, s padded prompt length, v vocabulary.

    Args:
        model: a causal transformers model.
        ensembles: at least one, each with at least one prompt.
        choose: from log probabilities (g, v) to tokens (g,).
        max_tokens: most new tokens.
        pad: token that fills short prompts.
        end: tokens that end an answer.
        stopped: whether an answer so far has come to its end otherwise.
    """
    device = model.device
    prompts = [list(p) for e in ensembles for p in e.prompts]
    owner = torch.tensor(
        [n for n, e in enumerate(ensembles) for _ in e.prompts], device=device
    )  # (b,)
    weight = torch.tensor([w for e in ensembles for w in e.weights], device=device)  # (b,)
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=device)  # (b, s)
    mask = torch.tensor(
        [[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device
    )  # (b, s)
    # Left padding must not shift the rotary positions of short prompts.
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = fresh_cache(model.config)
    outputs: list[list[int]] = [[] for _ in ensembles]
    alive = set(range(len(ensembles)))
    for step in range(max_tokens):
        logits = next_logits(model, ids, mask, positions, cache)  # (b, v)
        shares = torch.softmax(logits.float(), -1) * weight[:, None]
        mixed = shares.new_zeros(len(ensembles), shares.shape[1]).index_add_(0, owner, shares)
        chosen = choose(mixed.log())
        for n, token in enumerate(chosen.tolist()):
            if n in alive:
                outputs[n].append(token)
                if token in end or stopped(outputs[n]):
                    alive.discard(n)
        if not alive or step + 1 == max_tokens:
            break
        ids = chosen.to(device)[owner][:, None]
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return outputs
