"""Late interaction with trained token vectors: MiniLM's upper layers and a small head on them.

A token's vector holds its meaning in context (last layer) and the word itself (embedding layer),
each projected to fewer dimensions. A passage scores the weighted mean, over the tokens of the
question, of the best match of each (MaxSim of ColBERT, Khattab & Zaharia, 2004.12832); which tokens
of the question matter is learned too. `benchmarks/train_reranker.py` trains it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from domainlm.errors import ConfigError
from domainlm.models.base import Array, report_call
from domainlm.models.embedding import MiniLMEmbedder
from domainlm.models.local import plan_batches

HEAD = "head.safetensors"


class Head(nn.Module):  # type: ignore[misc]
    """Hidden states `(b, s, width)` to unit vectors `(b, s, deep + shallow)` and weights."""

    def __init__(self, width: int, deep: int = 128, shallow: int = 64) -> None:
        super().__init__()
        self.deep = nn.Linear(width, deep, bias=False)
        self.shallow = nn.Linear(width, shallow, bias=False)
        self.weigh = nn.Linear(2 * width, 1, bias=False)
        self.share = nn.Parameter(torch.tensor(-1.0))
        """Logit of the share that the word itself has."""
        self.scale = nn.Parameter(torch.tensor(3.0))
        """Logarithm of the inverse temperature of the training loss."""
        nn.init.zeros_(self.weigh.weight)

    def forward(self, first: Tensor, last: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors, and weights `(b, s)` that sum to 1 over the tokens in `own` `(b, s)`."""
        share = torch.sigmoid(self.share)
        deep = nn.functional.normalize(self.deep(last), dim=-1)
        shallow = nn.functional.normalize(self.shallow(first), dim=-1)
        vectors = torch.cat([(1 - share).sqrt() * deep, share.sqrt() * shallow], dim=-1)
        raw = self.weigh(torch.cat([first, last], dim=-1))[..., 0]
        weights = torch.softmax(raw.masked_fill(~own, -1e4), dim=-1)
        return vectors * own[..., None], weights * own


def states_of(model: nn.Module, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """States `(b, s, width)` after the embedding layer and after the last one."""
    states = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    return states[0].float(), states[-1].float()


class LateInteraction:
    """Scores passages by MaxSim over trained token vectors."""

    def __init__(self, folder: Path, *, max_length: int = 256, batch_tokens: int = 4_096) -> None:
        """Load what `benchmarks/train_reranker.py` wrote to `folder`.

        Raises:
            ModelError: MiniLM is not installed.
            ConfigError: the folder holds no head.
        """
        if not (folder / HEAD).is_file():
            raise ConfigError(
                f"{folder} holds no {HEAD}; give a folder that benchmarks/train_reranker.py wrote"
            )
        from peft import PeftModel

        base = MiniLMEmbedder(max_length=max_length)
        tuned = PeftModel.from_pretrained(base.model.float(), str(folder)).merge_and_unload()
        self.name = f"{base.name} {folder.name}"
        self.model = tuned.to(base.dtype).eval()
        self.device, self.batch_tokens = base.device, batch_tokens
        self._rows, self._special = base.rows, base.tokenizer.all_special_ids
        weights = load_file(folder / HEAD)
        deep, width = weights["deep.weight"].shape
        self.head = Head(width, deep, weights["shallow.weight"].shape[0]).to(self.device).eval()
        self.head.load_state_dict({k: v.float() for k, v in weights.items()})
        self._lock = threading.Lock()

    def question(self, text: str) -> Array:
        """Vectors `(tokens, d)` of a question, each as long as its token's weight."""
        return self._embed([text], weighted=True)[0]

    def passages(self, texts: Sequence[str]) -> list[Array]:
        """Unit vectors `(tokens, d)` of each text, as float16."""
        return self._embed(texts, weighted=False)

    def _embed(self, texts: Sequence[str], *, weighted: bool) -> list[Array]:
        if not texts:
            return []
        started = time.perf_counter()
        rows = self._rows(texts)
        lengths = [len(row) for row in rows]
        found: list[Array] = [np.zeros((0, 0), np.float16)] * len(rows)
        with self._lock, torch.inference_mode():
            for batch in plan_batches(range(len(rows)), lengths, 512, self.batch_tokens):
                width = max(lengths[i] for i in batch)
                ids = torch.tensor([rows[i] + [0] * (width - lengths[i]) for i in batch])
                mask = torch.arange(width) < torch.tensor([lengths[i] for i in batch])[:, None]
                ids, mask = ids.to(self.device), mask.to(self.device)
                own = own_tokens(ids, mask, self._special)
                vectors, weights = self.head(*states_of(self.model, ids, mask), own)
                if weighted:
                    vectors = vectors * weights[..., None]
                for row, i in enumerate(batch):
                    found[i] = vectors[row][own[row]].cpu().numpy().astype(np.float16)
        report_call(self.name, "rerank", sum(lengths), 0, time.perf_counter() - started)
        return found


def own_tokens(ids: Tensor, mask: Tensor, special: Sequence[int]) -> Tensor:
    """Which tokens are the text's own, `(b, s)`: neither padding nor special."""
    return mask.bool() & ~torch.isin(ids, torch.tensor(list(special), device=ids.device))
