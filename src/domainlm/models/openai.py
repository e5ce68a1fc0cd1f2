"""Remote models behind an OpenAI-compatible URL: vLLM, Ollama, llama.cpp and hosted services.

The client's own retries are off; the ones here honour `Retry-After` and tell a chat that fails
(an error generation) from a backend that cannot be used (`ModelError`). The key is read from the
environment and never stored in results, messages or `repr`.
"""

from __future__ import annotations

import ipaddress
import math
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import numpy as np

from domainlm.errors import ConfigError, MissingExtraError, ModelError
from domainlm.models.base import Array, Listener, report_call
from domainlm.models.control import defuse_usual
from domainlm.models.pieces import Piecewise
from domainlm.schema import Chat, Generation, Sampling, Usage
from domainlm.tokens import estimate_tokens

T = TypeVar("T")
R = TypeVar("R")

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 60.0
_RETRIED = (408, 409, 429)
_FATAL = (401, 403, 404)
"""Wrong key, no right, no such model or path: every chat would fail the same way."""


class _ChatError(Exception):
    """One request failed for good; the others go on. `status` is the server's; 0: it gave none."""

    def __init__(self, said: str, status: int = 0) -> None:
        super().__init__(said)
        self.status = status


class _Endpoint:
    """A base URL with its key, retries and concurrency."""

    def __init__(
        self, base_url: str, api_key_env: str, timeout_s: float, retries: int, concurrency: int
    ) -> None:
        try:
            import openai
        except ImportError:
            raise MissingExtraError(
                "remote models need the openai package; run: pip install 'domainlm[openai]'"
            ) from None
        self.api: Any = openai
        url = base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"api_base is {base_url!r}; it must start with http:// or https://")
        self.host = parts.hostname
        self.hosted_openai = self.host.endswith("openai.com")
        self._key = os.environ.get(api_key_env, "").strip()
        if not self._key:
            if not _is_loopback(self.host):
                raise ConfigError(
                    f"no API key for {self.host}: set the environment variable {api_key_env}"
                )
            self._key = "none"
        self.retries, self.concurrency = retries, max(1, concurrency)
        self.timeout_s, self.key_env = timeout_s, api_key_env
        self.client: Any = openai.OpenAI(
            base_url=url, api_key=self._key, timeout=timeout_s, max_retries=0
        )

    def request(self, send: Callable[[], T]) -> T:
        """Send until it succeeds or retries are used up.

        Raises:
            _ChatError: this request was refused, or kept failing.
            ModelError: the key is refused, there is no such model, or the host is unreachable.
        """
        for attempt in range(self.retries + 1):
            wait = _FIRST_WAIT_S * 2**attempt * random.uniform(0.5, 1.0)
            last = attempt == self.retries
            try:
                return send()
            except self.api.APITimeoutError:
                if last:
                    raise _ChatError(
                        f"no answer within {self.timeout_s:g} s in {attempt + 1} attempts"
                    ) from None
            except self.api.APIConnectionError as error:
                if last:
                    cause = self._clean(error.__cause__ or error)
                    raise ModelError(
                        f"cannot reach {self.host} after {attempt + 1} attempts ({cause}); "
                        "check that the server runs and that api_base is right"
                    ) from None
            except self.api.APIStatusError as error:
                status, said = int(error.status_code), self._clean(error)
                if status in _FATAL:
                    raise ModelError(
                        f"{self.host} refused the request with status {status} ({said}); "
                        f"check the model's name, api_base and the key in {self.key_env}"
                    ) from None
                if last or not (status in _RETRIED or status >= 500):
                    raise _ChatError(f"status {status}: {said}", status) from None
                wait = _retry_after(error.response.headers, wait)
            except self.api.APIError as error:  # a body that is not what the protocol says
                raise _ChatError(self._clean(error)) from None
            time.sleep(min(wait, _LONGEST_WAIT_S))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def map(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Apply in threads, in order; the first `ModelError` cancels what has not started."""
        pool = ThreadPoolExecutor(min(self.concurrency, len(items)))
        try:
            return list(pool.map(work, items))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _clean(self, error: BaseException) -> str:
        text = " ".join(str(error).split())[:200]
        # Servers quote the key they refuse; "none" is no secret and may be an ordinary word.
        return text if self._key == "none" else text.replace(self._key, "***")


@dataclass(frozen=True, slots=True)
class _Reply:
    """Text, why it ended, the server's count of tokens, and when its first piece came
    (`time.perf_counter`; None if it came whole).
    """

    text: str
    reason: str | None
    used: Any
    first: float | None = None


_STREAM: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
_NO_STREAM = (400, 405, 422, 501)
"""What servers say that do not stream, or do not count tokens when they do."""


def _whole(reply: Any) -> _Reply | None:
    """A reply that came in one piece; None if it has no choices."""
    choices = getattr(reply, "choices", None)
    if not choices or getattr(choices[0], "message", None) is None:
        return None
    used = getattr(reply, "usage", None)
    return _Reply(choices[0].message.content or "", choices[0].finish_reason, used)


def _streamed(pieces: Any, told: Piecewise | None) -> _Reply | None:
    """A reply read to its end, or until nobody listens any more; None if no piece has choices."""
    parts: list[str] = []
    reason, used, first, seen = None, None, None, False
    with pieces:
        for piece in pieces:
            used = getattr(piece, "usage", None) or used
            # The last piece carries the usage alone.
            for choice in (getattr(piece, "choices", None) or ())[:1]:
                seen = True
                text = getattr(choice.delta, "content", None) or ""
                if text and first is None:
                    first = time.perf_counter()
                parts.append(text)
                reason = choice.finish_reason or reason
                if told and not told.grow("".join(parts)):
                    return _Reply("".join(parts), reason, used, first)
    return _Reply("".join(parts), reason, used, first) if seen else None


class OpenAIModel:
    """A chat model behind `/v1/chat/completions`.

    `latency_s` is the wall time of the chat's own request, retries and waits included: that is
    what its user waits for, and requests overlap.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key_env: str = "OPENAI_API_KEY",
        timeout_s: float = 60.0,
        retries: int = 4,
        concurrency: int = 8,
    ) -> None:
        """Connect lazily: nothing is sent before the first chat.

        Args:
            base_url: With its path, e.g. `http://localhost:8000/v1`; "" is OpenAI's own.
            model: The model's name on the server.
            api_key_env: Environment variable with the key; a loopback server needs none.
            timeout_s: Longest wait for one answer, in seconds.
            retries: Further attempts after statuses 408, 409, 429 and 5xx, and after timeouts.
            concurrency: Most requests at once.

        Raises:
            MissingExtraError: the openai package is not installed.
            ConfigError: not a URL, or no key for a host that is not this machine.
        """
        self.name = model
        self._endpoint = _Endpoint(base_url, api_key_env, timeout_s, retries, concurrency)

    def __repr__(self) -> str:
        return f"OpenAIModel({self.name!r} at {self._endpoint.host})"

    def count_tokens(self, text: str) -> int:
        """An estimate, four UTF-8 bytes a token: the server's tokenizer is not at hand."""
        return estimate_tokens(text)

    def generate(self, chats: Sequence[Chat], params: Sampling) -> list[Generation]:
        """Complete each chat, several at a time.

        Raises:
            ModelError: the key is refused, there is no such model, or the host is unreachable.
            ConfigError: `max_tokens` is below 1.
        """
        return self.generate_streamed(chats, params, ())

    def generate_streamed(
        self, chats: Sequence[Chat], params: Sampling, listeners: Sequence[Listener]
    ) -> list[Generation]:
        """See `StreamingModel.generate_streamed`; listeners are told by other threads, and without
        any nobody is told.

        Raises:
            ModelError: the key is refused, there is no such model, or the host is unreachable.
            ConfigError: `max_tokens` is below 1.
        """
        if params.max_tokens < 1:
            raise ConfigError(f"max_tokens is {params.max_tokens}; it must be at least 1")
        if not chats:
            return []
        seen: Counter[Chat] = Counter()
        jobs = []
        told = [Piecewise(listener, params.stop) for listener in listeners]
        for chat, piecewise in zip_longest(chats, told):
            # Repeats of a prompt must differ.
            jobs.append((chat, params.seed + seen[chat], piecewise))
            seen[chat] += 1
        if told:
            params = replace(params, stream=True)
        called = time.perf_counter()
        done = self._endpoint.map(lambda job: self._complete(*job, params, called), jobs)
        # Reported here: worker threads do not see this thread's ledger.
        for item in done:
            used = item.usage
            report_call(self.name, "generate", used.tokens_in, used.tokens_out, item.latency_s)
        return done

    def _complete(
        self, chat: Chat, seed: int, told: Piecewise | None, params: Sampling, called: float
    ) -> Generation:
        cap = "max_completion_tokens" if self._endpoint.hosted_openai else "max_tokens"
        options: dict[str, Any] = {cap: params.max_tokens, "temperature": params.temperature}
        if params.temperature > 0:
            options["seed"] = seed
        if params.stop:
            options["stop"] = list(params.stop)
        # The server renders the template; many read control tokens in the content as real ones.
        messages = [{"role": m.role, "content": defuse_usual(m.content)} for m in chat]
        create = self._endpoint.client.chat.completions.create
        ask = {"model": self.name, "messages": messages, **options}
        started = time.perf_counter()

        def send() -> _Reply | None:
            if params.stream:
                return _streamed(create(**ask, **_STREAM), told)
            return _whole(create(**ask))

        try:
            reply = self._endpoint.request(send)
        except _ChatError as error:
            if params.stream and error.status in _NO_STREAM:
                return self._complete(chat, seed, told, replace(params, stream=False), called)
            seconds = time.perf_counter() - started
            return Generation("", Usage(), seconds, self.name, "error", str(error))
        seconds = time.perf_counter() - started
        if reply is None:
            return Generation("", Usage(), seconds, self.name, "error", "the reply has no choices")
        usage = Usage(
            getattr(reply.used, "prompt_tokens", None)
            or sum(estimate_tokens(m.content) for m in chat),
            getattr(reply.used, "completion_tokens", None) or estimate_tokens(reply.text),
        )
        if reply.reason == "content_filter":
            refused = "the server's content filter stopped the answer"
            return Generation("", usage, seconds, self.name, "error", refused)
        finish: Literal["stop", "length"] = "length" if reply.reason == "length" else "stop"
        if told:
            told.end(reply.text.strip())
        first = None if reply.first is None else reply.first - called
        return Generation(
            reply.text.strip(), usage, seconds, self.name, finish, first_token_s=first
        )


