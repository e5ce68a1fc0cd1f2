"""Sentence embedders that run in this process: all-MiniLM-L6-v2 and other BERT-like encoders.

Texts are sorted by length and batched by a token budget, so little is spent on padding. Where the
processor computes bf16 natively, two cores embedded about 10,000 tokens a second, fp32 about 6,300.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from domainlm.errors import ModelError
from domainlm.models.base import Array, report_call
from domainlm.models.embedded import first_line, minilm_folder, quiet_loading
from domainlm.models.local import find_checkpoint, pick_device, pick_dtype, plan_batches
from domainlm.models.packed import pack

_BLOCK = 4096
"""Texts tokenised at once: bounds the memory of token lists for large corpora."""


class MiniLMEmbedder:
    """Mean-pooled (or, where the folder says so, first-token) encoder states of unit norm.

    A sentence-transformers folder's own settings are kept: longest text (all-MiniLM-L6-v2: 256
    tokens, what lies beyond is not seen), pooling, and its query and passage prompts.
    """

    def __init__(
        self,
        path_or_id: str | Path | None = None,
        *,
        dtype: str = "auto",
        device: str = "auto",
        batch_tokens: int = 4_096,
        max_length: int | None = None,
        allow_download: bool = False,
        name: str | None = None,
    ) -> None:
        """Load the encoder.

        Args:
            path_or_id: A folder or hub id; None is the packaged all-MiniLM-L6-v2.
            dtype: As for `LocalModel`; the result is float32 in any case.
            device: As for `LocalModel`.
            batch_tokens: Most padded tokens per batch; larger ones measured slower on a CPU.
            max_length: Longest text in tokens; the default is the folder's, else 256.
            allow_download: May fetch a hub id.
            name: Name in results.

        Raises:
            ModelError: no such encoder, or it cannot be loaded.
        """
        chosen = minilm_folder() if path_or_id is None else path_or_id
        self.name = name or ("all-MiniLM-L6-v2" if path_or_id is None else Path(chosen).name)
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        self.batch_tokens = batch_tokens
        source = find_checkpoint(chosen, allow_download=allow_download)
        with quiet_loading(allow_download):
            try:
                offline = not allow_download
                self.tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=offline)
                model = AutoModel.from_pretrained(
                    source, dtype=self.dtype, local_files_only=offline
                )
            except (OSError, ValueError, RuntimeError, KeyError) as error:
                raise ModelError(
                    f"cannot load the embedder {chosen} ({first_line(error)}); give the folder or "
                    "hub id of a BERT-like encoder"
                ) from None
        self.model = model.to(self.device).eval()
        self.dimension = int(model.config.hidden_size)
        limit = int(getattr(model.config, "max_position_embeddings", 512))
        own = _settings(source, "sentence_bert_config.json").get("max_seq_length") or 256
        self.max_length = min(max_length or int(own), limit)
        pooling = _settings(source, "1_Pooling/config.json")
        self._first_token = bool(pooling.get("pooling_mode_cls_token"))
        prompts = _settings(source, "config_sentence_transformers.json").get("prompts") or {}
        passage = prompts.get("passage") or prompts.get("document") or ""
        self._prompts = {"query": str(prompts.get("query") or ""), "passage": str(passage)}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"MiniLMEmbedder({self.name!r}, {self.device}, {self.dtype})"

    def count_tokens(self, text: str) -> int:
        """Tokens of `text`, without special ones and without the length limit."""
        return len(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def embed(self, texts: Sequence[str], kind: Literal["query", "passage"]) -> Array:
        """Embed `texts` in order, shape `(n, dimension)` float32 of unit norm."""
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        if not texts:
            return vectors
        started = time.perf_counter()
        tokens_in = 0
        by_size = sorted(range(len(texts)), key=lambda i: (-len(texts[i]), i))
        with self._lock:
            for start in range(0, len(by_size), _BLOCK):
                block = by_size[start : start + _BLOCK]
                ids = self.rows([self._prompts[kind] + texts[i] for i in block])
                lengths = [len(row) for row in ids]
                tokens_in += sum(lengths)
                for batch in plan_batches(range(len(ids)), lengths, 512, self.batch_tokens):
                    places = [block[n] for n in batch]
                    vectors[places] = self._forward([ids[n] for n in batch])
        report_call(self.name, "embed", tokens_in, 0, time.perf_counter() - started)
        return vectors

    def embed_tokens(self, texts: Sequence[str]) -> list[Array]:
        """Unit vectors of each text's own tokens, `(tokens, dimension)`, special ones left out."""
        found: list[Array] = [np.zeros((0, self.dimension), np.float32) for _ in texts]
        if not texts:
            return found
        started = time.perf_counter()
        ids = self.rows(texts)
        lengths = [len(row) for row in ids]
        special = set(self.tokenizer.all_special_ids)
        with self._lock:
            for batch in plan_batches(range(len(ids)), lengths, 512, self.batch_tokens):
                with torch.inference_mode():
                    states, _ = self._states([ids[n] for n in batch])
                unit = torch.nn.functional.normalize(states, dim=-1).cpu().numpy()
                for row, n in enumerate(batch):
                    own = [t not in special for t in ids[n]]
                    found[n] = unit[row, : len(own)][own]
        report_call(self.name, "embed", sum(lengths), 0, time.perf_counter() - started)
        return found

    def encode(self, texts: Sequence[str], kind: Literal["query", "passage"]) -> torch.Tensor:
        """Unit vectors `(n, d)` in one batch, with gradients: what training an embedder needs."""
        return self._pooled(*self._states(self.rows([self._prompts[kind] + t for t in texts])))

    def rows(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special ones at its ends only, no more than `max_length`."""
        found: list[list[int]] = self.tokenizer(
            list(texts),
            truncation=True,
            max_length=self.max_length,
            # What looks like a special token in a text is text.
            split_special_tokens=True,
            return_token_type_ids=False,
            return_attention_mask=False,
        )["input_ids"]
        return found

    def _states(self, rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Last states `(b, s, d)` of token rows padded to `(b, s)`, and their mask."""
        width, pad = max(map(len, rows)), self.tokenizer.pad_token_id or 0
        ids = torch.tensor([r + [pad] * (width - len(r)) for r in rows], device=self.device)
        mask = torch.tensor(
            [[1] * len(r) + [0] * (width - len(r)) for r in rows], device=self.device
        )
        return self.model(input_ids=ids, attention_mask=mask).last_hidden_state.float(), mask

    def _pooled(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Unit vectors `(b, d)` of states `(b, s, d)`."""
        if self._first_token:
            pooled = states[:, 0]
        else:
            kept = mask[:, :, None].float()
            pooled = (states * kept).sum(1) / kept.sum(1).clamp(min=1.0)
        return torch.nn.functional.normalize(pooled, dim=-1)

    def _forward(self, rows: list[list[int]]) -> Array:
        """Unit vectors `(b, d)` of token rows."""
        with torch.inference_mode():
            vectors: Array = self._pooled(*self._states(rows)).cpu().numpy()
        return vectors


def _settings(source: str, name: str) -> dict[str, Any]:
    """A settings file of a sentence-transformers folder (or cached hub id), `{}` if absent."""
    path = Path(source) / name
    if not Path(source).is_dir():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(source, name)
        path = Path(cached) if isinstance(cached, str) else path
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def load_minilm(
    rest: str, *, allow_download: bool, api_base: str, api_key_env: str
) -> MiniLMEmbedder:
    """`embedded` for `load_embedder`."""
    return _served(MiniLMEmbedder())


def load_local_embedder(
    rest: str, *, allow_download: bool, api_base: str, api_key_env: str
) -> MiniLMEmbedder:
    """`local:<folder or hub id>` for `load_embedder`."""
    return _served(MiniLMEmbedder(rest, allow_download=allow_download))


def _served(embedder: MiniLMEmbedder) -> MiniLMEmbedder:
    """An embedder that will not be trained."""
    pack(embedder.model)
    return embedder
