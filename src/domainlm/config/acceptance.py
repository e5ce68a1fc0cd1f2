"""What an arm must reach before its money is looked at: the `acceptance` section of the YAML file.

It stands apart from `config`, since requirements are also checked without one.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from domainlm.schema import TASKS

Share = Annotated[float, Field(ge=0, le=1)]
ALL = "all"


class AcceptanceConfig(BaseModel):
    """Limits that an arm must keep; what is absent is not required.

    `quality` maps a task, or "all", to the least mean of its primary score. `wrong` is a share of
    all test questions, `latency_p95_s` the seconds within which 95 of 100 single questions are
    answered. A limit counts as kept, or as missed, when the chance of it is at least `confidence`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    quality: dict[str, Share] = {}
    wrong: Share | None = None
    cost_per_question_usd: Annotated[float, Field(ge=0, lt=1e9)] | None = None
    latency_p95_s: Annotated[float, Field(gt=0, lt=1e9)] | None = None
    groundedness: Share | None = None
    confidence: float = Field(0.95, gt=0.5, lt=1)

    @field_validator("quality")
    @classmethod
    def _known_tasks(cls, value: dict[str, float]) -> dict[str, float]:
        known = (ALL, *TASKS)
        wrong = sorted(set(value) - set(known))
        if wrong:
            raise ValueError(f"{', '.join(wrong)} is no task; give {', '.join(known)}")
        return value
