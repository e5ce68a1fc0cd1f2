"""Clauses that a contract does not have: how many are refused, and what that costs in answers.

    python benchmarks/abstention.py --data DIR --run RUN --json OUT

DIR is that of `contracts.py`, RUN the folder of its finished run (`WORK/runs/contracts`), whose
raft adapter, documents, pipeline and train questions are used. When to withhold an answer is
learned on contracts that are neither in training nor in the test; the test contracts are the run's,
each with clauses that it has and clauses that it lacks. About half an hour on two cores;
interrupted, the same command goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import random
import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from domainlm import stats
from domainlm.artifacts import Log, RunDir, digest
from domainlm.config import Config, make_config
from domainlm.contenders import open_index, stage_resources
from domainlm.display.progress import Bars
from domainlm.evaluation import selective
from domainlm.evaluation.abstention import is_abstention
from domainlm.evaluation.tasks import score_answers
from domainlm.experiment import load_result
from domainlm.ground import corpus_key, read_corpus, split_corpus
from domainlm.models.base import load_chat_model, load_embedder
from domainlm.rag.arms import arm_of
from domainlm.rag.pipeline import Retrieval
from domainlm.schema import Answer, Document, Question, QuestionSet, Sampling

LAB = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "contracts" / "prepare.py"))
_BATCH = 32


def named(contract: dict[str, Any]) -> str:
    """The id of a contract's document, as `prepare.py` writes it."""
    return re.sub(r"[^\w.,&() -]", "_", contract["title"])[:150] + ".txt"


def asked(
    contract: dict[str, Any], split: str, answerable: int, lacking: int, rng: random.Random
) -> list[Question]:
    """Questions about clauses that a contract has and that it lacks."""
    doc_id, questions = named(contract), contract["paragraphs"][0]["qas"]
    has = [q for q in questions if q["answers"]]
    lacks = [q for q in questions if not q["answers"]]
    chosen = rng.sample(has, min(answerable, len(has)))
    chosen += rng.sample(lacks, min(lacking, len(lacks)))
    return [
        Question(
            f"{doc_id}#{q['category']}",
            LAB["lab_question"](q["question"]),
            references=tuple([", ".join(a["text"] for a in q["answers"])] if q["answers"] else ()),
            doc_ids=(doc_id,),
            scope=(doc_id,),
            task="extractive" if q["answers"] else "unanswerable",
            split=split,  # type: ignore[arg-type]
        )
        for q in chosen
    ]


def strangers(
    contracts: list[dict[str, Any]], known: set[str], count: int, longest: int, rng: random.Random
) -> list[dict[str, Any]]:
    """Contracts of families that the run has not seen, one of each."""
    families = {LAB["key"](c["title"]) for c in contracts if named(c) in known}
    families.add(LAB["key"](LAB["LAB_CONTRACT"]))
    rng.shuffle(contracts)
    found: list[dict[str, Any]] = []
    for contract in contracts:
        family = LAB["key"](contract["title"])
        if family not in families and len(contract["paragraphs"][0]["context"]) <= longest:
            families.add(family)
            found.append(contract)
    return found[:count]


def answered(
    config: Config,
    args: argparse.Namespace,
    documents: list[Document],
    questions: QuestionSet,
    asked_now: list[Question],
    adapter: Path,
    bars: Bars,
) -> list[Answer]:
    """What raft says to every question, kept batch by batch."""
    log = Log(args.work / "answers.jsonl", Answer)
    done = {a.question_id: a for a in log.read()}
    left = [q for q in asked_now if q.id not in done]
    if left:
        embedder = load_embedder("embedded")
        with RunDir(args.work, bars.stage) as folder:
            key = digest([d.id for d in documents])
            index, _ = open_index(folder, key, config, documents, embedder, bars)
        by_id = {d.id: d for d in documents}
        spec = config.rag.spec()
        assert spec is not None
        retrieval = Retrieval(spec, stage_resources(config, index, by_id, questions, embedder))
        retrieval.prepare(left)
        model = load_chat_model("embedded", adapter=adapter)
        arm = arm_of("raft", model, Sampling(config.decoding.max_tokens), retrieval)
        for start in range(0, len(left), _BATCH):
            made = arm.answer(left[start : start + _BATCH])
            log.append(made)
            done |= {a.question_id: a for a in made}
            print(f"{len(done)} of {len(asked_now)} answered", flush=True)
    return [done[q.id] for q in asked_now]


