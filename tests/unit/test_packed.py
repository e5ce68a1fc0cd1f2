"""Weights laid out for the processor, and keys and values with room ahead: same results."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

from domainlm.models.cache import GrowingLayer, fresh_cache
from domainlm.models.packed import PackedLinear, pack
from tests.unit.tiny import save_tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


def ready() -> bool:
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


@pytest.mark.skipif(not ready(), reason="this processor has no bf16 kernels of oneDNN")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 96), (7, 96), (2, 5, 96), (0, 96)])
def test_a_packed_layer_gives_the_same(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(96, 160, bias=bias).to(torch.bfloat16)
    x = torch.randn(shape).to(torch.bfloat16)
    with torch.inference_mode():
        packed = PackedLinear(layer)
        assert torch.equal(packed.weight, layer.weight)
        made = packed(x)
        assert made.shape == (*shape[:-1], 160) and made.dtype == torch.bfloat16
        torch.testing.assert_close(made, layer(x), rtol=8e-3, atol=1e-3)
        if len(shape) == 2:
            assert torch.equal(made, layer(x))
    with pytest.raises(RuntimeError, match="no gradients"):
        packed(x.requires_grad_())


@pytest.mark.skipif(not ready(), reason="this processor has no bf16 kernels of oneDNN")
def test_all_layers_of_a_bf16_model_are_packed_and_no_others(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).eval()
    ids = torch.arange(4, 24).view(2, 10)
    with torch.inference_mode():
        before = model(input_ids=ids).logits
        pack(model)
        kinds = {type(m) for m in model.modules()}
        assert PackedLinear in kinds and nn.Linear not in kinds
        torch.testing.assert_close(model(input_ids=ids).logits, before, rtol=2e-2, atol=2e-2)
    exact = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    pack(exact)
    assert PackedLinear not in {type(m) for m in exact.modules()}


def states(draw: torch.Generator, rows: int, tokens: int) -> torch.Tensor:
    return torch.randn((rows, 2, tokens, 4), generator=draw)


def test_a_growing_layer_holds_what_appending_holds() -> None:
    draw = torch.Generator().manual_seed(0)
    plain, growing = DynamicCache(), GrowingLayer()
    # A prompt longer than the room ahead, then tokens until the room has to grow twice.
    for tokens in [70, *[1] * 150]:
        keys, values = states(draw, 3, tokens), states(draw, 3, tokens)
        wanted = plain.update(keys, values, 0)
        found = growing.update(keys, values)
        assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])
    assert growing.get_seq_length() == plain.get_seq_length() == 220


def test_dropped_chats_leave_the_others_as_they_were() -> None:
    draw = torch.Generator().manual_seed(0)
    plain, growing = DynamicCache(), GrowingLayer()
    for step in range(6):
        keys, values = states(draw, 3 if step < 3 else 2, 1), states(draw, 3 if step < 3 else 2, 1)
        wanted, found = plain.update(keys, values, 0), growing.update(keys, values)
        assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])
        if step == 2:
            keep = torch.tensor([0, 2])
            plain.batch_select_indices(keep)
            growing.batch_select_indices(keep)
    # The same chats in another order are other tensors, too.
    for cache in (plain, growing):
        cache.batch_select_indices(torch.tensor([1, 0]))
    keys, values = states(draw, 2, 1), states(draw, 2, 1)
    assert torch.equal(growing.update(keys, values)[0], plain.update(keys, values, 0)[0])


def test_a_models_cache_grows_and_decodes_alike(base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    cache = fresh_cache(model.config)
    assert {type(layer) for layer in cache.layers} == {GrowingLayer}
    ids = torch.arange(4, 24).view(2, 10)
    with torch.inference_mode():
        whole = model(input_ids=ids, use_cache=False).logits
        first = model(input_ids=ids[:, :6], past_key_values=cache).logits
        rest = [
            model(input_ids=ids[:, n : n + 1], past_key_values=cache).logits for n in range(6, 10)
        ]
    torch.testing.assert_close(torch.cat([first, *rest], 1), whole, rtol=1e-4, atol=1e-4)
