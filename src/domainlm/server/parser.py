"""Reads one uploaded file in a process of its own: `python -m domainlm.server.parser FILE MB S`.

Parsers of office files and PDFs have had holes, and a small file may unpack to a huge one. The
process may use so much memory and time and no more; what it found it prints as JSON.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from domainlm.artifacts import dump_json
from domainlm.corpus.formats_common import Limits
from domainlm.corpus.readers import read_one
from domainlm.schema import Document, Quarantined

MAX_CHARS = 5_000_000
Read = tuple[tuple[Document, ...], tuple[Quarantined, ...]]


def main() -> None:
    """Read the file and print its documents and what was set aside."""
    path, megabytes, seconds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    _confine(megabytes * 2**20, seconds)
    size = path.stat().st_size
    documents, refused = read_one(path, path.parent, size, Limits(4 * size + 2**26, MAX_CHARS))
    sys.stdout.buffer.write(dump_json(Read, (tuple(documents), tuple(refused))))


def _confine(memory: int, seconds: int) -> None:
    """Limits of the kernel's, where there are any: Windows has none."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # No file may be written, however a parser is talked into it.
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


if __name__ == "__main__":
    main()
