"""Fused LoRA layers compute what PEFT's do, and only where they may."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from domainlm.training.lora import FusedLora, fuse
from tests.unit.tiny import save_tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def adapted(base: Path, **settings: object) -> Any:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", **settings))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def gradients(model: Any) -> tuple[float, dict[str, torch.Tensor]]:
    ids = torch.arange(4, 24).view(2, 10)
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return float(loss.detach()), found


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    real = FusedLora.apply
    monkeypatch.setattr(FusedLora, "apply", lambda *a: calls.append(1) or real(*a))
    return calls


def test_loss_and_gradients_are_those_of_peft(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = adapted(base)
    fused = copy.deepcopy(plain)
    fuse(fused)
    calls = counted(monkeypatch)
    loss, wanted = gradients(plain)
    assert not calls
    same, found = gradients(copy.deepcopy(fused))
    # Seven layers in each of two blocks.
    assert len(calls) == 14 and same == pytest.approx(loss, rel=1e-6)
    assert found.keys() == wanted.keys() and len(found) == 28
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_dropout": 0.1}])
def test_other_layers_stay_as_they_are(
    base: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object]
) -> None:
    model = adapted(base, **settings)
    fuse(model)
    calls = counted(monkeypatch)
    gradients(model)
    assert not calls


def test_without_the_adapter_and_merged_the_layer_is_peft_s(base: Path) -> None:
    model = adapted(base)
    ids = torch.arange(4, 14).view(1, 10)
    with model.disable_adapter():
        bare = model(input_ids=ids).logits
    fuse(model)
    with model.disable_adapter():
        torch.testing.assert_close(model(input_ids=ids).logits, bare)
    trained = model(input_ids=ids).logits
    assert not torch.allclose(trained, bare)
    torch.testing.assert_close(
        model.merge_and_unload()(input_ids=ids).logits, trained, rtol=1e-4, atol=1e-5
    )
