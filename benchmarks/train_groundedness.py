"""Trains the head of the groundedness scorer and writes it where the package reads it.

    python benchmarks/train_groundedness.py --data DIR [--out FILE]

DIR holds halueval (faithfulness), scifact, policyqa, qamr, fairytaleqa, covidqa, clapnq and
legal_summarization; BEGIN, MT-RAG and FinanceBench are never read here. For every choice, each
source is predicted by a head trained on the others; that AUROC, not a test set's, decides. Within a
source, supported and unsupported claims weigh the same among short and among long ones, since
length gives HaluEval's labels away.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

import faithfulness
from domainlm.artifacts import write_atomic
from domainlm.evaluation import groundedness as g
from domainlm.evaluation.calibration import auroc
from domainlm.evaluation.support import FEATURES

Floats = NDArray[np.float64]

OUT = Path(__file__).parents[1] / "src" / "domainlm" / "evaluation" / g.HEAD_FILE
SIGNS = {
    **dict.fromkeys(("words", "words_near", "words_alike", "pairs", "run", "order"), 1),
    **dict.fromkeys(("short_words_near", "asked_near"), 1),
    **dict.fromkeys(("words_lost", "numbers_lost", "numbers_far", "names_lost", "names_far"), -1),
    **dict.fromkeys(("negated", "negation_lost", "opposed"), -1),
}
"""What may only raise or only lower the chance of support, whatever the training sets suggest."""
HIDDEN = 12
SEEDS = 3
RIDGE = 1e-2
LEAST = 30
"""Cases below which a cell of short or long, supported or not, does not weigh fully."""


def rows(cases: list[faithfulness.Case]) -> tuple[Floats, Floats]:
    """`(n, f)` features and `(n,)` labels; cases without words are left out."""
    kept, values = g.feature_rows([g.Claim(c.answer, c.question, c.passages) for c in cases])
    return values, np.asarray([float(cases[n].supported) for n in kept])


def weights(x: Floats, y: Floats) -> Floats:
    """`(n,)`: both labels count the same among short and among long claims."""
    short = x[:, FEATURES.index("short")] > 0.5
    found = np.zeros(len(y))
    for flag in (False, True):
        for label in (0.0, 1.0):
            cell = (short == flag) & (y == label)
            size = int((short == flag).sum())
            if cell.any():
                found[cell] = size / max(int(cell.sum()), LEAST)
    return found / found.sum()


def fit(sets: list[tuple[Floats, Floats]]) -> g.Head:
    """A small network over several sets, each counting by its root size: `SEEDS` of them side by
    side, so that no single start decides.
    """
    x = np.concatenate([a for a, _ in sets])
    y = np.concatenate([b for _, b in sets])
    w = np.concatenate([weights(a, b) * np.sqrt(len(b)) for a, b in sets])
    mean, scale = x.mean(0), np.maximum(x.std(0), 1e-3)
    nets = [_net((x - mean) / scale, y, w / w.sum(), seed) for seed in range(SEEDS)]
    return g.Head(
        FEATURES,
        mean,
        scale,
        np.concatenate([n[0] for n in nets], axis=1),
        np.concatenate([n[1] for n in nets]),
        np.concatenate([n[2] for n in nets]) / SEEDS,
        float(np.mean([n[3] for n in nets])),
    )


def _net(z: Floats, y: Floats, w: Floats, seed: int) -> tuple[Floats, Floats, Floats, float]:
    """Weights `(f, h)`, `(h,)`, `(h,)` and bias of one network on standardised features."""
    f, h = z.shape[1], HIDDEN
    rng = np.random.default_rng(seed)
    start = np.concatenate(
        [rng.normal(0, f**-0.5, f * h), np.zeros(h), np.abs(rng.normal(0, 0.3, h)), [0]]
    )

    def loss(beta: Floats) -> tuple[float, Floats]:
        first, inner = beta[: f * h].reshape(f, h), beta[f * h : f * h + h]
        last, bias = beta[f * h + h : -1], beta[-1]
        units = np.tanh(z @ first + inner)
        logits = units @ last + bias
        error = w * (1 / (1 + np.exp(-logits)) - y)
        back = error[:, None] * last * (1 - units**2)
        value = (w * (np.logaddexp(0, logits) - y * logits)).sum()
        value += RIDGE * ((first**2).sum() + (last**2).sum())
        slope = np.concatenate(
            [
                (z.T @ back + 2 * RIDGE * first).ravel(),
                back.sum(0),
                units.T @ error + 2 * RIDGE * last,
                [error.sum()],
            ]
        )
        return float(value), slope

    signs = np.array([SIGNS.get(name, 0) for name in FEATURES])
    least = np.where(signs > 0, 0.0, -np.inf)
    most = np.where(signs < 0, 0.0, np.inf)
    bounds = list(zip(np.repeat(least, h), np.repeat(most, h), strict=True))
    bounds += [(-np.inf, np.inf)] * h + [(0.0, np.inf)] * h + [(-np.inf, np.inf)]
    start = np.clip(start, *np.array(bounds).T)
    beta = minimize(
        loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": 300}
    ).x
    return (
        beta[: f * h].reshape(f, h),
        beta[f * h : f * h + h],
        beta[f * h + h : -1],
        float(beta[-1]),
    )


def written(head: g.Head) -> dict[str, Any]:
    """A head as the package reads it."""
    kept: dict[str, Any] = {"names": list(head.names), "bias": round(head.bias, 5)}
    for name in g.ARRAYS:
        kept[name] = np.round(getattr(head, name), 5).tolist()
    return kept


def main() -> None:
    """Train, print the AUROC on each source by a head that never saw it, and write the head."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    sets = {name: rows(read(args.data)) for name, read in faithfulness.TRAIN.items()}
    left_out: dict[str, float] = {}
    for name, (x, y) in sets.items():
        head = fit([s for n, s in sets.items() if n != name])
        left_out[name] = round(auroc(y, head.probability(x)).value, 4)
        plain = auroc(y, x[:, FEATURES.index("words")]).value
        print(
            f"{name:12}{len(y):6} claims, {y.mean():4.0%} supported, AUROC {left_out[name]:.3f}; "
            f"share of words alone {plain:.3f}"
        )
    print(f"mean AUROC on sources that the head never saw: {np.mean(list(left_out.values())):.4f}")
    kept = {
        "trained_on": {name: len(y) for name, (_, y) in sets.items()},
        "left_out_auroc": left_out,
        "head": written(fit(list(sets.values()))),
    }
    write_atomic(args.out, json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
