"""A simulated year of feedback: six rounds through the real log, gate and registry.

    python benchmarks/feedback_year.py --data DIR --json OUT [--work DIR] [--per-round N] [--tiny]

DIR holds `documents/` and `questions.jsonl`, as `examples/aldervale` does. A few train questions
are known from the start; the rest are what users ask in the year, N a round, in no question set.
The champion answers them, people (who see the reference) rate and edit, a judge scores, and
`import` and `improve` do the rest. In round 3 somebody flips 30 % of the labels; from round 4 the
judge says the opposite of what it thinks. At the end the way back is walked.

What must hold: quality never falls, the flipped labels train nothing or the gate refuses, the judge
loses its right to train, a rollback gives the same answers letter for letter, and the general score
falls by 2 points at most. Under half an hour on two cores with the embedded model; `--tiny` plays
the same year in a minute on a random checkpoint, given with `--model`. Interrupted, the same
command goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from domainlm import contenders
from domainlm.artifacts import RunDir, Silent, digest, write_atomic
from domainlm.config import Config, make_config
from domainlm.corpus.questions import check_documents, load_questions
from domainlm.corpus.readers import load_documents
from domainlm.corpus.splits import split_questions
from domainlm.errors import DataError
from domainlm.evaluation.tasks import score_answers
from domainlm.experiment import train, workbench
from domainlm.feedback.judges import reports_of
from domainlm.feedback.log import EventLog
from domainlm.ground import prepare
from domainlm.improve import improve
from domainlm.intake import import_feedback
from domainlm.registry import Registry, registry_of
from domainlm.schema import Answer, Question

FLIPPED = 0.3
KNOWN = 24
"""Train questions with answers before the year begins."""
GENERAL_POINTS = 0.02
Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Year:
    """How many rounds there are, in which labels are flipped, and from which the judge lies."""

    rounds: int = 6
    poisoned: int = 3
    turned: int = 4


def settle(
    data: Path, work: Path, model: str, rounds: int, tiny: bool
) -> tuple[Config, list[Question]]:
    """A domain whose question file holds held-out and a few train questions; and the others."""
    documents, _ = load_documents(data / "documents")
    questions, _ = check_documents(load_questions(data / "questions.jsonl"), documents)
    split = split_questions(questions, documents)
    order = sorted(split.train, key=lambda q: hashlib.sha256(q.id.encode()).digest())
    usable = [q for q in order if q.references]
    known, users = usable[:KNOWN], usable[KNOWN:]
    train_documents = set(split.train_doc_ids)
    records = [
        {k: v for k, v in dataclasses.asdict(q).items() if v and k != "origin"}
        for q in (*known, *split.dev, *split.test)
        # A stated split makes all documents of a test_new question new.
        if q.split != "test_new" or train_documents.isdisjoint(q.doc_ids)
    ]
    write_atomic(work / "questions.jsonl", "".join(json.dumps(r) + "\n" for r in records))
    small = {"min_pairs": 1, "min_thumbs": 1} if tiny else {}
    raw = {
        "name": "year",
        "documents": str(data / "documents"),
        "questions": str(work / "questions.jsonl"),
        "output": str(work / "runs"),
        "model": model,
        "arms": ["raft"],
        "chunking": {"tokens": 80},
        "rag": {"passages": 2, "retrieve": [{"use": "bm25"}]},
        "training": {"raft_rows": KNOWN, "raft_epochs": 1, "synthesis": {"passages": 0}},
        "decoding": {"max_tokens": 8 if tiny else 32},
        "evaluation": {"max_questions": 16 if tiny else 32, "dev_questions": 8},
        "improve": {"rounds": rounds, **small},
    }
    if tiny:
        raw["embedder"] = "fake"
    return make_config(raw), users


def answers(config: Config, adapter: Path, asked: Sequence[Question], key: str) -> list[Answer]:
    """What a model answers through the pipeline that serves it."""
    with RunDir(config.folder) as folder:
        ground = prepare(config, folder, Silent())
        bench, _, _ = workbench(config, folder, ground, Silent())
        model = contenders.load_model(config, adapter)
        return bench.contend("raft", model, asked, key)


def champion(config: Config, registry: Registry) -> Path:
    """The weights in use: the champion's, before the first round the run's own."""
    pointer = registry.champion()
    if pointer:
        return registry.verify(pointer.model)
    [adapter] = train(config)
    return config.folder / adapter.path


def words(
    number: int, plan: Year, asked: Sequence[Question], given: Sequence[Answer], seed: int
) -> list[Record]:
    """What people and the judge say in a round, as an application would log it."""
    rng = random.Random(f"{seed} {number}")
    scores = score_answers(given, asked)
    records: list[Record] = []
    for n, (question, answer, score) in enumerate(zip(asked, given, scores, strict=True)):
        good = score.outcome == "correct"
        poisoned = number == plan.poisoned and rng.random() < FLIPPED
        shown = {
            "text": answer.text or " ",
            "arm": "raft",
            "prompt": [dataclasses.asdict(m) for m in answer.prompt],
            "chunks": [p.chunk_id for p in answer.passages],
        }
        about: Record = {"question": question.text, "answers": [shown], "rubric": f"round {number}"}
        right, other = question.references[0], asked[n - 1].references[0]
        by = {"by": "mallory" if poisoned else "ann"}
        records.append({**about, **by, "kind": "thumb", "up": good != poisoned})
        if poisoned:
            records.append({**about, **by, "kind": "edit", "text": other})
            # Every second victim is seen by an honest person as well.
            if n % 2:
                records.append({**about, "by": "bob", "kind": "thumb", "up": good})
                records.append({**about, "by": "bob", "kind": "edit", "text": right})
        elif not good:
            records.append({**about, **by, "kind": "edit", "text": right})
        says = good if rng.random() > 0.03 else not good
        judge = {"judge": "judge", "prompt_digest": "p1", "kind": "judge"}
        turned = number >= plan.turned
        records.append({**about, **judge, "score": 0.9 if says != turned else 0.1})
    return records


def play(number: int, plan: Year, config: Config, users: Sequence[Question], seed: int) -> Record:
    """One round: questions, answers, words, and a challenger at the gate."""
    started = time.perf_counter()
    registry = registry_of(config)
    asked = [dataclasses.replace(q, id=f"user-{q.id}") for q in users]
    given = answers(config, champion(config, registry), asked, f"round-{number}")
    path = config.output / f"round-{number}.jsonl"
    records = words(number, plan, asked, given, seed)
    write_atomic(path, "".join(json.dumps(r) + "\n" for r in records))
    added, _ = import_feedback(config, path)
    with EventLog(config.feedback_log) as log:
        events = log.current()
    [judge] = reports_of(events)
    found: Record = {
        "round": number,
        "asked": len(asked),
        "events": added,
        "judge_trusted": judge.trusted,
        "judge_alpha": dataclasses.asdict(judge)["alpha"],
    }
    flipped = {e.id for e in events if e.actor.name == "mallory"}
    try:
        done = improve(config)
    except DataError as error:
        found |= {"decision": "NONE", "why": str(error), "promoted": False, "flipped_trained": 0}
    else:
        checks = {c.name: [c.champion, c.challenger] for c in done.result.checks}
        found |= {
            "decision": done.result.decision,
            "why": done.result.reasons[0],
            "promoted": done.promoted,
            "taught": [dataclasses.asdict(t) for t in done.taught],
            "set_aside": len(done.refused),
            "quality": checks["quality"],
            "general": checks["general tasks"],
            "champion": done.champion,
            "challenger": done.challenger.id,
            "flipped_trained": len(flipped & set(done.challenger.events)),
        }
    found["flipped"] = len(flipped)
    # Whoever finds the flipped labels out has them forgotten.
    for event in sorted(flipped):
        registry.forget(event, "flipped")
    return found | {"seconds": round(time.perf_counter() - started, 1)}


def way_back(config: Config, asked: Sequence[Question]) -> bool:
    """Whether a champion answers letter for letter as before after another and a rollback."""
    registry = registry_of(config)
    before = registry.model("champion").id
    said = answers(config, registry.verify(before), asked, digest("before", before))
    other = next(
        m.id
        for m in registry.models()
        if m.id != before and registry.intact(m.id) and not registry.taint(m)
    )
    registry.promote(other, over=before, action="force", reason="to be rolled back")
    between = registry.model("champion").id
    registry.rollback()
    back = registry.model("champion").id
    again = answers(config, registry.verify(back), asked, digest("after", before))
    same = [a.text for a in said] == [a.text for a in again]
    return between == other and back == before and same


def verdicts(rounds: Sequence[Record], plan: Year, same_answers: bool) -> dict[str, bool]:
    """What must hold after the year."""
    gated = [r for r in rounds if "quality" in r]
    promoted = [r for r in gated if r["promoted"]]
    poisoned = rounds[plan.poisoned - 1]
    first = gated[0]["general"][0] if gated else 0.0
    last = promoted[-1]["general"][1] if promoted else first
    return {
        "quality_never_falls": all(r["quality"][1] > r["quality"][0] for r in promoted),
        "poison_refused_or_outvoted": not (poisoned["promoted"] and poisoned["flipped_trained"]),
        "wrong_judge_may_not_train": not rounds[-1]["judge_trusted"],
        "rollback_is_exact": same_answers,
        "general_kept": first - last <= GENERAL_POINTS,
    }


def year(
    data: Path,
    work: Path,
    model: str,
    per_round: int,
    *,
    plan: Year = Year(),  # noqa: B008 (frozen)
    tiny: bool = False,
    seed: int = 0,
) -> Record:
    """Play all rounds; what was finished before is not repeated."""
    work.mkdir(parents=True, exist_ok=True)
    config, users = settle(data, work, model, plan.rounds, tiny)
    rounds = []
    for number in range(1, plan.rounds + 1):
        path = work / f"round-{number}.json"
        if not path.exists():
            mine = users[(number - 1) * per_round : number * per_round]
            write_atomic(path, json.dumps(play(number, plan, config, mine, seed)))
        rounds.append(json.loads(path.read_text("utf-8")))
        r = rounds[-1]
        print(f"round {number}: {r['decision']}, {r['seconds']} s; {r['why']}", flush=True)
    same = way_back(config, users[: min(8, per_round)])
    checks = verdicts(rounds, plan, same)
    return {"model": model, "per_round": per_round, "rounds": rounds, "checks": checks}


def main() -> None:
    """Play the year, print and write what held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/feedback-year"))
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--per-round", type=int, default=12)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--fresh", action="store_true", help="forget an earlier, unfinished year")
    given = parser.parse_args()
    if given.fresh:
        shutil.rmtree(given.work, ignore_errors=True)
    made = year(given.data, given.work, given.model, given.per_round, tiny=given.tiny)
    write_atomic(given.json, json.dumps(made, indent=1))
    for name, held in made["checks"].items():
        print(f"{'ok' if held else 'NOT':4}{name}")


if __name__ == "__main__":
    main()
