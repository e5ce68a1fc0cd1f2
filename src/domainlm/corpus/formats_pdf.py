"""PDF text layers, read by pdfium page by page."""

from __future__ import annotations

import re
from collections import Counter

import pypdfium2 as pdfium

from domainlm.corpus.formats_common import Draft, Limits, TextBuilder, Unreadable

_PASSWORD_ERROR = 4
# pdfium puts U+FFFE (or U+0002) in place of a hyphen that ends a line, and drops the line break.
_BROKEN = re.compile("(\\w+)(?:[\ufffe\x02]|[-\u2010\xad]\\s*\n)(\\w+)")
_CONTINUES = re.compile(r"\s*[a-z(]")
_RUNNING_LINES = 3
"""Lines at a page's top and bottom that may be running headers or footers."""
_NUMBER = re.compile(r"\d{1,6}")
_WORDS = re.compile(r"\w+(?:-\w+)*")


def read_pdf(data: bytes, limits: Limits) -> list[Draft]:
    """One draft with a `page` anchor per page that has text.

    Raises:
        Unreadable: a password is needed, the file is broken, or there is no text layer.
    """
    try:
        pdf = pdfium.PdfDocument(data)
    except pdfium.PdfiumError as error:
        if getattr(error, "err_code", None) == _PASSWORD_ERROR:
            raise Unreadable("encrypted", "a password is needed; save it without one") from error
        raise Unreadable("corrupt", str(error)) from error
    try:
        title = pdf.get_metadata_value("Title") or ""
        pages = _page_texts(pdf, limits)
    finally:
        pdf.close()
    pages = _join_hyphens(_without_running_lines(pages))
    builder = TextBuilder(limits)
    blank = 0
    for number, text in enumerate(pages, 1):
        builder.mark("page", str(number))
        # A sentence that runs over the page reads on.
        builder.add(text, "\n" if _CONTINUES.match(text) else "\n\n")
        blank += not text.strip()
    text, anchors = builder.build()
    if not any(c.isalnum() for c in text):
        raise Unreadable("no_text", f"{len(pages)} pages without a text layer; run OCR first")
    metadata = {"title": title, "pages": str(len(pages))}
    if blank:
        metadata["pages_without_text"] = str(blank)
    return [Draft(text, anchors=anchors, metadata=metadata)]


def _page_texts(pdf: pdfium.PdfDocument, limits: Limits) -> list[str]:
    texts: list[str] = []
    length = 0
    for index in range(len(pdf)):
        page = pdf[index]
        textpage = page.get_textpage()
        texts.append(textpage.get_text_range().replace("\r\n", "\n"))
        textpage.close()
        page.close()
        length += len(texts[-1])
        if length > limits.max_chars * 2:
            break  # the builder will refuse it; reading on would only cost memory
    return texts


def _without_running_lines(pages: list[str]) -> list[str]:
    """Drop headers and footers: edge lines that, page numbers aside, most of the pages repeat.

    They cut sentences in two, and in an index they make every page alike.
    """
    rows = [page.split("\n") for page in pages]
    visible = [[i for i, row in enumerate(page) if row.strip()] for page in rows]
    seen = Counter(
        form
        for number, (page, at) in enumerate(zip(rows, visible, strict=True))
        for form in {
            form
            for i in {*at[:_RUNNING_LINES], *at[-_RUNNING_LINES:]}
            for form in _forms(page[i], number)
        }
    )
    least = max(3, sum(map(bool, visible)) // 2 + 1)
    kept = []
    for number, (page, at) in enumerate(zip(rows, visible, strict=True)):
        runs = [any(seen[form] >= least for form in _forms(page[i], number)) for i in at]
        # From the edge inwards only, so that the same words inside a page stay.
        first, last = 0, len(at)
        while first < min(_RUNNING_LINES, last) and runs[first]:
            first += 1
        while last > max(first, len(at) - _RUNNING_LINES) and runs[last - 1]:
            last -= 1
        kept.append("\n".join(page[at[first] : at[last - 1] + 1]) if last > first else "")
    return kept


def _forms(line: str, page: int) -> set[str]:
    """The line as it is, and with its first or last number counted from that of the page."""
    line = " ".join(line.split())
    numbers = list(_NUMBER.finditer(line))
    return {line} | {
        f"{line[: m.start()]}#{int(m.group()) - page}{line[m.end() :]}"
        for m in (*numbers[:1], *numbers[-1:])
    }


def _join_hyphens(pages: list[str]) -> list[str]:
    """Mend words broken at line ends, by the spelling that the rest of the document uses."""
    known = Counter(word.lower() for page in pages for word in _WORDS.findall(page))

    def mend(match: re.Match[str]) -> str:
        left, right = match.group(1), match.group(2)
        joined, hyphened = left + right, f"{left}-{right}"
        if not left[-1].isalpha() or not right[0].islower():
            return hyphened
        if known[joined.lower()] != known[hyphened.lower()]:
            return joined if known[joined.lower()] > known[hyphened.lower()] else hyphened
        # Two words that both occur by themselves make a compound ("long-term"), else a syllable.
        compound = min(len(left), len(right)) > 3 and known[left.lower()] > 1
        return hyphened if compound and known[right.lower()] > 1 else joined

    return [_BROKEN.sub(mend, page) for page in pages]
