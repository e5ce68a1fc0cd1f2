"""Diagnostic arms and further seeds: what they are shown, and what is made of the outcome."""

import datetime as dt
from dataclasses import replace

import pytest

from domainlm import controls, pricing, repeats
from domainlm.config import Config, make_config
from domainlm.evaluation import summary
from domainlm.models.fake import FakeModel
from domainlm.planning import plan
from domainlm.report.html import to_html
from domainlm.report.markdown import to_markdown
from domainlm.schema import Answer, Document, Passage, Question, Sampling, SeedSpread
from tests.unit.report_sample import sample

SAMPLING = Sampling(16, 0.0, 0)


def document(n):
    text = f"{'Before. ' * 60}The rate of pump {n} is {n} litres. {'After. ' * 2000}"
    return Document(f"d{n}", f"Pump {n}", f"d{n}.md", text, "text/plain", "0")


DOCUMENTS = {f"d{n}": document(n) for n in range(6)}


def question(n, **fields):
    values = {
        "references": (f"{n} litres",),
        "doc_ids": (f"d{n}",),
        "evidence": (f"The rate of pump {n} is {n} litres.",),
        "split": "test_new",
    }
    return Question(f"q{n}", f"What is the rate of pump {n}?", **(values | fields))


QUESTIONS = [question(n) for n in range(6)]


def hit(n):
    return Passage(f"d{n}:0", f"d{n}", "", DOCUMENTS[f"d{n}"].text[:50], 0, 50, 1.0)


def test_the_oracle_shows_the_evidence_verbatim():
    absent = question(4, evidence=(), references=(), task="unanswerable", doc_ids=())
    shown = controls.oracle([*QUESTIONS[:3], absent], DOCUMENTS)
    assert set(shown) == {"q0", "q1", "q2"}
    for key, (passage,) in shown.items():
        n = key[1:]
        assert f"The rate of pump {n} is {n} litres." in passage.text
        assert DOCUMENTS[f"d{n}"].text[passage.start : passage.end] == passage.text
        assert len(passage.text) < 1_000


def test_the_placebo_shows_passages_about_other_documents():
    found = {q.id: [hit(n), hit((n + 1) % 6)] for n, q in enumerate(QUESTIONS)}
    shown = controls.shuffled(QUESTIONS, found)
    assert set(shown) == set(found)
    for q in QUESTIONS:
        own = set(q.doc_ids) | {p.doc_id for p in found[q.id]}
        assert not own & {p.doc_id for p in shown[q.id]} and len(shown[q.id]) == 2
    assert shown == controls.shuffled(list(reversed(QUESTIONS)), found), "by id, not by order"
    alone = {"q0": [hit(0)], "q1": [hit(0)]}
    assert controls.shuffled(QUESTIONS[:2], alone) == {}, "nothing foreign was found"


def test_the_long_context_shows_whole_documents_up_to_a_limit():
    found = {"q0": [hit(2), hit(2), hit(0)], "q1": []}
    whole = len(DOCUMENTS["d2"].text)
    shown = controls.long_context(QUESTIONS[:2], found, DOCUMENTS, limit=whole + 100)
    assert [(p.doc_id, len(p.text)) for p in shown["q0"]] == [("d2", whole), ("d0", 100)]
    assert "q1" not in shown


def test_few_shot_examples_are_solved_train_questions():
    train = [question(n, split="train", task="extractive") for n in range(8)]
    train.append(question(9, split="train", task="summary"))
    train.append(question(10, references=(), task="unanswerable"))
    examples = controls.examples_of(train)
    assert len(examples) == 4 and {e.task for e in examples} == {"extractive", "summary"}
    model = FakeModel(["an answer"])
    arm = controls.few_shot("base, few-shot", model, SAMPLING, examples)
    made = arm.answer([QUESTIONS[0], QUESTIONS[1]])
    assert [a.text for a in made] == ["an answer"] * 2 and made[0].arm == "base, few-shot"
    roles = [m.role for m in model.chats[0]]
    assert roles == ["system", *["user", "assistant"] * 4, "user"]
    assert model.chats[0][2].content == examples[0].references[0]
    assert model.chats[0][-1].content.startswith("What is the rate of pump 0?")


