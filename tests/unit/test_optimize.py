"""The search recommends only what it can prove, and the simple hybrid otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from domainlm import optimize, stats
from domainlm.config.sections import RagConfig
from domainlm.errors import DataError
from domainlm.optimize import Entry, Prices, as_yaml, search, space
from domainlm.rag.stages import Resources
from domainlm.schema import Document, Question, RagSpec, StageSpec
from tests.unit.corpora import resources_of

PRICES = Prices(0.001, 1 / 800)


def nulls(rng: np.random.Generator, documents: int, each: int, contenders: int) -> np.ndarray:
    """Differences without any effect; questions of a document and contenders go together."""
    by_document = rng.normal(0, 0.5, (documents, 1, contenders))
    shared = rng.normal(0, 0.5, (documents, each, 1))
    own = rng.normal(0, 1, (documents, each, contenders))
    return (by_document + shared + own).reshape(documents * each, contenders)


@pytest.mark.parametrize(("documents", "each"), [(10, 4), (30, 2)])
def test_equal_pipelines_are_rarely_told_apart(documents: int, each: int) -> None:
    rng = np.random.default_rng(0)
    clusters = [f"d{n // each}" for n in range(documents * each)]
    false, runs = 0, 300
    for seed in range(runs):
        gaps = nulls(rng, documents, each, 30)
        # As in a race: the hopeless half saw only the first half of the questions.
        poor = np.argsort(gaps[: len(gaps) // 2].mean(0))[:15]
        gaps[len(gaps) // 2 :, poor] = np.nan
        false += bool(
            (stats.best_of_many(gaps, clusters, flips=500, seed=seed) <= optimize.ALPHA).any()
        )
    # 5 %, with the room that 300 runs leave (binomial, 99 %).
    assert false <= 0.05 * runs + 2.6 * (0.05 * 0.95 * runs) ** 0.5


def test_a_true_gain_is_found_among_many() -> None:
    rng = np.random.default_rng(1)
    gaps = nulls(rng, 30, 3, 40)
    gaps[:, 7] += 0.9
    p = stats.best_of_many(gaps, [f"d{n // 3}" for n in range(90)])
    assert p[7] < 0.01 and int(np.argmin(p)) == 7


def test_few_documents_prove_nothing() -> None:
    p = stats.best_of_many(np.ones((20, 2)), [f"d{n % 4}" for n in range(20)])
    assert list(p) == [1.0, 1.0]


def test_no_difference_is_no_gain() -> None:
    p = stats.best_of_many(np.zeros((20, 2)), [f"d{n}" for n in range(20)])
    assert list(p) == [1.0, 1.0]


# --- the search itself ---


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    names = [f"plant{n:02d}" for n in range(24)]
    documents = []
    for n, name in enumerate(names):
        text = f"{name} stands by the river. Its pressure is {n + 3} bar. Visitors sign the book."
        documents.append(Document(f"{name}.txt", name, f"{name}.txt", text, "text/plain", name))
    return resources_of(tmp_path, documents, header=True)


def questions() -> list[Question]:
    return [
        Question(
            f"q{n}",
            f"What is the pressure of plant{n:02d}?",
            (f"{n + 3} bar",),
            doc_ids=(f"plant{n:02d}.txt",),
            evidence=(f"Its pressure is {n + 3} bar.",),
            split="dev",
        )
        for n in range(24)
    ]


def entries(*specs: tuple[str, RagSpec]) -> list[Entry]:
    return [Entry(("", name, "", ""), spec) for name, spec in specs]


ONE = RagSpec(passages=1)


def test_identical_pipelines_leave_the_simple_one(resources: Resources) -> None:
    same = entries(*((f"copy {n}", ONE) for n in range(30)))
    found = search(same, questions(), resources, PRICES)
    assert found.chosen == "copy 0"
    assert "none of the 29 others" in found.reason
    assert found.complete and found.n_questions == 24


def test_a_better_pipeline_is_recommended(resources: Resources) -> None:
    def useless(_: Resources):  # noqa: ANN202
        return lambda query, k, scope: []

    globals()["useless_stage"] = useless
    poor = RagSpec(retrieve=(StageSpec(f"{__name__}:useless_stage"),), passages=1)
    found = search(
        entries(("nothing", poor), ("bm25", replace(ONE, retrieve=(StageSpec("bm25"),)))),
        questions(),
        resources,
        PRICES,
    )
    assert found.chosen == "bm25" and "beats nothing" in found.reason
    assert found.candidates[0].name == "bm25" and found.candidates[0].p_value <= 0.05
    assert [c.name for c in found.candidates if c.on_front].count("bm25") == 1


def test_the_whole_space_runs_and_is_distinct(resources: Resources) -> None:
    tried = [e for e in space(2) if "late" not in e.name]
    assert len({repr(e.spec) for e in tried}) == len(tried) >= 30
    found = search(tried, questions(), resources, PRICES)
    assert len(found.candidates) == len(tried)
    assert {u.stage for u in found.uplifts} >= {"bm25", "graph", "mmr", "joined"}
    assert all(u.pairs for u in found.uplifts)
    assert found.candidates[0].quality >= found.candidates[-1].quality


def test_a_limit_keeps_the_simple_one_first() -> None:
    some = space(3, limit=12)
    assert len(some) == 12 and some[0].spec == RagSpec(passages=3)
    assert [e.name for e in some] == [e.name for e in space(3, limit=12)]
    asking = {e.name for e in space(3, asking=True)}
    assert {"triples", "hybrid + communities, written", "hyde, graph, mmr"} <= asking
    assert not {e.name for e in space(3)} & {"triples", "hyde, graph, mmr"}
    assert {"graph, synonyms", "hybrid + communities"} <= {e.name for e in space(3)}


def test_test_questions_are_refused(resources: Resources) -> None:
    asked = [replace(questions()[0], split="test_new")]
    with pytest.raises(DataError, match="dev"):
        search(space(1)[:1], asked, resources, PRICES)


def test_unlabelled_questions_are_refused(resources: Resources) -> None:
    with pytest.raises(DataError, match="evidence"):
        search(space(1)[:1], [Question("q", "?", ("x",), split="dev")], resources, PRICES)


def test_the_recommendation_is_valid_yaml() -> None:
    for entry in space(3, asking=True):
        config = RagConfig(**yaml.safe_load(as_yaml(entry.spec))["rag"])
        assert config.spec() == entry.spec, entry.name
