"""What the pages of one site share: templates, the event log, finished runs, comparisons."""

from __future__ import annotations

from dataclasses import dataclass

from domainlm.server.pages.blind import Comparisons
from domainlm.server.pages.history import Briefs
from domainlm.server.pages.logbook import Logbook
from domainlm.server.pages.render import Renderer
from domainlm.server.site import Site


@dataclass(frozen=True)
class Desk:
    """One value for every page."""

    site: Site
    renderer: Renderer
    logbook: Logbook
    comparisons: Comparisons
    briefs: Briefs


def desk_of(site: Site) -> Desk:
    """The desk of a site."""
    return Desk(
        site,
        Renderer(site),
        Logbook(site.opinions),
        Comparisons(site.config.beside("compared.jsonl")),
        Briefs(site.runs, site.config.name),
    )
