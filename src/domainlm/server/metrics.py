"""What the server counts, in the format of Prometheus."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one server; a process may hold several servers."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        own: Any = {"registry": self._registry, "namespace": "domainlm"}
        self.requests = Counter(
            "http_requests", "Requests by route and status.", ["method", "route", "status"], **own
        )
        self.request_s = Histogram(
            "http_request_seconds", "Seconds until a request was answered.", ["route"], **own
        )
        self.answers = Counter(
            "answers", "Answers by model and how they ended.", ["model", "outcome"], **own
        )
        self.answer_s = Histogram(
            "answer_seconds", "Seconds from asking to the answer.", buckets=_SECONDS, **own
        )
        self.first_token_s = Histogram(
            "first_token_seconds", "Seconds to a streamed answer's start.", buckets=_SECONDS, **own
        )
        self.tokens = Counter("tokens", "Tokens read and written.", ["direction"], **own)
        self.asking = Gauge("questions_in_flight", "Questions waiting or being answered.", **own)
        self.batch = Histogram(
            "batch_chats", "Chats decoded together.", buckets=(1, 2, 4, 8, 16, 32, 64), **own
        )

    def text(self) -> bytes:
        """All of it, to be scraped."""
        return generate_latest(self._registry)
