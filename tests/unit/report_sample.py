"""A realistic invented `RunResult`: five arms, 60 questions, scored by the real evaluation code."""

import datetime as dt
import random
from collections import Counter
from dataclasses import replace

from domainlm import pricing
from domainlm.config import Config
from domainlm.diagnose import STEPS
from domainlm.evaluation import summary, verdict
from domainlm.evaluation.cost import answer_cost, load_prices, machine_named
from domainlm.evaluation.groundedness import with_groundedness
from domainlm.evaluation.tasks import score_answers
from domainlm.rag.citations import cite
from domainlm.schema import (
    ABSTENTION,
    Adapter,
    Answer,
    Call,
    Citation,
    DataCard,
    Loss,
    Message,
    Passage,
    Quarantined,
    Question,
    RagSpec,
    RunResult,
    Setup,
    StageSpec,
    StageTime,
    TraceStep,
    TrainingPoint,
    Trial,
    Waterfall,
)

ARMS = ("base", "rag", "tuned", "tuned+rag", "raft")
SKILL = {"base": 0.12, "rag": 0.42, "tuned": 0.28, "tuned+rag": 0.5, "raft": 0.72}
SECONDS = {"base": 0.28, "rag": 0.95, "tuned": 0.3, "tuned+rag": 1.02, "raft": 0.9}
VOLUMES = (100, 1_000, 10_000, 100_000, 1_000_000)
TASKS = ("extractive",) * 5 + ("multi_document", "closed_form", "closed_form", "summary")
TOWNS = "Aldervale Brackwell Corham Dunmere Eastleigh Fenwick Garth Holloway Inverby Kelder".split()
PARTS = "pump valve filter boiler meter gauge relay hoist fan lamp".split()
FILLER = (
    "The operator shall keep a written record of every visit and hand a copy to the depot within "
    "five working days. Parts removed are returned to the depot for inspection. "
)


def question(i, rng):
    """Question `i` with the text of its gold document."""
    n = i % 20
    doc = f"contracts/{TOWNS[n % 10].lower()}-{2018 + n // 10}.md"
    town, part = TOWNS[n % 10], PARTS[i % 10]
    days, cost = 10 + 7 * (i % 9), 1200 + 150 * i
    split = "test_known" if i < 24 else "test_new"
    common = {"id": f"q{i:03d}", "split": split, "doc_ids": (doc,)}
    sentence = (
        f"The {part} at {town} is serviced every {days} days by the regional crew, at a cost of "
        f"${cost:,} per visit, and inspected once a year."
    )
    common["evidence"] = (sentence,)
    if i % 10 == 9:
        text = f"Who designed the {part} at {town}?"
        return Question(text=text, task="unanswerable", **common | {"evidence": ()}), sentence
    task = TASKS[i % 9]
    if task == "closed_form":
        text, refs = f"Is the {part} at {town} inspected once a year?", ("Yes",)
        return Question(text=text, references=refs, task=task, **common), sentence
    if task == "summary":
        text = f"Summarise the upkeep of the {part} at {town}."
        return Question(text=text, references=(sentence,), task=task, **common), sentence
    if task == "multi_document":
        other = f"contracts/{TOWNS[(n + 3) % 10].lower()}-2018.md"
        common["doc_ids"] = (doc, other)
        text = f"How often is the {part} serviced at {town} and at {TOWNS[(n + 3) % 10]}?"
        refs = (f"every {days} days and every {days + 5} days",)
        return Question(text=text, references=refs, task=task, **common), sentence
    text = f"How much does a visit to the {part} at {town} cost?"
    return Question(text=text, references=(f"${cost:,} per visit",), task=task, **common), sentence


def passages(q, sentence, rng, hit):
    """Three passages, the gold one among them where retrieval hit; offsets are verbatim spans."""
    found = []
    for rank in range(3):
        gold = hit and rank == 0
        doc = q.doc_ids[0] if gold else f"contracts/{rng.choice(TOWNS).lower()}-2020.md"
        text = FILLER + (sentence if gold else f"Clause {rank} applies.") + " " + FILLER
        start = 160 * rng.randrange(1, 20)
        end = start + len(text)
        score = round(0.9 - 0.17 * rank - 0.05 * rng.random(), 4)
        title = doc.split("/")[1].removesuffix(".md").replace("-", " ").title()
        passage = Passage(f"{doc}:{start}", doc, title, text, start, end, score, "3 Upkeep")
        found.append(passage)
    return tuple(found)


