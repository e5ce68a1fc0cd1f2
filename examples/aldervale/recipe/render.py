"""Writes a source document as PDF, DOCX, HTML, Markdown, XLSX, CSV, e-mail or plain text.

Nothing in a file depends on the clock: dates, identifiers and archive times are fixed, so the
same recipe gives the same bytes with the same versions of the writing libraries.
"""

from __future__ import annotations

import csv
import html
import io
import re
import textwrap
import zipfile
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from pathlib import Path

from recipe.documents import Section, SourceDocument, Table

FIXED = datetime(2025, 1, 15, 9, 0, tzinfo=UTC)
_STAMP = re.compile(rb"(<dcterms:(?:created|modified)[^>]*>)[^<]*")
_WIDTH = 88


def write(document: SourceDocument, folder: Path) -> Path:
    """Write one document below `folder` and return its path."""
    target = folder / document.path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(_WRITERS[document.format](document))
    return target


def _text(document: SourceDocument) -> bytes:
    lines = [document.title.upper(), "=" * len(document.title), ""]
    for section in document.sections:
        if section.heading:
            lines += [section.heading, ""]
        for paragraph in section.paragraphs:
            lines += [*_wrapped(paragraph), ""]
        if section.table:
            lines += [*_columns(section.table), ""]
    return _encoded(lines)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, break_on_hyphens=False, break_long_words=False)


def _columns(table: Table) -> list[str]:
    rows = [table.header, *table.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.header))]
    return ["  " + "   ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
            for row in rows]  # fmt: skip


def _encoded(lines: list[str]) -> bytes:
    return ("\n".join(lines).rstrip() + "\n").encode()


def _markdown(document: SourceDocument) -> bytes:
    lines = [f"# {document.title}", ""]
    for section in document.sections:
        lines += [f"## {section.heading}", ""]
        for paragraph in section.paragraphs:
            lines += [paragraph, ""]
        if section.table:
            bar = "|" + " --- |" * len(section.table.header)
            rows = [f"| {' | '.join(row)} |" for row in section.table.rows]
            lines += [f"| {' | '.join(section.table.header)} |", bar, *rows, ""]
    return _encoded(lines)


def _html(document: SourceDocument) -> bytes:
    out = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f"<title>{html.escape(document.title)}</title>",
        "<style>body{max-width:44em;margin:2em auto;font-family:sans-serif}</style>",
        "</head>",
        "<body>",
        '<nav><a href="/">Aldervale Hydro Works</a></nav>',
        f"<h1>{html.escape(document.title)}</h1>",
    ]
    for section in document.sections:
        out.append(f"<h2>{html.escape(section.heading)}</h2>")
        out += [f"<p>{html.escape(p, quote=False)}</p>" for p in section.paragraphs]
        if section.table:
            out += ["<table>", _row(section.table.header, "th")]
            out += [*(_row(row, "td") for row in section.table.rows), "</table>"]
    return _encoded([*out, "</body>", "</html>"])


def _row(cells: tuple[str, ...], tag: str) -> str:
    inner = "".join(f"<{tag}>{html.escape(c, quote=False)}</{tag}>" for c in cells)
    return f"<tr>{inner}</tr>"


def _csv(document: SourceDocument) -> bytes:
    table = document.sections[0].table
    assert table is not None
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.header)
    writer.writerows(table.rows)
    return out.getvalue().encode()


def _email(document: SourceDocument) -> bytes:
    values = document.record.values
    sent = datetime.fromisoformat(f"{values['sent']}T08:40:00+00:00")
    message = EmailMessage(policy=SMTP)
    message["From"] = f"{values['sender']} <{_address(values['sender'])}>"
    message["To"] = f"{values['recipient']} <{_address(values['recipient'])}>"
    message["Date"] = format_datetime(sent)
    message["Subject"] = document.title
    message["Message-ID"] = f"<{document.record.kind}.{document.record.slug}@aldervale.example>"
    body: list[str] = []
    for section in document.sections:
        for paragraph in section.paragraphs:
            body += [*textwrap.wrap(paragraph, 72, break_on_hyphens=False), ""]
    message.set_content("\n".join(body).rstrip() + "\n", cte="7bit")
    return message.as_bytes()


def _address(name: str) -> str:
    return f"{name.lower().replace(' ', '.')}@aldervale.example"


