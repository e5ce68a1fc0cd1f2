"""What every local decoding shares: the prompt as text, the next token, where to stop."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2
import torch

from domainlm.models.control import control_texts, defuse
from domainlm.schema import Certainty, Chat

OPENING = 5
"""Tokens of an answer that count as its opening."""
END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>")


@dataclass(slots=True)
class Written:
    """One chat's new tokens and their log-probabilities in nats."""

    tokens: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)

    def add(self, token: int, logp: float) -> list[int]:
        """Append a token; returns all so far."""
        self.tokens.append(token)
        self.logps.append(logp)
        return self.tokens

    def certainty(self) -> Certainty:
        """How sure the model was of these tokens."""
        opening = self.logps[:OPENING]
        return Certainty(
            total=round(sum(self.logps), 4),
            lowest=round(min(self.logps), 4),
            opening=round(sum(opening) / len(opening), 4),
        )


def next_logits(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any
) -> torch.Tensor:
    """Logits of each row's next token, `(b, v)`, after tokens `(b, t)` that `cache` then holds;
    mask `(b, s)` over all columns kept, positions `(b, t)`.
    """
    logits: torch.Tensor = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    return logits


def choose(
    logits: torch.Tensor, streams: Sequence[torch.Generator], temperatures: Sequence[float]
) -> torch.Tensor:
    """Next token of each row of logits (b, v), shape `(b,)`, on the CPU; at a temperature of 0 the
    likeliest, else one drawn from the row's own stream.
    """
    chosen = logits.argmax(-1).cpu()
    for n, (stream, temperature) in enumerate(zip(streams, temperatures, strict=True)):
        if temperature > 0:
            weights = torch.softmax(logits[n].float() / temperature, dim=-1).cpu()
            chosen[n] = torch.multinomial(weights, 1, generator=stream)[0]
    return chosen


def log_probabilities(logits: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Log-probability (nats) of each row's chosen token, `(b,)`; logits `(b, v)`."""
    scores = logits.float()
    picked = scores.gather(1, chosen.to(scores.device)[:, None])[:, 0]
    return picked - scores.logsumexp(-1)


def stream_seed(seed: int, text: str, occurrence: int) -> int:
    """Seed of a prompt's own stream of random numbers."""
    key = f"{seed}\0{occurrence}\0{text}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "big")


def render_prompt(tokenizer: Any, chat: Chat) -> str:
    """The chat as prompt text, ready for the model's answer.

    Control tokens inside messages are broken up, so that a retrieved passage cannot open a turn.
    Thinking is off where a template knows the switch: it would use up `max_tokens`.
    """
    controls = control_texts(tokenizer)
    messages = [{"role": m.role, "content": defuse(m.content, controls)} for m in chat]
    options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True}
    try:
        text = tokenizer.apply_chat_template(messages, enable_thinking=False, **options)
    except jinja2.TemplateError:
        # Some templates (Gemma's) refuse the system role: it then opens the first user turn.
        if len(messages) < 2 or messages[0]["role"] != "system":
            raise
        first = f"{messages[0]['content']}\n\n{messages[1]['content']}"
        merged = [{"role": "user", "content": first}, *messages[2:]]
        text = tokenizer.apply_chat_template(merged, enable_thinking=False, **options)
    return str(text)


def end_tokens(tokenizer: Any, generation_config: Any) -> list[int]:
    """Ids that end an answer: the tokenizer's, the checkpoint's and the chat markers it knows."""
    stored = getattr(generation_config, "eos_token_id", None)
    ids = set(stored if isinstance(stored, list) else [stored]) | {tokenizer.eos_token_id}
    vocabulary = tokenizer.get_added_vocab()
    ids |= {vocabulary[marker] for marker in END_OF_TURN if marker in vocabulary}
    return sorted(i for i in ids if i is not None)