@pytest.fixture(scope="module")
def finished():
    return sample()


def answered(finished, name, right):
    return [
        Answer(
            q.id,
            name,
            (q.references or ("Not in the documents.",))[0] if right(n) else "nonsense",
            (),
            (),
            (),
            0.1,
            5,
            5,
        )
        for n, q in enumerate(finished.questions)
    ]


def kind(name, reader):
    return next(k for k in controls._KINDS if (k.name, k.reader) == (name, reader))


def compared(finished, name, reader, right):
    made = [(kind(name, reader), answered(finished, f"{reader}, {name}", right))]
    return controls.compared(made, finished.questions, finished.scores, 0.05)[0]


def test_controls_are_compared_by_document_outside_the_family(finished):
    found = compared(finished, controls.ORACLE, "rag", lambda n: True)
    assert found.reference == "rag" and found.n == 60 and not found.unread
    assert found.contrast.verdict == "better" and found.contrast.n_documents < 60
    assert found.sentence.startswith("With the labelled evidence rag scores")
    assert "better search could still bring" in found.sentence
    worse = compared(finished, controls.ORACLE, "raft", lambda n: n % 3 == 0)
    assert "search is not what it lacks" in worse.sentence
    same = [s for s in finished.scores if s.arm == "rag" and s.outcome == "correct"]
    right = {s.question_id for s in same}
    ids = [q.id for q in finished.questions]
    close = compared(finished, controls.ORACLE, "rag", lambda n: (ids[n] in right) != (n % 4 == 0))
    assert close.contrast.verdict == "undecided" and "too few questions" in close.sentence


def test_a_placebo_that_does_as_well_speaks_against_the_arm(finished):
    blind = compared(finished, controls.SHUFFLED, "raft", lambda n: True)
    assert blind.unread and "does not answer from what it is shown" in blind.sentence
    reads = compared(finished, controls.SHUFFLED, "raft", lambda n: False)
    assert not reads.unread and "less (worse" in reads.sentence
    config = Config.model_validate({"documents": "d", "questions": "q"})
    told = replace(finished, controls=(blind, reads))
    again = pricing.reprice(config, told, dt.date(2025, 6, 14))
    assert again.verdict.ship == "raft"
    assert blind.sentence in again.verdict.caveats and reads.sentence not in again.verdict.caveats


def test_the_spread_of_seeds_is_held_against_that_of_questions():
    calm = repeats.spread("raft", [0, 1, 2], [0.33, 0.34, 0.32], 0.11)
    assert calm.sd == pytest.approx(0.01) and calm.seeds == (0, 1, 2)
    assert "up to 0.020, less than the choice of questions does (0.110)" in calm.sentence
    wild = repeats.spread("raft", [0, 1, 2], [0.2, 0.5, 0.3], 0.11)
    assert "more than the choice" in wild.sentence
    assert "ask for 3" in repeats.spread("raft", [0, 1], [0.3, 0.4], None).sentence


class Readers:
    """A bench whose reader repeats the last passage's first words."""

    def __init__(self, asked):
        self.asked, self.sampling, self.loaded, self.kept = list(asked), SAMPLING, [], []
        self.model = FakeModel(lambda chat: chat[-1].content[:20])

    def reader(self, arm):
        self.loaded.append(arm)
        return self.model

    def keep(self, arm, asked, key):
        self.kept.append((arm.name, len(asked), key))
        return arm.answer(asked)


def test_all_diagnostic_arms_answer_once_and_each_reader_is_loaded_once(finished):
    bench = Readers(finished.questions)
    config = Config.model_validate({"documents": "d", "questions": "q"})
    documents = {
        d: Document(d, d, d, " ".join(q.evidence) + " More.", "text/plain", "0")
        for q in finished.questions
        for d in q.doc_ids
    }
    train = [replace(q, split="train") for q in finished.questions[:5]]
    found = controls.diagnose(
        bench, config, documents, train, finished.answers, finished.scores, "k"
    )
    assert bench.loaded == ["rag", "raft", "base"]
    assert {c.name for c in found} == {
        "rag, oracle",
        "raft, oracle",
        "rag, shuffled",
        "raft, shuffled",
        "rag, long context",
        "base, few-shot",
    }
    assert len({key for _, _, key in bench.kept}) == 6
    per_document = config.model_copy(
        update={"rag": config.rag.model_copy(update={"reader": "per_document"})}
    )
    again = controls.diagnose(
        bench, per_document, documents, train, finished.answers, finished.scores, "k"
    )
    assert [c.name for c in again] == ["base, few-shot"]


