"""Lay out contracts for domainlm: one file per contract, questions split by contract.

The folder given by `--data` holds `CUAD_public.json.gz` (SQuAD 2.0 form, one contract per title)
and, optionally, `*_extra*.json.gz` files of the same form and `pdf/`. The contract of the
tutorial's labs is ingested from its PDF; every other one as text. Answers are joined as the labs
joined them: all labelled spans, in their order, with a comma.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

LAB_CONTRACT = "ENERGOUSCORP_03_16_2017-EX-10.24-STRATEGIC ALLIANCE AGREEMENT"


def read_contracts(data: Path) -> list[dict[str, Any]]:
    """All contracts of the folder, main file and extras, sorted by title, each title once."""
    files = [data / "CUAD_public.json.gz", *sorted(data.glob("*_extra*.json*"))]
    contracts: dict[str, dict[str, Any]] = {}
    for path in files:
        if not path.exists():
            raise SystemExit(
                f"{path} is missing; point --data at a folder with CUAD_public.json.gz"
            )
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for contract in json.loads(raw)["data"]:
            contracts.setdefault(contract["title"], contract)
    return [contracts[title] for title in sorted(contracts)]


def lab_question(text: str) -> str:
    """The question text that the labs used: what follows "Details:"."""
    detail = text.split("Details:")[-1].strip()
    return detail if "?" in detail else f"What is {detail}?"


def rows_of(
    contract: dict[str, Any], doc_id: str, split: str, limit: int, rng: random.Random
) -> list[dict[str, Any]]:
    """Questions with a labelled answer as rows of questions.jsonl."""
    answered = [q for q in contract["paragraphs"][0]["qas"] if q["answers"]]
    if limit and len(answered) > limit:
        kept = {q["id"] for q in rng.sample(answered, limit)}
        answered = [q for q in answered if q["id"] in kept]
    return [
        {
            "id": f"{doc_id}#{q['category']}",
            "text": lab_question(q["question"]),
            "references": [", ".join(a["text"] for a in q["answers"])],
            "evidence": [a["text"] for a in q["answers"]],
            "doc_ids": [doc_id],
            "scope": [doc_id],
            "task": "extractive",
            "split": split,
            # Spans of clauses: a training target holds the parts that its passages show.
            "metadata": {"answer": "spans", "category": q["category"]},
        }
        for q in answered
    ]


def key(title: str) -> str:
    """Amended versions of one agreement have nearly the same title; they share this key."""
    return re.sub(r"[^a-z]", "", title.lower())[:24]


def main() -> None:
    """Write `documents/` and `questions.jsonl` into `--out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the contracts")
    parser.add_argument("--out", type=Path, required=True, help="where to write")
    parser.add_argument("--train", type=int, default=120, help="contracts to train on")
    parser.add_argument("--dev", type=int, default=3, help="contracts to choose on")
    parser.add_argument("--test", type=int, default=24, help="other contracts to test on")
    parser.add_argument("--per-contract", type=int, default=8, help="questions per test contract")
    parser.add_argument("--max-chars", type=int, default=90_000, help="skip longer contracts")
    parser.add_argument("--seed", type=int, default=1)
    prepare(parser.parse_args())


def prepare(args: argparse.Namespace) -> None:
    """Choose contracts by seed and write them; families of amended contracts stay together."""
    contracts = read_contracts(args.data)
    lab = next((c for c in contracts if c["title"] == LAB_CONTRACT), None)
    rng = random.Random(args.seed)
    families: dict[str, list[dict[str, Any]]] = {}
    for contract in contracts:
        short = len(contract["paragraphs"][0]["context"]) <= args.max_chars
        if (
            contract is not lab
            and short
            and (lab is None or key(contract["title"]) != key(LAB_CONTRACT))
        ):
            families.setdefault(key(contract["title"]), []).append(contract)
    order = list(families.values())
    rng.shuffle(order)
    chosen: dict[str, list[dict[str, Any]]] = {"test_new": [], "dev": [], "train": []}
    sizes = {"test_new": args.test, "dev": args.dev, "train": args.train}
    for family in order:
        split = next((s for s in chosen if len(chosen[s]) < sizes[s]), None)
        if split is None:
            break
        chosen[split] += family
    shutil.rmtree(args.out / "documents", ignore_errors=True)
    (args.out / "documents").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    if lab is not None:
        pdf = args.data / "pdf" / f"{LAB_CONTRACT}.PDF"
        if not pdf.exists():
            raise SystemExit(f"{pdf} is missing; the labs' contract is read from its PDF")
        doc_id = f"{LAB_CONTRACT}.pdf"
        shutil.copyfile(pdf, args.out / "documents" / doc_id)
        rows += rows_of(lab, doc_id, "test_new", 0, rng)
    for split, group in chosen.items():
        for contract in group:
            doc_id = re.sub(r"[^\w.,&() -]", "_", contract["title"])[:150] + ".txt"
            text = contract["paragraphs"][0]["context"]
            (args.out / "documents" / doc_id).write_text(text, "utf-8", newline="")
            limit = 0 if split == "train" else args.per_contract
            rows += rows_of(contract, doc_id, split, limit, rng)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (args.out / "questions.jsonl").write_text(lines, "utf-8")
    counts = {s: len(g) for s, g in chosen.items()}
    print(f"{len(rows)} questions; contracts {counts}; labs' contract {'yes' if lab else 'no'}")


if __name__ == "__main__":
    main()
