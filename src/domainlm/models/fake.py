"""Scripted test doubles: a chat model that says what it is told, an embedder that needs no weights.

They keep every contract of the real ones (order, token counts, `max_tokens`, `stop`, the ledger),
so logic can be tested in milliseconds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from domainlm.errors import ConfigError
from domainlm.models.base import Array, Listener, Request, report_call
from domainlm.schema import Chat, Generation, Sampling, Usage

_WORD = re.compile(r"\w+")


def echo(chat: Chat) -> str:
    """The last line of the last message: what `fake` answers when no script is given."""
    return (chat[-1].content.strip().splitlines() or ["?"])[-1] if chat else "?"


class FakeModel:
    """Answers from a script; a word counts as a token.

    `chats` keeps every chat that was asked, for assertions.
    """

    def __init__(
        self,
        responses: Mapping[str, str] | Callable[[Chat], str] | Sequence[str] = echo,
        name: str = "fake",
        *,
        fail: Collection[str] = (),
    ) -> None:
        """Script the answers.

        Args:
            responses: A function of the chat; or a mapping whose first key found in any message
                gives the answer (`""` matches always); or answers that repeat in turn.
            name: Name in results and the ledger.
            fail: A chat with one of these texts in any message yields an error generation.
        """
        self.name = name
        self.chats: list[Chat] = []
        self._responses = responses
        self._fail = (fail,) if isinstance(fail, str) else tuple(fail)
        self._turn = 0

    def count_tokens(self, text: str) -> int:
        """Words of `text`."""
        return len(text.split())

    def generate(self, chats: Sequence[Chat], params: Sampling) -> list[Generation]:
        """Answer each chat from the script, cut to `max_tokens` words and at the first `stop`.

        Raises:
            ConfigError: `max_tokens` is below 1.
        """
        if params.max_tokens < 1:
            raise ConfigError(f"max_tokens is {params.max_tokens}; it must be at least 1")
        done = []
        called = time.perf_counter()
        for chat in chats:
            started = time.perf_counter()
            self.chats.append(chat)
            words_in = sum(self.count_tokens(message.content) for message in chat)
            if any(text in message.content for text in self._fail for message in chat):
                done.append(Generation("", Usage(), 0.0, self.name, "error", "scripted failure"))
                report_call(self.name, "generate", 0, 0, 0.0)
                continue
            text = self._answer(chat)
            cuts = [at for word in params.stop if word and (at := text.find(word)) >= 0]
            text = text[: min(cuts, default=len(text))].strip()
            words = text.split()
            over = len(words) > params.max_tokens
            if over:
                text = " ".join(words[: params.max_tokens])
            usage = Usage(words_in, min(len(words), params.max_tokens))
            seconds = time.perf_counter() - started
            finish: Literal["stop", "length"] = "length" if over else "stop"
            # It says everything at once, after those before it.
            first = time.perf_counter() - called
            done.append(Generation(text, usage, seconds, self.name, finish, first_token_s=first))
            report_call(self.name, "generate", usage.tokens_in, usage.tokens_out, seconds)
        return done

    def generate_streamed(
        self, chats: Sequence[Chat], params: Sampling, listeners: Sequence[Listener]
    ) -> list[Generation]:
        """As `generate`, told word by word; whoever stops listening gets no further word."""
        done = []
        for made, listener in zip(self.generate(chats, params), listeners, strict=True):
            said = ""
            for word in re.findall(r"\s*\S+", made.text):
                if not listener(word):
                    break
                said += word
            done.append(dataclasses.replace(made, text=said))
        return done

    def generate_joining(self, take: Callable[[int], Sequence[Request]]) -> None:
        """One chat after the other."""
        while requests := take(1):
            for r in requests:
                heard = r.listener or (lambda piece: True)
                r.done(self.generate_streamed([r.chat], r.params, [heard])[0])

    def _answer(self, chat: Chat) -> str:
        script = self._responses
        if callable(script):
            return script(chat)
        if isinstance(script, Mapping):
            found = (
                answer
                for key, answer in script.items()
                if any(key in message.content for message in chat)
            )
            return next(found, "")
        answer = script[self._turn % len(script)] if script else ""
        self._turn += 1
        return answer


class FakeEmbedder:
    """Signed hashed bag of words: texts that share words are near, the same on every machine."""

    def __init__(self, dimension: int = 256, name: str = "fake") -> None:
        """Choose the number of dimensions, at least 1."""
        self.name = name
        self.dimension = dimension

    def embed(self, texts: Sequence[str], kind: Literal["query", "passage"]) -> Array:
        """Unit vectors, shape `(n, dimension)`; a text without words gets the first axis."""
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        words_in = 0
        for row, text in enumerate(texts):
            words = _WORD.findall(text.lower())
            words_in += len(words)
            for word in words:
                key = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
                value = int.from_bytes(key, "big")
                vectors[row, (value >> 1) % self.dimension] += 1.0 if value & 1 else -1.0
            length = float(np.linalg.norm(vectors[row]))
            if length == 0.0:
                vectors[row, 0], length = 1.0, 1.0
            vectors[row] /= length
        if texts:
            report_call(self.name, "embed", words_in, 0, 0.0)
        return vectors


def load_fake(
    rest: str, *, adapter: Path | None, allow_download: bool, api_base: str, api_key_env: str
) -> FakeModel:
    """`fake` for `load_chat_model`: echoes the last line of the prompt."""
    return FakeModel(name="fake" + (f":{rest}" if rest else ""))


def load_fake_embedder(
    rest: str, *, allow_download: bool, api_base: str, api_key_env: str
) -> FakeEmbedder:
    """`fake` for `load_embedder`."""
    return FakeEmbedder()
