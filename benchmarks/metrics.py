"""Our metrics against the field's reference implementations, and against people.

    pip install -e ".[bench]"
    python benchmarks/metrics.py --data DIR --json OUT

- Token F1 and exact match against the official SQuAD script, ROUGE-L against `rouge-score`, on
  1,000 answers of large models with their references (FinanceBench, RAGChecker).
- nDCG@10, reciprocal rank and recall against `pytrec_eval`, on TF-IDF rankings of SciFact and
  Cranfield; `ranking_metrics` of reports (binary) and of benchmarks (graded).
- Kappa against scikit-learn, alpha against `krippendorff`, AC1 against its definition in plain
  loops, on 300 random tables each, with ratings missing where the coefficient allows it. (The
  package `irrCAC` asks for numpy 1; its published example is a unit test.)
- Macro-F1 and abstention F1 against scikit-learn, on 300 random sets of answers.
- What counts as correct against 832 judgements by people (FinanceBench), and which metric follows
  people's preference between two answers (RAGChecker).
"""

from __future__ import annotations

import argparse
import json
import random
import re
import string
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import krippendorff
import numpy as np
import pytrec_eval
from rouge_score import rouge_scorer
from scipy.stats import spearmanr
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import cohen_kappa_score, f1_score

import sets
from domainlm.corpus.sets import load_set
from domainlm.evaluation import agreement, fscores
from domainlm.evaluation import metrics as m
from domainlm.evaluation.claims import claim_coverage
from domainlm.evaluation.tasks import score_answers
from domainlm.schema import ABSTENTION, Answer, Question, Score
from retrieval import ndcg

PAIRS, TABLES = 1_000, 300
EXACT = 1e-9


# --- the official SQuAD script, evaluate-v1.1 (Rajpurkar et al., 2016), from its definition -------


def official_normalise(text: str) -> str:
    """Lower case, then no punctuation, then no articles, then single blanks."""
    lowered = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", lowered).split())


