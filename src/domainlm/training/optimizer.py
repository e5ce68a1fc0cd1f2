"""AdamW for bf16 adapters: fp32 master weights in the optimiser, bf16 in the model.

PEFT keeps adapters in fp32 and then casts, and stores for the backward pass, the input of every
adapted layer. bf16 adapters need neither: a step of 940 tokens ran at 400 instead of 347 tokens/s
and peaked at 2.1 instead of 3.0 GB. The master copies keep the small updates that bf16 would round
away (Micikevicius et al., 1710.03740).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

_MASTERS = "masters"


class MasterAdamW(torch.optim.AdamW):  # type: ignore[misc]
    """AdamW that updates fp32 copies of `params` and writes them back rounded."""

    def __init__(self, params: Iterable[torch.nn.Parameter], lr: float) -> None:
        """Copy the parameters; their gradients are read at each step."""
        self._live = list(params)
        self._masters = [torch.nn.Parameter(p.detach().float().clone()) for p in self._live]
        super().__init__(self._masters, lr=lr, weight_decay=0.0)

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One update of the masters from the live gradients."""
        for live, master in zip(self._live, self._masters, strict=True):
            master.grad = None if live.grad is None else live.grad.float()
        loss = super().step(closure)
        self._write_back()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of live parameters and masters."""
        for live in self._live:
            live.grad = None
        super().zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The state of AdamW, and the masters, without which a resumed run would drift."""
        return {**super().state_dict(), _MASTERS: [m.detach() for m in self._masters]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        state = dict(state_dict)
        saved = state.pop(_MASTERS)
        super().load_state_dict(state)
        with torch.no_grad():
            for master, value in zip(self._masters, saved, strict=True):
                master.copy_(value)
        self._write_back()

    def _write_back(self) -> None:
        with torch.no_grad():
            for live, master in zip(self._live, self._masters, strict=True):
                live.copy_(master)
