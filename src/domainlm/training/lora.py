"""LoRA layers whose two paths are added where the product is written, forwards and backwards.

PEFT adds the adapter's output to the frozen layer's, and autograd the two gradients of the input:
both write whole activations again, which a CPU pays for in memory traffic. Here the second product
of each pair is accumulated into the first.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora import Linear


def fuse(model: Any) -> None:
    """Let plain LoRA layers of a model that will train on the CPU add in place; others stay."""
    if torch.cuda.is_available():
        return
    for layer in model.modules():
        if type(layer) is Linear and type(layer.get_base_layer()) is torch.nn.Linear:
            # Bound, so that a deep copy of the model gets its own.
            layer.forward = MethodType(_forward, layer)


def _forward(layer: Any, x: torch.Tensor, *args: Any, **settings: Any) -> torch.Tensor:
    """A layer's forward pass, PEFT's own wherever it is not the plain case."""
    active = [a for a in layer.active_adapters if a in layer.lora_A]
    plain = (
        torch.is_grad_enabled()
        and not (args or settings or layer.disable_adapters or layer.merged)
        and len(active) == 1
        and layer.get_base_layer().bias is None
        and active[0] not in layer.lora_variant
        and isinstance(layer.lora_dropout[active[0]], torch.nn.Identity)
        and layer.lora_A[active[0]].weight.dtype == x.dtype
    )
    if not plain:
        made: torch.Tensor = Linear.forward(layer, x, *args, **settings)
        return made
    down, up = (side[active[0]].weight for side in (layer.lora_A, layer.lora_B))
    weight, scale = layer.get_base_layer().weight, float(layer.scaling[active[0]])
    return FusedLora.apply(x, weight, down, up, scale)


class FusedLora(torch.autograd.Function):  # type: ignore[misc]
    """`x Wᵀ + scale · (x Aᵀ) Bᵀ` with W frozen.

    Shapes: x `(…, i)`, W `(o, i)`, A `(r, i)`, B `(o, r)`, result `(…, o)`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """The sum; only x and its projection are kept."""
        flat = x.reshape(-1, x.shape[-1])
        low = torch.mm(flat, down.T).mul_(scale)
        ctx.save_for_backward(flat, low, weight, down, up)
        ctx.shape, ctx.scale = x.shape, scale
        out = torch.mm(flat, weight.T).addmm_(low, up.T)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(
        ctx: Any, upstream: torch.Tensor
    ) -> tuple[torch.Tensor | None, None, torch.Tensor, torch.Tensor, None]:
        """Gradients of x, A and B."""
        flat, low, weight, down, up = ctx.saved_tensors
        given = upstream.reshape(-1, upstream.shape[-1])
        back = torch.mm(given, up).mul_(ctx.scale)
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = torch.mm(given, weight).addmm_(back, down).view(ctx.shape)
        return d_x, None, torch.mm(back.T, flat), torch.mm(given.T, low), None
