"""Retrieval over a tree of summaries, which leads down to chunks."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from domainlm.artifacts import digest, dump_json, load_json, write_atomic
from domainlm.asking import Allowance, Task
from domainlm.corpus.chunking import sentence_spans
from domainlm.errors import ConfigError, DataError
from domainlm.models.base import Array, Embedder
from domainlm.rag.citations import words
from domainlm.rag.derived import MAX_CALLS, TOKEN_CAP, Side, open_side
from domainlm.rag.derived_search import DerivedRetriever, Leaves, Lift, Method, Rows
from domainlm.rag.stages import Resources, Retriever
from domainlm.schema import Chat, Message, Sampling

Clusters = tuple[tuple[str, ...], ...]
"""Keys of the members of each cluster of one level."""
_TASK = "Summarise the passages in a few sentences. Keep names, numbers and dates."
_MAX_LEVELS = 12
_SHOWN = 1500
"""Characters of a chunk that a model is shown: a cluster of large ones must fit its context."""
_ROUNDS = 10
"""Of 2-means; most splits stand still after five."""
_GROUNDED = 0.5
"""Share of a summary's content words that must stand in what it summarises."""


@dataclass(frozen=True)
class Node:
    """A cluster: its digest, its children (chunks or nodes), and the rows of all chunks below."""

    key: str
    children: tuple[str, ...]
    rows: Rows


def raptor(
    resources: Resources,
    *,
    summary: Literal["model", "extract"] = "model",
    size: int = 8,
    levels: int = 3,
    sentences: int = 3,
    nodes: int = 10,
    leaves: int = 3,
    weight: float = 0.5,
    method: Method = "convex",
    depth: int = 50,
    max_calls: int = MAX_CALLS,
    token_cap: int = TOKEN_CAP,
    max_tokens: int = 160,
) -> Retriever:
    """Search chunks and, level by level, summaries of clusters of them, all at once (RAPTOR's
    collapsed tree, Sarthi et al., 2401.18059).

    A summary is never shown: it raises the chunks below it that are nearest to the query to the
    mean of its cosine and theirs. Clusters come from bisecting 2-means on the stored vectors
    instead of UMAP and Gaussian mixtures, on the upper levels on the mean vectors of what lies
    below: so the tree, and its price, are known before a word is written. A new chunk joins the
    nearest cluster; only clusters that changed, and those above them, are summarised again.

    Args:
        resources: with a model, unless `summary` is `extract`.
        summary: `model`, or `extract`: the sentences nearest to the cluster's centroid.
        size: most members of a cluster.
        levels: most levels above the chunks.
        sentences: sentences of an extract.
        nodes: summaries that a query may follow down.
        leaves: chunks that each of them raises.
        weight: share of the derived score in the dense one (`convex` only).
        method: `convex` or `rrf`.
        depth: candidates taken from each ranking.
        max_calls: most model calls, over all runs; clusters beyond them stay without summary.
        token_cap: most tokens, read and written, over all runs.
        max_tokens: most tokens of a summary by the model.

    Raises:
        ConfigError: a setting is out of range, or a model is needed and none was given.
    """
    if summary not in ("model", "extract"):
        raise ConfigError(f"stage 'raptor': summary is {summary!r}; use model or extract")
    if size < 2 or not 1 <= levels <= _MAX_LEVELS or min(sentences, nodes, leaves, max_tokens) < 1:
        raise ConfigError(
            f"stage 'raptor': size is {size}, levels {levels}, sentences {sentences}, nodes "
            f"{nodes}, leaves {leaves}, max_tokens {max_tokens}; size must be 2 or more, levels 1 "
            f"to {_MAX_LEVELS}, the others 1 or more"
        )
    allowance = Allowance(max_calls, token_cap)
    asks = summary == "model"
    # The tree's shape is part of it: two trees that shared a file would take each other's nodes
    # for stale.
    side = open_side(
        resources,
        "raptor",
        (size, levels, _TASK if asks else ("extract", sentences)),
        sampling=Sampling(max_tokens=max_tokens) if asks else None,
    )
    folder = resources.index.folder
    path = folder / f"tree-{digest(size, levels)}.json" if folder else None
    grown: list[list[list[Node]]] = []

    def tree(below: Leaves) -> list[list[Node]]:
        if not grown:
            grown.append(grow(below, size, levels, path))
        return grown[0]

    def rounds(below: Leaves) -> list[list[Task]]:
        return [
            [_task(node, below, side, resources.embedder, sentences, asks) for node in level]
            for level in tree(below)
        ]

    def lift(below: Leaves) -> Lift | None:
        return _descend([n for level in tree(below) for n in level], side, nodes, leaves)

    return DerivedRetriever(
        resources,
        side,
        rounds,
        lift,
        weight=weight,
        method=method,
        depth=depth,
        allowance=allowance,
    )


def grow(leaves: Leaves, size: int, levels: int, path: Path | None = None) -> list[list[Node]]:
    """The levels of the tree over `leaves`, lowest first, in step with the tree kept at `path`."""
    before = _stored(path)
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(leaves.keys):
        rows.setdefault(key, []).append(row)
    below = {key: np.asarray(found, dtype=np.intp) for key, found in rows.items()}
    tree: list[list[Node]] = []
    kept: list[Clusters] = []
    while len(below) > 1 and len(tree) < levels:
        keys = sorted(below)
        means = np.stack([leaves.vectors[below[key]].mean(0) for key in keys])
        known = before[len(tree)] if len(before) > len(tree) else ()
        clusters = cluster(keys, _unit(means), size, known)
        level, above = [], dict[str, Rows]()
        for members in clusters:
            if len(members) == 1:
                # Alone in its corner: it goes up as it is.
                above[members[0]] = below[members[0]]
                continue
            found = np.sort(np.concatenate([below[m] for m in members]))
            node = Node(digest("cluster", members), members, found)
            level.append(node)
            above[node.key] = found
        if not level:
            break
        tree.append(level)
        kept.append(clusters)
        below = above
    if path and tuple(kept) != before:
        write_atomic(path, dump_json(tuple[Clusters, ...], tuple(kept)))
    return tree


