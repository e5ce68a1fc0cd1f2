"""HTML pages, Markdown and e-mail."""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import Iterator
from email.message import EmailMessage

from bs4 import BeautifulSoup
from bs4.element import NavigableString, PreformattedString, Tag

from domainlm.corpus.formats_common import (
    Draft,
    Kind,
    Limits,
    TextBuilder,
    check_length,
    decode,
    one_line,
    table_line,
)
from domainlm.schema import Anchor

_DROPPED = (
    "script style nav noscript template svg iframe button select input object title footer"
).split()
_BLOCKS = frozenset(
    "address article aside blockquote body center dd details div dl dt fieldset figcaption figure "
    "form header hr html main ol p pre section summary table tbody td tfoot th thead tr ul".split()
)
_HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
_MIN_MAIN = 500
"""Characters from which a page's `main` element is taken to be all there is to read."""
_CHARSET = re.compile(rb"charset\s*=\s*[\"']?([\w-]+)", re.IGNORECASE)
_FENCE = re.compile(r"^ {0,3}(```|~~~)")
_ATX = re.compile(r"^ {0,3}#{1,6}[ \t]+(.+?)[ \t]*#*[ \t]*$")


def read_html(data: bytes, limits: Limits) -> list[Draft]:
    """Readable text of a page: headings as sections, tables as ` | ` rows, no scripts or menus."""
    declared = _CHARSET.search(data[:4096])
    markup = decode(data, declared.group(1).decode("ascii") if declared else "")
    return [_html_draft(markup, limits)]


def _html_draft(markup: str, limits: Limits) -> Draft:
    soup = BeautifulSoup(markup, "html.parser")
    title = one_line(soup.title.get_text()) if soup.title else ""
    for tag in [*soup(_DROPPED), *soup(attrs={"role": "navigation"})]:
        tag.decompose()
    main = soup.find("main") or soup.find(attrs={"role": "main"})
    if not isinstance(main, Tag) or len(main.get_text(strip=True)) < _MIN_MAIN:
        main = soup
    builder = TextBuilder(limits)
    heading = ""
    for kind, text in _pieces(main):
        if kind == "heading":
            heading = heading or one_line(text)
            builder.section(text)
        else:
            builder.add(text, "\n\n" if kind == "table" or len(text) > 200 else "\n")
    text, anchors = builder.build()
    return Draft(text, heading, anchors, {"title": title})


def _pieces(soup: Tag) -> Iterator[tuple[str, str]]:
    """(kind, text) of headings, tables and runs of text, in reading order.

    An explicit stack: pages nested thousands of levels deep exist.
    """
    line: list[str] = []
    stack: list[object] = [soup]
    while stack:
        node = stack.pop()
        if isinstance(node, str) and not isinstance(node, NavigableString):
            text = "".join(line).strip()
            line = [node] if node.strip() else []
            if text and text != "-":
                yield "text", text
        elif isinstance(node, NavigableString):
            if not isinstance(node, PreformattedString):  # comments, doctypes
                line.append(re.sub(r"\s+", " ", str(node)))
        elif isinstance(node, Tag):
            rows = _rows(node) if node.name == "table" and node.find("table") is None else None
            if node.name in _HEADINGS or node.name == "pre" or rows is not None:
                text = "".join(line).strip()
                line = []
                if text:
                    yield "text", text
            if node.name in _HEADINGS:
                yield "heading", node.get_text(" ")
            elif node.name == "pre":
                yield "text", node.get_text()
            elif rows is not None:
                yield "table", "\n".join(rows)
            elif node.name == "br":
                stack.append("\n")
            elif node.name == "li":
                stack += ["\n", *reversed(node.contents), "- "]
            elif node.name in _BLOCKS:
                stack += ["\n", *reversed(node.contents), "\n"]
            else:
                stack.extend(reversed(node.contents))
    if rest := "".join(line).strip():
        yield "text", rest


def _rows(table: Tag) -> list[str]:
    rows: list[str] = []
    for row in table.find_all(["tr", "caption"]):
        cells = [cell.get_text(" ") for cell in row.find_all(["td", "th"])]
        # Pages laid out with tables have many spacer cells.
        text = table_line([c for c in cells if c.strip()] if cells else [row.get_text(" ")])
        if text:
            rows.append(text)
    return rows


def read_markdown(data: bytes, limits: Limits) -> list[Draft]:
    """Markdown as it is; `#` headings outside code fences anchor sections."""
    text = decode(data)
    check_length(len(text), limits.max_chars)
    marks: list[tuple[int, str]] = []
    fence = ""
    position = 0
    for line in text.split("\n"):
        if mark := _FENCE.match(line):
            fence = "" if fence == mark.group(1) else fence or mark.group(1)
        elif not fence and (heading := _ATX.match(line)):
            marks.append((position, one_line(heading.group(1))[:200]))
        position += len(line) + 1
    ends = [start for start, _ in marks[1:]] + [len(text)]
    kind: Kind = "section"
    anchors = tuple(Anchor(s, e, kind, name) for (s, name), e in zip(marks, ends, strict=False))
    return [Draft(text, marks[0][1] if marks else "", anchors)]


def read_email(data: bytes, limits: Limits) -> list[Draft]:
    """Subject as title, the plain part (else the HTML part) as text, addresses as metadata."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        message = email.message_from_string(decode(data), policy=email.policy.default)
    else:
        message = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    subject = one_line(str(message.get("subject", "")))
    builder = TextBuilder(limits)
    builder.add(subject)
    for name in ("from", "to", "date"):
        if message.get(name):
            builder.add(f"{name.capitalize()}: {one_line(str(message[name]))}")
    part = message.get_body(preferencelist=("plain", "html"))
    if part is not None:
        payload = part.get_content()
        body = payload if isinstance(payload, str) else decode(payload)
        if part.get_content_subtype() == "html":
            body = _html_draft(body, limits).text
        builder.add(body, "\n\n")
    metadata = {
        name: one_line(str(message[name])) for name in ("from", "to", "date") if message.get(name)
    }
    text, anchors = builder.build()
    return [Draft(text, subject, anchors, metadata)]