class OpenAIEmbedder:
    """An embedder behind `/v1/embeddings`; `dimension` asks the server once."""

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key_env: str = "OPENAI_API_KEY",
        timeout_s: float = 60.0,
        retries: int = 4,
        concurrency: int = 4,
        batch_size: int = 64,
    ) -> None:
        """As for `OpenAIModel`; `batch_size` is the number of texts per request."""
        self.name = model
        self.batch_size = batch_size
        self._endpoint = _Endpoint(base_url, api_key_env, timeout_s, retries, concurrency)
        self._dimension = 0

    def __repr__(self) -> str:
        return f"OpenAIEmbedder({self.name!r} at {self._endpoint.host})"

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        if not self._dimension:
            self._dimension = len(self._request(["dimension"])[0][0])
        return self._dimension

    def embed(self, texts: Sequence[str], kind: Literal["query", "passage"]) -> Array:
        """Unit vectors, shape `(n, dimension)`.

        Raises:
            ModelError: the server refused or could not be reached.
        """
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        started = time.perf_counter()
        # Servers refuse empty strings.
        filled = [text if text.strip() else "." for text in texts]
        batches = [
            filled[at : at + self.batch_size] for at in range(0, len(filled), self.batch_size)
        ]
        replies = self._endpoint.map(self._request, batches)
        vectors = np.concatenate([np.asarray(rows, dtype=np.float32) for rows, _ in replies])
        self._dimension = vectors.shape[1]
        tokens_in = sum(tokens for _, tokens in replies)
        report_call(self.name, "embed", tokens_in, 0, time.perf_counter() - started)
        unit: Array = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return unit

    def _request(self, texts: list[str]) -> tuple[list[list[float]], int]:
        create = self._endpoint.client.embeddings.create
        try:
            reply = self._endpoint.request(
                lambda: create(model=self.name, input=texts, encoding_format="float")
            )
        except _ChatError as error:
            raise ModelError(f"{self.name} could not embed {len(texts)} texts ({error})") from None
        rows = sorted(reply.data, key=lambda row: row.index)
        if len(rows) != len(texts):
            raise ModelError(f"{self.name} returned {len(rows)} vectors for {len(texts)} texts")
        tokens = getattr(getattr(reply, "usage", None), "prompt_tokens", None)
        return [row.embedding for row in rows], tokens or sum(map(estimate_tokens, texts))


def _retry_after(headers: Any, otherwise: float) -> float:
    """Seconds that a server asks to wait; dates and nonsense fall back to the usual back-off."""
    try:
        asked = float(headers.get("retry-after", ""))
    except ValueError:
        return otherwise
    return asked if math.isfinite(asked) and asked >= 0 else otherwise


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def load_openai(
    rest: str, *, adapter: Path | None, allow_download: bool, api_base: str, api_key_env: str
) -> OpenAIModel:
    """`openai:<model>` for `load_chat_model`.

    Raises:
        ConfigError: an adapter is given; a remote server loads its own.
    """
    if adapter is not None:
        raise ConfigError(
            f"openai:{rest} cannot load the adapter {adapter}; serve it there under its own name"
        )
    return OpenAIModel(api_base, rest, api_key_env)


def load_openai_embedder(
    rest: str, *, allow_download: bool, api_base: str, api_key_env: str
) -> OpenAIEmbedder:
    """`openai:<model>` for `load_embedder`."""
    return OpenAIEmbedder(api_base, rest, api_key_env)
