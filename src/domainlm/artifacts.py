"""The run folder: atomic writes, typed records, stages remembered by content, and resume.

A stage's result is stored with the digest of its inputs; asking again with the same digest loads
it, with another recomputes it. A file is complete or absent: every write goes to a temporary
sibling, is flushed to the disk and renamed. Append logs survive a torn last line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import errno
import functools
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from domainlm.errors import DataError
from domainlm.schema import StageTime

T = TypeVar("T")


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def timestamp() -> str:
    """Now, as it is written down: UTC, ISO 8601, to the millisecond."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")


def digest(*values: Any) -> str:
    """SHA-256 of the canonical JSON of `values` (dataclasses and paths included), 16 hex digits."""
    text = json.dumps(values, sort_keys=True, default=_plain, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    return str(value)


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_bytes(path: Path) -> int:
    """Size of the files below a folder."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


_UNWRITABLE = (
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a full disk or a read-only folder into one clear sentence.

    Raises:
        DataError: the path cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"the disk of {path} is full; free some space and run the same command again, "
                "finished work is kept"
            ) from None
        if error.errno in _UNWRITABLE:
            raise DataError(
                f"cannot write to {path} ({error.strerror}); choose another path (that of a run is "
                "its setting `output`)"
            ) from None
        raise


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a whole file or nothing, durably.

    Raises:
        DataError: the disk is full or the folder is read-only.
    """
    payload = data.encode("utf-8") if isinstance(data, str) else data
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(payload)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise


def copy_durably(source: Path, target: Path) -> str:
    """Copy a file to the disk itself; the SHA-256 of what was written."""
    with source.open("rb") as reader, target.open("xb") as writer:
        shutil.copyfileobj(reader, writer)
        writer.flush()
        os.fsync(writer.fileno())
    return digest_file(target)


def flush_folder(folder: Path) -> None:
    """A rename outlives a power cut only when its folder is flushed; what is renamed is whole in
    any case, and Windows and some network disks cannot do it.
    """
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def dump_json(kind: Any, value: Any, indent: int | None = None) -> bytes:
    """Serialise a value of type `kind` (dataclasses, tuples of them, …) to JSON."""
    return _adapter(kind).dump_json(value, indent=indent)


def load_json(kind: Any, path: Path) -> Any:
    """Read what `dump_json` wrote.

    Raises:
        DataError: the file is missing or does not hold such a value.
    """
    try:
        return _adapter(kind).validate_json(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; run the command that writes it first") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); name another file") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{path} is not what this version of domainlm writes "
            f"({where + ': ' if where else ''}{first['msg']}); name another file, or write it again"
        ) from None


class Log:
    """An append-only JSONL file of one record type; each append is flushed to the disk."""

    def __init__(self, path: Path, kind: Any) -> None:
        self.path, self._kind = path, kind

    def read(self) -> list[Any]:
        """All complete records; a torn last line (a killed writer) is ignored."""
        if not self.path.exists():
            return []
        records = []
        for line in self.path.read_bytes().split(b"\n"):
            if not line.strip():
                continue
            try:
                records.append(_adapter(self._kind).validate_json(line))
            except ValidationError:
                continue
        return records

    def append(self, records: list[Any]) -> None:
        """Write records and flush them to the disk before returning."""
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as stream:
                # A torn line of a killed writer must not swallow the next record.
                lead = b"\n" if stream.tell() else b""
                body = b"\n".join(_adapter(self._kind).dump_json(r) for r in records)
                stream.write(lead + body)
                stream.flush()
                os.fsync(stream.fileno())

    def rewrite(self, records: list[Any]) -> None:
        """Let the file hold these records alone, whole or not at all."""
        write_atomic(
            self.path, b"".join(_adapter(self._kind).dump_json(r) + b"\n" for r in records)
        )


class RunDir:
    """One run's folder. Only one process at a time may hold it."""

    def __init__(self, path: Path, on_stage: Callable[[str, bool], None] | None = None) -> None:
        self.path = path
        self._on_stage = on_stage or (lambda name, cached: None)
        self._times: dict[str, float] = {}
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            (path / "stages").mkdir(exist_ok=True)
        self._lock = FileLock(path / ".lock", timeout=0)

    def __enter__(self) -> RunDir:
        with writing(self.path):
            try:
                self._lock.acquire()
            except Timeout:
                raise DataError(
                    f"another process is working in {self.path}; wait for it or choose another name"
                ) from None
        return self

    def __exit__(self, *exc: object) -> None:
        self._lock.release()

    def stage(self, name: str, key: str, kind: Any, make: Callable[[], T]) -> T:
        """Load stage `name` if it was made from inputs with digest `key`, else make and store it.

        Each key keeps its file, so going back to earlier settings repeats nothing either.

        Raises:
            DataError: the result cannot be written.
        """
        path = self.path / "stages" / f"{name}-{key}.json"
        stored = self._stored(path, key, kind)
        self._on_stage(name, stored is not None)
        if stored is not None:
            self._put_last(path, name)
            self._times[name] = stored[1]
            return stored[0]  # type: ignore[no-any-return]
        started = time.perf_counter()
        value = make()
        seconds = time.perf_counter() - started
        body = dump_json(kind, value).decode()
        head = json.dumps({"key": key, "seconds": round(seconds, 3)})
        write_atomic(path, f'{head[:-1]}, "value": {body}}}')
        self._put_last(path, name)
        self._times[name] = seconds
        return value

    def _put_last(self, path: Path, name: str) -> None:
        """`newest` goes by time, and two states may fall into one tick of the disk's clock."""
        with contextlib.suppress(OSError):
            others = [p for p in self.path.glob(f"stages/{name}-*.json") if p != path]
            latest = max((p.stat().st_mtime_ns for p in others), default=0)
            at = max(time.time_ns(), latest + 1_000)
            os.utime(path, ns=(at, at))

    def newest(self, name: str, kind: Any) -> Any | None:
        """What stage `name` made or loaded last, whatever from; None if it never ended."""
        made = sorted(self.path.glob(f"stages/{name}-*.json"), key=lambda p: p.stat().st_mtime_ns)
        for path in reversed(made):
            stored = self._stored(path, path.stem.removeprefix(f"{name}-"), kind)
            if stored is not None:
                return stored[0]
        return None

    def seconds(self, name: str) -> float:
        """Wall seconds that stage `name` took when it was made; 0 if it was not part of this."""
        return self._times.get(name, 0.0)

    def times(self) -> tuple[StageTime, ...]:
        """What each stage took, in the order they were asked for."""
        return tuple(StageTime(name, round(s, 3)) for name, s in self._times.items())

    def _stored(self, path: Path, key: str, kind: Any) -> tuple[Any, float] | None:
        try:
            raw = json.loads(path.read_bytes())
            if raw["key"] != key:
                return None
            # Validation from JSON text keeps tuples and dataclasses exact.
            value = _adapter(kind).validate_json(json.dumps(raw["value"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return value, float(raw.get("seconds", 0.0))


class Progress(Protocol):
    """What long work reports to: the command line draws bars, a test stays silent."""

    def stage(self, name: str, cached: bool) -> None:
        """A stage begins, or was found finished."""
        ...

    def update(self, done: int, total: int, note: str = "", loss: float | None = None) -> None:
        """The current stage has done `done` of `total` steps; `loss` is that of a training step."""
        ...


class Silent:
    """A `Progress` that says nothing."""

    def stage(self, name: str, cached: bool) -> None:
        """Ignore."""

    def update(self, done: int, total: int, note: str = "", loss: float | None = None) -> None:
        """Ignore."""
