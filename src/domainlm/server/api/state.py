"""Whether the server is well: health for machines that watch it, metrics for Prometheus."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

from domainlm import __version__
from domainlm.server.failures import documented
from domainlm.server.gate import SiteHere, Viewer
from domainlm.server.metrics import CONTENT_TYPE

router = APIRouter(tags=["state"])


class Health(BaseModel):
    """How the server is; anyone may know that it is, and no more."""

    status: Literal["starting", "ready", "failed", "closing"]
    version: str


@router.get("/health", response_model=Health)
def health(site: SiteHere) -> Health:
    """Whether the process serves; `ready` once questions are answered without a wait for models."""
    return Health(status=site.engine.state[0], version=__version__)


@router.get(
    "/health/ready",
    response_model=Health,
    responses={503: {"model": Health, "description": "Not yet, or not any more."}},
)
def ready(site: SiteHere, response: Response) -> Health:
    """200 when questions can be answered, else 503: for load balancers."""
    found = health(site)
    if found.status != "ready":
        response.status_code = 503
    return found


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {CONTENT_TYPE: {}}}, **documented(401, 403, 429)},
)
def metrics(site: SiteHere, user: Viewer) -> Response:
    """Counters in Prometheus' text format."""
    return Response(site.metrics.text(), media_type=CONTENT_TYPE)
