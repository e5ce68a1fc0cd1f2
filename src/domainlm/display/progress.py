"""Progress bars, and text that is safe to print."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_TITLES = {
    "documents": "Reading documents",
    "questions": "Splitting questions by document",
    "index": "Indexing",
    "graph": "Drawing the graph",
    "triples": "Reading chunks",
    "communities": "Summing up communities",
    "pipeline": "Choosing the pipeline on dev",
    "diagnose": "Following the evidence",
    "controls": "Asking diagnostic arms",
    "seeds": "Training again with other seeds",
    "search": "Trying pipelines on dev",
    "synthesis": "Writing questions",
    "scores": "Scoring",
    "report": "Writing the report",
}


class Bars:
    """Progress bars with ETA on standard error; one line a stage where there is no terminal."""

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        self._live = self._console.is_terminal and not quiet
        self._task: TaskID | None = None
        self._name, self._started = "", time.monotonic()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=not self._live,
        )

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        self._finish("✓" if kind is None else "✗")
        self._progress.stop()

    def stage(self, name: str, cached: bool) -> None:
        """Open a bar for a stage, or note that it was found finished."""
        self._finish()
        verb, _, what = name.partition("-")
        plain = {
            "rows": f"Building training rows for {what}",
            "adapter": f"Training {what}",
            "answers": f"Answering with {what}",
            "fetch": f"Learning when {what} needs passages",
            "latency": "Timing single questions",
            "load": f"Timing {what} at the load",
        }
        title = _TITLES.get(name, plain.get(verb, name))
        if cached:
            self._console.print(f"[dim]✓ {title} (kept)[/dim]", highlight=False)
            return
        self._name, self._started = title, time.monotonic()
        if self._live:
            self._task = self._progress.add_task(title, total=None, note="")

    def update(self, done: int, total: int, note: str = "", loss: float | None = None) -> None:
        """Move the current bar."""
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=total, note=note)

    def _finish(self, mark: str = "✓") -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        if self._name:
            seconds = time.monotonic() - self._started
            self._console.print(f"{mark} {self._name} [dim]{seconds:.1f} s[/dim]", highlight=False)
            self._name = ""


def clean(text: str) -> str:
    """Text without control characters: a file name or an answer must not steer the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
