"""The registry: trained models by content, their lineage, the champion and the way back.

    models/<digest>/      adapter files and manifest.json, written once and never changed
    champion.json         the model in use and all moves before, replaced whole
    looks.jsonl           every use of gate questions, and what error it may spend
    gates.jsonl           what the gate decided
    excluded.jsonl        events and documents that training must not use

Only `champion.json` says who is champion and only `excluded.jsonl` what is forgotten; every status
is derived from them, so a process killed between two writes leaves nothing that disagrees.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from domainlm.artifacts import (
    Log,
    copy_durably,
    digest,
    digest_file,
    dump_json,
    flush_folder,
    load_json,
    timestamp,
    write_atomic,
    writing,
)
from domainlm.config import Config
from domainlm.errors import DataError
from domainlm.exclusions import Exclusions
from domainlm.schema import (
    Champion,
    Exclusion,
    GateRecord,
    GateResult,
    Look,
    ModelRecord,
    Move,
    Status,
)

MANIFEST = "manifest.json"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_CHECKPOINT = "config.json"
_TENSORS = ".safetensors"
_WAIT_S = 30
_DRAFT = ".draft-"


@dataclass(frozen=True, slots=True)
class Origin:
    """One model of a line of descent: its manifest, its state, how the gate judged it, what it
    learned that is to be forgotten, and the champion that it was to replace.
    """

    record: ModelRecord
    status: Status
    gates: tuple[GateRecord, ...]
    taint: tuple[str, ...]
    parent: Origin | None = None


def registry_of(config: Config) -> Registry:
    """The registry of a domain, beside its run folder, which `--fresh` sets aside."""
    return Registry(config.output / f"{config.name}.models")


class Registry:
    """Models in a folder. Every change is made by one process at a time and is whole or absent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._looks = Log(folder / "looks.jsonl", Look)
        self._gates = Log(folder / "gates.jsonl", GateRecord)
        self._excluded = Log(folder / "excluded.jsonl", Exclusion)

    # --- models -----------------------------------------------------------------------------

    def add(self, adapter: Path, record: ModelRecord) -> ModelRecord:
        """Copy trained weights in, under the digest of weights and configuration.

        Args:
            adapter: folder of an adapter, or of a whole checkpoint (`training.method: full`).
            record: its manifest; `id` and `files` are filled in here.

        Raises:
            DataError: the folder holds no weights, or the registry cannot be written.
        """
        names = _weight_files(adapter)
        with self._locked():
            self._sweep()
            models = self.folder / "models"
            with writing(models):
                models.mkdir(parents=True, exist_ok=True)
                draft = models / f"{_DRAFT}{os.getpid()}"
                draft.mkdir()
                try:
                    files = {name: copy_durably(adapter / name, draft / name) for name in names}
                    made = replace(record, id=digest(files), files=files)
                    final = models / made.id
                    if self._problem(made.id) is None:
                        return self.model(made.id)
                    write_atomic(draft / MANIFEST, dump_json(ModelRecord, made, indent=1))
                    flush_folder(draft)
                    # What lies there under the same digest is damaged.
                    if final.exists():
                        final.rename(models / f"{_DRAFT}{made.id}")
                    draft.rename(final)
                    flush_folder(models)
                finally:
                    shutil.rmtree(draft, ignore_errors=True)
        return made

    def models(self) -> list[ModelRecord]:
        """Every model that was ever added, oldest first; one whose manifest is damaged is left
        out, `verify` tells of it.
        """
        records: list[ModelRecord] = []
        for path in self.folder.glob(f"models/[!.]*/{MANIFEST}"):
            with contextlib.suppress(DataError):
                records.append(load_json(ModelRecord, path))
        return sorted(records, key=lambda r: (r.created_at, r.id))

    def model(self, name: str) -> ModelRecord:
        """The model with that id, the only one whose id begins so, or the `champion`.

        Raises:
            DataError: there is none, or several.
        """
        if name == "champion":
            pointer = self.champion()
            if pointer is None:
                raise DataError(f"{self.folder} has no champion yet; `domainlm improve` makes one")
            name = pointer.model
        found = [r for r in self.models() if name and r.id.startswith(name)]
        if len(found) != 1:
            if name and (self.folder / "models" / name).is_dir():
                self.verify(name)
            known = ", ".join(r.id for r in self.models()[-5:]) or "none"
            raise DataError(
                f"{len(found)} models are called {name!r}; use an id or its first digits "
                f"(the newest: {known})"
            )
        return found[0]

    def verify(self, model: str) -> Path:
        """The folder of a model whose files are as they were written.

        Raises:
            DataError: a file is missing or its digest differs.
        """
        if problem := self._problem(model):
            raise DataError(
                f"model {model} cannot be used: {problem}; go back with `domainlm models rollback` "
                "or restore the file"
            )
        return self.folder / "models" / model

    def intact(self, model: str) -> bool:
        """Whether a model's files are there as they were written."""
        return self._problem(model) is None

    def status(self, model: str) -> Status:
        """Where a model stands: champion, retired (it was one), rejected by the gate, or still a
        challenger.
        """
        pointer = self.champion()
        if pointer is not None:
            if pointer.model == model:
                return "champion"
            if any(move.model == model for move in pointer.moves):
                return "retired"
        judged = self.gates(model)
        return "rejected" if judged and judged[-1].result.decision == "REJECT" else "challenger"

    def origin(self, name: str) -> Origin:
        """A model and the champions before it, each with its lineage.

        Raises:
            DataError: no such model.
        """
        record = self.model(name)
        known = {r.id for r in self.models()}
        # A model whose twin was its own parent (nothing changed) must not recurse for ever.
        parent = record.parent if record.parent != record.id and record.parent in known else ""
        return Origin(
            record,
            self.status(record.id),
            tuple(self.gates(record.id)),
            self.taint(record),
            self.origin(parent) if parent else None,
        )

    # --- champion ---------------------------------------------------------------------------

    def champion(self) -> Champion | None:
        """The model in use, or None before the first.

        Raises:
            DataError: the pointer is not readable.
        """
        if not self._pointer.exists():
            return None
        found: Champion = load_json(Champion, self._pointer)
        return found

    def promote(
        self,
        model: str,
        *,
        over: str,
        reason: str = "",
        action: Literal["adopt", "promote", "force"] = "promote",
    ) -> Champion:
        """Make a model the champion, if `over` still is: of two processes that would replace the
        same champion one wins, and the other must measure against the winner.

        Args:
            model: id of the challenger.
            over: id of the champion that it was measured against; empty if there is none.
            reason: for the history.
            action: `promote` needs the gate's PROMOTE over this champion, `force` does not, `adopt`
                makes the first champion.

        Raises:
            DataError: another champion is in place, the gate did not say PROMOTE, the model is
                damaged or learned what must be forgotten, or the pointer cannot be written.
        """

        def move(now: Champion | None) -> Champion:
            current = now.model if now else ""
            if current != over:
                raise DataError(
                    f"the champion is {current or 'none'} by now, not {over or 'none'}; gate model "
                    f"{model} against it with `domainlm improve`"
                )
            if current == model:
                raise DataError(f"model {model} is the champion already; nothing was changed")
            if action == "promote" and not self._passed(model, over):
                raise DataError(
                    f"the gate did not say PROMOTE for model {model} over {over}; --force "
                    "promotes it all the same"
                )
            line = (*now.line, model) if now else (model,)
            return _moved(now, action, model, line, reason)

        return self._move(model, move)

    def rollback(self, to: str = "", reason: str = "") -> Champion:
        """Go back to the champion before, or to the one called `to` in the line.

        Raises:
            DataError: there is none, or it is damaged or learned what must be forgotten.
        """
        before = self.champion()
        earlier = before.line[:-1] if before else ()
        target = self.model(to).id if to else (earlier[-1] if earlier else "")
        if target not in earlier:
            raise DataError(
                f"there is no earlier champion{to and f' {to}'} to go back to; the line is "
                f"{' -> '.join(before.line) if before else 'empty'}"
            )

        def move(now: Champion | None) -> Champion:
            if now is None or before is None or now.step != before.step:
                raise DataError("another process has just changed the champion; look and try again")
            line = now.line[: len(earlier) - earlier[::-1].index(target)]
            return _moved(now, "rollback", target, line, reason)

        return self._move(target, move)

    def _move(self, model: str, change: Callable[[Champion | None], Champion]) -> Champion:
        with self._locked():
            self.verify(model)
            if taint := self.taint(self.model(model)):
                raise DataError(
                    f"model {model} learned from {taint[0]!r}, which is to be forgotten; train "
                    "again with `domainlm improve`"
                )
            made = change(self.champion())
            write_atomic(self._pointer, dump_json(Champion, made, indent=1))
            flush_folder(self.folder)
            return made

    # --- gate -------------------------------------------------------------------------------

    def look(
        self,
        model: str,
        champion: str,
        questions: Sequence[str],
        allowance: Callable[[Sequence[float]], float],
    ) -> Look:
        """Enter a look at gate questions before their answers are compared; asking again for the
        same comparison finds the same look, so that a killed round spends once.

        Args:
            model: id of the challenger.
            champion: id of the champion.
            questions: ids of all questions that will be compared.
            allowance: what a look may spend, given what earlier ones spent that shared a question.
        """
        asked = tuple(sorted(questions))
        with self._locked():
            looks: list[Look] = self._looks.read()
            for known in looks:
                if (known.model, known.champion, known.questions) == (model, champion, asked):
                    return known
            spent = self.spent(asked)
            made = Look(model, champion, asked, allowance(spent), len(spent) + 1, timestamp())
            self._looks.append([made])
            return made

    def spent(self, questions: Sequence[str]) -> list[float]:
        """What each earlier look spent that shared one of these questions."""
        asked = set(questions)
        looks: list[Look] = self._looks.read()
        return [look.alpha for look in looks if not asked.isdisjoint(look.questions)]

    def judged(self, look: Look, result: GateResult) -> None:
        """Enter what the gate decided."""
        record = GateRecord(look.model, look.champion, look.questions, result, timestamp())
        with self._locked():
            self._gates.append([record])

    def gates(self, model: str = "") -> list[GateRecord]:
        """What the gate decided, of one model or of all, oldest first."""
        records: list[GateRecord] = self._gates.read()
        return [r for r in records if model in ("", r.model)]

    def _passed(self, model: str, champion: str) -> bool:
        """Whether the last gate of this pair said PROMOTE."""
        pair = [g for g in self.gates(model) if g.champion == champion]
        return bool(pair) and pair[-1].result.decision == "PROMOTE"

    # --- forgetting -------------------------------------------------------------------------

    def forget(self, item: str, reason: str = "") -> tuple[ModelRecord, ...]:
        """Exclude a feedback event or a document from all training to come.

        Returns:
            The models that learned from it.

        Raises:
            DataError: the id is empty, or the list cannot be written.
        """
        if not item.strip():
            raise DataError("the id is empty; name a feedback event or a document")
        with self._locked():
            if item not in self.exclusions():
                self._excluded.append([Exclusion(item, timestamp(), reason)])
        one = Exclusions([item])
        return tuple(r for r in self.models() if one.hit(_sources(r)))

    def exclusions(self) -> Exclusions:
        """What training must not use."""
        return Exclusions([e.id for e in self._excluded.read()])

    def taint(self, record: ModelRecord) -> tuple[str, ...]:
        """What a model learned from that is to be forgotten."""
        return self.exclusions().hit(_sources(record))

    def collect(self) -> list[str]:
        """Delete the weights of models that nothing leads back to: rejected ones, and retired ones
        outside the line of champions. Manifests stay, so `why` and `forget` still know them.

        Returns:
            Ids of the models whose weights were deleted.
        """
        with self._locked():
            self._sweep()
            pointer = self.champion()
            line = pointer.line if pointer else ()
            freed = []
            for record in self.models():
                kept = (self.folder / "models" / record.id / name for name in record.files)
                weights = [p for p in kept if p.suffix == _TENSORS and p.exists()]
                spent = self.status(record.id) in ("rejected", "retired")
                if spent and record.id not in line and weights:
                    for path in weights:
                        with writing(path):
                            path.unlink()
                    freed.append(record.id)
            return freed

    # --- files ------------------------------------------------------------------------------

    @property
    def _pointer(self) -> Path:
        return self.folder / "champion.json"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".lock", timeout=_WAIT_S)
            try:
                lock.acquire()
            except Timeout:
                raise DataError(
                    f"another process has held {self.folder} for {_WAIT_S} seconds; try again"
                ) from None
        try:
            yield
        finally:
            lock.release()

    def _sweep(self) -> None:
        """Remove what killed processes left; under the lock nobody else works there."""
        for path in self.folder.glob(f"models/{_DRAFT}*"):
            shutil.rmtree(path, ignore_errors=True)

    def _problem(self, model: str) -> str | None:
        """Why a model's files cannot be trusted; None if they can."""
        folder = self.folder / "models" / model
        try:
            record: ModelRecord = load_json(ModelRecord, folder / MANIFEST)
        except DataError:
            return f"its {MANIFEST} is missing or damaged"
        for name, expected in record.files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if digest_file(path) != expected:
                return f"{name} is damaged, its digest differs from the manifest"
        if record.id != model or digest(record.files) != model:
            return "its manifest belongs to another model"
        return None


