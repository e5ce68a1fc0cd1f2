"""One suite for every vector store; the memory store is the reference for the others."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from domainlm.errors import ConfigError, DataError
from domainlm.schema import Chunk
from domainlm.stores import open_store
from domainlm.stores.base import STOP_WORDS
from domainlm.stores.lance import LanceStore
from domainlm.stores.memory import MemoryStore

D = 8


def chunk(chunk_id, text="plain words", doc_id="doc", **changes):
    span = {"start": 0, "end": len(text), "window_start": 0, "window_end": len(text)}
    return Chunk(id=chunk_id, doc_id=doc_id, text=text, **{**span, **changes})


def unit(*values):
    vector = np.zeros(D, np.float32)
    vector[: len(values)] = values
    return vector / np.linalg.norm(vector)


def fill(store, *chunks, vectors=None):
    if vectors is None:
        vectors = [unit(1, i) for i in range(len(chunks))]
    store.add(chunks, np.stack(vectors))
    return store


def random_corpus(n, documents, seed=0):
    rng = np.random.default_rng(seed)
    vocabulary = [f"term{i}" for i in range(40)]
    chunks = [
        chunk(f"c{i:05d}", " ".join(rng.choice(vocabulary, 12)), f"d{i % documents}")
        for i in range(n)
    ]
    vectors = rng.normal(size=(n, D)).astype(np.float32)
    return chunks, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def lance(folder, **changes):
    return LanceStore(folder / "index", embedder="test", dimension=D, **changes)


@pytest.fixture(params=["memory", "lance", "lance_disk"])
def store(request, tmp_path):
    if request.param == "memory":
        return MemoryStore(D)
    # exact_rows=0 forces every search through Lance itself instead of the matrix in memory.
    return lance(tmp_path, **({"exact_rows": 0} if request.param == "lance_disk" else {}))


# --- writing and reading ----------------------------------------------------------------------


def test_an_empty_store_answers_everything_with_nothing(store):
    assert len(store) == 0
    assert store.search(unit(1), 3) == []
    assert store.search_batch(np.zeros((0, D), np.float32), 3) == []
    assert store.search_text("anything", 3) == []
    assert store.get(["x"]) == []
    assert store.delete(["x"]) == 0
    assert store.ids_by_document() == {}
    assert store.vectors([]).shape == (0, D)
    store.add([], np.zeros((0, D), np.float32))
    store.optimize()
    assert len(store) == 0


def test_chunks_come_back_exactly_and_in_the_order_asked_for(store):
    full = chunk(
        "a'\"; --",
        "Text with\n\nlines, 'quotes' and 日本語 🙂",
        'folder/it\'s "x".pdf#3',
        start=5,
        end=40,
        window_start=2,
        window_end=90,
        title="Títle",
        header="Head\ner",
        anchor="page 3",
    )
    fill(store, chunk("b", ""), full, chunk("c"))
    assert store.get(["c", full.id, "nobody", "b"]) == [chunk("c"), full, chunk("b", "")]
    assert store.vectors(["c", "b"]).tolist() == [unit(1, 2).tolist(), unit(1, 0).tolist()]
    assert store.vectors(["c", "c"]).shape == (2, D)
    assert store.ids_by_document() == {"doc": ["b", "c"], full.doc_id: [full.id]}


def test_add_replaces_by_id_and_the_last_of_a_batch_wins(store):
    fill(store, chunk("a", "first alpha"), chunk("b", "second"))
    fill(store, chunk("a", "ignored"), chunk("a", "omega", "other"), vectors=[unit(1), unit(0, 1)])
    assert len(store) == 2
    assert store.get(["a"]) == [chunk("a", "omega", "other")]
    assert store.search_text("alpha ignored", 5) == []
    assert [h.id for h in store.search(unit(0, 1), 1)] == ["a"]
    assert store.ids_by_document() == {"doc": ["b"], "other": ["a"]}


def test_deleted_chunks_are_gone_from_every_search(store):
    fill(store, chunk("a", "apple"), chunk("b'", "apple pie"), chunk("c", "cherry"))
    assert store.delete(["b'", "b'", "never there"]) == 1
    assert [h.id for h in store.search_text("apple pie", 5)] == ["a"]
    assert {h.id for h in store.search(unit(1), 5)} == {"a", "c"}
    store.optimize()
    assert [h.id for h in store.search_text("apple pie", 5)] == ["a"]
    assert len(store) == 2
    assert store.delete(["a", "c"]) == 2
    assert (len(store), store.search(unit(1), 5)) == (0, [])


@pytest.mark.parametrize("shape", [(1, D + 1), (2, D), (D,)])
def test_vectors_of_another_shape_are_refused(store, shape):
    with pytest.raises(DataError, match="shape"):
        store.add([chunk("a")], np.zeros(shape, np.float32))
    assert len(store) == 0


def test_the_vector_of_an_unknown_id_is_an_error(store):
    fill(store, chunk("a"))
    with pytest.raises(DataError, match="'nobody'"):
        store.vectors(["a", "nobody"])


# --- vector search ----------------------------------------------------------------------------


def test_vector_search_is_cosine_and_breaks_ties_by_id(store):
    chunks = [chunk(i) for i in ("d", "b", "c", "a")]
    fill(store, *chunks, vectors=[unit(1, 1), unit(1), unit(0, 1), unit(1)])
    hits = store.search(unit(1), 10)
    assert [h.id for h in hits] == ["a", "b", "d", "c"]
    assert [h.score for h in hits] == pytest.approx([1, 1, 2**-0.5, 0], abs=1e-5)
    assert store.search(unit(1), 0) == []


def test_equal_vectors_fall_to_the_id_at_the_cut(tmp_path):
    chunks, _ = random_corpus(301, 3)
    vectors = np.tile(unit(0.3, 0.7, 0.2, 0.9, 0.11), (301, 1))
    for store in (MemoryStore(D), lance(tmp_path)):
        store.add(chunks[::-1], vectors)
        expected = [c.id for c in chunks[:7]]
        assert [h.id for h in store.search(unit(0.2, 0.5, 0.13, 0.8), 7)] == expected


def test_vector_search_agrees_with_numpy_in_any_scope(store):
    chunks, vectors = random_corpus(200, 10)
    store.add(chunks, vectors)
    queries = vectors[:5] + vectors[5:10]
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    for scope in (None, ["d3"], {"d1", "d2", "unknown"}):
        rows = [i for i, c in enumerate(chunks) if scope is None or c.doc_id in scope]
        batch = store.search_batch(queries, 12, doc_ids=scope)
        assert len(batch) == 5
        for query, hits in zip(queries, batch, strict=True):
            scores = vectors[rows] @ query
            best = sorted(range(len(rows)), key=lambda j: -scores[j])[:12]
            assert [h.id for h in hits] == [chunks[rows[j]].id for j in best]
            assert [h.score for h in hits] == pytest.approx(scores[best], abs=1e-4)


def test_an_empty_or_unknown_scope_holds_nothing(store):
    fill(store, chunk("a", "apple"))
    for scope in ([], ["elsewhere"], ["doc' OR '1'='1"]):
        assert store.search(unit(1), 5, doc_ids=scope) == []
        assert store.search_text("apple", 5, doc_ids=scope) == []


# --- full text --------------------------------------------------------------------------------


def test_text_search_ranks_by_bm25(store):
    fill(
        store,
        chunk("a", "termination of the agreement on notice"),
        chunk("b", "governing law of the agreement"),
        chunk("c", "termination termination agreement"),
        chunk("d", "parties and definitions"),
    )
    hits = store.search_text("termination agreement", 10)
    assert [h.id for h in hits] == ["c", "a", "b"]
    assert hits[0].score > hits[1].score > hits[2].score > 0
    assert [h.id for h in store.search_text("law", 10)] == ["b"]


def test_text_scores_match_the_formula(store):
    texts = ["apple banana", "apple apple cherry dates", "banana"]
    fill(store, *(chunk(str(i), text) for i, text in enumerate(texts)))
    store.optimize()
    idf = np.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    expected = {
        str(i): idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * n / (7 / 3)))
        for i, tf, n in ((0, 1, 2), (1, 2, 4))
    }
    assert dict(store.search_text("apple", 5)) == pytest.approx(expected, rel=1e-3)


def test_text_search_covers_the_header(store):
    fill(store, chunk("a", "body", header="Supply Agreement ACME"), chunk("b", "body"))
    assert [h.id for h in store.search_text("acme", 5)] == ["a"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("AGREEMENTS", "en"),
        ("cafe", "fr"),
        ("CAFÉ", "fr"),
        ("großer", "de"),
        ("muller", "de"),
        ("договор", "ru"),
        ("契約", "ja"),
        ("合同", "zh"),
        ("계약", "ko"),
        ("12.3", "en"),
        ("foo", "id"),
        ("bar_foo", "id"),
    ],
)
def test_words_of_many_languages_are_found(store, query, found):
    fill(
        store,
        chunk("en", "This Agreement, section 12.3(b)"),
        chunk("fr", "le café est fermé"),
        chunk("de", "ein großer Müller"),
        chunk("ru", "расторжение договор"),
        chunk("ja", "東京で契約を解除できる"),
        chunk("zh", "终止合同条款"),
        chunk("ko", "계약 해지"),
        chunk("id", "field foo_bar here"),
    )
    assert [h.id for h in store.search_text(query, 3)] == [found]


@pytest.mark.parametrize("word", ["will", "no", "not", "shall"])
def test_words_that_matter_in_contracts_are_not_stop_words(store, word):
    fill(store, chunk("a", f"the party {word} assign"), chunk("b", "the party assigned"))
    assert [h.id for h in store.search_text(word, 3)] == ["a"]


def test_stop_words_alone_find_nothing(store):
    fill(store, chunk("a", " ".join(STOP_WORDS) + " name"))
    assert [word for word in STOP_WORDS if store.search_text(word, 3)] == []
    assert len(store.search_text("what is the name", 3)) == 1


@pytest.mark.parametrize(
    "query",
    [
        "",
        "   ",
        "'",
        '"unbalanced',
        "a AND (b OR",
        "field:value^2~ +x -y *",
        "'; DROP TABLE chunks; --",
        "\\",
        "\x00",
        "🙂",
        "\ud800 lone",
        "{}[]<>|/?!",
        "x" * 5000,
        "wörd " * 800,
    ],
)
def test_any_string_is_a_query(store, query):
    fill(store, chunk("a", "apple 'quoted' text"))
    assert store.search_text(query, 3) == []
    assert [h.id for h in store.search_text(query + " apple", 3, doc_ids=["doc"])] == ["a"]


def test_more_hits_than_chunks_gives_all_that_match(store):
    fill(store, chunk("a", "apple"), chunk("b", "apple"), chunk("c", "pear"))
    assert len(store.search(unit(1), 1000)) == 3
    assert [h.id for h in store.search_text("apple", 1000)] == ["a", "b"]
    assert store.search_text("apple", 0) == []


def test_equal_texts_fall_to_the_id_at_the_cut(store):
    chunks = [chunk(f"c{i:03d}", "same boilerplate clause") for i in range(120)]
    fill(store, *chunks[::-1], vectors=[unit(1)] * 120)
    assert [h.id for h in store.search_text("boilerplate", 5)] == [c.id for c in chunks[:5]]


def test_scopes_are_filtered_before_ranking(store):
    best = [chunk(f"a{i}", "apple apple apple", "strong") for i in range(150)]
    weak = [
        chunk(f"z{i}", "one apple among very many other unimportant words", "o'weak")
        for i in range(4)
    ]
    fill(store, *best, *weak, vectors=[unit(1)] * 150 + [unit(1, 5)] * 4)
    store.optimize()
    for found in (
        store.search_text("apple", 3, doc_ids=["o'weak"]),
        store.search(unit(1), 3, doc_ids=["o'weak"]),
    ):
        assert [h.id for h in found] == ["z0", "z1", "z2"]


def test_a_scope_of_thousands_of_documents_works(store):
    fill(store, chunk("a", "apple", "doc 7"), chunk("b", "apple", "outside"))
    scope = [f"doc {i}" for i in range(3000)]
    assert [h.id for h in store.search_text("apple", 5, doc_ids=scope)] == ["a"]
    assert [h.id for h in store.search(unit(1), 5, doc_ids=scope)] == ["a"]


def test_incremental_writes_end_like_a_fresh_store(store, tmp_path):
    chunks, vectors = random_corpus(90, 6)
    for start in range(0, 90, 10):
        store.add(chunks[start : start + 10], vectors[start : start + 10])
    store.optimize()
    assert store.delete([c.id for c in chunks[:7]]) == 7
    store.optimize()
    fresh = type(store)(D) if isinstance(store, MemoryStore) else lance(tmp_path / "fresh")
    fresh.add(chunks[7:], vectors[7:])
    fresh.optimize()
    for query in ("term1", "term2 term3", "term4 term5 term6"):
        assert store.search_text(query, 20) == fresh.search_text(query, 20) != []


# --- Lance alone ------------------------------------------------------------------------------


def test_lance_ranks_as_the_reference_does(tmp_path):
    chunks, vectors = random_corpus(300, 7)
    stores = [MemoryStore(D), lance(tmp_path)]
    for store in stores:
        store.add(chunks, vectors)
        store.optimize()
    for query in ("term3", "term1 term9 term30", "term7 term8"):
        for scope in (None, ["d1", "d4"]):
            a, b = (dict(s.search_text(query, 400, doc_ids=scope)) for s in stores)
            assert a == pytest.approx(b, rel=1e-3)


def test_another_process_finds_what_was_written(tmp_path):
    fill(lance(tmp_path), chunk("a'", "größe apple", "d'1"))
    code = (
        "import sys; from pathlib import Path; from domainlm.stores.lance import LanceStore\n"
        "s = LanceStore(Path(sys.argv[1]), embedder='test', dimension=8)\n"
        "print(len(s), [h.id for h in s.search_text('APPLE', 3)], s.get([\"a'\"])[0].doc_id)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "index")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "1 [\"a'\"] d'1"
    assert "WARN" not in done.stderr


def test_an_open_reader_sees_later_writes(tmp_path):
    writer, reader = lance(tmp_path), lance(tmp_path)
    fill(writer, chunk("a", "apple"))
    assert [h.id for h in reader.search(unit(1), 3)] == ["a"]
    fill(writer, chunk("b", "apple"), vectors=[unit(1)])
    writer.optimize()
    assert [h.id for h in reader.search(unit(1), 3)] == ["a", "b"]
    assert [h.id for h in reader.search_text("apple", 3)] == ["a", "b"]
    writer.delete(["a"])
    assert [h.id for h in reader.search(unit(1), 3)] == ["b"]


def test_readers_and_a_writer_work_at_once(tmp_path):
    store = lance(tmp_path)
    chunks, vectors = random_corpus(120, 4)
    store.add(chunks[:40], vectors[:40])
    failures = []

    def read():
        try:
            for _ in range(15):
                assert len(store.search(vectors[0], 10)) == 10
                assert store.search_text("term1", 5)
        except BaseException as error:  # noqa: BLE001 - reported by the main thread
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for start in range(40, 120, 20):
        store.add(chunks[start : start + 20], vectors[start : start + 20])
    store.optimize()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(store) == 120


def test_many_small_writes_are_compacted(tmp_path):
    store = lance(tmp_path)
    for i in range(80):
        fill(store, chunk(f"c{i}", f"number {i}"))
    assert store._fragments() < 40
    store.optimize()
    # Lance merges only fragments that the same indices cover, hence not always into one.
    assert store._fragments() <= 2
    assert len(store) == 80
    assert [h.id for h in store.search_text("79", 3)] == ["c79"]


def test_a_large_table_is_searched_by_its_vector_index(tmp_path):
    store = lance(tmp_path, exact_rows=500)
    chunks, vectors = random_corpus(2000, 20)
    store.add(chunks, vectors)
    store.optimize()
    columns = {column for index in store._table.list_indices() for column in index.columns}
    assert columns == {"id", "doc_id", "indexed", "vector"}
    recall = []
    for query in vectors[:20]:
        truth = {chunks[i].id for i in np.argsort(-(vectors @ query))[:10]}
        recall.append(len(truth & {h.id for h in store.search(query, 10)}) / 10)
    assert np.mean(recall) > 0.9
    # Scopes stay exact and full, however few partitions hold them.
    rows = [i for i, c in enumerate(chunks) if c.doc_id == "d3"]
    scoped = store.search(vectors[0], 100, doc_ids=["d3"])
    order = sorted(rows, key=lambda i: -float(vectors[i] @ vectors[0]))
    assert [h.id for h in scoped] == [chunks[i].id for i in order]
    store.add([chunk("new", "fresh", "dn")], vectors[:1])
    assert "new" in {h.id for h in store.search(vectors[0], 2)}


@pytest.mark.parametrize(("embedder", "dimension"), [("other", D), ("test", D + 1)])
def test_another_embedder_is_refused_in_one_sentence(tmp_path, embedder, dimension):
    lance(tmp_path)
    with pytest.raises(DataError, match="built with embedder 'test'") as caught:
        LanceStore(tmp_path / "index", embedder=embedder, dimension=dimension)
    assert "\n" not in str(caught.value)


def test_a_damaged_folder_is_refused_in_one_sentence(tmp_path):
    fill(lance(tmp_path), chunk("a"))
    for manifest in (tmp_path / "index").rglob("*.manifest"):
        manifest.write_bytes(b"garbage")
    with pytest.raises(DataError, match="cannot be used"):
        lance(tmp_path)


def test_stores_are_opened_by_name(tmp_path):
    assert isinstance(open_store("lance", tmp_path, embedder="e", dimension=D), LanceStore)
    outside = open_store("domainlm.stores.memory:open_memory", tmp_path, embedder="e", dimension=3)
    assert outside.dimension == 3
    with pytest.raises(ConfigError, match="known: lance, memory"):
        open_store("qdrant", tmp_path, embedder="e", dimension=D)
    with pytest.raises(ConfigError, match="cannot be imported"):
        open_store("no.such:factory", tmp_path, embedder="e", dimension=D)


def test_full_text_is_the_same_with_and_without_ids_in_memory(tmp_path):
    """Once vectors are in memory, hits are named by row number; writes must not shift the names."""
    chunks, vectors = random_corpus(60, 12)
    store = lance(tmp_path)
    store.add(chunks[:40], vectors[:40])
    store.optimize()
    query = chunks[3].text
    before = store.search_text(query, 30)
    store.search(vectors[0], 3)
    assert store.search_text(query, 30) == before
    store.delete([chunks[3].id, chunks[7].id])
    store.add(chunks[40:], vectors[40:])
    store.optimize()
    fresh = lance(tmp_path)
    expected = fresh.search_text(query, 30)
    store.search(vectors[0], 3)
    assert store.search_text(query, 30) == expected
    assert chunks[3].id not in {hit.id for hit in expected}
