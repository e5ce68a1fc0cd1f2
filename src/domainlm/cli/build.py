"""Commands that build: configuration, index, graph, pipelines, adapters, the main job."""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from domainlm.cli.common import (
    AsJson,
    ConfigFile,
    DryRun,
    Overrides,
    Resume,
    Settings,
    bars,
    load,
    plain_json,
    print_json,
)


class Rung(Enum):
    """Rungs of the graph that a model builds."""

    triples = "triples"
    communities = "communities"


def init(
    folder: Annotated[Path, typer.Argument(help="Where to write domainlm.yaml.")] = Path("."),
    documents: Annotated[str, typer.Option(help="Folder of your documents.")] = "documents",
    questions: Annotated[str, typer.Option(help="File of your questions.")] = "questions.jsonl",
) -> None:
    """Write a commented domainlm.yaml to edit."""
    from domainlm.starter import write_starter

    path = write_starter(folder, documents, questions)
    typer.echo(f"Wrote {path}. Edit documents and questions, then: domainlm run {path}")


def doctor(as_json: AsJson = False) -> None:
    """Say what this machine can do and what is missing."""
    from domainlm.doctor import examine

    checks = examine()
    if as_json:
        print_json([c.__dict__ for c in checks])
    else:
        from domainlm.display.run import show_checks

        show_checks(checks)
    if any(c.state == "missing" and c.needed for c in checks):
        raise typer.Exit(2)


def ingest(config: ConfigFile, override: Overrides = None, as_json: AsJson = False) -> None:
    """Read, chunk and index the documents."""
    from domainlm.experiment import ingest as do

    with bars(as_json) as shown:
        report = do(load(config, override), shown)
    if as_json:
        print_json(report)
        return
    from domainlm.display.progress import clean

    typer.echo(
        f"{report['documents']} documents, {report['chunks']} chunks: {report['added']} added, "
        f"{report['deleted']} deleted, {report['kept']} kept."
    )
    for item in report["quarantined"]:
        typer.echo(clean(f"  set aside {item['source']}: {item['reason']} ({item['detail']})"))


def graph(
    config: ConfigFile,
    entity: Annotated[str, typer.Argument(help="An entity; empty for an overview.")] = "",
    export: Annotated[
        Path | None, typer.Option(help="Write graph.graphml, nodes.csv and edges.csv there.")
    ] = None,
    merge: Annotated[
        str, typer.Option(help="Let one name count as another: 'Acme Inc.=Acme'.")
    ] = "",
    unmerge: Annotated[str, typer.Option(help="Undo the merge of this name.")] = "",
    quote: Annotated[
        bool, typer.Option("--quote", help="Show what each rung of the graph would take, and stop.")
    ] = False,
    build: Annotated[
        Rung | None, typer.Option(help="Let the model read every chunk, or sum up communities.")
    ] = None,
    max_calls: Annotated[int, typer.Option(min=0, help="Calls that a rung may take.")] = 500,
    token_cap: Annotated[
        int, typer.Option(min=0, help="Tokens that a rung may take, read and written.")
    ] = 500_000,
    override: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Show, mend or export the knowledge graph of the documents; a model is asked with --build."""
    if quote or build:
        _rungs(config, override, build, max_calls, token_cap, as_json)
        return
    from domainlm.display.search import show_graph
    from domainlm.graph.communities import communities_of
    from domainlm.graph.export import write_csv, write_graphml
    from domainlm.ladder import graph as do

    with bars(as_json) as shown:
        found = do(load(config, override), shown)
    if merge:
        alias, _, target = merge.partition("=")
        found.merge(alias, target, "by hand")
    if unmerge:
        found.unmerge(unmerge)
    if export:
        groups = communities_of(found)
        page = write_graphml(found, export / "graph.graphml", groups)
        for path in (page, *write_csv(found, export, groups)):
            typer.echo(f"Wrote {path}", err=True)
    if as_json:
        print_json(
            {
                "chunks": len(found),
                "entities": [
                    asdict(n)
                    for n in found.nodes()
                    if not entity or n.entity == found.canonical(entity)
                ],
                "merges": [asdict(m) for m in found.merges()],
            }
        )
    else:
        show_graph(found, entity)


def _rungs(
    config: Path,
    override: list[str] | None,
    build: Rung | None,
    max_calls: int,
    token_cap: int,
    as_json: bool,
) -> None:
    """Quote the rungs of the graph, or climb one."""
    from domainlm import ladder

    settings = load(config, override)
    with bars(as_json) as shown:
        if build is None:
            quotes = ladder.quotes(settings, max_calls, token_cap, shown)
        else:
            report = ladder.climb(settings, build.value, max_calls, token_cap, shown)
    if build is None:
        if as_json:
            print_json([asdict(q) for q in quotes])
            return
        from domainlm.display.search import show_quotes

        show_quotes(quotes)
    elif as_json:
        print_json(asdict(report))
    else:
        failed = f", {report.failed} failed ({report.error})" if report.failed else ""
        typer.echo(
            f"{build.value}: {report.asked} calls, {report.tokens_in:,} tokens in, "
            f"{report.tokens_out:,} out{failed}; the cap left {report.left}."
        )


def optimize(
    config: ConfigFile,
    override: Overrides = None,
    trials: Annotated[int, typer.Option(min=0, help="Pipelines to try at most; 0 tries all.")] = 0,
    minutes: Annotated[
        float, typer.Option(min=0, help="Stop after that many minutes; 0 for never.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Search whole RAG pipelines on the dev questions; says so if the simple one is as good."""
    from domainlm.actions import search

    with bars(as_json) as shown:
        found = search(load(config, override), trials=trials, minutes=minutes, progress=shown)
    if as_json:
        from domainlm.artifacts import dump_json
        from domainlm.optimize import Search

        typer.echo(plain_json(dump_json(Search, found)))
        return
    from domainlm.display.search import show_search

    show_search(found)


def train(config: ConfigFile, override: Overrides = None, as_json: AsJson = False) -> None:
    """Write questions and train the adapters that the arms need, without the benchmark."""
    from domainlm.experiment import train as do

    with bars(as_json) as shown:
        adapters = do(load(config, override), shown)
    if as_json:
        print_json([{"name": a.name, "digest": a.digest, "path": a.path} for a in adapters])
        return
    for a in adapters:
        loss = f", last loss {a.curve[-1].loss:.3f}" if a.curve else ""
        typer.echo(f"{a.name}: {a.rows} rows, {a.seconds:.0f} s{loss} -> {a.path}")


def run(
    config: ConfigFile,
    override: Overrides = None,
    dry_run: DryRun = False,
    resume: Resume = True,
    as_json: AsJson = False,
) -> None:
    """Do the main job: build five arms, measure them, write the report and the verdict."""
    settings = load(config, override)
    if dry_run:
        from domainlm.planning import plan

        estimate = plan(settings)
        if as_json:
            print_json([s.__dict__ for s in estimate])
        else:
            from domainlm.display.run import show_plan

            show_plan(estimate)
        return
    if not resume:
        from domainlm.experiment import set_aside

        set_aside(settings)
    from domainlm.experiment import run as do
    from domainlm.report import write_report

    with bars(as_json) as shown:
        result = do(settings, shown)
        shown.stage("report", False)
        page = write_report(result, settings.folder)
    if as_json:
        print_json({"result": str(settings.folder / "result.json"), "report": str(page)})
        return
    from domainlm.display.run import show_result

    show_result(result, page)
