"""Files become documents; what cannot be read is quarantined with its reason, never fatal.

A reader is a function `(bytes, Limits) -> [Draft]` in the `FORMATS` table, by file extension.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from domainlm.corpus.formats_common import (
    Draft,
    Limits,
    Reason,
    Unreadable,
    one_line,
    title_from_name,
    usable_title,
    utf16_without_mark,
)
from domainlm.corpus.formats_data import read_csv, read_json, read_jsonl, read_text
from domainlm.corpus.formats_office import read_docx, read_pptx, read_xlsx
from domainlm.corpus.formats_pdf import read_pdf
from domainlm.corpus.formats_web import read_email, read_html, read_markdown
from domainlm.errors import DataError
from domainlm.schema import Document, Quarantined

_UNPACK_FACTOR = 4
"""A compressed file may unpack to this many times `max_bytes`."""


@dataclass(frozen=True, slots=True)
class Format:
    """How files with one extension are read; `magic` is what their first bytes must look like."""

    read: Callable[[bytes, Limits], list[Draft]]
    media_type: str
    magic: str = "text"


_OFFICE = "application/vnd.openxmlformats-officedocument."
FORMATS: dict[str, Format] = {
    ".pdf": Format(read_pdf, "application/pdf", "pdf"),
    ".docx": Format(read_docx, f"{_OFFICE}wordprocessingml.document", "zip"),
    ".pptx": Format(read_pptx, f"{_OFFICE}presentationml.presentation", "zip"),
    ".xlsx": Format(read_xlsx, f"{_OFFICE}spreadsheetml.sheet", "zip"),
    ".html": Format(read_html, "text/html"),
    ".htm": Format(read_html, "text/html"),
    ".xhtml": Format(read_html, "text/html"),
    ".md": Format(read_markdown, "text/markdown"),
    ".markdown": Format(read_markdown, "text/markdown"),
    ".txt": Format(read_text, "text/plain"),
    ".text": Format(read_text, "text/plain"),
    ".csv": Format(read_csv, "text/csv"),
    ".tsv": Format(read_csv, "text/tab-separated-values"),
    ".json": Format(read_json, "application/json"),
    ".jsonl": Format(read_jsonl, "application/jsonl"),
    ".ndjson": Format(read_jsonl, "application/jsonl"),
    ".eml": Format(read_email, "message/rfc822"),
}

_MAGIC = (
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "ole"),
    (b"\x89PNG", "image"),
    (b"\xff\xd8\xff", "image"),
    (b"GIF8", "image"),
    (b"II*\0", "image"),
    (b"MM\0*", "image"),
    (b"\x1f\x8b", "gzip"),
    (b"7z\xbc\xaf", "archive"),
    (b"Rar!", "archive"),
    (b"{\\rtf", "rtf"),
    (b"\x7fELF", "program"),
    (b"MZ\x90", "program"),
)


def load_documents(
    folder: Path,
    *,
    max_bytes: int = 50_000_000,
    max_chars: int = 5_000_000,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Document], list[Quarantined]]:
    """Read every file under `folder` (or the one file it names), in the order of relative paths.

    Hidden files and Office lock files are ignored, links that lead outside are quarantined, and
    `.gz` text formats are unpacked. Identical documents are kept; `splits` treats them as one.

    Args:
        folder: the documents folder, searched recursively, or a single file.
        max_bytes: size limit of one file; compressed ones may unpack to four times as much.
        max_chars: length limit of one document's text.
        progress: called with (files done, files in all).

    Raises:
        DataError: the folder is missing, or nothing in it could be read.
    """
    if not folder.exists():
        raise DataError(f"documents folder {str(folder)!r} does not exist; check `documents`")
    root = folder if folder.is_dir() else folder.parent
    paths = list(_files(folder)) if folder.is_dir() else [folder]
    limits = Limits(max_bytes * _UNPACK_FACTOR, max_chars)
    documents: list[Document] = []
    quarantined: list[Quarantined] = []
    for done, path in enumerate(paths, 1):
        documents_here, refused = read_one(path, root, max_bytes, limits)
        documents.extend(documents_here)
        quarantined.extend(refused)
        if progress:
            progress(done, len(paths))
    if not documents:
        why = "; ".join(f"{q.source}: {q.reason}" for q in quarantined[:5]) or "it has no files"
        raise DataError(
            f"no readable document in {str(folder)!r} ({why}); "
            f"supported: {', '.join(sorted(FORMATS))}"
        )
    return documents, quarantined


def read_one(
    path: Path, root: Path, max_bytes: int, limits: Limits
) -> tuple[list[Document], list[Quarantined]]:
    """The documents of one file below `root`, and what in it was set aside."""
    source = path.relative_to(root).as_posix()
    source = source.encode("utf-8", "replace").decode("utf-8")
    try:
        return _read_file(path, source, root, max_bytes, limits)
    except Unreadable as problem:
        return [], [Quarantined(source, problem.reason, problem.detail)]
    except Exception as error:  # parsers fail in their own ways; one bad file never stops a run
        detail = one_line(f"{type(error).__name__}: {error}")[:300]
        return [], [Quarantined(source, "corrupt", detail)]


def _files(folder: Path) -> Iterator[Path]:
    """Visible files, sorted by relative path; linked folders are not followed."""
    found: list[Path] = []
    for parent, folders, names in os.walk(folder, followlinks=False):
        folders[:] = [f for f in folders if not f.startswith(".")]
        found.extend(Path(parent, n) for n in names if not n.startswith((".", "~$")))
    return iter(sorted(found, key=lambda p: p.relative_to(folder).as_posix()))


def _read_file(
    path: Path, source: str, root: Path, max_bytes: int, limits: Limits
) -> tuple[list[Document], list[Quarantined]]:
    if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
        raise Unreadable("unsupported", "a link that leads outside the documents folder")
    if not path.is_file():
        raise Unreadable("unsupported", "not a regular file")
    suffix = path.suffix.lower()
    packed = suffix == ".gz"
    if packed:
        suffix = Path(path.stem).suffix.lower()
    kind = FORMATS.get(suffix)
    if kind is None or (packed and kind.magic != "text"):
        raise Unreadable("unsupported", f"no reader for {path.suffix.lower() or 'no extension'!r}")
    size = path.stat().st_size
    if size == 0:
        raise Unreadable("empty", "zero bytes")
    if size > max_bytes:
        raise Unreadable("too_large", f"{size:,} bytes; the limit is {max_bytes:,}")
    data = path.read_bytes()
    if packed:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            data = stream.read(limits.max_unpacked + 1)
        if len(data) > limits.max_unpacked:
            raise Unreadable("too_large", f"unpacks to more than {limits.max_unpacked:,} bytes")
    _check_magic(data, kind.magic, suffix)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drafts = kind.read(data, limits)
    stem = Path(path.stem).stem if packed else path.stem
    documents: list[Document] = []
    refused: list[Quarantined] = []
    for draft in drafts:
        name = f"{source}#{draft.record}" if draft.record else source
        if draft.refused:
            refused.append(Quarantined(name, *draft.refused))
        elif not draft.text.strip():
            raise Unreadable("no_text", "no text in it")
        else:
            documents.append(_document(draft, name, source, stem, kind.media_type))
    if not drafts:
        raise Unreadable("no_text", "no records in it")
    return documents, refused


def _check_magic(data: bytes, expected: str, suffix: str) -> None:
    """Refuse a file whose first bytes contradict its extension."""
    seen = _sniff(data)
    if seen == expected:
        return
    if expected == "zip" and seen == "ole":
        if "EncryptedPackage".encode("utf-16-le") in data:
            raise Unreadable("encrypted", "a password is needed; save it without one")
        raise Unreadable("mislabelled", f"{suffix} expected, but it is an old binary Office file")
    reason: Reason = "corrupt" if seen == "binary" else "mislabelled"
    raise Unreadable(reason, f"{suffix} expected, but the content looks like {seen}")


def _sniff(data: bytes) -> str:
    if b"%PDF-" in data[:1024]:
        return "pdf"
    for mark, name in _MAGIC:
        if data.startswith(mark):
            return name
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or utf16_without_mark(data):
        return "text"
    return "binary" if data[:4096].count(0) > 8 else "text"


def _document(draft: Draft, name: str, source: str, stem: str, media_type: str) -> Document:
    metadata = {k: v for k, v in draft.metadata.items() if v.strip() and k != "title"}
    title = usable_title(draft.metadata.get("title", "")) or usable_title(draft.heading)
    if not title and not draft.record:
        # A file name of several words says more than a first line such as "Exhibit 10.1".
        words = re.findall(r"[^\W\d_]{3,}", stem)
        title = "" if len(words) >= 3 else _first_line(draft.text)
    stem = title_from_name(stem)
    digest = hashlib.sha256(draft.text.encode()).hexdigest()
    fallback = f"{stem} {draft.record}" if draft.record.isdigit() else draft.record or stem
    return Document(
        id=name,
        title=title or fallback,
        source=source,
        text=draft.text,
        media_type=media_type,
        sha256=digest,
        anchors=draft.anchors,
        metadata=metadata,
    )


def _first_line(text: str) -> str:
    """The first line where it reads like a title: short, several letters, not a sentence."""
    line = one_line(text.lstrip()[:400].split("\n", 1)[0])
    like_title = 3 < len(line) <= 80 and len(re.findall(r"[^\W\d_]{3,}", line)) >= 2
    row = "|" in line or ": " in line
    return line if like_title and not row and line[-1] not in ".:;," else ""
