"""The groundedness scorer against people's labels on sets that no part of it was trained on.

    python benchmarks/groundedness.py --data DIR --json OUT

DIR holds `faithfulness` (BEGIN, MT-RAG) and `financebench`. An answer's score is the mean over its
claims, as in a run. Per set: AUROC with its interval by passage or conversation, the expected
calibration error, also after fitting two numbers on the other half of the people's labels, and what
other rulers reach: the least supported claim, length (the shorter the better), the share of
words found, and the support of `rag/citations.py`. Claims per second count everything, splitting
included, on one core.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize

import faithfulness
from domainlm.artifacts import write_atomic
from domainlm.evaluation import calibration
from domainlm.evaluation.claims import claims
from domainlm.evaluation.groundedness import Claim, head_digest, support
from domainlm.evaluation.support import evidence, features
from domainlm.rag.citations import cite
from domainlm.schema import Passage

SETS = {
    "begin": "BEGIN, fully attributable or not",
    "mtrag": "MT-RAG, median rating 4 of 4 or less",
    "financebench": "FinanceBench, right or wrong",
}


def measure(cases: list[faithfulness.Case]) -> dict[str, Any]:
    """AUROC, calibration, baselines and speed on one set."""
    started = time.perf_counter()
    parts = [claims(c.answer) or (c.answer,) for c in cases]
    asked = [
        Claim(text, c.question, c.passages)
        for c, own in zip(cases, parts, strict=True)
        for text in own
    ]
    held = iter(support(asked))
    chances = [[next(held) for _ in own] for own in parts]
    scores = [float(np.mean(c)) for c in chances]
    seconds = time.perf_counter() - started
    labels, groups = [c.supported for c in cases], [c.group for c in cases]
    rulers = {
        "least claim": [min(c) for c in chances],
        "citation support": [cited(c) for c in cases],
        "share of words": [share(c) for c in cases],
        "brevity": [-float(len(c.answer)) for c in cases],
    }
    found = calibration.reliability(labels, scores)
    fitted = calibration.reliability(labels, crossed(labels, scores, groups))
    return {
        "answers": len(cases),
        "claims": len(asked),
        "groups": len(set(groups)),
        "supported": round(float(np.mean(labels)), 4),
        "auroc": interval(calibration.auroc(labels, scores, clusters=groups)),
        "ece": round(found.error, 4),
        "brier": round(found.brier, 4),
        "ece_fitted": round(fitted.error, 4),
        "brier_fitted": round(fitted.brier, 4),
        "reliability": [[b.n, round(b.score, 3), round(b.true, 3)] for b in found.bins],
        "claims_per_second": round(len(asked) / seconds, 1),
        "rulers": {
            name: interval(calibration.auroc(labels, values, clusters=groups))
            for name, values in rulers.items()
        },
    }


def crossed(labels: list[bool], scores: list[float], groups: list[str]) -> np.ndarray:
    """Scores after Platt scaling (1999) on the other half of the groups."""
    y, p = np.asarray(labels, dtype=float), np.clip(scores, 1e-6, 1 - 1e-6)
    x = np.log(p / (1 - p))
    half = np.array([hashlib.md5(g.encode()).digest()[0] % 2 for g in groups])
    fitted = np.zeros(len(y))
    for side in (0, 1):
        own, other = half == side, half != side

        def loss(line: np.ndarray, x: np.ndarray = x[other], y: np.ndarray = y[other]) -> float:
            logits = line[0] * x + line[1]
            return float((np.logaddexp(0, logits) - y * logits).sum())

        slope, shift = minimize(loss, np.array([1.0, 0.0])).x
        fitted[own] = 1 / (1 + np.exp(-(slope * x[own] + shift)))
    return fitted


def cited(case: faithfulness.Case) -> float:
    """Mean support of the answer's sentences by what they cite."""
    shown = [
        Passage(str(n), str(n), "", text, 0, len(text), 0.0) for n, text in enumerate(case.passages)
    ]
    found = cite(case.answer, shown)
    return float(np.mean([c.support for c in found])) if found else 0.0


def share(case: faithfulness.Case) -> float:
    """Share of the answer's content words that stand in the passages."""
    shown = evidence(case.passages)
    return features(case.answer, case.question, shown)[0] if shown.sentences else 0.0


def interval(found: Any) -> list[float | None]:
    """Value, low and high."""
    return [v if v is None else round(v, 4) for v in (found.value, found.low, found.high)]


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    result: dict[str, Any] = {"head": head_digest()}
    for name, title in SETS.items():
        figures = result[name] = measure(faithfulness.TEST[name](args.data))
        value, low, high = figures["auroc"]
        print(
            f"{title}: {figures['answers']} answers, AUROC {value:.3f} [{low:.3f}, {high:.3f}], "
            f"ECE {figures['ece']:.3f} ({figures['ece_fitted']:.3f} fitted), "
            f"{figures['claims_per_second']:.0f} claims a second"
        )
        for ruler, (value, low, high) in figures["rulers"].items():
            print(f"    {ruler:17} {value:.3f} [{low:.3f}, {high:.3f}]")
    write_atomic(args.json, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