def reply(q, good, rng):
    """An answer text: right, abstaining, or wrong."""
    if q.task == "unanswerable":
        return ABSTENTION if good else "It was designed by the depot."
    if good:
        return q.references[0]
    if rng.random() < 0.2:
        return ABSTENTION
    if q.task == "closed_form":
        return "No"
    return rng.choice(("Parts removed are returned to the depot.", "five working days", "$900"))


def answers_of(arm, questions, seed):
    """One arm's answers; arms that retrieve share the passages of a question."""
    rng = random.Random(f"{arm}{seed}")
    made = []
    for q, sentence in questions:
        shared = random.Random(q.id)
        hit = shared.random() < 0.8
        retrieves = arm in ("rag", "tuned+rag", "raft")
        found = passages(q, sentence, shared, hit) if retrieves else ()
        skill = SKILL[arm] + (0.15 if hit and retrieves else 0.0)
        skill -= 0.3 if q.task == "unanswerable" and arm != "raft" else 0.0
        # One question in eight is easy, so that there are some on which all arms agree.
        good = rng.random() < skill or int(q.id[1:]) % 8 == 2
        seconds = SECONDS[arm] * rng.lognormvariate(0, 0.25)
        context = "\n\n".join(f"[{i}] {p.text}" for i, p in enumerate(found, 1))
        prompt = (
            Message("system", "Answer from the passages, in few words."),
            Message("user", f"{context}\n\nQuestion: {q.text}".strip()),
        )
        tokens_in, tokens_out = sum(len(m.content) for m in prompt) // 4, 6 + rng.randrange(30)
        calls = (Call("SmolLM2-135M", "generate", "answer", tokens_in, tokens_out, seconds),)
        if retrieves:
            calls = (Call("all-MiniLM-L6-v2", "embed", "retrieve", 14, 0, 0.006), *calls)
        failed = arm == "base" and q.id == "q007"
        text = "" if failed else reply(q, good, rng)
        error = "the reply was cut off after 60 s" if failed else ""
        numbers = (seconds, tokens_in, tokens_out)
        ids = tuple(p.chunk_id for p in found)
        steps = (
            TraceStep("pre", "hyde", 0.4, (q.text, "a guess"), fallback="the server is down"),
            TraceStep("retrieve", "hybrid", 0.01, chunks=ids),
        )
        trace = steps if retrieves else ()
        rest = (failed, error, trace, cite(text, found))
        made.append(Answer(q.id, arm, text, prompt, found, calls, *numbers, *rest))
    return made


def curve(steps, start, end):
    """A falling loss with noise."""
    rng = random.Random(steps)
    return tuple(
        TrainingPoint(
            step=s,
            epoch=2 * s / steps,
            loss=end + (start - end) * 0.94**s * (1 + 0.1 * rng.random()) + 0.05 * rng.random(),
            learning_rate=5e-4 * (1 - s / steps),
        )
        for s in range(1, steps + 1)
    )


def waterfall(arm, asked, scores):
    """Losses at invented steps."""
    outcome = {s.question_id: s.outcome for s in scores if s.arm == arm}
    answerable = [q for q in asked if q.task != "unanswerable"]
    losses = []
    for n, q in enumerate(q for q in answerable if outcome[q.id] != "correct"):
        at = (2, 4, 4, 5, 6, 7)[n % 6]
        held = tuple((step, float(i < at)) for i, (step, _) in enumerate(STEPS[:-1]))
        losses.append(Loss(q.id, arm, STEPS[at][0], held))
    counts = Counter(loss.step for loss in losses)
    by_step = tuple((step, counts[step]) for step, _ in STEPS)
    return Waterfall(arm, len(answerable), len(losses), by_step, tuple(losses))


class CharEmbedder:
    """Unit vectors of letter counts: cheap, and equal texts are equal."""

    name = "letters"

    def embed(self, texts, kind):
        import numpy as np

        rows = np.array([[t.lower().count(c) + 1e-3 for c in "aeinorst0123 "] for t in texts])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("float32")


