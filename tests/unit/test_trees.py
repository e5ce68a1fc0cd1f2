"""Trees of summaries: what they cover, what is written again, and what a cap leaves."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from domainlm.models.fake import FakeModel
from domainlm.rag.derived_search import leaves_of
from domainlm.rag.pipeline import with_retrieval
from domainlm.rag.raptor import cluster, grow
from domainlm.schema import Chat, Question, Sampling
from tests.unit.derived_world import (
    forest,
    records,
    resources_with,
    retrieval,
    verbatim,
)


def test_clusters_are_small_whole_and_of_like_vectors(tmp_path: Path) -> None:
    leaves = leaves_of(resources_with(tmp_path, texts=forest()))
    clusters = cluster(leaves.keys, leaves.vectors, 8)
    assert sorted(k for c in clusters for k in c) == sorted(leaves.keys)
    assert max(map(len, clusters)) <= 8
    topic = {k: leaves.chunks[r].doc_id[:4] for r, k in enumerate(leaves.keys)}
    assert all(len({topic[k] for k in c}) == 1 for c in clusters)


def test_equal_vectors_can_be_clustered() -> None:
    keys = [f"k{n:02d}" for n in range(20)]
    clusters = cluster(keys, np.tile(np.eye(1, 4, dtype=np.float32), (20, 1)), 3)
    assert sorted(k for c in clusters for k in c) == keys and max(map(len, clusters)) <= 3


def test_a_summary_leads_down_and_is_never_shown(tmp_path: Path) -> None:
    texts = forest()

    def summarise(chat: Chat) -> str:
        first = chat[-1].content.split()[1]
        return f"Everything about {first}: {first} kind, number0 number1 item0 item1 note"

    model = FakeModel(summarise)
    resources = resources_with(tmp_path, model, texts)
    pipeline = retrieval(resources, "raptor", weight=1.0, leaves=2)
    passages = pipeline(Question("q", "everything about bolt kind"))
    assert len(model.chats) > 3
    assert passages[0].doc_id.startswith("bolt") and verbatim(passages, texts)
    assert "Everything" not in "".join(p.text for p in passages)
    own = retrieval(resources, "dense")(Question("q", "everything about bolt kind"))
    raised = {p.doc_id: p.score for p in passages}
    # A chunk that a summary raises stands above its own cosine.
    assert max(raised.values()) >= max(p.score for p in own)
    scoped = pipeline(Question("q", "everything about bolt kind", scope=("rain0.txt",)))
    assert {p.doc_id for p in scoped} == {"rain0.txt"}


def test_extracts_need_no_model(tmp_path: Path) -> None:
    texts = forest()
    pipeline = retrieval(resources_with(tmp_path, texts=texts), "raptor", summary="extract")
    passages = pipeline(Question("q", "gear and machine"))
    assert passages[0].doc_id.startswith("bolt") and verbatim(passages, texts)
    written = [t for r in records(tmp_path, "raptor") for t in r.texts]
    sentences = {s.strip() for t in texts.values() for s in t.replace(". ", ".|").split("|")}
    assert written and all(any(s in w for s in sentences) for w in written)


def test_a_new_document_rewrites_its_cluster_and_those_above(tmp_path: Path) -> None:
    texts = forest()
    first = FakeModel(lambda chat: chat[-1].content[:60])
    retrieval(resources_with(tmp_path, first, texts), "raptor").prepare([])
    before = {r.key for r in records(tmp_path, "raptor")}
    texts["apple99.txt"] = "Note apple pear plum orchard apple. It tells of apple item99."
    second = FakeModel(lambda chat: chat[-1].content[:60])
    pipeline = retrieval(resources_with(tmp_path, second, texts), "raptor")
    pipeline.prepare([])
    assert 0 < len(second.chats) < len(first.chats)
    assert not any("bolt" in c[-1].content and "apple" not in c[-1].content for c in second.chats)
    after = {r.key for r in records(tmp_path, "raptor")}
    assert before & after and before - after


def test_upper_levels_wait_for_what_a_cap_left(tmp_path: Path) -> None:
    model = FakeModel(lambda chat: chat[-1].content[:60])
    resources = resources_with(tmp_path, model, forest())
    pipeline = retrieval(resources, "raptor", max_calls=2)
    passages = pipeline(Question("q", "gear"))
    assert len(model.chats) == 2 and passages
    assert all(r.texts for r in records(tmp_path, "raptor"))


def test_a_tree_covers_every_chunk_once_a_level(tmp_path: Path) -> None:
    leaves = leaves_of(resources_with(tmp_path, texts=forest(10)))
    tree = grow(leaves, 4, 5)
    assert len(tree) >= 3
    for level in tree:
        rows = np.concatenate([node.rows for node in level])
        assert len(rows) == len(set(rows.tolist()))
    assert len(tree[-1]) < len(tree[0])
    assert tree[-1][0].rows.tolist() == list(range(len(leaves.chunks))) or len(tree) == 5


def test_one_chunk_makes_no_tree_and_says_so(tmp_path: Path) -> None:
    pipeline = retrieval(
        resources_with(tmp_path, texts={"a.txt": "One. Two."}), "raptor", summary="extract"
    )
    arm = with_retrieval("rag", FakeModel(), Sampling(), pipeline)
    answer = arm.answer([Question("q", "one")])[0]
    assert [p.doc_id for p in answer.passages] == ["a.txt"]
    assert answer.trace[0].fallback == "nothing usable was derived"
