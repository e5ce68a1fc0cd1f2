"""The weights that a method trains: made, continued, saved whole, and named by their digest.

LoRA (2106.09685), DoRA (2402.09353), rank-stabilised LoRA (2312.03732), QLoRA (2305.14314), prefix
tuning at every layer (P-tuning v2, 2110.07602) and full fine-tuning, all through PEFT.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from domainlm.config.training import TrainingConfig
from domainlm.errors import MissingExtraError, ModelError
from domainlm.models.adapted import is_checkpoint
from domainlm.training import checks
from domainlm.training.attention import use_blocks
from domainlm.training.lora import fuse

_WEIGHTS = ("adapter_model*.safetensors", "model*.safetensors")


def load(base: Path | str, config: TrainingConfig, start: Path | None = None) -> tuple[Any, Any]:
    """Tokenizer and trainable model: fresh weights of the configured method, or those of `start`.

    Args:
        base: folder (or hub id) of the base checkpoint.
        config: method, rank, scale, prefix length.
        start: earlier weights to go on from, trained by the same method.

    Raises:
        ModelError: the base or `start` cannot be loaded, or the method needs a GPU.
        MissingExtraError: the method needs a package that is not installed.
    """
    options: dict[str, Any] = {"dtype": torch.bfloat16}
    if config.method == "qlora":
        options["quantization_config"] = _four_bit()
    whole = start is not None and is_checkpoint(start)
    if start is not None and whole != (config.method == "full"):
        raise ModelError(
            f"{start} cannot be continued with training.method={config.method}: one is a whole "
            "checkpoint and the other an adapter; train both with the same method"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(base)
        model = AutoModelForCausalLM.from_pretrained(start if whole else base, **options)
        use_blocks(model)
        if config.method == "full":
            return tokenizer, model
        if start is not None:
            checks.one_adapter(model, None)
            model = PeftModel.from_pretrained(
                model, start, is_trainable=True, autocast_adapter_dtype=False
            )
            fuse(model)
            return tokenizer, model
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"base model {base} cannot be loaded: {str(error):.200}") from None
    # Adapters stay bf16: the optimiser keeps the fp32 masters.
    model = get_peft_model(model, _adapter(config), autocast_adapter_dtype=False)
    fuse(model)
    return tokenizer, model


def _adapter(config: TrainingConfig) -> LoraConfig | PrefixTuningConfig:
    if config.method == "prefix":
        return PrefixTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=config.prefix_tokens, prefix_projection=False
        )
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        use_dora=config.method == "dora",
        use_rslora=config.method == "rslora",
    )


def _four_bit() -> Any:
    """NF4 with double quantisation, computed in bf16.

    Raises:
        ModelError: there is no CUDA device.
        MissingExtraError: bitsandbytes is not installed.
    """
    if not torch.cuda.is_available():
        raise ModelError(
            "training.method=qlora needs a CUDA GPU and this machine has none; use lora, which "
            "trains beside a bf16 base"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError(
            "training.method=qlora needs bitsandbytes; pip install 'domainlm[qlora]'"
        )
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def save(model: Any, target: Path) -> None:
    """Write the trained weights beside their place and move them there whole."""
    draft = target.with_name(target.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    model.save_pretrained(draft)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(draft, target)


def digest(folder: Path) -> str:
    """SHA-256 of the trained weights, 16 hex digits; the same for the same weights anywhere.

    Raises:
        ModelError: the folder holds none.
    """
    files = [path for pattern in _WEIGHTS for path in sorted(folder.glob(pattern))]
    if not files:
        raise ModelError(f"{folder} holds no trained weights; train again")
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:16]