def trials():
    """Pipelines tried on dev, the second of which is used."""
    hybrid = StageSpec("hybrid", {"k": 20})
    specs = {
        "dense": RagSpec(retrieve=(StageSpec("dense", {"k": 20}),)),
        "hybrid + rerank": RagSpec(retrieve=(hybrid,), post=(StageSpec("rerank", {"top": 3}),)),
        "hyde": RagSpec(pre=(StageSpec("hyde", {"samples": 2}),), retrieve=(hybrid,)),
    }
    means = ((0.71, 0.44), (0.86, 0.53), (0.74, 0.46))
    return tuple(
        Trial(name, spec, 24, {"evidence_recall": recall, "primary": primary, "latency_s": 0.9})
        for (name, spec), (recall, primary) in zip(specs.items(), means, strict=True)
    )


def sample(arms=ARMS, questions=60, seed=0, cost=None):
    """A whole run of some arms; `cost` are settings of that section."""
    rng = random.Random(seed)
    asked = [question(i, rng) for i in range(questions)]
    qs = [q for q, _ in asked]
    answers = [a for arm in arms for a in answers_of(arm, asked, seed)]
    scores = score_answers(answers, qs, CharEmbedder())
    scores = with_groundedness(scores, answers, qs)
    dev_answers = [a for arm in arms for a in answers_of(arm, asked, seed + 1)]
    dev = score_answers(dev_answers, qs)
    prices, machine = load_prices(), machine_named("cpu_core_hour", 2)
    costs = [answer_cost(a, prices, machine) for a in answers]
    peak = {arm: int((0.9 + 0.2 * i) * 1e9) for i, arm in enumerate(arms)}
    summaries = summary.summarise(scores, answers, costs, peak_memory=peak)
    found = summary.contrasts(scores, margin=0.05, dev=dev)
    training_s = {"tuned": 840, "tuned+rag": 840, "raft": 1130}
    hours = {"base": 0, "rag": 1, "tuned": 2, "tuned+rag": 2.5, "raft": 3}
    setups = {
        arm: Setup(
            index_s=90.0 if arm in ("rag", "tuned+rag", "raft") else 0.0,
            training_s=training_s.get(arm, 0),
            engineering_hours=hours[arm],
            storage_gb=0.4 if arm in ("rag", "tuned+rag", "raft") else 0.0,
        )
        for arm in arms
    }
    config = Config.model_validate(
        {
            "documents": "documents",
            "questions": "questions.jsonl",
            "arms": arms,
            "cost": {"questions_per_month": VOLUMES} | (cost or {}),
        }
    )
    settled = pricing.settle(
        config,
        prices,
        summaries,
        found,
        answers,
        scores,
        setups,
        None,
        dt.date(2025, 6, 14),
    )
    decided = verdict.decide(
        summaries,
        found,
        settled.cases,
        dev_best=summary.best_arm(dev),
        margin=0.05,
        questions_per_month=10_000,
        stale=("cpu_core_hour",),
    )
    adapters = tuple(
        Adapter(
            name,
            f"adapters/{name}",
            digest,
            "SmolLM2-135M",
            rows,
            41_200,
            s,
            curve(n, 3.1, e),
            held,
        )
        for name, digest, rows, s, n, e, held in (
            ("tuned", "9f2c66d1a0b34e57", 360, 840.2, 90, 1.2, 1.41),
            ("raft", "11bb0c9ed2f7a846", 220, 1130.9, 55, 0.5, 0.62),
        )
        if name in arms or f"{name}+rag" in arms
    )
    tries = trials()
    return RunResult(
        name="aldervale-contracts",
        created_at="2025-06-14T09:31:22+00:00",
        config={
            "name": "aldervale-contracts",
            "documents": "documents",
            "questions": "questions.jsonl",
            "budget": "small",
            "arms": list(arms),
            "evaluation": {"margin": 0.05, "max_questions": 90},
            "training": {"rank": 16, "learning_rate": 5e-4},
        },
        provenance={
            "domainlm": "0.1.0",
            "python": "3.12.9",
            "torch": "2.13.0",
            "hardware": "2 cores, x86_64, 8 GB",
            "documents sha256": "6b0b2c1f9d7745aa03f1b1f9e0c5a9bd6a0c3a2f4a51d2be7f1c11d0e6a7c901",
            "model digest": "e41d2a90c57f3b12",
            "prices as of": "2025-01-15",
            "seed": "0",
        },
        data=DataCard(
            documents=20,
            characters=184_220,
            chunks=412,
            media_types={"text/markdown": 14, "application/pdf": 4, "text/html": 2},
            quarantined=(
                Quarantined("scans/plan-07.pdf", "no_text", "4 pages without a text layer"),
                Quarantined("old/ledger.xlsx", "encrypted", "the workbook asks for a password"),
                Quarantined("notes/todo.md", "empty", "0 characters after stripping"),
            ),
            questions={
                "train": {"extractive": 64, "closed_form": 20, "summary": 12},
                "dev": {"extractive": 15, "closed_form": 5, "unanswerable": 4},
                "test_known": {"extractive": 12, "closed_form": 6, "summary": 3, "unanswerable": 3},
                "test_new": {"extractive": 18, "multi_document": 7, "summary": 4, "closed_form": 7},
            },
            dropped=(
                ("q071", "near-duplicate of train question q003"),
                ("q088", "near-duplicate of dev question q041"),
            ),
            training_rows={"closed_book": 360, "gold": 170, "partial": 28, "absent": 22},
            synthesis={"written": 118, "not grounded": 21, "duplicates": 9, "kept": 88},
        ),
        trials=tries,
        rag=tries[1].spec,
        adapters=adapters,
        summaries=tuple(summaries),
        contrasts=tuple(found),
        roi=settled.cases,
        break_evens=settled.break_evens,
        verdict=decided,
        questions=tuple(qs),
        answers=tuple(answers),
        scores=tuple(scores),
        times=tuple(
            StageTime(name, s)
            for name, s in (("documents", 2.1), ("index", 88.4), ("trials", 152.0))
            + (("tuned", 840.2), ("raft", 1130.9), ("answers", 288.7))
        ),
        test_touches=1,
        waterfalls=tuple(
            waterfall(arm, qs, scores) for arm in arms if arm in ("rag", "tuned+rag", "raft")
        ),
        setups=setups,
        money=settled.money,
    )


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)><!--\u2028'\"&"


