"""The budget dial: what a run writes, trains and tests where its configuration is silent."""

from __future__ import annotations

from typing import Any, Literal

Budget = Literal["smoke", "small", "medium", "full"]

BUDGETS: dict[Budget, dict[str, Any]] = {
    "smoke": {
        "training": {"tuned_rows": 16, "tuned_epochs": 1, "raft_rows": 8, "raft_epochs": 1},
        "synthesis": {"passages": 4},
        "evaluation": {"max_questions": 10, "dev_questions": 6, "probes": 3},
    },
    "small": {
        "training": {"tuned_rows": 200, "tuned_epochs": 1, "raft_rows": 80, "raft_epochs": 1},
        "synthesis": {"passages": 8},
        "evaluation": {"max_questions": 48, "dev_questions": 14, "probes": 6},
    },
    "medium": {
        "training": {
            "batch_size": 8,
            "tuned_rows": 20_000,
            "tuned_epochs": 8,
            "raft_rows": 400,
            "raft_epochs": 1,
        },
        "synthesis": {"passages": 0, "facts": 300},
        "evaluation": {"max_questions": 100, "dev_questions": 60, "probes": 12},
    },
    "full": {
        "training": {
            "batch_size": 8,
            "tuned_rows": 20_000,
            "tuned_epochs": 3,
            "raft_rows": 5_000,
            "raft_epochs": 1,
            "seeds": 3,
        },
        "synthesis": {"passages": 2_000, "facts": 2_000},
        "evaluation": {"max_questions": 100_000, "dev_questions": 500, "probes": 80},
    },
}
"""Settings by budget; one given by hand wins."""
