"""Requests made up from the OpenAPI description: no failure of ours, no answer that it lacks."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2 as httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    status_code_conformance,
)

from domainlm.server import jobs, papers
from domainlm.server.auth import Users
from tests.unit.server_site import Running, domain, running
from tests.unit.web_site import with_run

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
]
SECRET = "made-up-secret"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    patch = pytest.MonkeyPatch()
    # Worker processes have tests of their own; here they would only cost time.
    patch.setattr(jobs, "WORKER", "platform")
    patch.setattr(papers, "PARSER", "platform")
    config = domain(tmp_path_factory.mktemp("schema"), serve={"requests_per_minute": 10**6})
    Users(config.beside("users.json")).add("ada", "admin", SECRET)
    with running(with_run(config)) as found:
        yield found
    patch.undo()


def test_every_answer_is_described(server: Running) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=6,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def holds(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=CHECKS, headers={"Authorization": f"Bearer ada:{SECRET}"})

        holds()


def test_the_description_is_whole(server: Running) -> None:
    found = httpx.get(f"{server.url}/openapi.json").json()
    operations = [
        (f"{method} {path}", operation)
        for path, item in found["paths"].items()
        for method, operation in item.items()
    ]
    assert len(operations) > 30
    ids = [o["operationId"] for _, o in operations]
    assert len(set(ids)) == len(ids)
    for name, operation in operations:
        assert operation["description"], name
        for status, answer in operation["responses"].items():
            if status[0] in "45" and "/health" not in name:
                [content] = answer["content"].values()
                assert content["schema"]["$ref"].endswith("/ErrorBody"), (name, status)
