"""Vector stores by name; a backend is imported when it is opened."""

from __future__ import annotations

import importlib
from pathlib import Path

from domainlm.errors import ConfigError
from domainlm.stores.base import Hit, VectorStore

STORES: dict[str, str] = {
    "lance": "domainlm.stores.lance:LanceStore",
    "memory": "domainlm.stores.memory:open_memory",
}

__all__ = ["STORES", "Hit", "VectorStore", "open_store"]


def open_store(use: str, folder: Path, *, embedder: str, dimension: int) -> VectorStore:
    """Open or create the store `use` in `folder`, for vectors of `embedder`.

    An outside store is `package.module:factory`, called as
    `factory(folder, embedder=..., dimension=...)`.

    Raises:
        ConfigError: the name is unknown or cannot be imported.
        DataError: the folder holds another embedder's vectors or is not writable.
    """
    target = STORES.get(use, use if ":" in use else "")
    if not target:
        raise ConfigError(
            f"unknown store {use!r}; known: {', '.join(sorted(STORES))}, "
            "or your own as package.module:factory"
        )
    module, _, name = target.partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"store {use!r} cannot be imported: {error}") from None
    store: VectorStore = factory(folder, embedder=embedder, dimension=dimension)
    return store