def official_f1(prediction: str, reference: str) -> float:
    """Token F1 of the script."""
    said, wanted = official_normalise(prediction).split(), official_normalise(reference).split()
    shared = sum((Counter(said) & Counter(wanted)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(said), shared / len(wanted)
    return 2 * precision * recall / (precision + recall)


def official_match(prediction: str, reference: str) -> float:
    """Exact match of the script."""
    return float(official_normalise(prediction) == official_normalise(reference))


# --- texts ----------------------------------------------------------------------------------------


def real_pairs(data: Path) -> list[tuple[str, str]]:
    """1,000 (answer of a large model, reference) pairs, drawn from both sets."""
    gold = {
        r["financebench_id"]: r["answer"] for r in sets.rows(data / "financebench/questions.jsonl")
    }
    judged = sets.rows(data / "financebench/judged_answers.jsonl")
    pairs = [(r["model_answer"], gold[r["financebench_id"]]) for r in judged]
    for r in sets.rows(data / "preferences/ragchecker_human_preferences.jsonl"):
        pairs += [(r[k]["response"], r["gt_answer"]) for k in ("model1", "model2")]
    pairs = sorted(set(pairs))
    return random.Random(0).sample(pairs, min(PAIRS, len(pairs)))


def texts(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Largest differences; typographic marks, which the script keeps as words, apart."""
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    gaps: dict[str, list[float]] = {
        "token_f1": [],
        "exact_match": [],
        "rouge_l_f": [],
        "rouge_l_recall": [],
    }
    folded = 0
    for said, wanted in pairs:
        rouge = scorer.score(wanted, said)["rougeL"]
        gaps["rouge_l_f"].append(abs(m.rouge_l_f(said, [wanted]) - rouge.fmeasure))
        gaps["rouge_l_recall"].append(abs(m.rouge_l_recall(said, [wanted]) - rouge.recall))
        plain = [t.encode("ascii", "ignore").decode() for t in (said, wanted)]
        f1 = m.token_f1(said, [wanted]) - official_f1(said, wanted)
        folded += abs(f1) > EXACT
        if plain != [said, wanted]:
            f1 = m.token_f1(plain[0], [plain[1]]) - official_f1(*plain)
        gaps["token_f1"].append(abs(f1))
        gaps["exact_match"].append(
            abs(m.exact_match(plain[0], [plain[1]]) - official_match(*plain))
        )
    return {
        "pairs": len(pairs),
        "largest difference": {name: max(found) for name, found in gaps.items()},
        "pairs where typographic marks or width make token F1 differ": folded,
    }


# --- rankings -------------------------------------------------------------------------------------


def rankings(folder: Path) -> dict[str, Any]:
    """Per-query differences to pytrec_eval on TF-IDF rankings of 100 documents."""
    documents = sets.passages(folder)
    asked = sets.judged(folder, documents)
    vectors = TfidfVectorizer(sublinear_tf=True, stop_words="english")
    matrix = vectors.fit_transform([f"{d.title} {d.text}" for d in documents])
    scores = (vectors.transform([a.text for a in asked]) @ matrix.T).toarray()
    ranked = {
        a.id: [documents[i].id for i in np.argsort(-row, kind="stable")[:100]]
        for a, row in zip(asked, scores, strict=True)
    }
    run = {q: {d: float(-n) for n, d in enumerate(found)} for q, found in ranked.items()}
    graded = {a.id: {d: int(g) for d, g in a.gold.items()} for a in asked}
    binary = {q: dict.fromkeys(gold, 1) for q, gold in graded.items()}
    measures = {"ndcg_cut_10", "recip_rank", "recall_5", "recall_10", "recall_100"}
    reference = pytrec_eval.RelevanceEvaluator(binary, measures).evaluate(run)
    by_grade = pytrec_eval.RelevanceEvaluator(graded, {"ndcg_cut_10"}).evaluate(run)
    gaps: dict[str, float] = {}

    def note(name: str, ours: float, theirs: float) -> None:
        gaps[name] = max(gaps.get(name, 0.0), abs(ours - theirs))

    for a in asked:
        found, gold, theirs = ranked[a.id], list(a.gold), reference[a.id]
        note("ndcg@10", m.ndcg_at_k(found, gold, 10), theirs["ndcg_cut_10"])
        note("ndcg@10, graded", ndcg(found, a.gold, 10), by_grade[a.id]["ndcg_cut_10"])
        note("reciprocal rank", m.reciprocal_rank(found, gold), theirs["recip_rank"])
        for k in (5, 10, 100):
            note(f"recall@{k}", m.recall_at_k(found, gold, k), theirs[f"recall_{k}"])
    mean = float(np.mean([r["ndcg_cut_10"] for r in by_grade.values()]))
    return {"queries": len(asked), "ndcg@10 of the ranking": mean, "largest difference": gaps}


# --- agreement ------------------------------------------------------------------------------------


def agreements() -> dict[str, float]:
    """Largest differences of the coefficients on random tables."""
    rng = np.random.default_rng(0)
    gaps: dict[str, float] = {}

    def note(name: str, ours: Any, theirs: float) -> None:
        if ours is not None and np.isfinite(theirs):
            gaps[name] = max(gaps.get(name, 0.0), abs(ours.value - theirs))

    for _ in range(TABLES):
        n, raters, k = int(rng.integers(12, 60)), int(rng.integers(2, 5)), int(rng.integers(2, 5))
        truth = rng.integers(0, k, n)
        ratings = np.where(
            rng.random((n, raters)) < 0.7, truth[:, None], rng.integers(0, k, (n, raters))
        )
        a, b = ratings[:, 0].tolist(), ratings[:, 1].tolist()
        note("kappa", agreement.cohen_kappa(a, b), cohen_kappa_score(a, b))
        note(
            "kappa, quadratic",
            agreement.cohen_kappa(a, b, weights="quadratic"),
            cohen_kappa_score(a, b, weights="quadratic"),
        )
        holes = np.where(rng.random(ratings.shape) < 0.2, np.nan, ratings.astype(float))
        for level in ("nominal", "ordinal", "interval"):
            theirs = krippendorff.alpha(reliability_data=holes.T, level_of_measurement=level)
            note(f"alpha, {level}", agreement.krippendorff_alpha(holes, level=level), theirs)  # type: ignore[arg-type]
        note("AC1", agreement.gwet_ac1(holes), ac1_by_definition(holes.tolist()))
    return gaps


def ac1_by_definition(table: Sequence[Sequence[float]]) -> float:
    """Gwet (2008), equations for any number of raters, item by item."""
    rows = [[x for x in row if x == x] for row in table]
    rows = [row for row in rows if row]
    kinds = sorted({x for row in rows for x in row})
    if len(kinds) < 2:
        return float("nan")
    paired = [row for row in rows if len(row) > 1]
    seen = 0.0
    for row in paired:
        same = sum(row.count(c) * (row.count(c) - 1) for c in kinds)
        seen += same / (len(row) * (len(row) - 1)) / len(paired)
    chance = 0.0
    for c in kinds:
        share = sum(row.count(c) / len(row) for row in rows) / len(rows)
        chance += share * (1 - share) / (len(kinds) - 1)
    return (seen - chance) / (1 - chance)


# --- F-scores of arms -----------------------------------------------------------------------------


def f_scores() -> dict[str, float]:
    """Largest differences of macro-F1 and abstention F1 on random answers."""
    rng, gaps = random.Random(0), {"macro_f1": 0.0, "abstention_f1": 0.0}
    choices = ("yes", "no", "maybe")
    for _ in range(TABLES):
        questions = [
            Question(
                str(i), "?", (rng.choices(choices, (6, 3, 1))[0],), "closed_form", choices=choices
            )
            for i in range(rng.randint(5, 80))
        ]
        said = [rng.choice((*choices, "unclear")) for _ in questions]
        gold = [q.references[0] for q in questions]
        theirs = f1_score(gold, said, labels=sorted(set(gold)), average="macro", zero_division=0)
        ours = np.mean(fscores.primary(_scored(questions, said)))
        gaps["macro_f1"] = max(gaps["macro_f1"], abs(ours - theirs))
        questions = [
            Question(str(i), "?", () if (none := rng.random() < 0.3) else ("x",),
                     "unanswerable" if none else "extractive")
            for i in range(rng.randint(5, 80))
        ]  # fmt: skip
        said = [ABSTENTION if rng.random() < 0.4 else "x" for _ in questions]
        truth = [q.task == "unanswerable" for q in questions]
        theirs = f1_score(truth, [s == ABSTENTION for s in said], zero_division=0)
        ours = np.mean(fscores.abstention(_scored(questions, said)))
        gaps["abstention_f1"] = max(gaps["abstention_f1"], abs(ours - theirs))
    return gaps


def _scored(questions: Sequence[Question], said: Sequence[str]) -> list[Score]:
    answers = [
        Answer(q.id, "arm", text, (), (), (), 0.0, 0, 0)
        for q, text in zip(questions, said, strict=True)
    ]
    return score_answers(answers, questions)


# --- people ---------------------------------------------------------------------------------------


def judged(data: Path) -> dict[str, Any]:
    """Our outcome of 832 answers against people's label, by task."""
    questions = {
        q.id: q for q in load_set(data / "financebench/questions.jsonl", "financebench").questions
    }
    rows = list(sets.rows(data / "financebench/judged_answers.jsonl"))
    label = {"Correct Answer": "correct", "Incorrect Answer": "wrong", "Refusal": "abstained"}
    by_task: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        question = questions[row["financebench_id"]]
        score = _scored([question], [row["model_answer"]])[0]
        pair = (score.outcome, label[row["label"]])
        for task in (question.task, "all"):
            by_task.setdefault(task, []).append(pair)
    found = {}
    for task, pairs in sorted(by_task.items()):
        ours, theirs = zip(*pairs, strict=True)
        kappa = agreement.cohen_kappa(ours, theirs)
        found[task] = {
            "answers": len(pairs),
            "same outcome": round(float(np.mean([a == b for a, b in pairs])), 3),
            "kappa": round(kappa.value, 3) if kappa else None,
            "correct, by us and by people": [
                round(float(np.mean([o == "correct" for o in side])), 3) for side in (ours, theirs)
            ],
        }
    return found


def preferences(data: Path) -> dict[str, dict[str, float]]:
    """Rank correlation of a metric's difference with people's preference between two answers."""
    rows = list(sets.rows(data / "preferences/ragchecker_human_preferences.jsonl"))
    tried: dict[str, Callable[[str, Sequence[str]], float]] = {
        "rouge_l_f": m.rouge_l_f,
        "token_f1": m.token_f1,
        "claim_coverage": claim_coverage,
        "rouge_l_recall": m.rouge_l_recall,
        "token_overlap_recall": m.token_overlap_recall,
    }
    found = {}
    for name, metric in tried.items():
        gaps = [
            metric(r["model2"]["response"], [r["gt_answer"]])
            - metric(r["model1"]["response"], [r["gt_answer"]])
            for r in rows
        ]
        found[name] = {
            kind: round(float(spearmanr(gaps, [r[f"{kind}_label"] for r in rows])[0]), 3)
            for kind in ("overall", "correctness", "completeness")
        }
    return found


def main() -> None:
    """Measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    data = options.data
    # krippendorff divides by zero where nobody disagrees.
    warnings.simplefilter("ignore")
    found: dict[str, Any] = {
        "texts": texts(real_pairs(data)),
        "rankings": {name: rankings(data / name) for name in ("scifact", "cranfield")},
        "agreement": agreements(),
        "f_scores": f_scores(),
        "outcomes and people": judged(data),
        "preferences of people": preferences(data),
    }
    print(json.dumps(found, indent=2))
    options.json.write_text(json.dumps(found, indent=2), "utf-8")


if __name__ == "__main__":
    main()
