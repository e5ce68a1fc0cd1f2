"""Five arms on public sets of different kinds: contracts, yes/no/maybe, numbers, summaries.

    python benchmarks/domains.py --data DIR --json OUT [--work DIR] [--only pubmedqa,tatqa]

DIR holds the folders `cuad`, `pubmedqa`, `tatqa` and `legal_summarization`; a set that is absent is
left out. Every set is a full run with the embedded models: index, pipeline chosen on dev,
adapters, five arms, verdict, return on investment under the worth of answers that `SETS` declares.
About twelve minutes each on two cores; interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domainlm.artifacts import write_atomic
from domainlm.config import make_config
from domainlm.display.progress import Bars
from domainlm.evaluation.roi import words
from domainlm.experiment import run
from domainlm.report import write_report
from domainlm.schema import Interval, RunResult

CLAUSES = (
    "Document Name",
    "Parties",
    "Agreement Date",
    "Effective Date",
    "Expiration Date",
    "Renewal Term",
    "Governing Law",
)
"""Categories of CUAD whose answers are short."""
CONTRACTS, LONGEST, WORDS = 48, 40_000, 40


@dataclass(frozen=True)
class Domain:
    """Where a set lies below the data folder, how a copy of it is prepared, and its settings."""

    path: str
    settings: dict[str, Any]
    prepare: Callable[[Path, Path], None] = lambda source, target: None


def short_clauses(source: Path, target: Path) -> None:
    """Contracts of moderate length with the clauses whose answers are short, in SQuAD form."""
    articles = json.loads(gzip.decompress(source.read_bytes()))["data"]
    kept = []
    for article in sorted(articles, key=lambda a: a["title"]):
        paragraph = article["paragraphs"][0]
        qas = []
        for qa in paragraph["qas"]:
            answer = ", ".join(a["text"] for a in qa["answers"])
            if qa["category"] in CLAUSES and 0 < len(answer.split()) <= WORDS:
                question = qa["question"].split("Details:")[-1].strip()
                qas.append({"id": qa["id"], "question": question, "answers": [{"text": answer}]})
        if len(paragraph["context"]) <= LONGEST and len(qas) >= 4:
            kept.append({**article, "paragraphs": [{**paragraph, "qas": qas}]})
    step = max(1, len(kept) // CONTRACTS)
    write_atomic(target, json.dumps({"data": kept[::step][:CONTRACTS]}).encode())


def settings(fmt: str, worth: tuple[float, float, float], **more: Any) -> dict[str, Any]:
    """A configuration; `worth` is what a right answer brings, and a wrong one and none cost."""
    correct, wrong, abstained = worth
    return {
        "format": fmt,
        "budget": "small",
        "cost": {
            "volume": 10_000,
            "value_correct_usd": correct,
            "cost_wrong_usd": wrong,
            "cost_abstained_usd": abstained,
        },
        **more,
    }


SETS = {
    "contracts": Domain(
        "cuad/CUAD_public.json.gz",
        settings(
            "squad",
            (2.0, 4.0, 0.5),
            chunking={"tokens": 180},
            training={"tuned_rows": 200, "raft_rows": 160, "synthesis": {"passages": 0}},
            evaluation={"max_questions": 96, "dev_questions": 24},
        ),
        short_clauses,
    ),
    "pubmedqa": Domain(
        "pubmedqa/ori_pqal_public.json",
        settings(
            "pubmedqa",
            (1.0, 1.0, 0.1),
            # An abstract is one chunk.
            chunking={"tokens": 420},
            rag={"passages": 1},
            training={
                "tuned_rows": 150,
                "tuned_epochs": 2,
                "raft_rows": 150,
                "synthesis": {"passages": 0},
            },
            decoding={"max_tokens": 16},
            evaluation={"max_questions": 90, "dev_questions": 30},
        ),
    ),
    "tatqa": Domain(
        "tatqa/tatqa_dev.json",
        settings(
            "tatqa",
            (1.0, 2.0, 0.2),
            chunking={"tokens": 200},
            training={"tuned_rows": 200, "raft_rows": 150, "synthesis": {"passages": 0}},
            decoding={"max_tokens": 48},
            evaluation={"max_questions": 90, "dev_questions": 20},
        ),
    ),
    "summaries": Domain(
        "legal_summarization/legal_summaries.json",
        settings(
            "summaries",
            (0.5, 0.2, 0.1),
            chunking={"tokens": 320},
            training={"tuned_rows": 180, "raft_rows": 180, "synthesis": {"passages": 0}},
            decoding={"max_tokens": 64},
            evaluation={"max_questions": 80, "dev_questions": 24},
        ),
    ),
}


def measured(name: str, domain: Domain, data: Path, work: Path) -> RunResult:
    """The finished run of one set."""
    source = data / domain.path
    target = work / "sets" / f"{name}{Path(domain.path.removesuffix('.gz')).suffix}"
    target.parent.mkdir(parents=True, exist_ok=True)
    domain.prepare(source, target)
    if not target.exists():
        shutil.copyfile(source, target)
    raw = {**domain.settings, "name": name, "questions": str(target), "output": str(work / "runs")}
    with Bars() as bars:
        result = run(make_config(raw), bars)
    write_report(result, work / "runs" / name)
    return result


def shown(interval: Interval) -> str:
    """`.61 [.55, .67]`."""
    if interval.low is None or interval.high is None:
        return f"{interval.value:.3f}"
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def figures(result: RunResult) -> dict[str, Any]:
    """What a run found, for the JSON file."""
    whole = [s for s in result.summaries if (s.task, s.split) == ("all", "test")]
    classes = Counter(
        (s.arm, s.classified.said or "none")
        for s in result.scores
        if s.classified and s.split != "dev"
    )
    return {
        "verdict": result.verdict.sentence,
        "reasons": result.verdict.reasons,
        "caveats": result.verdict.caveats,
        "return": words.ranking(result.money) if result.money else "",
        "documents": result.data.documents,
        "questions": result.data.questions,
        "training_rows": result.data.training_rows,
        "arms": {
            s.arm: {
                "primary": shown(s.metrics["primary"]),
                "correct": s.metrics["correct"].value,
                "outcomes": s.outcomes,
                "p50_s": round(s.latency_p50_s, 3),
                "said": {c: n for (arm, c), n in sorted(classes.items()) if arm == s.arm},
            }
            for s in whole
        },
        "by_task": {
            f"{s.task}, {s.arm}": shown(s.metrics["primary"])
            for s in result.summaries
            if s.split == "test" and s.task != "all"
        },
        "contrasts": {
            c.name: f"{shown(c.difference)}, {c.verdict}"
            for c in result.contrasts
            if (c.task, c.split) == ("all", "test")
        },
        "pipeline": [s.use for s in result.rag.retrieve],
        "minutes": round(sum(t.seconds for t in result.times) / 60, 1),
    }


def main() -> None:
    """Run, print and write JSON after every set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("domains"))
    parser.add_argument("--only", default=",".join(SETS))
    options = parser.parse_args()
    chosen = [name for name in options.only.split(",") if name]
    unknown = [name for name in chosen if name not in SETS]
    if unknown:
        raise SystemExit(f"--only {unknown[0]} is unknown; sets are {', '.join(SETS)}")
    found: dict[str, Any] = {}
    for name in chosen:
        if not (options.data / SETS[name].path).exists():
            print(f"{name}: {SETS[name].path} is not below {options.data}; left out")
            continue
        begun = time.perf_counter()
        found[name] = figures(measured(name, SETS[name], options.data, options.work))
        print(f"\n{name}: {found[name]['verdict']}")
        for arm, row in found[name]["arms"].items():
            print(f"  {arm:10} {row['primary']}  correct {row['correct']:.2f}  {row['outcomes']}")
            if row["said"]:
                print(f"             said {row['said']}")
        for contrast, line in found[name]["contrasts"].items():
            print(f"  {contrast}: {line}")
        print(f"  {found[name]['return']}")
        print(f"  {time.perf_counter() - begun:.0f} s now, {found[name]['minutes']} min in all")
        write_atomic(options.json, json.dumps(found, indent=2).encode())


if __name__ == "__main__":
    main()
