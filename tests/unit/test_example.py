"""The shipped example: reproducible, true to its facts, and readable by the package."""

import json
import re
import sys
import zipfile
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "aldervale"
TEXT_FORMATS = {".md", ".html", ".csv", ".eml", ".txt"}


@pytest.fixture(scope="module")
def generator():
    pytest.importorskip("reportlab", reason="the generator writes PDF with reportlab")
    sys.path.insert(0, str(EXAMPLE))
    try:
        import generate

        yield generate
    finally:
        sys.path.remove(str(EXAMPLE))
        for name in [n for n in sys.modules if n.split(".")[0] in ("generate", "recipe")]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def source(generator):
    documents, _ = generator.make()
    return {d.path: d for d in documents}


@pytest.fixture(scope="module")
def fresh(generator, tmp_path_factory):
    out = tmp_path_factory.mktemp("aldervale")
    generator.generate(out)
    return out


@pytest.fixture(scope="module")
def questions():
    lines = (EXAMPLE / "questions.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def plain(text):
    return " ".join(text.replace("|", " ").split())


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_regeneration_reproduces_questions_and_texts(fresh):
    assert files(fresh / "documents") == files(EXAMPLE / "documents")
    assert (fresh / "questions.jsonl").read_bytes() == (EXAMPLE / "questions.jsonl").read_bytes()
    for name in files(fresh / "documents"):
        if Path(name).suffix in TEXT_FORMATS:
            new = (fresh / "documents" / name).read_bytes()
            assert new == (EXAMPLE / "documents" / name).read_bytes(), name


def test_office_and_pdf_files_carry_no_clock_time(generator, source, fresh):
    fixed = generator.render.FIXED
    for document in source.values():
        path = fresh / "documents" / document.path
        if document.format == "pdf":
            assert b"CreationDate (D:20000101" in path.read_bytes(), document.path
        elif document.format in ("docx", "xlsx"):
            with zipfile.ZipFile(path) as archive:
                assert {i.date_time for i in archive.infolist()} == {fixed.timetuple()[:6]}
                core = archive.read("docProps/core.xml").decode()
            stamps = re.findall(r"<dcterms:(?:created|modified)[^>]*>([^<]*)", core)
            assert set(stamps) == {fixed.strftime("%Y-%m-%dT%H:%M:%SZ")}, document.path


def test_counts(source, questions):
    assert len(source) >= 64
    formats = Counter(d.format for d in source.values())
    assert set(formats) == {"pdf", "docx", "html", "md", "xlsx", "csv", "eml", "txt"}
    tasks = Counter(q["task"] for q in questions)
    least = dict(extractive=120, multi_document=45, closed_form=50, summary=25, unanswerable=25)
    assert set(tasks) == set(least)
    assert all(tasks[task] >= n for task, n in least.items())
    size = sum(p.stat().st_size for p in (EXAMPLE / "documents").rglob("*") if p.is_file())
    assert size < 3_000_000
    words = [len(d.text.split()) for d in source.values()]
    assert min(words) >= 250 and max(words) <= 900
    assert 30_000 <= sum(words) <= 45_000


def test_readme_states_the_counts(source, questions):
    readme = (EXAMPLE / "README.md").read_text("utf-8")
    names = {"pdf": "PDF", "docx": "DOCX", "html": "HTML", "md": "Markdown", "eml": "e-mail"}
    names |= {"txt": "text", "xlsx": "XLSX", "csv": "CSV"}
    for suffix, n in Counter(d.format for d in source.values()).items():
        assert f"| {names[suffix]} | {n} |" in readme
    for task, n in Counter(q["task"] for q in questions).items():
        assert f"| {task} | {n} |" in readme
    assert f"| **{len(source)}** |" in readme and f"| **{len(questions)}** |" in readme


def test_ids_and_texts_are_unique(questions):
    assert len({q["id"] for q in questions}) == len(questions)
    assert len({q["text"] for q in questions}) == len(questions)


def test_lines_are_the_fields_of_a_question(questions):
    fields = {"id", "text", "references", "task", "doc_ids", "evidence", "choices"}
    for q in questions:
        assert set(q) == fields
        assert not set("{}[]") & set(q["text"] + "".join(q["references"])), q["id"]


def test_answers_stand_in_the_gold_documents(source, questions):
    for q in questions:
        if q["task"] == "unanswerable":
            assert (q["references"], q["doc_ids"], q["evidence"]) == ([], [], []), q["id"]
            continue
        assert q["references"] and q["doc_ids"] and q["evidence"], q["id"]
        texts = {d: plain(source[d].text) for d in q["doc_ids"]}
        for sentence in q["evidence"]:
            assert any(plain(sentence) in t for t in texts.values()), q["id"]
        for text in texts.values():
            assert any(plain(sentence) in text for sentence in q["evidence"]), q["id"]
        if q["task"] == "extractive":
            assert all(r in q["evidence"][0] for r in q["references"]), q["id"]
            assert all(any(r in t for t in texts.values()) for r in q["references"]), q["id"]
            assert q["references"][0] not in q["text"], q["id"]


def test_multi_document_answers_follow_from_several_documents(source, questions):
    multi = [q for q in questions if q["task"] == "multi_document"]
    for q in multi:
        assert 2 <= len(q["doc_ids"]) <= 4, q["id"]
        assert len({source[d].record.family for d in q["doc_ids"]}) == 1, q["id"]


def test_closed_forms_are_balanced(questions):
    closed = [q for q in questions if q["task"] == "closed_form"]
    assert all(q["references"][0] in q["choices"] for q in closed)
    answers = Counter(q["references"][0] for q in closed if q["choices"] == ["Yes", "No"])
    assert 0.4 < answers["Yes"] / answers.total() < 0.6


def test_every_document_is_asked_about(source, questions):
    gold = Counter(d for q in questions for d in q["doc_ids"])
    assert set(gold) == set(source)
    assert min(gold.values()) >= 2


def test_identifiers_name_one_thing(source):
    seen = {}
    for document in source.values():
        values = document.record.values
        if document.record.kind in ("contract", "incident", "inspection", "supplier"):
            assert seen.setdefault(values["number"], document.path) == document.path
    assert len(seen) == 12 + 12 + 4 + 4


def test_documents_of_a_kind_are_no_near_duplicates(source):
    def shingles(text):
        words = text.lower().split()
        return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}

    sets = {path: shingles(d.text) for path, d in source.items()}
    pairs = combinations(sets, 2)
    worst = max((len(sets[a] & sets[b]) / len(sets[a] | sets[b]), a, b) for a, b in pairs)
    assert worst[0] < 0.5, worst


def test_the_package_reads_every_file_and_finds_the_evidence(source, questions):
    readers = pytest.importorskip("domainlm.corpus.readers")
    documents, quarantined = readers.load_documents(EXAMPLE / "documents")
    assert not list(quarantined)
    texts = {d.source: " ".join(d.text.split()) for d in documents}
    assert set(texts) == set(source)
    for q in questions:
        for sentence in q["evidence"]:
            wanted = " ".join(sentence.split())
            assert any(wanted in texts[d] for d in q["doc_ids"]), (q["id"], sentence)
