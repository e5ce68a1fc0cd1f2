"""Word, PowerPoint and Excel files (the XML formats; the old binary ones are unsupported)."""

from __future__ import annotations

import datetime
import io
import zipfile
from collections.abc import Iterator
from typing import Any

from domainlm.corpus.formats_common import (
    Draft,
    Limits,
    TextBuilder,
    Unreadable,
    is_header,
    labelled_line,
    one_line,
    table_line,
)

_MAX_MEMBERS = 10_000
_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_MATH_TEXT = "{http://schemas.openxmlformats.org/officeDocument/2006/math}t"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"


def check_package(data: bytes, main_part: str, limits: Limits) -> None:
    """Refuse an Office package before its parser sees it.

    Raises:
        Unreadable: broken zip, zip bomb, a DTD (entity tricks), or another kind of package.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            members = package.infolist()
            size = sum(m.file_size for m in members)
            if size > limits.max_unpacked or len(members) > _MAX_MEMBERS:
                raise Unreadable(
                    "too_large",
                    f"unpacks to {size:,} bytes in {len(members):,} parts; "
                    f"the limits are {limits.max_unpacked:,} and {_MAX_MEMBERS:,}",
                )
            if any(m.flag_bits & 1 for m in members):
                raise Unreadable("encrypted", "a password is needed; save it without one")
            names = {m.filename for m in members}
            if not any(name.startswith(main_part) for name in names):
                raise Unreadable("mislabelled", f"a zip file without {main_part}*")
            for member in members:
                if member.filename.endswith((".xml", ".rels")):
                    with package.open(member) as stream:
                        head = stream.read(4096)
                    if b"<!DOCTYPE" in head or b"<!ENTITY" in head:
                        raise Unreadable("corrupt", f"{member.filename} declares a DTD")
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise Unreadable("corrupt", f"broken package: {error}") from error


def read_docx(data: bytes, limits: Limits) -> list[Draft]:
    """Paragraphs, tables and text boxes in body order; headings become sections."""
    check_package(data, "word/document", limits)
    import docx

    document = docx.Document(io.BytesIO(data))
    styles = {s.style_id: s.name or "" for s in document.styles}
    builder = TextBuilder(limits)
    heading = ""
    for block in _blocks(document.element.body):
        if block.tag == f"{_W}tbl":
            lines = [table_line(row) for row in _table_rows(block)]
            builder.add("\n".join(line for line in lines if line), "\n\n")
            continue
        style = block.find(f"{_W}pPr/{_W}pStyle")
        name = styles.get(style.get(f"{_W}val"), "") if style is not None else ""
        text = _paragraph_text(block)
        if name.lower().startswith("heading") or name == "Title":
            heading = heading or one_line(text)
            builder.section(text)
        elif block.find(f"{_W}pPr/{_W}numPr") is not None and text.strip():
            builder.add(f"- {text}")
        else:
            builder.add(text, "\n\n" if len(text) > 200 else "\n")
        for box in _text_boxes(block):
            builder.add("\n".join(_paragraph_text(p) for p in box.iter(f"{_W}p")))
    text, anchors = builder.build()
    core = document.core_properties
    return [Draft(text, heading, anchors, {"title": core.title or "", "author": core.author or ""})]


def _blocks(parent: Any) -> Iterator[Any]:
    """Paragraph and table elements in order, also those inside content controls."""
    for child in parent.iterchildren():
        if child.tag in (f"{_W}p", f"{_W}tbl"):
            yield child
        elif child.tag == f"{_W}sdt":
            content = child.find(f"{_W}sdtContent")
            if content is not None:
                yield from _blocks(content)


def _paragraph_text(paragraph: Any) -> str:
    """Runs, links, insertions and equations; no deleted text, and text boxes come separately."""
    parts: list[str] = []
    stack = list(reversed(paragraph))
    while stack:
        element = stack.pop()
        if element.tag in (f"{_W}txbxContent", _FALLBACK, f"{_W}pPr"):
            continue
        if element.tag in (f"{_W}t", _MATH_TEXT):
            parts.append(element.text or "")
        elif element.tag == f"{_W}tab":
            parts.append("\t")
        elif element.tag in (f"{_W}br", f"{_W}cr"):
            parts.append("\n")
        stack.extend(reversed(element))
    return "".join(parts)


def _text_boxes(paragraph: Any) -> Iterator[Any]:
    for box in paragraph.iter(f"{_W}txbxContent"):
        # Word stores each box twice: DrawingML and, for old readers, a fallback copy.
        if not any(parent.tag == _FALLBACK for parent in box.iterancestors()):
            yield box


def _table_rows(table: Any) -> Iterator[list[str]]:
    for row in table.iterchildren(f"{_W}tr"):
        yield [
            " ".join(_paragraph_text(p) for p in cell.iter(f"{_W}p"))
            for cell in row.iter(f"{_W}tc")
            if next(cell.iterancestors(f"{_W}tr")) is row
        ]


def read_pptx(data: bytes, limits: Limits) -> list[Draft]:
    """Slides in order, each an anchor: title, text and tables by position, then notes."""
    check_package(data, "ppt/presentation", limits)
    import pptx

    presentation = pptx.Presentation(io.BytesIO(data))
    builder = TextBuilder(limits)
    heading = ""
    for number, slide in enumerate(presentation.slides, 1):
        title = slide.shapes.title
        name = one_line(title.text_frame.text) if title is not None else ""
        heading = heading or name
        builder.mark("slide", f"{number}: {name[:200]}" if name else str(number))
        lines = [name]
        for shape in _shapes(slide.shapes):
            if title is None or shape.shape_id != title.shape_id:
                lines.extend(_shape_lines(shape))
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            notes = slide.notes_slide.notes_text_frame.text.strip()
            lines.append(f"Notes: {notes}" if notes else "")
        builder.add("\n".join(line for line in lines if line.strip()), "\n\n")
    text, anchors = builder.build()
    return [Draft(text, heading, anchors, {"title": presentation.core_properties.title or ""})]


def _shapes(shapes: Any) -> list[Any]:
    """Shapes from top to bottom and left to right, groups opened."""
    found: list[Any] = []
    for shape in sorted(shapes, key=lambda s: (s.top or 0, s.left or 0)):
        found.extend(_shapes(shape.shapes) if hasattr(shape, "shapes") else [shape])
    return found


def _shape_lines(shape: Any) -> list[str]:
    if getattr(shape, "has_table", False) and shape.has_table:
        return [table_line([cell.text for cell in row.cells]) for row in shape.table.rows]
    if shape.has_text_frame:
        return [p.text for p in shape.text_frame.paragraphs]
    return []


def read_xlsx(data: bytes, limits: Limits) -> list[Draft]:
    """Sheets as anchors; rows as `column: value; …` under a header row, else ` | ` joined.

    Values are the ones Excel last computed; formulas are not evaluated.
    """
    check_package(data, "xl/workbook", limits)
    import openpyxl

    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    builder = TextBuilder(limits)
    try:
        for sheet in book.worksheets:
            sheet.reset_dimensions()
            builder.mark("sheet", sheet.title)
            header: list[str] = []
            gap = "\n\n"
            for values in sheet.iter_rows(values_only=True):
                cells = [_cell(value) for value in values]
                if not any(cells):
                    header = []  # an empty row ends a table; the next one brings its own header
                    continue
                if not header and is_header(cells):
                    header = [one_line(c) for c in cells]
                    builder.add(table_line(cells), gap)
                else:
                    builder.add(labelled_line(header, cells) if header else table_line(cells), gap)
                gap = "\n"
        title = book.properties.title or ""
    finally:
        book.close()
    text, anchors = builder.build()
    return [Draft(text, anchors=anchors, metadata={"title": title})]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    return str(value)
