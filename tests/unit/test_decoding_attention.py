"""Grouped heads give what the model's own attention gives."""

from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from domainlm.models.attention import NAME, _forward, use_groups


def tensors(t: int, heads: int = 9, shared: int = 3) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(0)
    shapes = ((2, heads, t, 16), (2, shared, 40, 16), (2, shared, 40, 16))
    return tuple(torch.randn(shape, generator=draw) for shape in shapes)


@pytest.mark.parametrize("heads,shared", [(9, 3), (4, 4), (4, 1)])
def test_one_token_equals_the_models_own_attention(heads: int, shared: int) -> None:
    q, k, v = tensors(1, heads, shared)
    module = SimpleNamespace(num_key_value_groups=heads // shared, is_causal=True)
    ours, _ = _forward(module, q, k, v, None, scaling=0.3)
    theirs, _ = sdpa_attention_forward(module, q, k, v, None, 0.0, 0.3)
    assert ours.shape == theirs.shape == (2, 1, heads, 16)
    assert_close(ours, theirs)


def test_prompts_and_padded_batches_go_to_the_models_own_attention() -> None:
    q, k, v = tensors(40)
    module = SimpleNamespace(num_key_value_groups=3, is_causal=True)
    assert_close(
        _forward(module, q, k, v, None)[0], sdpa_attention_forward(module, q, k, v, None)[0]
    )
    q, k, v = tensors(1)
    mask = torch.ones(2, 1, 1, 40, dtype=torch.bool)
    mask[0, ..., :7] = False
    masked = _forward(module, q, k, v, mask)[0]
    assert_close(masked, sdpa_attention_forward(module, q, k, v, mask)[0])
    assert not torch.allclose(masked, _forward(module, q, k, v, None)[0])


def test_a_model_with_its_own_choice_keeps_it() -> None:
    chosen: list[str] = []
    model = SimpleNamespace(
        device=torch.device("cpu"),
        config=SimpleNamespace(_attn_implementation="eager"),
        set_attn_implementation=chosen.append,
    )
    use_groups(model)
    assert chosen == []
    model.config._attn_implementation = "sdpa"
    use_groups(model)
    assert chosen == [NAME]