def cluster(keys: Sequence[str], vectors: Array, size: int, known: Clusters = ()) -> Clusters:
    """Groups of at most `size` of the n `keys`, by their unit vectors (n, d).

    Groups of `known` stay, less what is gone; what is new joins the nearest one, and what has
    become too large is split.
    """
    row = {key: n for n, key in enumerate(keys)}
    groups = [[row[k] for k in group if k in row] for group in known]
    groups = [group for group in groups if group]
    placed = {n for group in groups for n in group}
    fresh = [n for n in range(len(keys)) if n not in placed]
    if not groups:
        groups = [fresh]
    elif fresh:
        centres = _unit(np.stack([vectors[group].mean(0) for group in groups]))
        for n, home in zip(fresh, np.argmax(vectors[fresh] @ centres.T, 1), strict=True):
            groups[int(home)].append(n)
    parts: list[list[int]] = []
    while groups:
        group = groups.pop()
        if len(group) <= size:
            parts.append(group)
        else:
            groups += _halves(sorted(group), vectors)
    return tuple(sorted(tuple(sorted(keys[n] for n in part)) for part in parts))


def _halves(rows: list[int], vectors: Array) -> tuple[list[int], list[int]]:
    """2-means by cosine, begun from two far ends; equal vectors are cut in the middle."""
    own = vectors[rows]
    first = int(np.argmin(own @ own.mean(0)))
    centres = np.stack([own[first], own[int(np.argmin(own @ own[first]))]])
    side = np.zeros(len(rows), dtype=np.intp)
    for n in range(_ROUNDS):
        now = np.argmax(own @ centres.T, 1)
        if now.all() or not now.any():
            break
        if n and np.array_equal(now, side):
            break
        side = now
        centres = _unit(np.stack([own[side == half].mean(0) for half in (0, 1)]))
    if not side.any():
        side[len(rows) // 2 :] = 1
    return (
        [r for r, s in zip(rows, side, strict=True) if not s],
        [r for r, s in zip(rows, side, strict=True) if s],
    )


def _unit(vectors: Array) -> Array:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Array = vectors / np.maximum(norms, 1e-12)
    return scaled


def _stored(path: Path | None) -> tuple[Clusters, ...]:
    """The tree as it was; none if there is no readable one, since it can be grown again."""
    if path is not None and path.exists():
        with contextlib.suppress(DataError):
            found: tuple[Clusters, ...] = load_json(tuple[Clusters, ...], path)
            return found
    return ()


def _task(
    node: Node, leaves: Leaves, side: Side, embedder: Embedder, sentences: int, asks: bool
) -> Task:
    own = set(node.children)
    chunk_of = {leaves.keys[r]: leaves.chunks[r] for r in node.rows[::-1] if leaves.keys[r] in own}

    def texts() -> list[str] | None:
        """The chunks and summaries to summarise; None while one of those is missing."""
        found = []
        for child in node.children:
            if child in chunk_of:
                text = chunk_of[child].indexed_text
                found.append(text[:_SHOWN] if asks else text)
            elif child in side:
                found += side.texts(child)
            else:
                return None
        return found

    def chats() -> list[Chat] | None:
        shown = texts()
        if shown is None or not shown or not asks:
            return None if shown is None else []
        return [(Message("system", _TASK), Message("user", "\n\n".join(shown)))]

    def read(written: Sequence[str]) -> list[str]:
        shown = texts() or []
        if not asks:
            return _extract(shown, leaves.vectors[node.rows].mean(0), embedder, sentences)
        summary = " ".join(" ".join(written).split())
        said, source = words(summary), words(" ".join(shown))
        return [summary] if said and len(said & source) >= _GROUNDED * len(said) else []

    return Task(node.key, read, chats)


def _extract(texts: Sequence[str], centre: Array, embedder: Embedder, sentences: int) -> list[str]:
    """The sentences nearest to the centroid, in the order they stand."""
    found = dict.fromkeys(
        text[a:b].strip() for text in texts for a, b in sentence_spans(text) if words(text[a:b])
    )
    if not found:
        return []
    near = embedder.embed(list(found), "passage") @ centre
    best = sorted(np.argsort(-near, kind="stable")[:sentences].tolist())
    return [" ".join(list(found)[n] for n in best)]


def _descend(tree: Sequence[Node], side: Side, nodes: int, most: int) -> Lift | None:
    """The summaries nearest to the query raise the nearest chunks below them."""
    written = [(node.rows, side.vectors(node.key)) for node in tree if side.texts(node.key)]
    if not written:
        return None
    entries = np.concatenate([vectors for _, vectors in written])
    below = [rows for rows, vectors in written for _ in vectors]

    def lift(query: Array, own: Array) -> Array:
        best = own.copy()
        scores = entries @ query
        followed = 0
        for n in np.argsort(-scores, kind="stable"):
            rows = below[int(n)]
            # Of a scope, only what lies inside: the others are at minus infinity.
            rows = rows[np.isfinite(own[rows])]
            if len(rows):
                near = rows[np.argsort(-own[rows], kind="stable")[:most]]
                best[near] = np.maximum(best[near], (scores[n] + own[near]) / 2)
                followed += 1
            if followed == nodes:
                break
        return best

    return lift
