"""Grouped heads give what the model's own attention gives."""

from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from domainlm.models import attention
from domainlm.models.attention import NAME, _forward, use_groups


def tensors(t: int, heads: int = 9, shared: int = 3) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(0)
    shapes = ((2, heads, t, 16), (2, shared, 40, 16), (2, shared, 40, 16))
    return tuple(torch.randn(shape, generator=draw) for shape in shapes)


@pytest.mark.parametrize("heads,shared", [(9, 3), (4, 4), (4, 1)])
def test_one_token_equals_the_models_own_attention(heads: int, shared: int) -> None:
    q, k, v = tensors(1, heads, shared)
    module = SimpleNamespace(num_key_value_groups=heads // shared, is_causal=True)
    with torch.inference_mode():
        ours, _ = _forward(module, q, k, v, None, scaling=0.3)
    theirs, _ = sdpa_attention_forward(module, q, k, v, None, 0.0, 0.3)
    assert ours.shape == theirs.shape == (2, 1, heads, 16)
    assert_close(ours, theirs)


@pytest.mark.parametrize("heads,shared", [(9, 3), (4, 4)])
@pytest.mark.parametrize("t", [2, 40, 130])
def test_prompts_in_blocks_equal_the_models_own_attention(t: int, heads: int, shared: int) -> None:
    draw = torch.Generator().manual_seed(1)
    module = SimpleNamespace(num_key_value_groups=heads // shared, is_causal=True)
    q, k, v = (torch.randn((2, n, t, 16), generator=draw) for n in (heads, shared, shared))
    with torch.inference_mode():
        ours = _forward(module, q, k, v, None)[0]
        assert_close(ours, sdpa_attention_forward(module, q, k, v, None)[0])
        # Short chats are padded on the left, behind what every chat sees.
        mask = torch.ones(t, t, dtype=torch.bool).tril().expand(2, 1, t, t).clone()
        mask[0, ..., 1 : t // 3 + 1] = False
        masked = _forward(module, q, k, v, mask)[0]
        theirs = sdpa_attention_forward(module, q, k, v, mask)[0]
        assert_close(masked, theirs)
        # Before a prompt there may be more: a prefix, or an earlier part.
        part = _forward(module, q[:, :, t // 2 :], k, v, mask[:, :, t // 2 :])[0]
        assert_close(part, theirs[:, t // 2 :])


def test_padding_that_sees_nothing_stays_finite() -> None:
    q, k, v = tensors(40)
    module = SimpleNamespace(num_key_value_groups=3, is_causal=True)
    mask = torch.ones(40, 40, dtype=torch.bool).tril().expand(2, 1, 40, 40).clone()
    mask[1, ..., :39] = False
    with torch.inference_mode():
        assert _forward(module, q, k, v, mask)[0].isfinite().all()


def test_padded_chats_decode_as_by_the_models_own_attention() -> None:
    q, k, v = tensors(1)
    module = SimpleNamespace(num_key_value_groups=3, is_causal=True)
    mask = torch.ones(2, 1, 1, 40, dtype=torch.bool)
    mask[0, ..., :7] = False
    with torch.inference_mode():
        masked = _forward(module, q, k, v, mask)[0]
        assert_close(masked, sdpa_attention_forward(module, q, k, v, mask)[0])
        assert not torch.allclose(masked, _forward(module, q, k, v, None)[0])


@pytest.mark.parametrize("setting", ["sliding_window", "softcap", "position_bias"])
def test_what_blocks_do_not_know_goes_to_the_models_own_attention(
    monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    q, k, v = tensors(40)
    module = SimpleNamespace(num_key_value_groups=3, is_causal=True)
    asked: list[str] = []
    monkeypatch.setattr(attention, "sdpa_attention_forward", lambda *a, **s: asked.append("own"))
    with torch.inference_mode():
        _forward(module, q, k, v, None, **{setting: 8})
        assert asked == ["own"]
        _forward(SimpleNamespace(num_key_value_groups=3, is_causal=False), q, k, v, None)
        assert asked == ["own"] * 2
    # Values of another width, as some models compress them.
    with torch.inference_mode():
        _forward(module, q, k, v[..., :8], None)
    assert asked == ["own"] * 3
    # Where gradients are wanted, too.
    _forward(module, q, k, v, None)
    assert asked == ["own"] * 4


def test_a_model_with_its_own_choice_keeps_it() -> None:
    chosen: list[str] = []
    text = SimpleNamespace(attention_chunk_size=None)
    model = SimpleNamespace(
        device=torch.device("cpu"),
        config=SimpleNamespace(_attn_implementation="eager", get_text_config=lambda: text),
        set_attn_implementation=chosen.append,
    )
    use_groups(model)
    assert chosen == []
    model.config._attn_implementation = "sdpa"
    text.attention_chunk_size = 16
    use_groups(model)
    assert chosen == []
    text.attention_chunk_size = None
    use_groups(model)
    assert chosen == [NAME]