def main() -> None:
    """Ask, learn, withhold, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/abstention"))
    parser.add_argument("--learn", type=int, default=20, help="contracts to learn on")
    parser.add_argument("--each", type=int, default=6, help="clauses of either kind per contract")
    parser.add_argument("--max-chars", type=int, default=60_000)
    parser.add_argument("--keep", type=float, default=0.85)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    result = load_result(args.run)
    config = make_config(result.config)
    with Bars() as bars, RunDir(args.run, bars.stage) as folder:
        key = corpus_key(config)
        read, _ = read_corpus(config, folder, key, bars)
        questions, _ = split_corpus(config, folder, key, read)
    documents = list(read)
    rng = random.Random(args.seed)
    contracts = LAB["read_contracts"](args.data)
    of = {named(c): c for c in contracts}
    new = strangers(list(contracts), {d.id for d in documents}, args.learn, args.max_chars, rng)
    dev = [q for c in new for q in asked(c, "dev", args.each, args.each, rng)]
    had = [q for q in questions.test_new if q.doc_ids[0] in of]
    tested = sorted({q.doc_ids[0] for q in had})
    lacked = [q for d in tested for q in asked(of[d], "test_new", 0, args.each, rng)]
    for contract in new:
        text = contract["paragraphs"][0]["context"]
        sha = hashlib.sha256(text.encode()).hexdigest()
        documents.append(
            Document(named(contract), contract["title"], named(contract), text, "text/plain", sha)
        )
    args.work.mkdir(parents=True, exist_ok=True)
    index = next(args.run.glob("index-*"))
    if not (args.work / index.name).exists():
        # The run's documents are embedded already.
        shutil.copytree(index, args.work / index.name)
    everything = [*dev, *had, *lacked]
    adapter = args.run / next(a.path for a in result.adapters if a.name == "raft")
    with Bars() as bars:
        answers = answered(config, args, documents, questions, everything, adapter, bars)
    embedder = load_embedder("embedded")
    known = selective.known_answers(questions.train, embedder)
    doubt = selective.learn("raft", answers, dev, known, embedder, args.keep)
    assert doubt is not None, "too few questions to learn from"
    made = selective.withhold(answers, everything, {"raft": doubt}, known, embedder)
    by_id = {q.id: q for q in everything}
    scores = {
        name: {s.question_id: s for s in score_answers(which, everything)}
        for name, which in (("before", answers), ("after", made))
    }
    found: dict[str, Any] = {"doubt": dataclasses.asdict(doubt), "keep": args.keep}
    for name, which in (("before", answers), ("after", made)):
        said = {a.question_id: not is_abstention(a.text) for a in which}
        for kind, group in (("answerable", had), ("lacking", lacked)):
            values = [float(said[q.id] if kind == "answerable" else not said[q.id]) for q in group]
            share = stats.cluster_interval(values, [q.doc_ids[0] for q in group])
            label = "answered" if kind == "answerable" else "refused"
            found[f"{name}_{label}"] = dataclasses.asdict(share)
        kept = [q.id for q in had if said[q.id]]
        f1 = [scores[name][i].metrics["token_f1"] for i in kept]
        found[f"{name}_token_f1_of_answered"] = float(np.mean(f1))
        assert all(by_id[i].references for i in kept)
    args.json.write_text(json.dumps(found, indent=2), "utf-8")
    for name in ("before", "after"):
        a, r = found[f"{name}_answered"], found[f"{name}_refused"]
        print(
            f"{name}: answered {a['value']:.3f} [{a['low']:.3f}, {a['high']:.3f}] of {len(had)}, "
            f"refused {r['value']:.3f} [{r['low']:.3f}, {r['high']:.3f}] of {len(lacked)}, "
            f"token F1 of what was answered {found[f'{name}_token_f1_of_answered']:.3f}"
        )


if __name__ == "__main__":
    main()