def _moved(
    before: Champion | None,
    action: Literal["adopt", "promote", "force", "rollback"],
    model: str,
    line: tuple[str, ...],
    reason: str,
) -> Champion:
    moves = before.moves if before else ()
    return Champion(model, line, (*moves, Move(len(moves) + 1, action, model, timestamp(), reason)))


def _sources(record: ModelRecord) -> tuple[str, ...]:
    return (*record.events, *(doc_id for doc_id, _ in record.documents))


def _weight_files(folder: Path) -> list[str]:
    """What makes the trained weights in a folder: an adapter's two files, or a whole checkpoint's.

    Raises:
        DataError: there are none.
    """
    if all((folder / name).is_file() for name in (CONFIG, WEIGHTS)):
        return [CONFIG, WEIGHTS]
    tensors = sorted(p.name for p in folder.glob(f"model*{_TENSORS}"))
    if (folder / _CHECKPOINT).is_file() and tensors:
        # The tokenizer is the base's; an index names the parts of a large checkpoint.
        return [*sorted(p.name for p in folder.glob("*config.json")), *tensors,
                *sorted(p.name for p in folder.glob(f"*{_TENSORS}.index.json"))]  # fmt: skip
    raise DataError(
        f"{folder} holds no adapter or checkpoint; it needs {CONFIG} and {WEIGHTS}, or "
        f"{_CHECKPOINT} and model{_TENSORS}"
    )
