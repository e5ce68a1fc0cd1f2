"""The tutorial's contract task: the labs' contract, and many others split by contract.

    python benchmarks/contracts.py --data DIR --json OUT

DIR holds `CUAD_public.json.gz` (SQuAD form; `*_extra*` files beside it join in) and `pdf/` with the
labs' contract. The labs printed averages for Llama-3-8B on the same 32 questions; here the embedded
135M model answers them on a CPU, trained on other contracts only, from what search finds and from
the gold chunk. About two hours on two cores; interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np

from domainlm import stats
from domainlm.config import load_config
from domainlm.display.progress import Bars
from domainlm.experiment import run
from domainlm.report import write_report
from domainlm.schema import RunResult, Score
from gold_chunk import lines, measure

EXAMPLE = Path(__file__).parents[1] / "examples" / "contracts"
LAB = runpy.run_path(str(EXAMPLE / "prepare.py"))
METRICS = ("semantic_similarity", "token_overlap_recall", "rouge_l_recall", "token_f1")
LABS = {
    "labs, naive RAG, Llama-3-8B": (0.487, 0.270, 0.263, None),
    "labs, best advanced RAG, Llama-3-8B": (0.545, 0.312, 0.358, None),
}


def means(scores: list[Score]) -> dict[str, float]:
    """Mean of each of the labs' metrics."""
    return {m: round(float(np.mean([s.metrics[m] for s in scores])), 4) for m in METRICS}


def figures(result: RunResult) -> dict[str, Any]:
    """The labs' contract, the other contracts, and the paired gain of raft over rag by contract."""
    lab_id = f"{LAB['LAB_CONTRACT']}.pdf"
    test = [s for s in result.scores if s.split == "test_new"]
    arms = list(dict.fromkeys(s.arm for s in test))
    lab = {a: means([s for s in test if s.arm == a and s.cluster == lab_id]) for a in arms}
    others = [s for s in test if s.cluster != lab_id]
    found: dict[str, Any] = {
        "lab_questions": sum(s.arm == arms[0] and s.cluster == lab_id for s in test),
        "lab_contract": lab,
        "other_contracts": {a: means([s for s in others if s.arm == a]) for a in arms},
    }
    by_arm = {a: {s.question_id: s for s in others if s.arm == a} for a in ("rag", "raft")}
    ids = sorted(by_arm["rag"])
    gain = stats.paired_difference(
        [by_arm["raft"][i].metrics["token_f1"] for i in ids],
        [by_arm["rag"][i].metrics["token_f1"] for i in ids],
        [by_arm["rag"][i].cluster for i in ids],
        margin=0.05,
    )
    found["raft_minus_rag_token_f1"] = {
        "difference": gain.difference.value,
        "low": gain.difference.low,
        "high": gain.difference.high,
        "p_value": gain.p_value,
        "questions": gain.n_questions,
        "contracts": gain.n_documents,
    }
    found["evidence_recall"] = float(
        np.mean([s.metrics["evidence_recall"] for s in others if s.arm == "raft"])
    )
    return found


def main() -> None:
    """Prepare, run, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/contracts"))
    parser.add_argument("--train", type=int, default=120)
    parser.add_argument("--dev", type=int, default=3)
    parser.add_argument("--test", type=int, default=22)
    parser.add_argument("--per-contract", type=int, default=6)
    parser.add_argument("--max-chars", type=int, default=90_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("overrides", nargs="*", help="settings, e.g. training.raft_rows=900")
    args = parser.parse_args()
    args.out = args.work / "data"
    LAB["prepare"](args)
    config = load_config(
        EXAMPLE / "domainlm.yaml",
        [
            f"documents={args.out.resolve() / 'documents'}",
            f"questions={args.out.resolve() / 'questions.jsonl'}",
            f"output={args.work.resolve() / 'runs'}",
            *args.overrides,
        ],
    )
    with Bars() as bars:
        result = run(config, bars)
        write_report(result, config.folder)
        gold = measure(config.folder, bars, {f"{LAB['LAB_CONTRACT']}.pdf"})
    found = {
        **figures(result),
        "gold_chunk": gold,
        "training_s": sum(a.seconds for a in result.adapters),
        "stage_s": {t.stage: t.seconds for t in result.times},
        "config": result.config,
        "provenance": result.provenance,
    }
    args.json.write_text(json.dumps(found, indent=2), "utf-8")
    print(f"{'':40}" + "".join(f"{m:>22}" for m in METRICS))
    for name, values in LABS.items():
        print(f"{name:40}" + "".join(f"{'-' if v is None else v:>22}" for v in values))
    for part in ("lab_contract", "other_contracts"):
        for arm, row in found[part].items():
            print(f"{f'{part}: {arm}':40}" + "".join(f"{row[m]:>22.3f}" for m in METRICS))
    gain = found["raft_minus_rag_token_f1"]
    print(
        f"raft - rag, token F1, {gain['questions']} questions of {gain['contracts']} contracts: "
        f"{gain['difference']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"
    )
    print("\n".join(lines(gold)))


if __name__ == "__main__":
    main()
