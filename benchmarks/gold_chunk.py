"""What a run's raft reader answers when the right passages stand in its prompt.

    python benchmarks/gold_chunk.py --run RUN --json OUT

RUN is the folder of a finished run (of `contracts.py`: `WORK/runs/contracts`). The same test
questions are answered once more, over three prompts: the indexed passages that hold the labelled
evidence and no others, in the order of the document; these, and behind them what the run had found;
and the evidence with 300 characters on either side, as the report's oracle shows it. Token F1 is
that of the run, intervals are by document. About ten minutes on two cores, two with
`--prompts alone`; interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from domainlm import stats
from domainlm.artifacts import RunDir, digest
from domainlm.config import make_config
from domainlm.controls import oracle
from domainlm.display.progress import Bars
from domainlm.evaluation.tasks import score_answers
from domainlm.experiment import load_result, workbench
from domainlm.ground import prepare
from domainlm.rag.pipeline import Arm, Retrieval, generate
from domainlm.rag.rocchio import evidence_spans
from domainlm.rag.stages import Resources
from domainlm.schema import Answer, Passage, Question

PROMPTS = {
    "found": "what the run found",
    "alone": "gold chunk alone",
    "first": "gold chunk, then what the run found",
    "oracle": "evidence with 300 characters on either side",
}


def gold_passages(question: Question, resources: Resources) -> list[Passage]:
    """The indexed passages that hold a question's labelled evidence, in the order of the documents:
    what a perfect search would find. Of a piece of evidence at least 20 characters, or all of it,
    make a passage one.
    """
    hits: list[tuple[str, float]] = []
    for doc_id in question.doc_ids:
        document = resources.documents.get(doc_id)
        spans = evidence_spans(question, document) if document else []
        hits += [
            (chunk.id, 1.0)
            for chunk in (resources.index.document_chunks([doc_id]) if spans else ())
            if any(
                min(end, chunk.end) - max(start, chunk.start) >= min(20, end - start)
                for start, end in spans
            )
        ]
    return resources.index.passages(hits, resources.documents)


def behind(first: Sequence[Passage], found: Sequence[Passage]) -> list[Passage]:
    """The first passages, then those found that show nothing of them."""
    rest = [
        p
        for p in found
        if not any(p.doc_id == g.doc_id and p.start < g.end and g.start < p.end for g in first)
    ]
    return [*first, *rest]


def measure(
    run: Path,
    bars: Bars,
    leave_out: Collection[str] = (),
    prompts: Collection[str] = ("alone", "first", "oracle"),
) -> dict[str, Any]:
    """Token F1 of raft on new documents, as the run answered and over the other prompts.

    Args:
        run: folder of a finished run that has a raft arm.
        bars: told what is going on.
        leave_out: documents whose questions do not count.
        prompts: which of them.
    """
    result = load_result(run)
    config = make_config(result.config)
    with RunDir(run, bars.stage) as folder:
        ground = prepare(config, folder, bars)
        bench, _, _ = workbench(config, folder, ground, bars)
        told = {a.question_id: a for a in result.answers if a.arm == "raft"}
        asked = [
            q
            for q in ground.questions.test_new
            if q.id in told and not set(q.doc_ids) & set(leave_out)
        ]
        retrieval = Retrieval(ground.trials[0].spec, bench.resources)
        gold = {q.id: gold_passages(q, bench.resources) for q in asked}
        gold = {q.id: retrieval.finish(q, gold[q.id]) for q in asked if gold[q.id]}
        asked = [q for q in asked if q.id in gold]
        shows: dict[str, dict[str, Sequence[Passage]]] = {
            "alone": dict(gold),
            "first": {i: behind(gold[i], told[i].passages) for i in gold},
            "oracle": dict(oracle(asked, ground.by_id)),
        }
        adapter = next(a for a in result.adapters if a.name == "raft")
        model = bench.reader("raft", adapter)
        answers = {"found": [told[q.id] for q in asked]}
        for name in prompts:
            shown = shows[name]

            def answer(
                questions: Sequence[Question],
                name: str = name,
                shown: dict[str, Sequence[Passage]] = shown,
            ) -> list[Answer]:
                given = [shown[q.id] for q in questions]
                return generate(name, model, bench.sampling, questions, given, None)

            key = digest(adapter.digest, shown, config.decoding)
            answers[name] = bench.keep(Arm(name, answer, retrieves=True), asked, key)
    found: dict[str, Any] = {"questions": len(asked)}
    for name, said in answers.items():
        scores = score_answers(said, asked)
        values = [s.metrics["token_f1"] for s in scores]
        interval = stats.cluster_interval(values, [s.cluster for s in scores])
        found[name] = dataclasses.asdict(interval)
    return found


def lines(found: dict[str, Any]) -> list[str]:
    """The figures in words."""
    told = [f"raft, token F1 of {found['questions']} questions about new documents, by prompt:"]
    for name, label in PROMPTS.items():
        if name in found:
            value, low, high = (found[name][key] for key in ("value", "low", "high"))
            between = "" if low is None else f" [{low:.3f}, {high:.3f}]"
            told.append(f"  {label:45}{value:.3f}{between}")
    return told


def main() -> None:
    """Answer over the three prompts, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--leave-out", action="append", default=[], help="a document's id")
    parser.add_argument(
        "--prompts", nargs="+", choices=list(PROMPTS)[1:], default=list(PROMPTS)[1:]
    )
    args = parser.parse_args()
    with Bars() as bars:
        found = measure(args.run, bars, args.leave_out, args.prompts)
    args.json.write_text(json.dumps(found, indent=2), "utf-8")
    print("\n".join(lines(found)))


if __name__ == "__main__":
    main()
