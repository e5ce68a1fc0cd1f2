"""A small domain behind a real server on a free port, with scripted models: ready in a second."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx

from domainlm.config import Config, make_config
from domainlm.experiment import ingest
from domainlm.server.listen import server_of
from domainlm.server.site import Site, open_site

DOCUMENTS = {
    "pumps.md": "# Pumps\n\nPump P-1 moves 40 litres a minute. It was bought in 2019.\n",
    "gates.md": "# Gates\n\nThe east gate opens at seven. Ann Lee keeps its key.\n",
    "plány/vrata.txt": "Západní vrata otevírá pan Novák v osm hodin ráno.\n",
}
QUESTIONS = "\n".join(
    f'{{"id": "q{n}", "text": "{text}", "references": ["{reference}"], "doc_ids": ["{doc}"]}}'
    for n, (text, reference, doc) in enumerate(
        [
            ("What does pump P-1 move?", "40 litres a minute", "pumps.md"),
            ("When does the east gate open?", "at seven", "gates.md"),
            ("Kdo otevírá západní vrata?", "pan Novák", "plány/vrata.txt"),
        ]
    )
)


def domain(folder: Path, *, indexed: bool = True, **settings: object) -> Config:
    """A configuration with scripted models, documents and questions; indexed unless told not to."""
    documents = folder / "documents"
    for name, text in DOCUMENTS.items():
        path = documents / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    (folder / "questions.jsonl").write_text(QUESTIONS + "\n", "utf-8")
    raw: dict[str, object] = {
        "documents": "documents",
        "questions": "questions.jsonl",
        "model": "fake",
        "embedder": "fake",
        "arms": ["base", "rag"],
        "output": "runs",
    }
    config = make_config(raw | settings, base=folder)
    if indexed:
        ingest(config)
    return config


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    url: str
    site: Site
    stop: Callable[[], None]

    def client(self, **options: object) -> httpx.Client:
        """A client of its own."""
        return httpx.Client(base_url=self.url, timeout=30, **options)


@contextlib.contextmanager
def running(config: Config) -> Iterator[Running]:
    """Serve a configuration on a free port in a thread of this process."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.bind(("127.0.0.1", 0))
    site = open_site(config)
    server = server_of(site)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()

    def stop() -> None:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server did not end"

    until = time.monotonic() + 20
    while not server.started and time.monotonic() < until:
        time.sleep(0.01)
    try:
        yield Running(f"http://127.0.0.1:{bound.getsockname()[1]}", site, stop)
    finally:
        stop()
