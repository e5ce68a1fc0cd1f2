"""Documents that come and go over HTTP: names that lead nowhere else, files parsed apart.

What is uploaded lands in the documents folder only when it could be read; a job then brings the
index in line. What is deleted is moved beside the run and not destroyed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from pydantic import TypeAdapter, ValidationError

from domainlm.artifacts import Log, copy_durably, flush_folder, timestamp, writing
from domainlm.config import Config
from domainlm.corpus.readers import FORMATS
from domainlm.schema import Document, Quarantined
from domainlm.server.failures import HttpFailure, NotFound
from domainlm.server.parser import Read

PARSER = "domainlm.server.parser"
_MAX_NAME = 200
_FORBIDDEN = set('/\\:*?"<>|')
_RESERVED = {"con", "prn", "aux", "nul", *(f"{n}{i}" for n in ("com", "lpt") for i in range(1, 10))}
_READ: TypeAdapter[Read] = TypeAdapter(Read)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An upload that could not be read, and why."""

    time: str
    by: str
    file: Quarantined


@dataclass(frozen=True, slots=True)
class Upload:
    """What became of an uploaded file: the documents in it and what of it was set aside."""

    name: str
    documents: tuple[Document, ...]
    quarantined: tuple[Quarantined, ...]

    @property
    def kept(self) -> bool:
        """Whether it now lies in the documents folder."""
        return bool(self.documents)


class Papers:
    """The documents folder of a run."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._refused = Log(config.beside("refused.jsonl"), Refusal)

    @property
    def folder(self) -> Path:
        """Where documents lie."""
        return self._config.documents

    def add(self, name: str, content: BinaryIO, by: str, *, replace: bool = False) -> Upload:
        """Read an uploaded file apart and, if there is a document in it, put it into the folder.

        Args:
            name: its file name, without any folder.
            content: its bytes.
            by: who uploads it.
            replace: whether it may take the place of a file of that name.

        Raises:
            HttpFailure: the name will not do, is taken, or the file is too large.
            DataError: the folder cannot be written.
        """
        name = safe_name(name)
        final = self.folder / name
        if final.exists() and not replace:
            raise _taken(name)
        with writing(self._config.output):
            self._config.output.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._config.output, prefix=".upload-") as place:
                path = Path(place) / name
                self._receive(content, path)
                documents, refused = self._read(path)
                if documents:
                    self._place(path, final, replace)
        if refused and not documents:
            self._refused.append([Refusal(timestamp(), by, q) for q in refused])
        return Upload(name, documents, refused)

    def remove(self, doc_id: str) -> tuple[str, Path]:
        """Take the file of a document out of the folder.

        Returns:
            The file's path in the folder, and where it is kept now.

        Raises:
            NotFound: there is no such file.
            DataError: it cannot be moved.
        """
        source = doc_id if self._inside(doc_id) else doc_id.rpartition("#")[0]
        path = self._inside(source)
        if path is None:
            raise NotFound(f"there is no document {doc_id[:200]!r}; list them for their ids")
        kept = self._config.beside("removed") / timestamp().replace(":", "") / source
        with writing(kept), self._lock:
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, kept)
        return source, kept

    def refusals(self, limit: int = 100) -> list[Refusal]:
        """Uploads that could not be read, newest first."""
        found: list[Refusal] = self._refused.read()
        return found[::-1][:limit]

    def _inside(self, source: str) -> Path | None:
        """The regular file of that relative path, if it lies in the folder and nowhere else."""
        parts = PurePosixPath(source).parts
        if not parts or "\0" in source or any(p == ".." or "/" in p for p in parts):
            return None
        path = self.folder.joinpath(*parts)
        real, root = path.resolve(), self.folder.resolve()
        plain = real == root.joinpath(*parts)
        return path if plain and path.is_file() else None

    def _receive(self, content: BinaryIO, path: Path) -> None:
        most = self._config.serve.max_upload_mb * 2**20
        with path.open("xb") as stream:
            while block := content.read(2**20):
                if stream.tell() + len(block) > most:
                    raise HttpFailure(
                        413,
                        f"the file is larger than serve.max_upload_mb="
                        f"{self._config.serve.max_upload_mb}; split it, or put it into the "
                        "documents folder by hand",
                        code="too_large",
                    )
                stream.write(block)

    def _read(self, path: Path) -> Read:
        """What is in the file, by a process that may fail as it likes."""
        serve = self._config.serve
        command = [sys.executable, "-m", PARSER, str(path)]
        limits = [str(serve.parse_memory_mb), str(serve.parse_seconds)]
        try:
            done = subprocess.run(
                [*command, *limits],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=serve.parse_seconds + 15,
                check=False,
            )
            if done.returncode == 0:
                return _READ.validate_json(done.stdout)
            why = "its reader ran out of memory or time, or crashed"
        except subprocess.TimeoutExpired:
            why = f"its reader was not done after {serve.parse_seconds} s"
        except ValidationError:
            why = "its reader did not make sense"
        return (), (Quarantined(path.name, "corrupt", why),)

    def _place(self, path: Path, final: Path, replace: bool) -> None:
        with self._lock:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Hidden, so that a reader that comes by does not see half of it.
            draft = final.with_name(f".{final.name}.{os.getpid()}.{threading.get_ident()}")
            # Another upload of that name may have been quicker.
            if final.exists() and not replace:
                raise _taken(final.name)
            try:
                copy_durably(path, draft)
                os.replace(draft, final)
            finally:
                draft.unlink(missing_ok=True)
            flush_folder(self.folder)


def safe_name(name: str) -> str:
    """A file name that is one on every system and leads to no other folder.

    Raises:
        HttpFailure: it is not.
    """
    name = unicodedata.normalize("NFC", name.strip())
    stem, suffix = Path(name).stem, Path(name).suffix.lower()
    wrong = (
        not name
        or len(name.encode("utf-8", "surrogatepass")) > _MAX_NAME
        or not name.isprintable()
        or bool(_FORBIDDEN & set(name))
        or name.startswith((".", "~$"))
        or name.endswith((".", " "))
        or stem.split(".")[0].strip().lower() in _RESERVED
    )
    if wrong:
        raise HttpFailure(
            400,
            f"file name {name[:80]!r} will not do; use letters, digits, blanks, dots and dashes, "
            f"up to {_MAX_NAME} bytes",
            code="bad_name",
            param="file",
        )
    if (Path(stem).suffix.lower() if suffix == ".gz" else suffix) not in FORMATS:
        raise HttpFailure(
            400,
            f"there is no reader for {suffix or 'a name without an extension'!r}; use "
            f"{', '.join(sorted(FORMATS))}",
            code="bad_type",
            param="file",
        )
    return name


def _taken(name: str) -> HttpFailure:
    return HttpFailure(
        409, f"there is a document file {name!r}; replace it or rename yours", code="taken"
    )
