import dataclasses
import hashlib
import time

import pytest

from domainlm.corpus.chunking import (
    chunk_document,
)
from domainlm.errors import ConfigError
from domainlm.schema import Anchor, Document
from domainlm.tokens import estimate_tokens

STRATEGIES = ("recursive", "sentence_window", "parent_child")
PARAGRAPH = (
    "The tenant shall pay the rent on the first day of each month, as Mr. Smith of Acme Inc. "
    "agreed.\nLate payments bear interest of 5.5 % per year.\u00a0 Either party may terminate "
    "this agreement with ninety days' notice.\r\n\r\n\r\n\r\n\t\t"
)


def make(text: str, **fields) -> Document:
    digest = hashlib.sha256(text.encode()).hexdigest()
    values = dict(id="d.txt", title="Lease", source="d.txt", media_type="text/plain")
    return Document(text=text, sha256=digest, **{**values, **fields})


@pytest.mark.parametrize("use", STRATEGIES)
@pytest.mark.parametrize("overlap", [0, 12])
def test_spans_are_verbatim_bounded_and_cover_every_word(use, overlap):
    doc = make("\ufeff  " + PARAGRAPH * 40)
    chunks = chunk_document(doc, use=use, tokens=60, parent_tokens=200, overlap=overlap)
    covered = bytearray(len(doc.text))
    for c in chunks:
        assert doc.text[c.start : c.end] == c.text == c.text.strip()
        assert estimate_tokens(c.text) <= 60
        assert c.window_start <= c.start < c.end <= c.window_end
        covered[c.start : c.end] = b"\1" * (c.end - c.start)
    assert all(covered[i] for i, ch in enumerate(doc.text) if ch.isalnum())
    assert len({c.id for c in chunks}) == len(chunks)


def test_overlap_repeats_the_end_of_the_chunk_before():
    doc = make(" ".join(f"Clause {i} says word{i}." for i in range(200)))
    plain = chunk_document(doc, tokens=60)
    overlapping = chunk_document(doc, tokens=60, overlap=15)
    assert all(a.end <= b.start for a, b in zip(plain, plain[1:], strict=False))
    for a, b in zip(overlapping, overlapping[1:], strict=False):
        assert a.start < b.start < a.end < b.end
        assert b.text.startswith("Clause")
        assert estimate_tokens(doc.text[b.start : a.end]) <= 15


def test_sentence_windows_reach_the_neighbours_and_keep_abbreviations():
    text = " ".join(
        f"Mr. Smith paid bill number {i} in full to Acme Inc. in May." for i in range(9)
    )
    chunks = chunk_document(make(text), use="sentence_window", tokens=20, window=2)
    assert len(chunks) == 9 and all(c.text.startswith("Mr. Smith") for c in chunks)
    middle = chunks[4]
    assert (middle.window_start, middle.window_end) == (chunks[2].start, chunks[6].end)
    assert chunks[0].window_start == chunks[0].start


def test_children_lie_inside_parents():
    chunks = chunk_document(make(PARAGRAPH * 40), use="parent_child", tokens=40, parent_tokens=160)
    parents = {(c.window_start, c.window_end) for c in chunks}
    assert 1 < len(parents) < len(chunks)
    spans = sorted(parents)
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))


def test_ids_follow_from_content():
    docs = [make(PARAGRAPH * 5, id="a"), make(PARAGRAPH * 5 + "New end.", id="b")]
    first, again = ([c for d in docs for c in chunk_document(d, tokens=60)] for _ in range(2))
    assert [c.id for c in first] == [c.id for c in again]
    grown = chunk_document(make(PARAGRAPH * 5 + "Another end here.", id="b"), tokens=60)
    old = {c.id for c in first if c.doc_id == "b"}
    assert 0 < len(old & {c.id for c in grown}) < len(old)
    renamed = chunk_document(dataclasses.replace(docs[0], title="Other"), tokens=60)
    assert not {c.id for c in renamed} & {c.id for c in first}


def test_headers_and_anchors():
    text = "Intro text.\n\nTermination\nNinety days.\n\nFees\nFive."
    at = [text.index("Termination"), text.index("Fees"), len(text)]
    anchors = (
        Anchor(at[0], at[1], "section", "Termination"),
        Anchor(at[1], at[2], "section", "Fees"),
    )
    doc = make(text, anchors=anchors)
    chunks = chunk_document(doc, tokens=5)
    inside = {c.start: c.header for c in chunks}
    assert {"Lease", "Lease > Termination", "Lease > Fees"} == set(inside.values())
    assert inside[0] == "Lease" and inside[at[0]] == "Lease > Termination"
    assert inside[at[1]] == "Lease > Fees"
    assert chunks[-1].indexed_text.startswith("Lease > Fees\n")
    assert {c.header for c in chunk_document(doc, tokens=5, header=False)} == {""}
    paged = make("a b", title="T" * 300, anchors=(Anchor(0, 3, "page", "7"),))
    (chunk,) = chunk_document(paged)
    assert chunk.anchor == "page 7" and chunk.header == "T" * 120


def test_lone_headings_join_their_paragraph():
    body = "word " * 50
    text = "".join(f"{i}. Heading\n\n\n{body}\n{body}\n\n\n\n" for i in range(20))
    assert min(estimate_tokens(c.text) for c in chunk_document(make(text), tokens=80)) > 10


def test_the_given_counter_decides():
    doc = make("contract " * 400)
    by_words = chunk_document(doc, tokens=30, count=lambda s: len(s.split()))
    assert {len(c.text.split()) for c in by_words} <= {30, 10}
    assert max(len(c.text.split()) for c in chunk_document(doc, tokens=30)) == 15  # two tokens each


@pytest.mark.parametrize("use", STRATEGIES)
@pytest.mark.parametrize(
    ("text", "some"),
    [
        ("a" * 1_000_000, True),
        (" \n" * 300_000, False),
        ("", False),
        ("." * 200_000, True),
        ("x" + " " * 500_000 + "y", True),
        ("".join("x" + "\n" * (i % 900) for i in range(1000)), True),
        ("\u200b" * 200_000, True),
        ("契約" * 50_000, True),
        ("a,(" * 60_000, True),
    ],
)
def test_degenerate_texts_neither_hang_nor_make_giants(use, text, some):
    started = time.process_time()
    chunks = chunk_document(make(text), use=use)
    assert time.process_time() - started < 15
    assert bool(chunks) is some
    assert all(text[c.start : c.end] == c.text for c in chunks)
    assert max((len(c.text) for c in chunks), default=0) < 50_000
    # A tokenizer that sees one token in anything must not make one chunk of everything.
    if len(text.split()) == 1:
        assert len(chunk_document(make(text), use=use, count=lambda s: 1)) > 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use": "magic"}, "recursive, sentence_window, parent_child"),
        ({"tokens": 0}, "at least 1"),
        ({"tokens": 10, "overlap": 10}, "tokens - 1"),
        ({"window": -1}, "0 or more"),
        ({"use": "parent_child", "parent_tokens": 50}, "make it larger"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        chunk_document(make("a"), **settings)
