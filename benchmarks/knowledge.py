"""What does a model know of documents that it was trained on, without looking them up?

    python benchmarks/knowledge.py --data DIR --json OUT [--work DIR] [KEY=VALUE ...]

DIR holds `documents/` and `questions.jsonl`, as `examples/aldervale` does. Half of the questions
about known documents are held out. The other half teach a writer how people ask; what the writer
asks about the facts of the documents, and the facts with a gap, are all that `tuned` learns from:
no row is a person's question. `base` and `tuned` then answer the held-out half closed book, and
questions about documents that nobody trained on, where knowledge cannot help. Overrides such as
`training.tuned_epochs=3` change the recipe; interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from domainlm import contenders, stats
from domainlm.artifacts import RunDir, digest, write_atomic
from domainlm.config import Config, load_config
from domainlm.display.progress import Bars
from domainlm.evaluation.tasks import score_answers
from domainlm.experiment import workbench
from domainlm.ground import prepare
from domainlm.schema import Lessons, Question, Score
from domainlm.training.data import closed_book_rows

EXAMPLE = Path(__file__).parents[1] / "examples" / "aldervale" / "domainlm.yaml"
SETTINGS = (
    "name=knowledge",
    "budget=medium",
    "arms=[base,tuned]",
    "split.test_known=0.5",
    "rag.retrieve=[{use: bm25}]",
    "decoding.max_tokens=48",
)
TASKS = ("extractive", "multi_document")
"""Tasks that token F1 measures; of the others a model cannot show what it knows in few words."""


def measure(config: Config) -> dict[str, Any]:
    """Train on what was synthesised alone, and let `base` and `tuned` answer."""
    with Bars() as bars, RunDir(config.folder, bars.stage) as folder:
        ground = prepare(config, folder, bars)
        bench, written, key = workbench(config, folder, ground, bars)
        training = config.training
        rows = closed_book_rows(written.questions, training.tuned_rows, config.seed)
        key = digest(key, rows)
        adapter = bench.fit("knowledge", "tuned", Lessons(tuple(rows)), key)
        asked = [q for q in ground.questions.test if q.task in TASKS and q.references]
        scores: dict[str, list[Score]] = {}
        for name, place in (("base", None), ("tuned", config.folder / adapter.path)):
            model = contenders.load_model(config, place)
            # The answers are scored as they are; other arms' settings do not matter here.
            answers = bench.contend(name, model, asked, digest(key, name, config.decoding))  # type: ignore[arg-type]
            scores[name] = score_answers(answers, asked)
        seconds = {t.stage: round(t.seconds, 1) for t in folder.times()}
    counts = {
        "documents": len(ground.questions.train_doc_ids),
        "rows": len(rows),
        "written": written.counts,
        "training_s": round(adapter.seconds, 1),
        "training_tokens": adapter.tokens,
        "last_loss": adapter.curve[-1].loss,
    }
    found = {
        f"{split}, {task}": _compared(scores, asked, split, task)
        for split in ("test_known", "test_new")
        for task in ("all", *TASKS)
    }
    return {
        "token_f1": found,
        **counts,
        "stage_s": seconds,
        "config": config.model_dump(mode="json"),
    }


def _compared(
    scores: dict[str, list[Score]], asked: Sequence[Question], split: str, task: str
) -> dict[str, Any]:
    """Mean token F1 of both arms and their difference, paired and resampled by document."""
    mine = {q.id for q in asked if q.split == split and task in ("all", q.task)}
    base, tuned = ([s for s in scores[arm] if s.question_id in mine] for arm in ("base", "tuned"))
    values = [[s.metrics["token_f1"] for s in arm] for arm in (tuned, base)]
    if not base:
        return {"questions": 0}
    gain = stats.paired_difference(*values, [s.cluster for s in base], margin=0.05)
    return {
        "questions": len(base),
        "documents": gain.n_documents,
        "base": round(float(np.mean(values[1])), 4),
        "tuned": round(float(np.mean(values[0])), 4),
        "difference": gain.difference.value,
        "low": gain.difference.low,
        "high": gain.difference.high,
    }


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs"))
    parser.add_argument("overrides", nargs="*", help="settings, e.g. training.tuned_epochs=3")
    args = parser.parse_args()
    config = load_config(
        EXAMPLE,
        [
            f"documents={args.data.resolve() / 'documents'}",
            f"questions={args.data.resolve() / 'questions.jsonl'}",
            f"output={args.work.resolve()}",
            *SETTINGS,
            *args.overrides,
        ],
    )
    found = measure(config)
    write_atomic(args.json, json.dumps(found, indent=1, default=str))
    for name, row in found["token_f1"].items():
        if row["questions"]:
            print(
                f"{name:28} {row['questions']:4} questions: base {row['base']:.3f}, tuned "
                f"{row['tuned']:.3f}, {100 * row['difference']:+.1f} points "
                f"[{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
            )
    print(f"{found['rows']} rows, {found['training_s'] / 60:.1f} minutes of training")


if __name__ == "__main__":
    main()
