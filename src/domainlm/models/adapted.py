"""Trained weights at serving time: merged adapters, prefixes and fully tuned checkpoints.

A folder of `training/` holds one of three things: a LoRA-type adapter, which is merged into the
base; a prefix (2110.07602), whose keys and values every layer sees before the prompt; or a whole
checkpoint, which stands in for the base.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from domainlm.errors import ModelError
from domainlm.models.cache import fresh_cache
from domainlm.models.embedded import first_line

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
Prefix = tuple[tuple[torch.Tensor, torch.Tensor], ...]
"""Keys and values of each layer, `(1, key-value heads, virtual tokens, head size)`."""


def is_checkpoint(folder: Path) -> bool:
    """Whether a trained folder is a whole checkpoint and not an adapter."""
    return (folder / "config.json").is_file() and not (folder / ADAPTER_CONFIG).exists()


def adapter_digest(adapter: Path) -> str:
    """Eight hex digits over the trained weights and, for adapters, their scaling.

    Raises:
        ModelError: the folder holds nothing trained.
    """
    digest = hashlib.sha256()
    try:
        if is_checkpoint(adapter):
            files = sorted(adapter.glob("model*.safetensors"))
        else:
            config = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
            scaling = [config.get(key) for key in ("peft_type", "r", "lora_alpha", "use_rslora")]
            digest.update(json.dumps(scaling).encode())
            files = [adapter / ADAPTER_WEIGHTS]
        for file in files:
            digest.update(file.read_bytes())
    except (OSError, ValueError):
        files = []
    if not files:
        raise ModelError(
            f"{adapter} is not an adapter: adapter_config.json or adapter_model.safetensors is "
            "missing or damaged; train it again or give another folder"
        )
    return digest.hexdigest()[:8]


def apply_adapter(model: Any, adapter: Path) -> tuple[Any, Prefix]:
    """The base with a LoRA-type adapter merged in, or as it is and the prefix to serve it with.

    Raises:
        ModelError: the adapter was trained on another model.
    """
    from peft import PeftModel

    try:
        loaded = PeftModel.from_pretrained(model, adapter)
        if not loaded.active_peft_config.is_prompt_learning:
            return loaded.merge_and_unload(), ()
        with torch.no_grad():
            cache = loaded.get_prompt(1)
        return model, tuple((layer.keys, layer.values) for layer in cache.layers)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(
            f"the adapter {adapter} does not fit the model {model.config.name_or_path} "
            f"({first_line(error)}); use the base model that it was trained on"
        ) from None


def prefixed_cache(config: Any, prefix: Prefix, rows: int, coming: int = 0) -> DynamicCache:
    """A fresh cache of `rows` chats that already holds the prefix, with room for `coming` tokens
    after it.
    """
    held = prefix[0][0].shape[2] if prefix else 0
    cache = fresh_cache(config, held + coming)
    for layer, (keys, values) in enumerate(prefix):
        cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
    return cache
