"""The waterfall names the step that lost the evidence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from domainlm.diagnose import Waterfall, waterfall, without
from domainlm.errors import ConfigError
from domainlm.rag.pipeline import Retrieval
from domainlm.rag.stages import Resources
from domainlm.schema import Answer, Document, Outcome, Question, RagSpec, Score, StageSpec
from tests.unit.corpora import resources_of

SPEC = RagSpec(retrieve=(StageSpec("bm25"),), passages=1)
NAMES = [f"site{n}" for n in range(12)]


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    documents = [
        Document(
            f"{n}.txt",
            n,
            f"{n}.txt",
            f"{n} lies north.\n\nThe key of {n} hangs behind the door.\n\nBirds sing at {n}.",
            "text/plain",
            n,
        )
        for n in NAMES
    ]
    return resources_of(tmp_path, documents, tokens=10)


def ask(text: str, evidence: tuple[str, ...], name: str = "site3") -> Question:
    return Question("q", text, ("x",), doc_ids=(f"{name}.txt",), evidence=evidence, split="dev")


def lost(
    question: Question, resources: Resources, *, empty: bool = False, outcome: Outcome = "wrong"
) -> Waterfall:
    passages = () if empty else tuple(Retrieval(SPEC, resources)(question))
    answer = Answer("q", "rag", "no", (), passages, (), 0.1, 1, 1)
    found = Retrieval(SPEC, resources)(Question("z", "birds"))
    other = replace(answer, question_id="z", passages=tuple(found))
    score = Score("q", "rag", question.task, "dev", "c", {"primary": 0.0}, outcome)
    return waterfall("rag", [question], [answer, other], [score], SPEC, resources)


KEY = "The key of site3 hangs behind the door."


@pytest.mark.parametrize(
    ("text", "evidence", "step"),
    [
        ("Where is the key of site3?", ("Nobody ever wrote this sentence anywhere.",), "parsed"),
        ("Where is the key?", ("site3 lies north.\n\nThe key of site3",), "chunked"),
        ("zebra giraffe", (KEY,), "first 100"),
        ("Do birds sing at site3?", (KEY,), "ranked"),
        ("Where does the key of site3 hang?", (KEY,), "read"),
    ],
)
def test_each_step_is_recognised(
    resources: Resources, text: str, evidence: tuple[str, ...], step: str
) -> None:
    found = lost(ask(text, evidence), resources)
    assert [loss.step for loss in found.losses] == [step], found.losses[0].held
    assert dict(found.by_step)[step] == 1 == sum(dict(found.by_step).values())


def test_what_the_prompt_lacked_was_lost_in_packing(resources: Resources) -> None:
    question = ask("Where does the key of site3 hang?", (KEY,))
    assert lost(question, resources, empty=True).losses[0].step == "packed"


def test_right_and_unanswerable_questions_lose_nothing(resources: Resources) -> None:
    question = ask("Where does the key of site3 hang?", (KEY,))
    assert lost(question, resources, outcome="correct").missed == 0
    found = lost(replace(question, task="unanswerable"), resources)
    assert (found.asked, found.missed) == (0, 0)


def test_unlabelled_questions_are_counted_apart(resources: Resources) -> None:
    found = lost(replace(ask("Where is the key?", ()), doc_ids=()), resources)
    assert dict(found.by_step)["unlabelled"] == 1


def test_an_arm_without_passages_is_refused(resources: Resources) -> None:
    with pytest.raises(ConfigError, match="retrieved"):
        waterfall("base", [], [], [], SPEC, resources)


def test_a_stage_is_switched_off() -> None:
    spec = RagSpec(retrieve=(StageSpec("graph"),), rerank=(StageSpec("mmr"),))
    assert without(spec, "mmr") == replace(spec, rerank=())
    assert without(spec, "graph") == replace(spec, retrieve=(StageSpec("hybrid"),))
    with pytest.raises(ConfigError, match="graph, mmr"):
        without(spec, "hyde")


def test_the_last_step_that_holds_all_decides(resources: Resources) -> None:
    """Evidence that a chunk border cut was in the prompt after joining: the reader lost it."""
    cut = "site3 lies north.\n\nThe key of site3"
    question = ask("Where is the key of site3?", (cut,))
    text = resources.documents["site3.txt"].text
    joined = replace(Retrieval(SPEC, resources)(question)[0], text=text, start=0, end=len(text))
    answer = Answer("q", "rag", "no", (), (joined,), (), 0.1, 1, 1)
    score = Score("q", "rag", "extractive", "dev", "c", {"primary": 0.0}, "wrong")
    found = waterfall("rag", [question], [answer], [score], SPEC, resources)
    assert [loss.step for loss in found.losses] == ["read"]


def test_the_only_hybrid_stays() -> None:
    with pytest.raises(ConfigError, match="only retriever"):
        without(RagSpec(), "hybrid")
