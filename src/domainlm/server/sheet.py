"""A PDF's page as a picture with a quotation marked; in a process of its own, with limits.

    python -m domainlm.server.sheet FILE PAGE < quotation > page.png

A PDF is hostile: what crashes or hangs its renderer must not take the server along.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import threading
from pathlib import Path

from domainlm.corpus.quotes import find_quote
from domainlm.errors import DataError
from domainlm.server.failures import Busy

SECONDS = 20
_MEMORY = 2 * 1024**3
_WIDTH = 1_100
"""Pixels of the picture's width; sharp on a phone, below 300 KB for a page of text."""
_LARGEST = 4_000
_AT_ONCE = 4
"""Pages drawn at a time: each may take 2 GB."""
_ROOM = threading.BoundedSemaphore(_AT_ONCE)
_MARK = (255, 226, 120)


def page_png(path: Path, page: int, quote: str) -> bytes:
    """The picture of a page, counted from 1.

    Raises:
        DataError: the page cannot be drawn.
        Busy: too many are being drawn.
    """
    command = [sys.executable, "-m", "domainlm.server.sheet", str(path), str(page)]
    if not _ROOM.acquire(timeout=SECONDS):
        raise Busy(f"{_AT_ONCE} pages are being drawn already; open this one again", SECONDS)
    try:
        done = subprocess.run(
            command,
            input=quote.encode("utf-8", "replace"),
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DataError(
            f"page {page} of {path.name} took more than {SECONDS} s to draw; read its text instead"
        ) from None
    finally:
        _ROOM.release()
    if done.returncode or not done.stdout.startswith(b"\x89PNG"):
        raise DataError(f"page {page} of {path.name} cannot be drawn; read its text instead")
    return done.stdout


def draw(path: Path, page: int, quote: str) -> bytes:
    """The picture, drawn in this process."""
    import pypdfium2 as pdfium
    from PIL import Image, ImageChops, ImageDraw

    pdf = pdfium.PdfDocument(path)
    sheet = pdf[page - 1]
    width, height = sheet.get_size()
    scale = min(_WIDTH / width, _LARGEST / height)
    picture = sheet.render(scale=scale).to_pil().convert("RGB")
    boxes = _boxes(sheet.get_textpage(), quote)
    if boxes:
        marks = Image.new("RGB", picture.size, "white")
        pen = ImageDraw.Draw(marks)
        for left, bottom, right, top in boxes:
            box = (left - 1, height - top - 1, right + 1, height - bottom + 1)
            pen.rectangle([scale * v for v in box], fill=_MARK)
        picture = ImageChops.multiply(picture, marks)
    out = io.BytesIO()
    picture.quantize(128).save(out, "PNG", optimize=True)
    return out.getvalue()


def _boxes(textpage: object, quote: str) -> list[tuple[float, float, float, float]]:
    """Where the quotation stands on the page, in points from its lower left corner."""
    text: str = textpage.get_text_range()  # type: ignore[attr-defined]
    # A quotation may run over to the next page: then its beginning is marked.
    words = quote.split()
    for n in (len(words), 24, 12, 6):
        span = find_quote(" ".join(words[:n]), text) if n <= len(words) else None
        if span:
            break
    else:
        return []
    count = textpage.count_rects(span[0], span[1] - span[0])  # type: ignore[attr-defined]
    return [textpage.get_rect(i) for i in range(count)]  # type: ignore[attr-defined]


def _limit() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))


if __name__ == "__main__":
    _limit()
    asked = sys.stdin.buffer.read(1_000_000).decode("utf-8", "replace")
    sys.stdout.buffer.write(draw(Path(sys.argv[1]), int(sys.argv[2]), asked))
