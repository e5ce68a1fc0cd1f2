"""What the command line shows of a graph and of a search over pipelines."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from domainlm.display.progress import clean
from domainlm.errors import DataError
from domainlm.graph.store import Graph
from domainlm.ladder import PricedQuote
from domainlm.optimize import Search, as_yaml


def show_graph(graph: Graph, entity: str) -> None:
    """Print the most supported entities, or one with its chunks and its company.

    Raises:
        DataError: no chunk mentions the entity.
    """
    console = Console()
    if not entity:
        nodes = list(graph.nodes())
        console.print(f"{len(graph)} chunks, {len(nodes)} entities, {len(graph.merges())} merges.")
        for node in sorted(nodes, key=lambda n: (-len(n.support), n.entity))[:15]:
            line = f"  {len(node.support):5}  {node.kind:6}  {node.entity}"
            console.print(clean(line), markup=False, highlight=False)
        for merge in graph.merges():
            line = f"  {merge.alias} counts as {merge.entity} ({merge.reason})"
            console.print(clean(line), markup=False, highlight=False)
        return
    support = graph.support(entity)
    if not support:
        raise DataError(f"no chunk mentions {entity!r}; `domainlm graph FILE` lists entities")
    name = graph.canonical(entity)
    console.print(clean(f"{name}: {len(support)} chunks"), style="bold", markup=False)
    for chunk_id in support[:20]:
        console.print(clean(f"  {chunk_id}"), style="dim", markup=False, highlight=False)
    for other, chunks in graph.company(entity)[:15]:
        console.print(clean(f"  with {other} ({chunks})"), markup=False, highlight=False)


def show_quotes(quotes: Sequence[PricedQuote]) -> None:
    """Print what the rungs of the graph would take."""
    table = Table(
        title="What each rung would still take",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for column in ("rung", "calls", "tokens in", "out, at most", "seconds", "$", "cut by the cap"):
        table.add_column(column, justify="left" if column == "rung" else "right")
    for q in quotes:
        tokens = f"{q.tokens_in:,}", f"{q.tokens_out:,}"
        row = (f"{q.calls:,}", *tokens, f"{q.seconds:,.0f}", f"{q.usd:.4f}", f"{q.left:,}")
        table.add_row(f"{q.stage} ({q.what})", *row)
    console = Console()
    console.print(table)
    console.print(
        "The plain graph takes no tokens. --max-calls and --max-tokens set the cap; "
        "--build triples or --build communities climbs.",
        highlight=False,
    )


def show_search(found: Search) -> None:
    """Print what a search of pipelines recommends, what it tried and what each stage buys."""
    console = Console()
    table = Table(
        title=f"{len(found.candidates)} pipelines, {found.n_questions} {found.split} questions "
        f"about {found.n_documents} documents",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for column in ("pipeline", found.metric, "p95 s", "$/1,000", "p", ""):
        table.add_column(column, justify="left" if column in ("pipeline", "") else "right")
    shown = [c for c in found.candidates if c.on_front or c.name == found.chosen]
    for c in [*shown, *(c for c in found.candidates[:8] if c not in shown)]:
        table.add_row(
            f"▶ {c.name}" if c.name == found.chosen else f"  {c.name}",
            f"{c.quality:.3f}",
            f"{c.latency_p95_s:.3f}",
            f"{c.usd_per_1000:.4f}",
            f"{c.p_value:.2f}",
            f"dropped after {c.n}" if c.dropped else "front" if c.on_front else "",
            style="bold" if c.name == found.chosen else None,
        )
    console.print(table)
    for c in found.candidates:
        if c.fallbacks:
            line = f"{c.name}: a stage failed for {c.fallbacks} questions; it was not considered."
            console.print(line, style="yellow", markup=False, highlight=False)
    uplifts = Table(title="What each stage buys", title_justify="left", box=SIMPLE_HEAD)
    for column in ("stage", "against", f"{found.metric} [95 %]", "+ s", "+ $/1k", "asked", "pairs"):
        left = column in ("stage", "against")
        uplifts.add_column(column, justify="left" if left else "right", no_wrap=True)
    for u in found.uplifts:
        d = u.difference
        bounds = "" if d.low is None or d.high is None else f" [{d.low:+.3f}, {d.high:+.3f}]"
        uplifts.add_row(
            u.stage,
            u.against,
            f"{d.value:+.3f}{bounds}",
            f"{u.seconds:+.3f}",
            f"{u.usd_per_1000:+.4f}",
            str(d.n),
            str(u.pairs),
        )
    console.print(uplifts)
    if not found.complete:
        console.print("Stopped at the time limit; not every question was asked.", style="yellow")
    console.print(Text(f"Recommended: {found.reason}", style="bold"))
    console.print(as_yaml(found.spec), markup=False, highlight=False)