class Bench:
    """Trains and answers by a script: the second seed is right on every other question."""

    def __init__(self, finished):
        self.asked, self.trained, self.finished = list(finished.questions), [], finished

    def train_one(self, name, key, written, seed):
        self.trained.append((name, seed))
        return replace(next(a for a in self.finished.adapters if a.name == name), digest=str(seed))

    def reader(self, arm, adapter):
        return adapter

    def contend(self, arm, model, asked, key):
        every = 2 if model.digest == "1" else 3
        return answered(self.finished, arm, lambda n: n % every == 0)


def test_every_adapter_is_trained_again_and_only_its_arms_answer(finished):
    bench = Bench(finished)
    config = Config.model_validate(
        {"documents": "d", "questions": "q", "training": {"seeds": 3}, "arms": ["base", "raft"]}
    )
    raft = [a for a in finished.adapters if a.name == "raft"]
    (found,) = repeats.repeat(bench, config, None, raft, finished.scores, "k", "k")
    assert bench.trained == [("raft", 1), ("raft", 2)]
    assert found.arm == "raft" and len(found.means) == 3
    # The quality that the report gives the arm, classes weighed alike.
    own = [s for s in finished.scores if s.arm == "raft"]
    whole = summary.summarise(
        own, [a for a in finished.answers if a.arm == "raft"], [0.0] * len(own)
    )
    (quality,) = [s for s in whole if (s.task, s.split) == (summary.ALL, summary.TEST)]
    assert found.means[0] == pytest.approx(quality.metrics["primary"].value)
    assert found.means[1] > found.means[2]


def test_off_by_default_and_full_budget_trains_three_times():
    base = {"documents": "d", "questions": "q"}
    small, full = make_config(base), make_config(base | {"budget": "full"})
    assert not small.evaluation.diagnostics and small.training.seeds < 2
    assert full.training.seeds == 3 and not full.evaluation.diagnostics
    assert controls.stage(small, None, None, {}, (), (), (), "k") == ()
    assert repeats.stage(small, None, None, None, ("a",), (), "k", "k") == ()


def test_reports_tell_them(finished):
    blind = compared(finished, controls.SHUFFLED, "raft", lambda n: True)
    seeds = SeedSpread("raft", (0, 1, 2), (0.3, 0.4, 0.5), 0.1, "raft: three runs.")
    told = replace(finished, controls=(blind,), seeds=(seeds,))
    for page in (to_markdown(told), to_html(told)):
        assert "raft does as well with passages of another question" in page
        assert "raft: three runs." in page
    assert "Diagnostics and seeds" not in to_markdown(finished)


def test_a_dry_run_counts_them(tmp_path):
    (tmp_path / "docs").mkdir()
    for n in range(10):
        (tmp_path / "docs" / f"d{n}.md").write_text(f"# Pump {n}\n\nIt pumps {n} litres.")
    rows = [f'{{"question": "Pump {n}?", "answer": "{n} litres"}}' for n in range(10)]
    (tmp_path / "q.jsonl").write_text("\n".join(rows))
    raw = {"documents": "docs", "questions": "q.jsonl"}
    more = raw | {"training": {"seeds": 3}, "evaluation": {"diagnostics": True}}
    few, many = (plan(make_config(x, base=tmp_path)) for x in (raw, more))
    extra = {s.stage: s for s in many if s.stage not in {x.stage for x in few}}
    assert set(extra) == {"further seeds", "diagnostics"}
    trained = sum(s.seconds for s in few if s.stage.startswith("train "))
    assert extra["further seeds"].seconds > 2 * trained > 0
