"""The model contracts, and the ledger that bills every model call to the answer that caused it.

Backends are reached by name (`load_chat_model`, `load_embedder`), through tables of
`"module:function"` strings, so that importing this package loads no torch.
"""

from __future__ import annotations

import contextlib
import contextvars
import difflib
import importlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from domainlm.errors import ConfigError, ModelError
from domainlm.schema import Call, Chat, Generation, Sampling

Array = NDArray[np.float32]


class ChatModel(Protocol):
    """Answers chats in batches; order is kept and there is one `Generation` per chat.

    A chat that fails (after retries) yields a `Generation` with `finish="error"`; `ModelError` is
    raised only when the backend itself cannot be used. Every call reports to the ledger.
    """

    name: str

    def generate(self, chats: Sequence[Chat], params: Sampling) -> list[Generation]:
        """Complete each chat; an empty sequence gives an empty list."""
        ...

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` by the model's tokenizer (or the best local estimate)."""
        ...


@runtime_checkable
class EnsembleModel(Protocol):
    """A chat model that gives next-token probabilities, so that prompts can share one answer."""

    def generate_ensemble(
        self,
        groups: Sequence[Sequence[Chat]],
        weights: Sequence[Sequence[float]],
        params: Sampling,
    ) -> list[Generation]:
        """One answer per group: at every step the next-token probabilities of the group's chats
        are averaged by its weights, which add up to 1.

        A chat that overflows the context is left out, and `error` says so; a group without any
        chat left yields an error generation. `tokens_in` counts all chats of the group.
        """
        ...


Listener = Callable[[str], bool]
"""Told what was added to an answer's text ("" if nothing yet); whether the answer shall go on."""


@runtime_checkable
class StreamingModel(Protocol):
    """A chat model that tells what it writes while it writes it."""

    def generate_streamed(
        self, chats: Sequence[Chat], params: Sampling, listeners: Sequence[Listener]
    ) -> list[Generation]:
        """As `generate`, and each chat's listener is told its text piece by piece, which together
        are the generation's; one that returns False ends its chat, and the others go on.
        """
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """A chat on its way to a model that others are using already."""

    chat: Chat
    params: Sampling
    listener: Listener | None
    done: Callable[[Generation], None]
    """Called once, with the answer."""
    repeat: int = 0
    """How often the same chat was asked before it in the same call: repeats draw other samples."""
    asked: float = field(default_factory=time.perf_counter)
    """`first_token_s` counts from here (`time.perf_counter`)."""


@runtime_checkable
class JoiningModel(Protocol):
    """A chat model whose running batch further chats may join."""

    def generate_joining(self, take: Callable[[int], Sequence[Request]]) -> None:
        """Complete what `take` gives until all is answered and it gives nothing more.

        `take` is asked between two tokens, whenever there is room, for at most so many chats. The
        ledger hears nothing: whoever asked reports.
        """
        ...


class Embedder(Protocol):
    """Maps texts to unit vectors, shape `(n, d)` float32."""

    name: str
    dimension: int

    def embed(self, texts: Sequence[str], kind: Literal["query", "passage"]) -> Array:
        """Embed `texts` in order; `(0, d)` for none."""
        ...


class Reranker(Protocol):
    """Scores passages against a question; higher is better."""

    name: str

    def score(self, question: str, passages: Sequence[str]) -> list[float]:
        """One score per passage, in order."""
        ...


_ledger: contextvars.ContextVar[list[Call] | None] = contextvars.ContextVar("ledger", default=None)
_purpose: contextvars.ContextVar[str] = contextvars.ContextVar("purpose", default="answer")


@contextlib.contextmanager
def record_calls() -> Iterator[list[Call]]:
    """Collect every model call made inside the block (also under threads started with a copied
    context); blocks nest, and an inner block's calls also reach the outer one.
    """
    outer = _ledger.get()
    calls: list[Call] = []
    token = _ledger.set(calls)
    try:
        yield calls
    finally:
        _ledger.reset(token)
        if outer is not None:
            outer.extend(calls)


@contextlib.contextmanager
def purpose(name: str) -> Iterator[None]:
    """Label the calls made inside the block, e.g. "rewrite", "answer", "synthesis"."""
    token = _purpose.set(name)
    try:
        yield
    finally:
        _purpose.reset(token)


def current_purpose() -> str:
    """What the calls made now are for."""
    return _purpose.get()


def calls_so_far() -> list[Call]:
    """The calls in the current ledger; empty outside `record_calls`."""
    return list(_ledger.get() or ())


def report_call(
    model: str,
    kind: Literal["generate", "embed", "rerank"],
    tokens_in: int,
    tokens_out: int,
    latency_s: float,
) -> None:
    """Enter one call in the current ledger; a no-op outside `record_calls`."""
    calls = _ledger.get()
    if calls is not None:
        calls.append(Call(model, kind, _purpose.get(), tokens_in, tokens_out, latency_s))


CHAT_MODELS: Mapping[str, str] = {
    "embedded": "domainlm.models.local:load_embedded",
    "local": "domainlm.models.local:load_local",
    "openai": "domainlm.models.openai:load_openai",
    "fake": "domainlm.models.fake:load_fake",
}
EMBEDDERS: Mapping[str, str] = {
    "embedded": "domainlm.models.embedding:load_minilm",
    "local": "domainlm.models.embedding:load_local_embedder",
    "openai": "domainlm.models.openai:load_openai_embedder",
    "fake": "domainlm.models.fake:load_fake_embedder",
}
_NEEDS_NAME = {"local": "a folder or hub id", "openai": "the model's name on the server"}


def load_chat_model(
    spec: str,
    *,
    adapter: Path | None = None,
    allow_download: bool = False,
    api_base: str = "",
    api_key_env: str = "OPENAI_API_KEY",
) -> ChatModel:
    """The chat model that `spec` names.

    Args:
        spec: "embedded", "local:<folder or hub id>", "openai:<model>" or "fake".
        adapter: Folder of a LoRA adapter to serve with a local model.
        allow_download: May fetch weights from the hub.
        api_base: URL of an OpenAI-compatible server, with its path.
        api_key_env: Name of the environment variable that holds its key.

    Raises:
        ConfigError: `spec` names no backend.
        ModelError: the model cannot be found, loaded or reached.
        MissingExtraError: the backend's package is not installed.
    """
    load, rest = _resolve(spec, CHAT_MODELS, "model")
    model: ChatModel = load(
        rest,
        adapter=adapter,
        allow_download=allow_download,
        api_base=api_base,
        api_key_env=api_key_env,
    )
    return model


def load_embedder(
    spec: str,
    *,
    allow_download: bool = False,
    api_base: str = "",
    api_key_env: str = "OPENAI_API_KEY",
) -> Embedder:
    """The embedder that `spec` names, as for `load_chat_model`.

    Raises:
        ConfigError: `spec` names no backend.
        ModelError: the model cannot be found, loaded or reached.
        MissingExtraError: the backend's package is not installed.
    """
    load, rest = _resolve(spec, EMBEDDERS, "embedder")
    embedder: Embedder = load(
        rest, allow_download=allow_download, api_base=api_base, api_key_env=api_key_env
    )
    return embedder


def check_specs(model: str, embedder: str) -> None:
    """Refuse what no model can be loaded from; nothing is loaded.

    Raises:
        ConfigError: one of them names no backend.
        ModelError: the folder of a local model does not exist.
    """
    for spec, table, what in ((model, CHAT_MODELS, "model"), (embedder, EMBEDDERS, "embedder")):
        head, rest = _parts(spec, table, what)
        if head == "local" and means_folder(rest) and not Path(rest).expanduser().is_dir():
            raise absent_folder(Path(rest).expanduser())


def means_folder(name: str) -> bool:
    """Whether the name of a model is a path and not a hub id, `owner/name`."""
    return name.count("/") != 1 or name.startswith((".", "/", "~"))


def absent_folder(folder: Path) -> ModelError:
    """What to say of a model whose folder is not there."""
    return ModelError(f"the model folder {folder} does not exist; check the path")


def _resolve(spec: str, table: Mapping[str, str], what: str) -> tuple[Callable[..., Any], str]:
    """The loader function that a spec names, and what stands behind its colon."""
    head, rest = _parts(spec, table, what)
    module, _, function = table[head].partition(":")
    return getattr(importlib.import_module(module), function), rest


def _parts(spec: str, table: Mapping[str, str], what: str) -> tuple[str, str]:
    """The backend that a spec names, and what stands behind its colon."""
    head, _, rest = spec.partition(":")
    if head not in table:
        near = difflib.get_close_matches(head, table, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        known = ", ".join(f"{key}:…" if key in _NEEDS_NAME else key for key in table)
        raise ConfigError(f"{what} is {spec!r}, but must be one of {known}{hint}")
    if head in _NEEDS_NAME and not rest.strip():
        raise ConfigError(f"{what} is {spec!r}; add {_NEEDS_NAME[head]} after the colon")
    if head == "embedded" and rest:
        raise ConfigError(f"{what} is {spec!r}; embedded takes nothing after it")
    return head, rest.strip()