def hostile_sample():
    """The sample with markup in every text that a document, a model or a file name can supply."""
    run = sample(questions=20)
    card = replace(
        run.data,
        quarantined=(Quarantined(HOSTILE, "corrupt", HOSTILE),),
        dropped=((HOSTILE, HOSTILE),),
        media_types={HOSTILE: 1},
        synthesis={HOSTILE: 1},
    )

    def bad(p):
        return replace(p, text=HOSTILE + p.text, title=HOSTILE, anchor=HOSTILE)

    return replace(
        run,
        name=HOSTILE,
        data=card,
        config={"name": HOSTILE},
        provenance={HOSTILE: HOSTILE},
        questions=tuple(
            replace(q, text=HOSTILE + q.text, references=(HOSTILE,)) for q in run.questions
        ),
        answers=tuple(
            replace(
                a,
                text=HOSTILE,
                error=HOSTILE,
                trace=(TraceStep("pre", HOSTILE, 0.1, (HOSTILE,), (), HOSTILE),),
                citations=(Citation(0, len(HOSTILE), HOSTILE, 0, 5, 1.0), Citation(0, 9)),
                prompt=(Message("user", HOSTILE),),
                passages=tuple(map(bad, a.passages)),
            )
            for a in run.answers
        ),
        waterfalls=tuple(
            replace(
                w,
                losses=(replace(w.losses[0], step=HOSTILE), *w.losses[1:]),
                by_step=(*w.by_step, (HOSTILE, 1)),
            )
            for w in run.waterfalls
        ),
        contrasts=tuple(replace(c, name=HOSTILE + c.name) for c in run.contrasts),
        trials=tuple(replace(t, name=HOSTILE) for t in run.trials),
        adapters=tuple(replace(a, name=HOSTILE, base_model=HOSTILE) for a in run.adapters),
        verdict=replace(run.verdict, reasons=(HOSTILE,), caveats=(HOSTILE,)),
    )