def _docx(document: SourceDocument) -> bytes:
    import docx

    file = docx.Document()
    properties = file.core_properties
    properties.title, properties.author = document.title, "Aldervale Hydro Works"
    properties.created = properties.modified = FIXED.replace(tzinfo=None)
    properties.comments = ""
    file.add_heading(document.title, level=0)
    for section in document.sections:
        file.add_heading(section.heading, level=1)
        for paragraph in section.paragraphs:
            file.add_paragraph(paragraph)
        if section.table:
            table = file.add_table(rows=0, cols=len(section.table.header), style="Table Grid")
            for row in (section.table.header, *section.table.rows):
                for cell, value in zip(table.add_row().cells, row, strict=True):
                    cell.text = value
    out = io.BytesIO()
    file.save(out)
    return _settled(out.getvalue())


def _xlsx(document: SourceDocument) -> bytes:
    import openpyxl
    from openpyxl.styles import Font

    book = openpyxl.Workbook()
    book.properties.title, book.properties.creator = document.title, "Aldervale Hydro Works"
    for n, section in enumerate(document.sections):
        assert section.table is not None
        sheet = book.active if n == 0 else book.create_sheet()
        sheet.title = section.heading
        sheet.append(section.table.header)
        for cell in sheet[1]:
            cell.font = Font(bold=True)
        for row in section.table.rows:
            sheet.append([float(c) if re.fullmatch(r"\d+\.\d\d", c) else c for c in row])
        for row in sheet.iter_rows(min_row=2):
            for cell in row:
                if isinstance(cell.value, float):
                    cell.number_format = "0.00"
        sheet.freeze_panes = "A2"
        for letter, width in zip("ABCDE", (14, 30, 14, 14, 80), strict=True):
            sheet.column_dimensions[letter].width = width
    out = io.BytesIO()
    book.save(out)
    return _settled(out.getvalue())


def _settled(archive: bytes) -> bytes:
    """Rewrite an Office archive with fixed times; both libraries stamp it with the clock."""
    stamp = FIXED.strftime("%Y-%m-%dT%H:%M:%SZ").encode()
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(out, "w") as new:
        for name in sorted(old.namelist(), key=lambda n: (n != "[Content_Types].xml", n)):
            if name == "docProps/thumbnail.jpeg":
                data = old.read(name)
            else:
                data = _STAMP.sub(rb"\g<1>" + stamp, old.read(name))
            info = zipfile.ZipInfo(name, FIXED.timetuple()[:6])
            info.compress_type = zipfile.ZIP_DEFLATED
            new.writestr(info, data)
    return out.getvalue()


def _pdf(document: SourceDocument) -> bytes:
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.styles import getSampleStyleSheet
    from reportlab.lib.units import mm
    from reportlab.platypus import (
        BaseDocTemplate,
        Frame,
        KeepTogether,
        PageTemplate,
        Paragraph,
        Spacer,
    )

    styles = getSampleStyleSheet()
    story: list[object] = [Paragraph(html.escape(document.title, quote=False), styles["Title"])]
    for section in document.sections:
        # An unbroken section keeps page footers out of sentences and headings with their text.
        block: list[object] = [Paragraph(html.escape(section.heading), styles["Heading2"])]
        for text in section.paragraphs:
            block.append(Paragraph(html.escape(text, quote=False), styles["BodyText"]))
        if section.table:
            block += [Spacer(1, 3 * mm), _pdf_table(section), Spacer(1, 3 * mm)]
        story.append(KeepTogether(block))
    out = io.BytesIO()
    file = BaseDocTemplate(
        out, pagesize=A4, title=document.title, author="Aldervale Hydro Works", invariant=1
    )
    frame = Frame(24 * mm, 24 * mm, A4[0] - 48 * mm, A4[1] - 46 * mm)
    file.addPageTemplates(PageTemplate(frames=[frame], onPageEnd=_footer))
    file.build(story)
    return out.getvalue()


def _pdf_table(section: Section) -> object:
    from reportlab.lib import colors
    from reportlab.platypus import Table as PdfTable

    assert section.table is not None
    rows = [section.table.header, *section.table.rows]
    style = [("GRID", (0, 0), (-1, -1), 0.4, colors.grey),
             ("FONTNAME", (0, 0), (-1, 0), "Helvetica-Bold")]  # fmt: skip
    return PdfTable(rows, style=style, hAlign="LEFT")


def _footer(canvas: object, template: object) -> None:
    canvas.saveState()  # type: ignore[attr-defined]
    canvas.setFont("Helvetica", 8)  # type: ignore[attr-defined]
    page = template.page  # type: ignore[attr-defined]
    canvas.drawString(68, 30, f"Aldervale Hydro Works, page {page}")  # type: ignore[attr-defined]
    canvas.restoreState()  # type: ignore[attr-defined]


_WRITERS = {
    "txt": _text,
    "md": _markdown,
    "html": _html,
    "csv": _csv,
    "eml": _email,
    "docx": _docx,
    "xlsx": _xlsx,
    "pdf": _pdf,
}
