"""The knowledge graph and its rungs: what each would take, before it is climbed, and climbing one.

Tokens are estimated from the very prompts that would be sent, corrected by what calls of the kind
took before; seconds and dollars as `planning` does. A quote lists what is still to do: climbing
goes on where it was cut off or killed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from domainlm import planning, pricing
from domainlm.artifacts import Progress, RunDir, Silent
from domainlm.asking import Allowance, Quote, Report, Task
from domainlm.config import Config
from domainlm.contenders import load_model
from domainlm.evaluation import cost
from domainlm.graph import triples
from domainlm.graph.communities import communities_of, method
from domainlm.graph.store import Graph
from domainlm.graph.synonyms import comparable
from domainlm.ground import indexed
from domainlm.rag import communities
from domainlm.rag.graph import names_of, open_graph
from domainlm.retrieval import Index
from domainlm.tokens import estimate_tokens

Rung = Literal["triples", "communities"]
RUNGS: tuple[Rung, ...] = ("triples", "communities")
_PER_MESSAGE = 6
"""Tokens of a chat template around a message."""


@dataclass(frozen=True, slots=True)
class PricedQuote(Quote):
    """A quote for a rung: of `what`, with seconds and dollars."""

    what: str = ""
    seconds: float = 0.0
    usd: float = 0.0


def graph(config: Config, progress: Progress | None = None) -> Graph:
    """The knowledge graph of the documents, brought up to date without a model call.

    Raises:
        DataError: the documents folder is missing or holds nothing readable.
    """
    with _opened(config, progress or Silent()) as (_, found):
        return found


def quotes(
    config: Config, max_calls: int, token_cap: int, progress: Progress | None = None
) -> list[PricedQuote]:
    """What each rung of the graph would still take below a cap; nothing is asked.

    Raises:
        DataError: the documents folder is missing or holds nothing readable.
        ConfigError: a price is unknown.
        ModelError: something was asked before, and the model cannot be loaded to see what.
    """
    with _opened(config, progress or Silent()) as (index, found):
        return _quotes(config, index, found, Allowance(max_calls, token_cap))


def climb(
    config: Config,
    rung: Rung,
    max_calls: int,
    token_cap: int,
    progress: Progress | None = None,
) -> Report:
    """Have the model read every chunk, or summarise every community, that it has not, below a cap;
    goes on where it was cut off.

    Raises:
        DataError: the documents folder is missing or holds nothing readable, or the graph cannot
            be written.
        ModelError: the model cannot be loaded.
    """
    progress = progress or Silent()
    with _opened(config, progress) as (index, found):
        model, allowance = load_model(config), Allowance(max_calls, token_cap)
        progress.stage(rung, False)
        if rung == "triples":
            return triples.read(found, index.chunks(), model, allowance, progress.update)
        groups = communities_of(found)
        return communities.summarise(found, index, groups, model, allowance, progress.update)[0]


@contextlib.contextmanager
def _opened(config: Config, progress: Progress) -> Iterator[tuple[Index, Graph]]:
    """Index and graph of the documents; the run folder is held meanwhile."""
    with RunDir(config.folder, progress.stage) as folder:
        _, _, index, _ = indexed(config, folder, progress)
        progress.stage("graph", False)
        yield index, open_graph(index)


def _quotes(config: Config, index: Index, graph: Graph, allowance: Allowance) -> list[PricedQuote]:
    prices = cost.load_prices(config.cost.prices)
    machine = pricing.machine(config, prices)
    hosted = pricing.model_price(config, prices)
    names = names_of(graph, index.embedder)
    fresh = names.unknown(comparable(graph))
    names.close()
    tokens = sum(map(estimate_tokens, fresh))
    seconds = tokens / planning.EMBED
    usd = cost.machine_cost(seconds, prices, machine)
    what = f"{len(fresh):,} names to embed"
    found = [PricedQuote("synonyms", 0, tokens, 0, 0, what, seconds, usd)]
    for rung in RUNGS:
        tasks, most, what = _tasks(rung, index, graph)
        kind, maker = _KINDS[rung]
        # Loaded only if there may be something of its own.
        by = maker(load_model(config).name) if graph.makers(kind) else ""
        done = graph.derived(kind, by)
        guessed = {t.key: _size(t) for t in tasks}
        known = guessed.keys() & done.keys()
        took = sum(done[key].value["tokens"][0] for key in known)
        factor = took / sum(guessed[key] for key in known) if took else 1.0
        sizes = [round(factor * size) for key, size in guessed.items() if key not in done]
        calls = allowance.fitting([(1, s) for s in sizes], most, graph.spent(kind, by))
        tokens_in, tokens_out = sum(sizes[:calls]), calls * most
        seconds = tokens_in / planning.PREFILL + tokens_out / planning.DECODE
        usd = (
            cost.token_cost(tokens_in, tokens_out, hosted)
            if hosted
            else cost.machine_cost(seconds, prices, machine)
        )
        left = len(sizes) - calls
        found.append(PricedQuote(rung, calls, tokens_in, tokens_out, left, what, seconds, usd))
    return found


def _size(task: Task) -> int:
    """Tokens that a task's chats hold."""
    chats = task.chats() or ()
    return sum(estimate_tokens(m.content) + _PER_MESSAGE for chat in chats for m in chat)


_KINDS = {
    "triples": (triples.KIND, triples.maker),
    "communities": (communities.KIND, communities.maker),
}


def _tasks(rung: Rung, index: Index, graph: Graph) -> tuple[Sequence[Task], int, str]:
    """What would be asked, the tokens that each answer may have, and of what."""
    if rung == "triples":
        chunks = index.chunks()
        tasks = triples.tasks(chunks)
        return tasks, triples.SAMPLING.max_tokens, f"{len(tasks):,} chunks"
    found = communities_of(graph)
    tasks = [task for task, _ in communities.tasks(found, index)]
    return tasks, communities.SAMPLING.max_tokens, f"{len(found):,} by {method()}"
